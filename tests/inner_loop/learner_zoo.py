"""Learners of every kind that people bring along: those that can be taught, and those that have to be refused.

All take ``[B, 8]`` and return logits ``[B, 3]``.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from gtn_lightning.inner_loop import InnerLoopError, NotTwiceDifferentiableError, WrongDerivativeError

Make = Callable[[], nn.Module]


class Net(nn.Module):
    """A first layer, something in the middle, and a head."""

    def __init__(self, middle: Callable[["Net", Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.middle = middle
        self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.middle(self, inputs))
        return outputs


def net(middle: Callable[[Net, Tensor], Tensor], **parts: Callable[[], Any]) -> Make:
    """Return what makes a net; parts are made anew for every one."""
    return lambda: Net(middle, **{name: make() for name, make in parts.items()})


def layers(*make: Make) -> Make:
    return lambda: nn.Sequential(*(one() for one in make), nn.Tanh(), nn.Linear(8, 3))


def linear() -> nn.Module:
    return nn.Linear(8, 8)


# ----------------------------------------------------------------------------------------------- what can be taught


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 4, 2, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


def attention(net: Net, inputs: Tensor) -> Tensor:
    tokens = net.project(inputs.view(-1, 4, 2))
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(net.query(tokens), net.key(tokens), tokens).mean(1)


def recurrent(net: Net, inputs: Tensor) -> Tensor:
    outputs: Tensor = net.cells(inputs.view(-1, 4, 2))[0][:, -1]
    return outputs


def lookup(net: Net, inputs: Tensor) -> Tensor:
    outputs: Tensor = net.first(inputs).tanh() + net.table((inputs[:, 0] > 0).long())
    return outputs


def spectral(net: Net, inputs: Tensor) -> Tensor:
    frequencies = torch.fft.rfft(net.first(inputs), dim=1)
    outputs: Tensor = net.mix(torch.cat([frequencies.real, frequencies.imag], 1)).tanh()
    return outputs


def checkpointed(net: Net, inputs: Tensor) -> Tensor:
    outputs: Tensor = checkpoint(net.block, net.first(inputs).tanh(), use_reentrant=False)
    return outputs


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), nn.Tanh())


def hooked(change: Callable[[Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    def middle(net: Net, inputs: Tensor) -> Tensor:
        hidden = net.first(inputs).tanh()
        if hidden.requires_grad:
            hidden.register_hook(change)
        return hidden

    return middle


def forward_hooked() -> nn.Module:
    module = layers(linear)()
    module[0].register_forward_hook(lambda part, inputs, outputs: outputs * 2)
    return module


def writes_into_its_input(net: Net, inputs: Tensor) -> Tensor:
    outputs: Tensor = net.first(inputs.sub_(0.5).div_(0.5)).tanh()
    return outputs


OWN = torch.Generator()
"""A generator that learners draw from though it is neither torch's default nor theirs."""


def stochastic_depth(draw: Callable[[Net], float]) -> Callable[[Net, Tensor], Tensor]:
    def middle(net: Net, inputs: Tensor) -> Tensor:
        hidden = net.first(inputs).tanh()
        return hidden + net.branch(hidden).tanh() if draw(net) < 0.5 else hidden

    return middle


def frozen_norm() -> nn.Module:
    module = layers(linear, lambda: nn.BatchNorm1d(8))()
    module[1].eval()
    module[1].running_mean.normal_()
    return module


def tied() -> nn.Module:
    module = Net(lambda net, inputs: net.second(net.first(inputs).tanh()).tanh(), second=nn.Linear(8, 8))
    module.second.weight = module.first.weight  # type: ignore[union-attr]
    return module


def frozen_layer() -> nn.Module:
    module = layers(linear)()
    module[0].weight.requires_grad_(False)
    return module


def complex_weights(net: Net, inputs: Tensor) -> Tensor:
    outputs: Tensor = (inputs.to(torch.complex128) @ net.weights).abs()
    return outputs


def complex_parameter() -> nn.Parameter:
    return nn.Parameter(0.3 * torch.randn(8, 8, dtype=torch.complex128))


