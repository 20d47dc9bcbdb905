"""Inner optimizers against torch.optim, and their hyperparameters."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.inner_loop import LARS, SGD, Adam, AdamW, Functional, InnerOptimizer, Params, RMSprop, unroll

LEARNABLE: list[tuple[type[InnerOptimizer], dict[str, Any]]] = [
    (SGD, {"weight_decay": 0.1}),
    (SGD, {"weight_decay": 0.1, "nesterov": True}),
    (Adam, {"weight_decay": 0.1}),
    (AdamW, {"weight_decay": 0.1}),
    (RMSprop, {"weight_decay": 0.1, "momentum": 0.5}),
    (LARS, {}),
]
EVERY = pytest.mark.parametrize(
    ("optimizer", "arguments"), LEARNABLE, ids=["SGD", "Nesterov", "Adam", "AdamW", "RMSprop", "LARS"]
)


# ---------------------------------------------------------------------------------------- values

PAIRS: list[tuple[InnerOptimizer, Callable[[list[Tensor]], torch.optim.Optimizer]]] = [
    (SGD(0.1, 0.0), lambda p: torch.optim.SGD(p, 0.1)),
    (SGD(0.1, 0.0, weight_decay=0.2), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.2)),
    (SGD(0.1, 0.9), lambda p: torch.optim.SGD(p, 0.1, 0.9)),
    (SGD(0.1, 0.9, weight_decay=0.2), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.2)),
    (SGD(0.1, 0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True)),
    (
        SGD(0.1, 0.9, nesterov=True, weight_decay=0.2),
        lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.2),
    ),
    (Adam(0.1, eps=1e-12), lambda p: torch.optim.Adam(p, 0.1, eps=1e-12)),
    (
        Adam(0.1, 0.5, 0.7, eps=1e-12, weight_decay=0.2),
        lambda p: torch.optim.Adam(p, 0.1, (0.5, 0.7), eps=1e-12, weight_decay=0.2),
    ),
    (
        AdamW(0.1, 0.5, 0.7, eps=1e-12, weight_decay=0.2),
        lambda p: torch.optim.AdamW(p, 0.1, (0.5, 0.7), eps=1e-12, weight_decay=0.2),
    ),
    (RMSprop(0.1, eps=1e-12), lambda p: torch.optim.RMSprop(p, 0.1, eps=1e-12)),
    (
        RMSprop(0.1, 0.7, eps=1e-12, momentum=0.8, weight_decay=0.2),
        lambda p: torch.optim.RMSprop(p, 0.1, 0.7, eps=1e-12, momentum=0.8, weight_decay=0.2),
    ),
]


@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_same_steps_as_torch_optim(
    ours: InnerOptimizer, theirs: Callable[[list[Tensor]], torch.optim.Optimizer], kind: torch.dtype
) -> None:
    params = {"weight": torch.randn(3, 4, dtype=kind), "bias": torch.randn(3, dtype=kind)}
    twins = {name: nn.Parameter(parameter.clone()) for name, parameter in params.items()}
    optimizer = theirs(list(twins.values()))
    state = ours.init(params)
    for step in range(6):
        grads = {name: torch.randn_like(parameter) for name, parameter in params.items()}
        params, state = ours.update(grads, state, params, step)
        for name, twin in twins.items():
            twin.grad = grads[name].clone()
        optimizer.step()
        for name, twin in twins.items():
            torch.testing.assert_close(params[name], twin.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_a_step_of_lars_is_relative_to_the_size_of_the_weights(scale: float) -> None:
    weight, grad = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    optimizer = LARS(0.1, 0.5)
    params, state = {"weight": scale * weight}, optimizer.init({"weight": weight})
    for step in range(2):
        before = params["weight"]
        params, state = optimizer.update({"weight": grad / scale}, state, params, step)
        moved = (params["weight"] - before).norm() / before.norm()
        # The second step is the first one's half and its own.
        assert float(moved) == pytest.approx([0.1, 0.15][step], rel=0.05)


def test_lars_moves_biases_and_layers_that_begin_at_zero() -> None:
    params = {"bias": torch.zeros(4), "weight": torch.zeros(4, 4)}
    grads = {"bias": torch.tensor([3.0, 0.0, 0.0, 4.0]), "weight": torch.ones(4, 4)}
    new, _ = LARS(0.1, 0.0).update(grads, LARS(0.1, 0.0).init(params), params, 0)
    torch.testing.assert_close(new["bias"], -0.1 * 0.2 * grads["bias"] / 5)
    torch.testing.assert_close(new["weight"], torch.full((4, 4), -1e-4))


@EVERY
def test_a_learned_hyperparameter_starts_at_its_value(
    optimizer: type[InnerOptimizer], arguments: dict[str, Any]
) -> None:
    constant = optimizer(**arguments)
    names = list(constant.schedules(1))
    learned = optimizer(**arguments, learned=names).double()
    per_step = optimizer(**arguments, learned_per_step=names, steps=3).double()
    assert not list(constant.parameters())
    assert {name: tuple(log.shape) for name, log in learned.logs.items()} == dict.fromkeys(names, ())
    assert {name: tuple(log.shape) for name, log in per_step.logs.items()} == dict.fromkeys(names, (3,))

    start = {"weight": torch.randn(3, 4)}
    grads = [{"weight": torch.randn(3, 4)} for _ in range(3)]
    ends = []
    for chosen in (constant, learned, per_step):
        params, state = start, chosen.init(start)
        for step, gradient in enumerate(grads):
            params, state = chosen.update(gradient, state, params, step)
        ends.append(params["weight"])
    torch.testing.assert_close(ends[1], ends[0])
    torch.testing.assert_close(ends[2], ends[0])


@EVERY
def test_nothing_is_written_in_place(optimizer: type[InnerOptimizer], arguments: dict[str, Any]) -> None:
    chosen = optimizer(**arguments)
    params = {"weight": torch.randn(3, 4)}
    grads = {"weight": torch.randn(3, 4)}
    _, state = chosen.update(grads, chosen.init(params), params, 0)
    tensors = [
        params["weight"],
        grads["weight"],
        *(part["weight"] for part in state if isinstance(part, dict)),
    ]
    before = [tensor.clone() for tensor in tensors]
    chosen.update(grads, state, params, 1)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))


# ----------------------------------------------------------------------------- hyperparameters


def test_one_value_per_step() -> None:
    optimizer = SGD(lr=0.1, momentum=0.0, learned_per_step=["lr"], steps=3).double()
    with torch.no_grad():
        optimizer.logs["lr"].copy_(torch.tensor([1.0, 2.0, 3.0]).log())  # from where they began
    params = {"w": torch.zeros(1)}
    ones = {"w": torch.ones(1)}
    positions = []
    for step in range(5):
        params, _ = optimizer.update(ones, optimizer.init(params), params, step)
        positions.append(params["w"].item())
    # Steps beyond the last value use the last value.
    assert positions == pytest.approx([-0.1, -0.3, -0.6, -0.9, -1.2])


def test_the_meta_gradient_reaches_the_value_of_its_step_alone() -> None:
    optimizer = SGD(lr=0.1, momentum=0.5, learned=["momentum"], learned_per_step=["lr"], steps=4).double()
    params = {"w": torch.ones(1)}
    new, _ = optimizer.update({"w": torch.full((1,), 2.0)}, optimizer.init(params), params, 2)
    new["w"].sum().backward()
    # w = 1 - lr * 2, and d lr / d log lr = lr.
    torch.testing.assert_close(optimizer.logs["lr"].grad, torch.tensor([0.0, 0.0, -0.2, 0.0]))
    torch.testing.assert_close(optimizer.logs["momentum"].grad, torch.tensor(0.0))


def test_schedules_are_what_the_steps_use() -> None:
    optimizer = SGD(lr=0.1, momentum=0.7, weight_decay=0.01, learned=["momentum"], learned_per_step=["lr"], steps=2)
    with torch.no_grad():
        optimizer.logs["lr"].copy_(torch.tensor([1.0, 2.0]).log())
        optimizer.logs["momentum"].fill_(-math.log(0.7 / 0.3))
    schedules = optimizer.schedules(3)
    assert schedules.keys() == {"lr", "momentum", "weight_decay"}
    assert not any(schedule.requires_grad for schedule in schedules.values())
    torch.testing.assert_close(schedules["lr"], torch.tensor([0.1, 0.2, 0.2]), rtol=1e-6, atol=0)
    torch.testing.assert_close(schedules["momentum"], torch.full((3,), 0.5))
    torch.testing.assert_close(schedules["weight_decay"], torch.full((3,), 0.01))


def test_constant_keeps_the_values_and_learns_nothing() -> None:
    optimizer = SGD(lr=0.1, momentum=0.7, nesterov=True, learned=["momentum"], learned_per_step=["lr"], steps=2)
    tuned = optimizer.constant(lr=0.3)
    assert isinstance(tuned, SGD)
    assert not list(tuned.parameters())
    assert tuned.nesterov
    assert {name: schedule.tolist() for name, schedule in tuned.schedules(1).items()} == {
        "lr": [0.3], "momentum": [0.7], "weight_decay": [0.0],
    }  # fmt: skip


def test_learned_values_are_saved_and_moved_with_the_module() -> None:
    optimizer = SGD(learned_per_step=["lr"], steps=3)
    other = SGD(lr=0.5, learned_per_step=["lr"], steps=3)
    other.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(other.schedules(3)["lr"], optimizer.schedules(3)["lr"])


@pytest.mark.parametrize(
    "outer",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
    ],
    ids=["AdamW", "SGD"],
)
@EVERY
def test_a_weight_decay_of_the_outer_optimizer_draws_them_to_where_they_began(
    optimizer: type[InnerOptimizer], arguments: dict[str, Any], outer: Callable[..., torch.optim.Optimizer]
) -> None:
    names = list(optimizer(**arguments).schedules(1))
    chosen = optimizer(**arguments, learned=names[1:], learned_per_step=names[:1], steps=3)
    began = chosen.schedules(3)
    outer_optimizer = outer(chosen.parameters())

    def without_gradient(steps: int) -> None:
        for _ in range(steps):
            for parameter in chosen.parameters():
                parameter.grad = torch.zeros_like(parameter)
            outer_optimizer.step()

    without_gradient(100)
    assert all(torch.equal(values, began[name]) for name, values in chosen.schedules(3).items())
    with torch.no_grad():
        for log in chosen.parameters():
            log += 0.5
    without_gradient(2_000)
    torch.testing.assert_close(chosen.schedules(3), began, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wild", [-1e4, -30.0, 30.0, 1e4])
@EVERY
def test_learned_values_stay_in_range_after_wild_outer_steps(
    optimizer: type[InnerOptimizer], arguments: dict[str, Any], wild: float, dtype: torch.dtype
) -> None:
    names = list(optimizer(**arguments).schedules(1))
    chosen = optimizer(**arguments, learned=names).to(dtype)
    with torch.no_grad():
        for log in chosen.parameters():
            log.fill_(wild)
    for name, values in chosen.schedules(1).items():
        below_one = name in ("momentum", "beta1", "beta2", "alpha")
        assert 0 < values.item() < (1 if below_one else float("inf")), name
    # A step with them is a number, a derivative too.
    params = {"w": torch.ones(3, dtype=dtype, requires_grad=True)}
    new, _ = chosen.update({"w": torch.zeros(3, dtype=dtype)}, chosen.init(params), params, 0)
    new["w"].sum().backward()
    assert new["w"].isfinite().all()
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in (params["w"], *chosen.parameters()))


# ------------------------------------------------------------------------------- zero gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1e-12, 1e-8])
@pytest.mark.parametrize("optimizer", [Adam, AdamW, RMSprop, LARS])
def test_dead_units_leave_the_meta_gradient_finite(
    optimizer: type[Adam] | type[RMSprop] | type[LARS], eps: float, dtype: torch.dtype
) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)
    with torch.no_grad():
        net[0].bias[:3] = -100.0  # Half of the units never fire: all their gradients are exactly zero.
    learner = Functional(net)

    def loss(params: Params, buffers: Params, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Params]:
        logits, buffers = learner(params, buffers, inputs)
        return F.cross_entropy(logits, targets), buffers

    params, buffers = learner.init()
    params = {name: p.clone().requires_grad_() for name, p in params.items()}
    inputs = [torch.randn(8, 4, dtype=dtype, requires_grad=True) for _ in range(4)]
    labels = torch.arange(8) % 3
    chosen = optimizer(lr=0.01, eps=eps, learned=["lr", "eps"]).to(dtype)
    trained = unroll(loss, params, buffers, [(x, labels) for x in inputs], chosen).params
    torch.testing.assert_close(trained["0.weight"][:3], params["0.weight"][:3])
    loss(trained, buffers, torch.randn(8, 4, dtype=dtype), labels)[0].backward()
    for tensor in (*params.values(), *inputs, *chosen.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert inputs[0].grad is not None
    assert inputs[0].grad.abs().sum() > 0


# -------------------------------------------------------------------------------- error messages


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(lr=0.0, learned=["lr"]), "SGD: lr must be above 0 to be learned, got 0.0"),
        (lambda: SGD(lr=-1.0), "SGD: lr must be at least 0, got -1.0"),
        (lambda: SGD(lr=float("nan")), "SGD: lr must be at least 0, got nan"),
        (lambda: SGD(lr=float("inf")), "SGD: lr must be at least 0, got inf"),
        (lambda: SGD(momentum=1.0), "SGD: momentum must be at least 0 and below 1, got 1.0"),
        (lambda: SGD(weight_decay=-0.1), "SGD: weight_decay must be at least 0, got -0.1"),
        (lambda: SGD(momentum=0.0, learned=["momentum"]), "momentum must be above 0 and below 1 to be learned, got 0"),
        (lambda: SGD(learned=["beta1"]), "SGD has no hyperparameter 'beta1' to learn: choose from lr"),
        (lambda: SGD(learned=["lr"], learned_per_step=["lr"], steps=3), "'lr' is in both learned and learned_per_step"),
        (lambda: SGD(learned_per_step=["lr"]), "learned_per_step needs steps, the number of inner steps"),
        (lambda: SGD(learned_per_step=["lr"], steps=0), "at least 1, got 0"),
        (lambda: SGD(lr=1e-13, learned=["lr"]), "lr is too close to the end of its range to be learned, got 1e-13"),
        (lambda: Adam(beta2=1.0), "Adam: beta2 must be at least 0 and below 1, got 1.0"),
        (lambda: Adam(eps=0.0), "Adam: eps must be at least 1e-12"),
        (lambda: AdamW(eps=1e-20), "AdamW: eps must be at least 1e-12"),
        (lambda: RMSprop(eps=-1.0), "RMSprop: eps must be at least 1e-12"),
        (lambda: LARS(eps=0.0), "LARS: eps must be at least 1e-12"),
        (lambda: RMSprop(alpha=1.5), "RMSprop: alpha must be at least 0 and below 1, got 1.5"),
    ],
)  # fmt: skip
def test_error_messages(make: Callable[[], InnerOptimizer], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)
