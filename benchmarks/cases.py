"""Work for the engines: a learner, its training data, and what its meta-loss is differentiated with respect to."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from gtn_lightning.learners import ConvNet, GTNCifarNet, GTNMnistNet


@dataclass(frozen=True)
class Work:
    """One meta-gradient to compute."""

    network: nn.Module
    """The learner; engines leave it as it is."""
    criterion: Callable[..., Tensor]
    """Takes the learner's outputs and the rest of a batch, and returns the inner loss."""
    optimizer: str
    """``sgd``, with momentum, or ``adam``."""
    rate: float
    eps: float
    """Adam's epsilon; its square is added inside the root where an engine can do so."""
    batches: list[tuple[Tensor, ...]]
    """One per inner step: inputs, and what the criterion takes."""
    held_back: tuple[Tensor, ...]
    """The batch of the meta-loss."""
    variable: Tensor
    """The leaf that receives the gradient."""
    window: int | None
    """Number of inner steps to differentiate through, the last ones; None for all."""

    @property
    def untracked(self) -> int:
        """Number of inner steps before the window."""
        return 0 if self.window is None else len(self.batches) - self.window


@dataclass(frozen=True)
class Case(ABC):
    """A meta-gradient whose time and memory are measured."""

    learner: str
    optimizer: str
    steps: int
    window: int | None = None

    @property
    def name(self) -> str:
        """What reports and files call it."""
        return f"{self.learner}, {self.optimizer}, T = {self.steps}"

    @abstractmethod
    def work(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Work:
        """Return the work, the same at every call."""

    @abstractmethod
    def small(self) -> Self:
        """Return the same case in a size at which float64 gradients of all engines can be compared."""


@dataclass(frozen=True)
class Images(Case):
    """A classifier, and the gradient with respect to its training images."""

    batch_size: int = 64
    real: int = 0
    """Number of images in the meta-loss; 0: those of the first batch."""
    one_set: bool = False
    """Whether every step sees the same images."""

    def work(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Work:
        """Return the work; see the base class."""
        torch.manual_seed(0)
        network = LEARNERS[self.learner]().to(device, dtype)
        shape = (self.batch_size, *network.image_shape)  # type: ignore[misc]
        images = torch.randn(1 if self.one_set else self.steps, *shape, dtype=dtype).to(device).requires_grad_()
        labels = torch.arange(self.batch_size, device=device) % 10
        batches = list(images.unbind()) * (self.steps if self.one_set else 1)
        held_back = images[0].detach().clone(), labels
        if self.real:
            real = torch.randn(self.real, *shape[1:], dtype=dtype).to(device)
            held_back = real, torch.arange(self.real, device=device) % 10
        return Work(
            network, F.cross_entropy, self.optimizer, 1e-3, 1e-8, [(batch, labels) for batch in batches], held_back,
            images, self.window,
        )  # fmt: skip

    def small(self) -> Self:
        """Return four steps of 16 images; see the base class."""
        return replace(self, steps=4, batch_size=16, real=min(self.real, 16), window=None if self.window is None else 3)


@dataclass(frozen=True)
class Sequences(Case):
    """A GPT-2 language model, and the gradient with respect to the weights of its training sequences.

    The same sequences at every step, of random tokens; the loss is the weighted mean of the sequences' losses.
    """

    sequences: int = 64
    held_back: int = 128
    tokens: int = 128
    layers: int = 12
    width: int = 768
    heads: int = 12
    vocabulary: int = 50257

    def work(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Work:
        """Return the work; see the base class."""
        torch.manual_seed(0)
        network = GPT2(self.layers, self.width, self.heads, self.vocabulary, self.tokens).to(device, dtype)
        tokens = torch.randint(self.vocabulary, (self.sequences + self.held_back, self.tokens)).to(device)
        taught, tested = tokens.split([self.sequences, self.held_back])
        weights = torch.ones(self.sequences, dtype=dtype, device=device).requires_grad_()
        return Work(
            network, weighted, self.optimizer, 1e-4, 1e-4, [(taught, taught, weights)] * self.steps,
            (tested, tested, torch.ones(self.held_back, dtype=dtype, device=device)), weights, self.window,
        )  # fmt: skip

    def small(self) -> Self:
        """Return three steps of four sequences of eight tokens, two layers, 32 wide; see the base class."""
        return replace(
            self, steps=3, sequences=4, held_back=4, tokens=8, layers=2, width=32, heads=2, vocabulary=61
        )  # fmt: skip


class GPT2(nn.Module):
    """GPT-2 with new weights, without dropout. Its attention is written out, for it is differentiated twice."""

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, tokens: int) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=vocabulary, n_positions=tokens, n_embd=width, n_layer=layers, n_head=heads, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, attn_implementation="eager", bos_token_id=0,
            eos_token_id=0,
        )  # fmt: skip
        self.model = GPT2LMHeadModel(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits ``[S, L, vocabulary]`` of tokens ``[S, L]``."""
        logits: Tensor = self.model(input_ids=tokens).logits
        return logits


def weighted(logits: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over sequences of their weighted losses, each the mean over its tokens but the first."""
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return (weights * losses.mean(1)).mean()


def make_smooth(network: nn.Module) -> None:
    """Replace activations and poolings that have kinks, in place."""
    for part in network.modules():
        for name, layer in part.named_children():
            if isinstance(layer, nn.ReLU | nn.LeakyReLU):
                setattr(part, name, nn.Tanh())
            elif isinstance(layer, nn.MaxPool2d):
                pool = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
                setattr(part, name, pool)


LEARNERS: dict[str, Callable[[], nn.Module]] = {
    "ConvNet 32, batch norm": partial(ConvNet, (1, 28, 28), 10, width=32, depth=2, norm="batch"),
    "ConvNet 32, no norm": partial(ConvNet, (1, 28, 28), 10, width=32, depth=2, norm="none"),
    "GTNMnistNet": GTNMnistNet,
    "GTNCifarNet": GTNCifarNet,
    "ConvNet-3 128": partial(
        ConvNet, (3, 32, 32), 10, width=128, norm="instance", pooling="average", order=["norm", "activation", "pool"]
    ),
}
"""Classifiers by name."""

ON_CPU: list[Case] = [
    Images(learner, optimizer, steps)
    for learner, optimizer, steps in product(list(LEARNERS)[:3], ("sgd", "adam"), (8, 32, 128))
]
"""What is measured on a CPU."""

ON_CUDA: list[Case] = [
    Images("GTNMnistNet", "sgd", 32, batch_size=128),
    Images("ConvNet-3 128", "adam", 200, window=60, batch_size=100, real=5000, one_set=True),  # RaT-BPTT's setting
    Images("GTNCifarNet", "sgd", 128, batch_size=128),
    Sequences("GPT-2 124M", "adam", 16),
    Images("GTNMnistNet", "sgd", 128, batch_size=128),
]
"""What is measured on CUDA, the most telling first."""


def cases(device: torch.device, small: bool = False) -> dict[str, Case]:
    """Return the cases of a device by name; those of CUDA for a trial in small sizes."""
    return {case.name: case for case in (ON_CUDA if small or device.type == "cuda" else ON_CPU)}
