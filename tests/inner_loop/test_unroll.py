"""The unrolled inner loop: its values, truncation, snapshots, and its appetite for batches and memory."""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gtn_lightning.inner_loop import (
    LARS,
    SGD,
    Adam,
    Batch,
    Buffers,
    Functional,
    InnerOptimizer,
    LossFn,
    Params,
    RMSprop,
    Unrolled,
    unroll,
)

UNCOMPILED = ("mixed", "remat", "reverse")
every_mode = pytest.mark.parametrize("mode", UNCOMPILED)


def cross_entropy(learner: Functional) -> LossFn:
    def loss(params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        logits, buffers = learner(params, buffers, inputs)
        return F.cross_entropy(logits, targets), buffers

    return loss


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def make_batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(6, 4).requires_grad_(), torch.randint(3, (6,))) for _ in range(steps)]


# ------------------------------------------------------------------------------ it is training

NETS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": small_net,
    "batch norm without running statistics": lambda: nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Tanh(), nn.Linear(8, 3)
    ),
    "cumulative running statistics": lambda: nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=None), nn.Tanh(), nn.Linear(8, 3)
    ),
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 1), nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.Tanh(), nn.Flatten(), nn.Linear(16, 3),
    ),
    "weight norm": lambda: nn.Sequential(weight_norm(nn.Linear(4, 8)), nn.Tanh(), weight_norm(nn.Linear(8, 3))),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3)),
}  # fmt: skip


