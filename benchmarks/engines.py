"""One meta-gradient by every engine: the modes of our inner loop, other libraries, and plain training as the unit.

An engine is a function ``work -> gradient``: it trains the work's learner on its batches and returns the gradient of
the meta-loss w.r.t. the work's variable.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import Work
from gtn_lightning.inner_loop import SGD, Adam, Buffers, Functional, InnerOptimizer, Params, eager_loss, unroll

MOMENTUM = 0.5

Engine = Callable[[Work], Tensor]


def torch_optimizer(network: nn.Module, work: Work, capturable: bool = False) -> torch.optim.Optimizer:
    """Return torch's own optimizer over a network's parameters."""
    if work.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=work.rate, momentum=MOMENTUM)
    return torch.optim.Adam(network.parameters(), lr=work.rate, capturable=capturable)


def trained_by_torch(network: nn.Module, work: Work, steps: int) -> torch.optim.Optimizer:
    """Train a network in place for the first steps, without a meta-gradient."""
    optimizer = torch_optimizer(network, work)
    for inputs, *rest in work.batches[:steps]:
        optimizer.zero_grad()
        work.criterion(network(inputs.detach()), *(tensor.detach() for tensor in rest)).backward()
        optimizer.step()
    return optimizer


def plain(work: Work) -> Callable[[], object]:
    """Return plain training of a new copy of the learner, a unit of time."""
    network = copy.deepcopy(work.network)
    return lambda: trained_by_torch(network, work, len(work.batches))


def captured(work: Work) -> Callable[[], object]:
    """Return plain training whose step is one CUDA graph, which no Python slows down: the honest unit on CUDA."""
    network = copy.deepcopy(work.network)
    optimizer = torch_optimizer(network, work, capturable=True)
    places = [tensor.detach().clone() for tensor in work.batches[0]]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        work.criterion(network(places[0]), *places[1:]).backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # allocate the optimizer's state, choose kernels
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        step()

    def run() -> None:
        for batch in work.batches:
            for place, tensor in zip(places, batch, strict=True):
                place.copy_(tensor.detach())
            graph.replay()

    return run


def ours(mode: str, work: Work, segments: bool = False) -> Tensor:
    """Unroll in one of our modes, or in segments of about the square root of the number of steps."""
    (gradient,) = torch.autograd.grad(meta_loss(work, mode, segments), work.variable)
    return gradient


def meta_loss(work: Work, mode: str, segments: bool = False) -> Tensor:
    """Return the meta-loss of one of our modes, with its graph unless under ``torch.no_grad``."""
    sgd = work.optimizer == "sgd"
    optimizer: InnerOptimizer = SGD(work.rate, MOMENTUM) if sgd else Adam(work.rate, eps=work.eps)
    functional = Functional(work.network)

    def loss_fn(params: Params, buffers: Buffers, inputs: Tensor, *rest: Tensor) -> tuple[Tensor, Buffers]:
        outputs, buffers = functional(params, buffers, inputs)
        return work.criterion(outputs, *rest), buffers

    steps = len(work.batches)
    trained = unroll(
        loss_fn,
        *functional.init(),
        work.batches,
        optimizer,
        mode=mode,
        window=(work.untracked, steps),
        segment=round((steps - work.untracked) ** 0.5) if segments else None,
    )
    return eager_loss(loss_fn, trained.params, trained.buffers, work.held_back)


def by_higher(work: Work) -> Tensor:
    """Unroll with higher (Grefenstette et al., arXiv 1910.01727)."""
    import higher

    network = copy.deepcopy(work.network)
    optimizer = trained_by_torch(network, work, work.untracked)
    with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (functional, differentiable):
        for inputs, *rest in work.batches[work.untracked :]:
            differentiable.step(work.criterion(functional(inputs), *rest))
        inputs, *rest = work.held_back
        (gradient,) = torch.autograd.grad(work.criterion(functional(inputs), *rest), work.variable)
    return gradient


def by_torchopt(work: Work) -> Tensor:
    """Unroll with TorchOpt (Ren et al., arXiv 2211.06934)."""
    import torchopt

    network = copy.deepcopy(work.network)  # TorchOpt's optimizer writes the trained tensors into the module
    if work.optimizer == "sgd":
        optimizer = torchopt.MetaSGD(network, work.rate, momentum=MOMENTUM)
    else:
        optimizer = torchopt.MetaAdam(network, work.rate, eps=0.0, eps_root=work.eps**2)
    for step, (inputs, *rest) in enumerate(work.batches):
        optimizer.step(work.criterion(network(inputs), *rest))
        if step < work.untracked:
            torchopt.stop_gradient(network)
            torchopt.stop_gradient(optimizer)
    inputs, *rest = work.held_back
    (gradient,) = torch.autograd.grad(work.criterion(network(inputs), *rest), work.variable)
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