def normalized_by_a_constant(net: Net, inputs: Tensor) -> Tensor:
    hidden = net.first(inputs)
    with torch.no_grad():
        size = hidden.square().mean().sqrt()
        with torch.enable_grad():
            hidden = hidden.tanh()
        size = size + 1
    outputs: Tensor = hidden / size
    return outputs


def detached_gate(net: Net, inputs: Tensor) -> Tensor:
    outputs: Tensor = net.first(inputs).tanh() * net.gate(inputs).sigmoid().detach()
    return outputs


def straight_through(net: Net, inputs: Tensor) -> Tensor:
    hidden = net.first(inputs)
    outputs: Tensor = hidden + (hidden.round() - hidden).detach()
    return outputs


def vmapped(net: Net, inputs: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: net.first(row).tanh() * net.first(row).detach())(inputs)


class Squared(torch.autograd.Function):
    """A custom function with the right derivative, which can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs * inputs

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        derivative: Tensor = 2 * cotangent * ctx.saved_tensors[0]
        return derivative


def squared(net: Net, inputs: Tensor) -> Tensor:
    outputs: Tensor = Squared.apply(net.first(inputs))
    return outputs


def logged(net: Net, inputs: Tensor) -> Tensor:
    hidden: Tensor = net.first(inputs).tanh()
    net.seen = hidden.mean().item()
    return hidden


def averaged(net: Net, inputs: Tensor) -> Tensor:
    hidden: Tensor = net.first(inputs).tanh()
    with torch.no_grad():
        net.mean.mul_(0.9).add_(0.1 * hidden.mean(0))
    return hidden


class WithBuffer(Net):
    """A net with a buffer ``mean``."""

    def __init__(self, middle: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__(middle)
        self.register_buffer("mean", torch.zeros(8))


def counted(net: Net, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        net.mean += 1
    outputs: Tensor = net.first(inputs).tanh() * (1 + 1 / net.mean)
    return outputs


def adversarial(net: Net, inputs: Tensor) -> Tensor:
    """Inputs moved uphill, by a derivative that is a constant to the inner gradient."""
    at = inputs.detach().clone().requires_grad_()
    (uphill,) = torch.autograd.grad(net.head(net.first(at).tanh()).square().sum(), at)
    outputs: Tensor = net.first(inputs + 0.1 * uphill / uphill.norm()).tanh()
    return outputs


def stops_later(net: Net, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        net.mean += 1
    hidden: Tensor = net.first(inputs)
    return hidden * (hidden.detach() if net.mean[0] > 2 else hidden)


TAUGHT: dict[str, Make] = {
    "convolutional": convolutional,
    "residual": net(lambda n, x: x + n.branch(n.first(x).tanh()), branch=linear),
    "attention": net(attention, project=lambda: nn.Linear(2, 8), query=linear, key=linear),
    "transformer": net(
        lambda n, x: n.block(n.project(x.view(-1, 4, 2))).mean(1),
        project=lambda: nn.Linear(2, 8),
        block=lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True),
    ),
    "lstm": net(recurrent, cells=lambda: nn.LSTM(2, 8, batch_first=True)),
    "gru": net(recurrent, cells=lambda: nn.GRU(2, 8, batch_first=True)),
    "embedding": net(lookup, table=lambda: nn.Embedding(2, 8)),
    "sparse embedding": net(lookup, table=lambda: nn.Embedding(2, 8, sparse=True)),
    "padded embedding": net(lookup, table=lambda: nn.Embedding(2, 8, padding_idx=1)),
    "adversarial inputs": net(adversarial),
    "stops later": lambda: WithBuffer(stops_later),
    "spectral": net(spectral, mix=lambda: nn.Linear(10, 8)),
    "checkpointed": net(checkpointed, block=block),
    "compiled": lambda: torch.compile(layers(linear)()),
    "compiled part": layers(lambda: torch.compile(nn.Linear(8, 8))),
    "reversed gradient": net(hooked(lambda gradient: -0.5 * gradient)),
    "clipped gradient": net(hooked(lambda gradient: gradient.clamp(-0.01, 0.01))),
    "forward hook": forward_hooked,
    "in place": layers(linear, lambda: nn.ELU(inplace=True)),
    "writes into its input": net(writes_into_its_input),
    "dropout": layers(linear, lambda: nn.Dropout(0.4)),
    "depth by torch": net(stochastic_depth(lambda n: float(torch.rand(()))), branch=linear),
    "depth by Python": net(stochastic_depth(lambda n: random.random()), branch=linear),
    "depth by NumPy": net(stochastic_depth(lambda n: np.random.rand()), branch=linear),  # noqa: NPY002
    "depth by a generator": net(stochastic_depth(lambda n: float(torch.rand((), generator=OWN))), branch=linear),
    "depth by its own generator": net(
        stochastic_depth(lambda n: n.random.random()), branch=linear, random=lambda: np.random.default_rng(3)
    ),
    "running batch norm": layers(linear, lambda: nn.BatchNorm1d(8)),
    "batch norm and dropout": layers(linear, lambda: nn.BatchNorm1d(8), lambda: nn.Dropout(0.3)),
    "frozen batch norm": frozen_norm,
    "weight norm": layers(lambda: parametrizations.weight_norm(nn.Linear(8, 8))),
    "orthogonal": layers(lambda: parametrizations.orthogonal(nn.Linear(8, 8))),
    "group norm": layers(linear, lambda: nn.GroupNorm(2, 8)),
    "tied": tied,
    "unused": net(lambda n, x: n.first(x).tanh(), idle=linear),
    "frozen": frozen_layer,
    "complex": net(complex_weights, weights=complex_parameter),
    "constant scale": net(normalized_by_a_constant),
    "detached gate": net(detached_gate, gate=linear),
    "straight through": net(straight_through),
    "vmapped": net(vmapped),
    "custom function": net(squared),
    "logged number": net(logged),
    "averaged buffer": lambda: WithBuffer(averaged),
    "counting buffer": lambda: WithBuffer(counted),
}
"""Learners whose meta-gradient is right."""


# --------------------------------------------------------------------------------------------- what has to be refused


class Reversed(torch.autograd.Function):
    """A gradient reversal as a custom function: its backward is no derivative of its forward."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return -cotangent


