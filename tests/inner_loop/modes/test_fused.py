"""Mode ``fused`` against double backward and central differences, and what it leaves uncompiled."""

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gtn_lightning.inner_loop import (
    LARS,
    MODES,
    SGD,
    Adam,
    AdamW,
    Functional,
    InnerOptimizer,
    Params,
    RMSprop,
    Unrolled,
    unroll,
    unroll_population,
)
from gtn_lightning.inner_loop.compiler import program
from gtn_lightning.inner_loop.errors import RecomputationError
from gtn_lightning.inner_loop.modes import fused
from gtn_lightning.inner_loop.modes.fused import Fused
from tests.inner_loop.test_unroll import cross_entropy, make_batches

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


@pytest.fixture(autouse=True)
def mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fused]:
    """A mode without earlier programs."""
    mode = Fused(MODES["remat"])
    monkeypatch.setitem(MODES, "fused", mode)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield mode


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the programs' graphs without inductor, which takes seconds for each; inputs must be like the given ones."""

    def kinds(tensors: Sequence[Tensor]) -> list[object]:
        strides = [[step for step, size in zip(t.stride(), t.shape, strict=True) if size > 1] for t in tensors]
        return [(t.shape, t.dtype, own) for t, own in zip(tensors, strides, strict=True)]

    def compiled(graph: GraphModule, inputs: Sequence[Tensor], *_: object) -> Callable[..., tuple[Tensor, ...]]:
        expected = kinds(inputs)

        def call(*given: Tensor) -> tuple[Tensor, ...]:
            assert kinds(given) == expected
            return graph(*given)  # type: ignore[no-any-return]

        return call

    monkeypatch.setattr(program, "compile_graph", compiled)


def normalized() -> nn.Module:
    """A learner with buffers."""
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def programs(mode: Fused) -> int:
    """Return how many architectures are compiled."""
    return sum(found.program is not None and found.program.works for found in mode.architectures.values())


def meta_gradient(
    mode: str,
    optimizer: InnerOptimizer,
    steps: int = 4,
    net: Callable[[], nn.Module] = normalized,
    use: Callable[[Unrolled], Tensor] | None = None,
    shared: bool = False,
    **options: object,
) -> tuple[Unrolled, list[Tensor]]:
    """Return an inner loop of a learner that is the same in all calls, and the meta-gradient by all that has one."""
    torch.manual_seed(5)
    learner = Functional(net())
    params, buffers = learner.init()
    params = {name: parameter.requires_grad_() for name, parameter in params.items()}
    batches = make_batches(steps)
    if shared:
        batches = [(inputs, batches[0][1]) for inputs, _ in batches]
    unrolled = unroll(cross_entropy(learner), params, buffers, batches, optimizer, mode=mode, **options)  # type: ignore[arg-type]
    sources = [*params.values(), *(inputs for inputs, _ in batches), *optimizer.parameters()]
    loss = trained_loss(unrolled) if use is None else use(unrolled)
    return unrolled, list(torch.autograd.grad(loss, sources, allow_unused=True))


def trained_loss(unrolled: Unrolled) -> Tensor:
    return torch.stack([parameter.square().sum() for parameter in unrolled.params.values()]).sum()


