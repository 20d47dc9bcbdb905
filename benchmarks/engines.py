"""One meta-gradient by every engine: the modes of our inner loop, plain training as the unit, and other libraries.

An engine is a function ``(learner, optimizer, images, labels) -> gradient``: it trains the learner on the batches
``images[0], images[1], ...`` (``[T, B, C, H, W]``) and returns the gradient of its loss on ``images[0]`` w.r.t. all
images, or None for plain training.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.inner_loop import SGD, Adam, Functional, InnerOptimizer, unroll
from gtn_lightning.tasks import Classification

RATE, MOMENTUM = 1e-3, 0.5
EPS = 1e-8

Engine = Callable[[nn.Module, str, Tensor, Tensor], Tensor | None]


def torch_optimizer(learner: nn.Module, optimizer: str) -> torch.optim.Optimizer:
    """Return torch's own optimizer over a learner's parameters."""
    if optimizer == "sgd":
        return torch.optim.SGD(learner.parameters(), lr=RATE, momentum=MOMENTUM)
    return torch.optim.Adam(learner.parameters(), lr=RATE)


def plain(learner: nn.Module, optimizer: str, images: Tensor, labels: Tensor) -> None:
    """Train with ``torch.optim``, without a meta-gradient: the unit of time."""
    chosen = torch_optimizer(learner, optimizer)
    for batch in images.detach():
        chosen.zero_grad()
        F.cross_entropy(learner(batch), labels).backward()
        chosen.step()


def ours(
    mode: str, learner: nn.Module, optimizer: str, images: Tensor, labels: Tensor, segments: bool = False
) -> Tensor:
    """Unroll in one of our modes, or in segments of about the square root of the number of steps."""
    chosen: InnerOptimizer = SGD(RATE, MOMENTUM) if optimizer == "sgd" else Adam(RATE, eps=EPS)
    functional, task = Functional(learner), Classification(10)
    params, buffers = functional.init()
    batches = [(batch, labels) for batch in images.unbind()]
    segment = round(len(images) ** 0.5) if segments else None
    trained = unroll(task.inner_loss(functional), params, buffers, batches, chosen, mode=mode, segment=segment)
    loss, _ = task.meta_loss(functional)(trained.params, trained.buffers, images[0].detach(), labels)
    (gradient,) = torch.autograd.grad(loss, images)
    return gradient


def by_higher(learner: nn.Module, optimizer: str, images: Tensor, labels: Tensor) -> Tensor:
    """Unroll with higher (Grefenstette et al., arXiv 1910.01727)."""
    import higher

    chosen = torch_optimizer(learner, optimizer)
    with higher.innerloop_ctx(learner, chosen, copy_initial_weights=False) as (functional, differentiable):
        for batch in images.unbind():
            differentiable.step(F.cross_entropy(functional(batch), labels))
        loss = F.cross_entropy(functional(images[0].detach()), labels)
        (gradient,) = torch.autograd.grad(loss, images)
    return gradient


def by_torchopt(learner: nn.Module, optimizer: str, images: Tensor, labels: Tensor) -> Tensor:
    """Unroll with TorchOpt (Ren et al., arXiv 2211.06934)."""
    import torchopt

    learner = copy.deepcopy(learner)  # TorchOpt's optimizer writes the trained tensors into the module
    sgd = optimizer == "sgd"
    chosen = torchopt.MetaSGD(learner, RATE, momentum=MOMENTUM) if sgd else torchopt.MetaAdam(learner, RATE)
    for batch in images.unbind():
        chosen.step(F.cross_entropy(learner(batch), labels))
    loss = F.cross_entropy(learner(images[0].detach()), labels)
    (gradient,) = torch.autograd.grad(loss, images)
    return gradient


PEERS: dict[str, Engine] = {"higher": by_higher, "TorchOpt": by_torchopt}
ENGINES: dict[str, Engine] = {
    "linearized": partial(ours, "linearized"),
    "compiled": partial(ours, "compiled"),
    "compiled, in segments": partial(ours, "compiled", segments=True),
    **{mode: partial(ours, mode) for mode in ("mixed", "remat", "reverse")},
    **PEERS,
}
"""The engines by name."""