class Forgetful(torch.autograd.Function):
    """A square whose backward takes what it was given for a constant."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.inputs = inputs.detach()
        return inputs * inputs

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        derivative: Tensor = 2 * cotangent * ctx.inputs
        return derivative


def backward_hooked() -> nn.Module:
    module = layers(linear)()
    module[0].register_full_backward_hook(lambda part, given, out: tuple(g and 0.5 * g for g in given))
    return module


def parameter_hooked() -> nn.Module:
    module = layers(linear)()
    module[0].weight.register_hook(lambda gradient: 0.5 * gradient)
    return module


def node_hooked(net: Net, inputs: Tensor) -> Tensor:
    hidden: Tensor = net.first(inputs).tanh()
    if hidden.grad_fn is not None:
        hidden.grad_fn.register_prehook(lambda gradients: (0.5 * gradients[0],))
    return hidden


def clamps_its_weights(net: Net, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        net.first.weight.clamp_(-0.2, 0.2)
    outputs: Tensor = net.first(inputs).tanh()
    return outputs


def clamps_its_data(net: Net, inputs: Tensor) -> Tensor:
    net.first.weight.data.clamp_(-0.2, 0.2)
    outputs: Tensor = net.first(inputs).tanh()
    return outputs


def scales_its_input_without_grad(net: Net, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        inputs.mul_(2)
    outputs: Tensor = net.first(inputs).tanh()
    return outputs


def divides_by_a_number(net: Net, inputs: Tensor) -> Tensor:
    hidden = net.first(inputs)
    outputs: Tensor = hidden / hidden.norm().item()
    return outputs


def carries_a_mean(net: Net, inputs: Tensor) -> Tensor:
    hidden: Tensor = net.first(inputs)
    net.mean = 0.9 * net.mean + 0.1 * hidden.detach().mean(0)
    return (hidden - net.mean).tanh()


def begins_with_its_input(net: Net, inputs: Tensor) -> Tensor:
    hidden: Tensor = net.first(inputs)
    if not net.mean.any():
        with torch.no_grad():
            net.mean.copy_(hidden.mean(0))
    return (hidden - net.mean).tanh()


def reentrant(net: Net, inputs: Tensor) -> Tensor:
    outputs: Tensor = checkpoint(net.block, net.first(inputs).tanh(), use_reentrant=True)
    return outputs


REFUSED: dict[str, tuple[Make, type[InnerLoopError], str]] = {
    "gradient reversal": (net(lambda n, x: Reversed.apply(n.first(x))), WrongDerivativeError, "Reversed"),
    "forgetful function": (net(lambda n, x: Forgetful.apply(n.first(x))), WrongDerivativeError, "Forgetful"),
    "hard choice": (
        net(lambda n, x: F.gumbel_softmax(n.first(x), hard=True)), WrongDerivativeError, r"gumbel_softmax\(hard=True\)",
    ),
    "backward hook on a module": (backward_hooked, InnerLoopError, "register_full_backward_hook"),
    "hook on a parameter": (parameter_hooked, InnerLoopError, "parameter weight of its Linear has a gradient hook"),
    "hook on a node": (net(node_hooked), WrongDerivativeError, r"\.grad_fn"),
    "clamped weights": (net(clamps_its_weights), InnerLoopError, r"parameter or buffer first\.weight in place"),
    "clamped data": (net(clamps_its_data), WrongDerivativeError, r"\.data"),
    "renormalized embedding": (
        net(lookup, table=lambda: nn.Embedding(2, 8, max_norm=0.5)), InnerLoopError, r"buffer table\.weight in place",
    ),
    "embedding scaled by frequency": (
        net(lookup, table=lambda: nn.Embedding(2, 8, scale_grad_by_freq=True)), WrongDerivativeError, r"embedding\(\)",
    ),
    "sampled": (net(lambda n, x: torch.normal(n.first(x), 0.1)), WrongDerivativeError, r"normal\(\)"),
    "fake quantization": (
        net(lambda n, x: torch.fake_quantize_per_tensor_affine(n.first(x), 0.1, 0, -8, 7)),
        WrongDerivativeError, "fake_quantize_per_tensor_affine",
    ),
    "copied in a list": (
        net(lambda n, x: n.first(x) * torch.tensor([n.first(x).norm()])), WrongDerivativeError, r"tensor\(\)",
    ),
    "initialized by its first input": (lambda: WithBuffer(begins_with_its_input), InnerLoopError, "buffer mean is"),
    "running statistics in the loss": (
        net(lambda n, x: n.norm(n.first(x)) - n.norm.running_mean, norm=lambda: nn.BatchNorm1d(8)),
        InnerLoopError, r"buffer norm\.running_mean",
    ),
    "input scaled without grad": (net(scales_its_input_without_grad), WrongDerivativeError, "in place under no_grad"),
    "read through .data": (
        net(lambda n, x: n.first(x) * n.first(x).data), WrongDerivativeError, r"\.data",
    ),
    "divided by a number": (net(divides_by_a_number), WrongDerivativeError, r"item\(\)"),
    "mean carried along": (lambda: WithBuffer(carries_a_mean), InnerLoopError, "buffer mean is computed from"),
    "mean in an attribute": (
        net(carries_a_mean, mean=lambda: torch.zeros(8)), InnerLoopError, "buffer mean is computed from",
    ),
    "spectral norm": (
        layers(lambda: parametrizations.spectral_norm(nn.Linear(8, 8))), InnerLoopError,
        r"buffer 0\.parametrizations\.weight\.0\._u",
    ),
    "old weight norm": (
        layers(lambda: nn.utils.weight_norm(nn.Linear(8, 8))), NotTwiceDifferentiableError, "_weight_norm",
    ),
    "reentrant checkpoint": (net(reentrant, block=block), InnerLoopError, "use_reentrant=True"),
    "fused attention": (
        net(
            lambda n, x: n.attend(*[n.project(x.view(-1, 4, 2))] * 3, need_weights=False)[0].mean(1),
            project=lambda: nn.Linear(2, 8), attend=lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        NotTwiceDifferentiableError, r"sdpa_kernel\(SDPBackend\.MATH\)",
    ),
}  # fmt: skip
"""Learners that cannot be taught rightly, with the error and what it names."""