@every_mode
@pytest.mark.parametrize("net", NETS)
def test_the_same_as_an_ordinary_training_loop(net: str, mode: str) -> None:
    module = NETS[net]()
    learner = Functional(module)
    batches = make_batches(5)

    torch.manual_seed(1)
    unrolled = unroll(cross_entropy(learner), *learner.init(), batches, SGD(0.3, 0.9, weight_decay=0.1), mode=mode)

    twin = copy.deepcopy(module)
    optimizer = torch.optim.SGD(twin.parameters(), 0.3, 0.9, weight_decay=0.1)
    losses = []
    torch.manual_seed(1)
    for inputs, targets in batches:
        loss = F.cross_entropy(twin(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(unrolled.losses.detach(), torch.stack(losses))
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(unrolled.params[name].detach(), parameter.detach())
    assert unrolled.buffers.keys() == dict(twin.named_buffers()).keys()
    for name, buffer in twin.named_buffers():
        assert not unrolled.buffers[name].requires_grad
        torch.testing.assert_close(unrolled.buffers[name], buffer)


@every_mode
def test_without_grad_mode_the_same_values_and_no_graph(mode: str) -> None:
    learner = Functional(small_net())
    params, buffers = learner.init()
    batches, optimizer = make_batches(3), SGD(0.3, 0.9, learned=["lr"])
    with_graph = unroll(cross_entropy(learner), params, buffers, batches, optimizer, mode=mode, snapshots=[0, 2])
    with torch.no_grad():
        without = unroll(cross_entropy(learner), params, buffers, batches, optimizer, mode=mode, snapshots=[0, 2])

    def tensors(unrolled: Unrolled) -> list[Tensor]:
        return [t for t in tree_leaves(unrolled) if isinstance(t, Tensor)]

    assert with_graph.losses.requires_grad
    assert with_graph.params["0.weight"].requires_grad
    assert not any(tensor.requires_grad for tensor in tensors(without))
    assert len(tensors(without)) == len(tensors(with_graph))
    for one, other in zip(tensors(without), tensors(with_graph), strict=True):
        torch.testing.assert_close(one, other.detach())


# ---------------------------------------------------------------------------------- truncation


def written_out(
    loss: LossFn,
    params: Params,
    buffers: Buffers,
    batches: Sequence[Batch],
    optimizer: InnerOptimizer,
    first: int,
) -> Params:
    """The inner loop with plain double backward, cut off by hand before step ``first``."""
    state = optimizer.init(params)
    for step, batch in enumerate(batches):
        if step <= first:
            params = {name: p.detach().requires_grad_() for name, p in params.items()}
        inner, buffers = loss(params, buffers, *batch)
        grads = torch.autograd.grad(inner, list(params.values()), create_graph=step >= first)
        with torch.set_grad_enabled(step >= first):
            params, state = optimizer.update(dict(zip(params, grads, strict=True)), state, params, step)
    return params


OPTIMIZERS: dict[str, Callable[[], InnerOptimizer]] = {
    "SGD": lambda: SGD(0.3, 0.9, learned=["momentum"], learned_per_step=["lr"], steps=6),
    "Adam": lambda: Adam(0.05, eps=1e-3, learned=["beta1", "beta2"], learned_per_step=["lr"], steps=6),
    "LARS": lambda: LARS(0.1, learned=["momentum"], learned_per_step=["lr"], steps=6),
    "RMSprop": lambda: RMSprop(0.05, eps=1e-3, momentum=0.5, learned=["alpha"], learned_per_step=["lr"], steps=6),
}


@every_mode
@pytest.mark.parametrize("window", [(0, 6), (4, 6), (1, 4), (2, 3)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_window_is_detaching_by_hand(optimizer: str, window: tuple[int, int], mode: str) -> None:
    first, last = window
    learner, chosen = Functional(small_net()), OPTIMIZERS[optimizer]().double()
    loss = cross_entropy(learner)
    params, buffers = learner.init()
    batches = make_batches(6)
    unrolled = unroll(loss, params, buffers, batches, chosen, mode=mode, window=window)
    by_hand = written_out(loss, params, buffers, batches[:last], chosen, first)
    assert unrolled.losses.shape == (last,)

    variables = [inputs for inputs, _ in batches] + list(chosen.parameters())
    real = torch.randn(6, 4), torch.randint(3, (6,))
    found, expected = (
        torch.autograd.grad(loss(trained, buffers, *real)[0], variables, allow_unused=True, materialize_grads=True)
        for trained in (unrolled.params, by_hand)
    )
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-12)
    reached = [bool(gradient.any()) for gradient in found[: len(batches)]]
    assert reached == [first <= step < last for step in range(len(batches))]


def test_a_window_costs_no_graph_before_it() -> None:
    learner = Functional(small_net())
    unrolled = unroll(
        cross_entropy(learner),
        *learner.init(),
        make_batches(4),
        SGD(learned=["lr"]),
        window=(2, 4),
        snapshots=[1, 2, 3],
    )
    has_graph = [snapshot.params["0.weight"].requires_grad for _, snapshot in sorted(unrolled.snapshots.items())]
    assert has_graph == [False, False, True]


# ----------------------------------------------------------------------------------- snapshots


@every_mode
def test_a_snapshot_is_a_shorter_unroll(mode: str) -> None:
    learner, optimizer = Functional(small_net()), SGD(0.3, 0.9, learned=["lr"]).double()
    loss = cross_entropy(learner)
    params, buffers = learner.init()
    params = {name: p.clone().requires_grad_() for name, p in params.items()}
    batches = make_batches(4)
    real = torch.randn(6, 4), torch.randint(3, (6,))
    variables = [*params.values(), *(inputs for inputs, _ in batches), *optimizer.parameters()]
    unrolled = unroll(loss, params, buffers, batches, optimizer, mode=mode, snapshots=[0, 1, 2, 4])
    assert sorted(unrolled.snapshots) == [0, 1, 2, 4]
    assert unrolled.snapshots[0].params == params
    for steps in (1, 2, 4):
        shorter = unroll(loss, params, buffers, batches[:steps], optimizer, mode=mode)
        snapshot = unrolled.snapshots[steps]
        found, expected = (
            torch.autograd.grad(
                loss(end.params, end.buffers, *real)[0], variables, retain_graph=True, allow_unused=True
            )
            for end in (snapshot, shorter)
        )
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(snapshot.buffers, shorter.buffers)


# ------------------------------------------------------------------------------------- batches


@every_mode
def test_a_batch_is_asked_for_when_its_step_comes(mode: str) -> None:
    events = []

    def batches() -> Iterator[Batch]:
        for step in range(10):
            events.append(f"batch {step}, {'graph' if torch.is_grad_enabled() else 'no graph'}")
            yield (torch.randn(3),)

    def loss(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        events.append("step")
        return (params["w"] * inputs).square().sum(), buffers

    unroll(loss, {"w": torch.ones(3)}, {}, batches(), SGD(), mode=mode, window=(1, 3))
    # A teacher is not asked for the batches behind the window. Those before it are made with a graph, because a lazy
    # teacher may compute at the first batch what the later ones share.
    assert events == ["batch 0, graph", "step", "batch 1, graph", "step", "batch 2, graph", "step"]


def test_a_lazy_teacher_may_make_everything_at_the_first_batch() -> None:
    images = torch.randn(3, 3, requires_grad=True)

    def batches() -> Iterator[Batch]:
        yield from ((row,) for row in (2 * images).unbind())

    def loss(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        return (params["w"] * inputs).square().sum(), buffers

    trained = unroll(loss, {"w": torch.ones(3)}, {}, batches(), SGD(), window=(2, 3))
    trained.params["w"].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum(dim=1).gt(0).tolist() == [False, False, True]


def test_the_meta_gradient_reaches_the_teacher_that_makes_the_batches() -> None:
    learner, teacher = Functional(small_net()), nn.Linear(2, 4)
    loss = cross_entropy(learner)
    params, buffers = learner.init()
    noise, labels = torch.randn(3, 6, 2), torch.arange(6) % 3
    real = torch.randn(6, 4), labels

    def teach(mode: str) -> tuple[Tensor, ...]:
        batches = ((teacher(vectors), labels) for vectors in noise)
        trained = unroll(loss, params, buffers, batches, SGD(0.3, 0.9), mode=mode)
        return torch.autograd.grad(loss(trained.params, trained.buffers, *real)[0], list(teacher.parameters()))

    for mode in UNCOMPILED:
        for found, expected in zip(teach(mode), teach("reverse"), strict=True):
            assert expected.any()
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        (0, {}, "needs at least 1 steps but there were batches for 0"),
        (2, {"window": (1, 3)}, "needs at least 3 steps but there were batches for 2"),
        (2, {"snapshots": [1, 5]}, "needs at least 5 steps but there were batches for 2"),
        (4, {"window": (3, 3)}, r"the window \(3, 3\) is empty: it must satisfy 0 <= first < last"),
        (4, {"window": (-1, 3)}, r"the window \(-1, 3\) is empty"),
        (4, {"mode": "forward"}, "mode 'forward' is unknown"),
    ],
)
def test_error_messages(batches: int, options: dict[str, Any], message: str) -> None:
    learner = Functional(small_net())
    with pytest.raises(ValueError, match=message):
        unroll(cross_entropy(learner), *learner.init(), make_batches(batches), SGD(), **options)


# -------------------------------------------------------------------------------------- memory


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors made while it is on and still alive, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self._watch((args, kwargs), counted=False)  # Made before the mode was on.
        result = func(*args, **(kwargs or {}))
        self._watch(result, counted=True)
        return result

    def _watch(self, tensors: Any, counted: bool) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                # A view, or what is written in place, lives in a storage seen before.
                storage = tensor.untyped_storage()
                address, size = storage._cdata, storage.nbytes() if counted else 0
                if address not in self._known:
                    self._known.add(address)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size


def test_live_bytes_counts_what_autograd_keeps() -> None:
    weight = torch.randn(1000, requires_grad=True)
    with LiveBytes() as live:
        made = weight.exp()  # Saves its result,
        made = made.sin()  # which is now nowhere but in the graph.
        assert live.now == 2 * 8000
        made.view(10, 100).sum().backward()
        assert live.peak >= 3 * 8000
        del made
        assert live.now == 8000  # weight.grad


def meta_step(net: nn.Module, steps: int, optimizer: InnerOptimizer, mode: str, batch_size: int = 16) -> LiveBytes:
    """One meta-step; the synthetic images, and the gradient they get, are counted."""
    learner = Functional(net)
    loss = cross_entropy(learner)
    params, buffers = learner.init()
    labels = torch.zeros(batch_size, dtype=torch.long)
    with LiveBytes() as live:
        batches = [((2 * torch.randn(batch_size, 64)).requires_grad_(), labels) for _ in range(steps)]
        trained = unroll(loss, params, buffers, batches, optimizer, mode=mode)
        loss(trained.params, trained.buffers, *batches[0])[0].backward()
        del batches, trained
    optimizer.zero_grad()
    return live


def bytes_per_inner_step(net: nn.Module, mode: str, batch_size: int) -> float:
    optimizer = SGD(0.1, 0.9, learned_per_step=["lr", "momentum"], steps=64)
    short, long = (meta_step(net, steps, optimizer, mode, batch_size).peak for steps in (8, 64))
    return (long - short) / 56


def test_memory_per_inner_step_is_a_few_copies_of_the_parameters() -> None:
    net = nn.Sequential(
        nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10)
    )
    parameter_bytes = sum(p.numel() * p.element_size() for p in net.parameters())
    batch_bytes = 64 * 64 * 8
    bound = 4 * parameter_bytes + batch_bytes
    remat, reverse = (bytes_per_inner_step(net, mode, batch_size=64) for mode in ("remat", "reverse"))
    for mode, found in (("remat", remat), ("reverse", reverse)):
        times = (found - batch_bytes) / parameter_bytes
        print(
            f"{mode}, SGD with momentum: {times:.2f} times the learner's parameters per inner step, beside the images"
        )
    assert remat <= bound
    assert reverse > bound  # It keeps activations: the measure sees them.


@every_mode
def test_nothing_is_left_of_a_meta_step(mode: str) -> None:
    optimizer = SGD(0.1, 0.9, learned=["lr"])
    gc.collect()
    gc.disable()  # What a reference cycle holds must not pass for freed.
    try:
        assert meta_step(small_net_for_images(), 4, optimizer, mode).now == 0
    finally:
        gc.enable()


def small_net_for_images() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 10))


def test_training_under_autocast_keeps_no_cast_copies() -> None:
    """Autocast's own cache would keep a copy of every step's parameters for as long as autocast is on."""
    torch.set_default_dtype(torch.float32)
    net, live_after = nn.Linear(64, 10), []
    learner = Functional(net)
    for steps in (4, 12):
        batches = [(torch.randn(16, 64), torch.zeros(16, dtype=torch.long)) for _ in range(steps)]
        with LiveBytes() as live, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            trained = unroll(cross_entropy(learner), *learner.init(), batches, SGD(0.1, 0.0)).params
            live_after.append(live.now)
        assert trained["weight"].dtype == torch.float32
    assert live_after[1] == live_after[0]