def assert_equal(found: tuple[Unrolled, list[Tensor]], expected: tuple[Unrolled, list[Tensor]]) -> None:
    for (one, gradients), (other, others) in [(found, expected)]:
        for name in other.params:
            torch.testing.assert_close(one.params[name], other.params[name], rtol=1e-9, atol=1e-12)
        for name in other.buffers:
            torch.testing.assert_close(one.buffers[name], other.buffers[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.losses, other.losses, rtol=1e-9, atol=1e-12)
        scale = max(float(gradient.norm()) for gradient in others if gradient is not None)
        for gradient, known in zip(gradients, others, strict=True):
            assert (gradient is None) == (known is None)
            if known is not None:
                assert float((gradient - known).norm()) <= 1e-9 * scale


def both(optimizer: Callable[[], InnerOptimizer], **options: object) -> None:
    """Hold the compiled inner loop against double backward."""
    expected = meta_gradient("reverse", optimizer(), **options)  # type: ignore[arg-type]
    for _ in range(2):  # observed, compiled and confirmed; then alone
        assert_equal(meta_gradient("fused", optimizer(), **options), expected)  # type: ignore[arg-type]


# Of a bias before a norm the gradient is zero, up to rounding, which a small epsilon would make large.
OPTIMIZERS: dict[str, Callable[[], InnerOptimizer]] = {
    "SGD": lambda: SGD(
        0.3, 0.9, weight_decay=0.1, learned=["weight_decay"], learned_per_step=["lr", "momentum"], steps=3
    ),
    "Nesterov": lambda: SGD(0.3, 0.9, nesterov=True),
    "Adam": lambda: Adam(0.05, eps=1e-3, learned=["eps", "beta1"], learned_per_step=["lr"], steps=4),
    "AdamW": lambda: AdamW(0.05, eps=1e-3, weight_decay=0.1),
    "RMSprop": lambda: RMSprop(0.05, eps=1e-3, momentum=0.5, learned=["alpha"]),
    "LARS": lambda: LARS(0.1, eps=1e-2, learned_per_step=["lr"], steps=4),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_as_double_backward(
    name: str, mode: Fused, interpreted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A learner with buffers, in two programs' calls, so that states pass between them; learned rates per step, of which
    # the last one holds for all later steps.
    monkeypatch.setattr(fused, "MAX_STEPS", 2)
    both(OPTIMIZERS[name])
    assert programs(mode) == 1


def test_compiled(mode: Fused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "MAX_STEPS", 2)
    both(OPTIMIZERS["SGD"])
    (found,) = mode.architectures.values()
    assert found.program is not None
    assert found.program.works

    def value(shift: float) -> float:
        torch.manual_seed(5)
        learner, batches = Functional(normalized()), make_batches(4)
        torch.manual_seed(6)
        moved = [(inputs + shift * torch.randn_like(inputs), targets) for inputs, targets in batches]
        unrolled = unroll(cross_entropy(learner), *learner.init(), moved, OPTIMIZERS["SGD"](), mode="reverse")
        return float(trained_loss(unrolled).detach())

    _, gradients = meta_gradient("fused", OPTIMIZERS["SGD"]())
    torch.manual_seed(6)
    inputs = [gradient for gradient in gradients if gradient.shape == (6, 4)]
    slope = sum(float((gradient * torch.randn_like(gradient)).sum()) for gradient in inputs)
    assert slope == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-5)


def test_batches_of_other_tensors(mode: Fused, interpreted: None) -> None:
    # The program must not take a tensor that two batches share for the same input.
    both(lambda: SGD(0.3), shared=True)
    both(lambda: SGD(0.3), shared=False)
    assert programs(mode) == 1


def test_windows_snapshots_and_losses(mode: Fused, interpreted: None) -> None:
    def use(unrolled: Unrolled) -> Tensor:
        early = torch.stack([parameter.sum() for parameter in unrolled.snapshots[2].params.values()]).sum()
        return trained_loss(unrolled) + early + unrolled.losses[2]  # by the loss: without a program

    net = lambda: nn.Sequential(nn.Linear(4, 3))  # noqa: E731
    options = {"net": net, "window": (1, 3), "snapshots": [2], "steps": 4}
    both(lambda: SGD(0.3, 0.9), use=use, **options)
    both(lambda: SGD(0.3, 0.9), **options)
    assert programs(mode) == 1


def test_a_population_of_one_architecture(mode: Fused, interpreted: None) -> None:
    def trained(mode: str) -> list[Tensor]:
        torch.manual_seed(5)
        networks = [Functional(nn.Linear(4, 3)) for _ in range(2)]
        batches = make_batches(2)
        members = [network.init() for network in networks]
        found = unroll_population(cross_entropy(networks[0]), members, batches, SGD(0.3), batched=True, mode=mode)
        loss = torch.stack([trained_loss(each) for each in found]).sum()
        return list(torch.autograd.grad(loss, [inputs for inputs, _ in batches]))

    expected = trained("reverse")
    for _ in range(2):
        for found, known in zip(trained("fused"), expected, strict=True):
            torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-12)
    assert programs(mode) == 1


# ------------------------------------------------------------------------------------------- what it leaves uncompiled


class Doubled(SGD):
    """An optimizer of another package."""

    def update(self, grads: Params, state: object, params: Params, step: int) -> tuple[Params, object]:
        scaled = {name: (1 + step) * grad for name, grad in grads.items()}
        return super().update(scaled, state, params, step)  # type: ignore[arg-type]


def scheduled() -> SGD:
    """An optimizer whose own method is replaced."""
    optimizer = SGD(0.3)
    optimizer.hyperparameters = lambda step: {"lr": 0.3 / (1 + step), "momentum": 0.5, "weight_decay": 0.0}  # type: ignore[method-assign]
    return optimizer


class Counting(nn.Linear):
    """A learner that does something else in a later step."""

    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs) * (2.0 if self.calls % 4 == 3 else 1.0)


UNCOMPILED: dict[str, dict[str, object]] = {
    "an optimizer of another package": {"optimizer": lambda: Doubled(0.3)},
    "an optimizer with a method of its own": {"optimizer": scheduled},
    "segments": {"optimizer": lambda: SGD(0.3), "segment": 2},
    "a learner that draws random numbers": {
        "optimizer": lambda: SGD(0.3), "net": lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)),
    },
    "a loss that stops gradients": {
        "optimizer": lambda: SGD(0.3), "net": lambda: nn.Sequential(nn.Linear(4, 3), Stop()),
    },
}  # fmt: skip


class Stop(nn.Module):
    """A layer whose gradient is not that of its value."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + (inputs.square() - inputs).detach()


@pytest.mark.parametrize("name", UNCOMPILED)
def test_left_uncompiled(name: str, mode: Fused, interpreted: None) -> None:
    options = dict(UNCOMPILED[name])
    optimizer = options.pop("optimizer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both(optimizer, **options)  # type: ignore[arg-type]


def test_a_loss_that_changes_from_step_to_step(mode: Fused, interpreted: None) -> None:
    for _ in range(2):
        with pytest.raises(RecomputationError):
            meta_gradient("fused", SGD(0.3), net=lambda: Counting(4, 3))
    assert programs(mode) == 0


class Scaled(nn.Linear):
    """A learner with a setting."""

    scale = 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * self.scale


def test_a_setting_that_changes_before_the_backward_pass(mode: Fused, interpreted: None) -> None:
    def use(unrolled: Unrolled) -> Tensor:
        Scaled.scale = 2.0
        return unrolled.losses.sum()  # by the loss: without a program

    def found(checked: bool = True) -> None:
        Scaled.scale = 1.0
        meta_gradient("fused", SGD(0.3), net=lambda: Scaled(4, 3), use=use, checked=checked)

    for _ in range(2):
        with pytest.raises(RecomputationError):
            found()
    assert programs(mode) == 1
    found(checked=False)


class Later(nn.Linear):
    """A learner that from some meta-step on does something else in its last inner steps."""

    is_on = False
    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.is_on:
            return super().forward(inputs)
        self.calls += 1
        return super().forward(inputs) * (2.0 if self.calls > 2 else 1.0)


def test_a_loss_that_changes_from_step_to_step_later(
    mode: Fused, interpreted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "MAX_STEPS", 2)
    for _ in range(2):
        meta_gradient("fused", SGD(0.3), net=lambda: Later(4, 3))
    monkeypatch.setattr(Later, "is_on", True)
    with pytest.warns(UserWarning, match="differs from step to step"):
        meta_gradient("fused", SGD(0.3), net=lambda: Later(4, 3))
    assert programs(mode) == 0


def test_learned_rates_of_another_type_have_their_own_program(mode: Fused, interpreted: None) -> None:
    def found(mode: str, dtype: torch.dtype) -> list[Tensor]:
        return meta_gradient(mode, SGD(0.3, learned=["lr"]).to(dtype), net=lambda: nn.Linear(4, 3))[1]

    found("fused", torch.float32)
    for dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(found("fused", dtype), found("reverse", dtype))
    assert programs(mode) == 1


def test_constants_of_any_strides(mode: Fused, interpreted: None) -> None:
    mask = torch.arange(1.0, 7).view(6, 1).double()[::2].expand(3, 3)

    class Masked(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) @ mask

    both(lambda: SGD(0.3), net=lambda: Masked(4, 3))
    assert programs(mode) == 1
