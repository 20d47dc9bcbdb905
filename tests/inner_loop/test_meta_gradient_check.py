"""The check of one's own meta-gradient: it passes what is right, and says what is wrong with the rest."""

import doctest
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.inner_loop import (
    SGD,
    Adam,
    Buffers,
    Functional,
    InnerLoopError,
    InnerOptimizer,
    MetaGradientCheck,
    Params,
    Unrolled,
    WrongDerivativeError,
    WrongMetaGradientError,
    check_meta_gradient,
)
from gtn_lightning.inner_loop import meta_gradient_check as module
from gtn_lightning.inner_loop.optimizers.sgd import SGDState


@pytest.fixture(autouse=True)
def _in_single_precision(_seeded_in_double_precision: None) -> None:
    torch.set_default_dtype(torch.float32)


Forward = Callable[["Learner", Tensor], Tensor]


class Learner(nn.Module):
    """A first layer, an operation in the middle, and a head."""

    def __init__(self, middle: Forward, **parts: Any) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.middle = middle
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.middle(self, self.first(inputs)))
        return outputs


def checked(
    middle: Forward = lambda learner, hidden: hidden.tanh(),
    optimizer: InnerOptimizer | None = None,
    score: Callable[[Functional, Unrolled, Tensor, Tensor], Tensor] | None = None,
    zero: bool = False,
    evaluation: bool = False,
    options: dict[str, Any] | None = None,
    **parts: Any,
) -> MetaGradientCheck:
    """Check the training of a learner for four steps, all of it made in float32."""
    learner = Learner(middle, **parts)
    if zero:
        nn.init.zeros_(learner.first.weight), nn.init.zeros_(learner.first.bias)
    network = Functional(learner)
    weights, inputs, targets = torch.rand(10).requires_grad_(), torch.randn(10, 6), torch.arange(10) % 3
    held_back = torch.randn(20, 6)

    def loss_fn(params: Params, buffers: Buffers, rows: Tensor, classes: Tensor, own: Tensor) -> tuple[Tensor, Buffers]:
        logits, buffers = network(params, buffers, rows)
        return (own * F.cross_entropy(logits, classes, reduction="none")).mean(), buffers

    def meta_loss(trained: Unrolled) -> Tensor:
        if score is not None:
            return score(network, trained, held_back, torch.arange(20) % 3)
        logits, _ = network(trained.params, trained.buffers, held_back, training=not evaluation)
        return F.cross_entropy(logits, torch.arange(20) % 3)

    optimizer = optimizer or SGD(lr=0.3, momentum=0.5, learned_per_step=["lr"], steps=4)
    batches = [(inputs, targets, weights)] * 4
    return check_meta_gradient(loss_fn, *network.init(), batches, optimizer, meta_loss, **(options or {}))


def cause(*args: Any, **options: Any) -> str:
    with pytest.raises(
        WrongMetaGradientError, match=r"differs from central differences by|cannot be checked"
    ) as caught:
        checked(*args, **options)
    assert not caught.value.check.passed
    return str(caught.value)


@pytest.mark.parametrize("mode", ["reverse", "remat", "mixed", "auto"])
def test_what_is_right_passes_in_every_mode(mode: str) -> None:
    check = checked(options={"mode": mode})
    assert check.passed
    assert len(check.errors) == 3
    assert max(check.errors) < 1e-5
    assert check.causes == ()


RIGHT: dict[str, tuple[Forward, dict[str, Any]]] = {
    "rectified": (lambda learner, hidden: hidden.relu(), {}),
    "a stopped gradient": (lambda learner, hidden: hidden * (hidden.detach() if learner.training else hidden), {}),
    "dropout": (lambda learner, hidden: learner.drop(hidden.tanh()), {"drop": nn.Dropout(0.3)}),
    "batch statistics": (lambda learner, hidden: learner.norm(hidden), {"norm": nn.BatchNorm1d(8)}),
    "Python's random numbers": (lambda learner, hidden: hidden.tanh() * random.random(), {}),
    "a cast": (lambda learner, hidden: hidden.float().tanh(), {}),
    "a constant": (lambda learner, hidden: (hidden @ learner.own[0]).tanh(), {"own": [torch.eye(8)]}),
    "a frozen layer": (
        lambda learner, hidden: learner.frozen(hidden).tanh(),
        {"frozen": nn.Linear(8, 8).requires_grad_(False)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("learner", RIGHT)
def test_what_the_engine_differentiates_passes(learner: str) -> None:
    middle, parts = RIGHT[learner]
    assert checked(
        middle, Adam(lr=0.05, eps=1e-4, learned=["lr", "beta1"]), evaluation="stopped" in learner, **parts
    ).passed


def test_arguments_and_random_numbers_are_left_as_they_are() -> None:
    optimizer = SGD(lr=0.3, learned=["lr"])
    torch.manual_seed(3)
    checked()
    expected = torch.rand(2)
    torch.manual_seed(3)
    checked(lambda learner, hidden: F.dropout(hidden), optimizer)
    assert torch.equal(torch.rand(2), expected)
    assert optimizer.logs["lr"].dtype == torch.float32
    assert float(optimizer.logs["lr"]) == 0


def test_a_state_in_plain_python_is_named() -> None:
    def counting(learner: Learner, hidden: Tensor) -> Tensor:
        learner.calls += 1
        return hidden.tanh() / learner.calls

    assert "because of the inner loss: it changes its own state, network.calls" in cause(counting, calls=0)


def test_a_hidden_random_generator_is_found() -> None:
    hidden_generator = [random.Random(0)]
    said = cause(lambda learner, hidden: hidden.tanh() * hidden_generator[0].random())
    assert "two equal evaluations of the meta-loss gave" in said
    assert "draw random numbers outside of the loss" in said


def test_a_kink_at_the_point_is_told_from_a_wrong_derivative() -> None:
    said = cause(
        optimizer=SGD(lr=0.0), score=lambda n, trained, x, y: trained.params["first.bias"].relu().sum(), zero=True
    )
    assert "has a kink at this point (differences from the left and from the right are" in said
    assert "beside it, relatively, the meta-gradient is right" in said


def test_a_jump_at_the_point_is_told_from_a_kink() -> None:
    said = cause(lambda learner, hidden: hidden.abs(), zero=True)  # abs has gradient zero there, and one beside it
    assert "the meta-loss jumps at this point" in said
    assert "beside it, relatively, the meta-gradient is right" in said


def of_trained(change: Callable[[Tensor], Tensor]) -> Callable[[Functional, Unrolled, Tensor, Tensor], Tensor]:
    def score(network: Functional, trained: Unrolled, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(change(network(trained.params, trained.buffers, inputs)[0]), targets)

    return score


def test_a_detached_term_of_the_meta_loss_is_named() -> None:
    said = cause(score=of_trained(lambda logits: logits * logits.detach()))
    assert "the gradient of the meta-loss itself is wrong, because of detach() or no_grad()" in said
    assert "wrong with respect to: initial parameters" in said
    assert "inner loss" not in said


def test_a_number_read_in_the_meta_loss_is_named() -> None:
    said = cause(score=of_trained(lambda logits: logits * logits.square().mean().item()))
    assert "the number taken out of a tensor by item()" in said


def test_a_meta_loss_without_gradient_is_refused() -> None:
    with pytest.raises(InnerLoopError, match="the meta-loss does not depend on the trained parameters"):
        checked(score=of_trained(lambda logits: logits.detach()))


@pytest.mark.filterwarnings("ignore:the learner is differentiated in evaluation mode")
def test_running_statistics_in_the_meta_loss_are_found_by_holding_them_fixed() -> None:
    def in_evaluation(network: Functional, trained: Unrolled, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(network(trained.params, trained.buffers, inputs, training=False)[0], targets)

    said = cause(lambda learner, hidden: learner.norm(hidden), score=in_evaluation, norm=nn.BatchNorm1d(8))
    assert "the meta-loss uses buffers that training changes" in said


def test_numbers_of_numpy_are_found_in_the_inner_loss() -> None:
    def by_numpy(learner: Learner, hidden: Tensor) -> Tensor:
        scale = torch.tensor(np.abs(learner.first.weight.detach().numpy()).mean())
        return hidden.tanh() * scale * 5

    with pytest.raises(WrongDerivativeError, match=r"numpy\(\)"):
        checked(by_numpy)
    said = cause(by_numpy, options={"checked": False})
    assert "the derivative of the inner loss's gradient is wrong, because of the number taken out" in said


class Reversed(torch.autograd.Function):
    """The identity with the opposite gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:  # type: ignore[override]
        return -cotangent


def test_a_gradient_that_is_none_is_named_also_where_the_engine_is_told_to_accept_it() -> None:
    def middle(learner: Learner, hidden: Tensor) -> Tensor:
        reversed_: Tensor = Reversed.apply(hidden)
        return reversed_.tanh()

    with pytest.raises(WrongDerivativeError, match="Reversed"):
        checked(middle)
    assert "because of the autograd function Reversed" in cause(middle, options={"checked": False})


class Stopping(SGD):
    """Plain gradient descent that forgets where its gradient came from."""

    def update(self, grads: Params, state: SGDState, params: Params, step: int) -> tuple[Params, SGDState]:
        return super().update({name: grad.detach() for name, grad in grads.items()}, state, params, step)


def test_an_optimizer_that_stops_gradients_is_found_by_elimination() -> None:
    said = cause(optimizer=Stopping(lr=0.3, momentum=0.5, learned=["lr"]))
    assert "look into the inner optimizer" in said


def test_so_it_is_where_the_meta_loss_is_of_the_inner_losses_alone() -> None:
    def area(network: Functional, trained: Unrolled, inputs: Tensor, targets: Tensor) -> Tensor:
        return trained.losses.mean()

    assert checked(score=area).passed
    assert "look into the inner optimizer" in cause(score=area, optimizer=Stopping(lr=0.3, momentum=0.5))


def test_a_wrong_derivative_by_the_batch_alone_is_found() -> None:
    def loss_fn(params: Params, buffers: Buffers, rows: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        size = float(rows.detach().norm())  # a number that depends on the batch
        return F.mse_loss((rows @ params["weight"]).tanh() * size, targets), buffers

    batch, start = (torch.randn(10, 3).requires_grad_(), torch.randn(10)), {"weight": torch.randn(3)}
    with pytest.raises(WrongMetaGradientError) as caught:
        check_meta_gradient(
            loss_fn, start, {}, [batch] * 3, SGD(lr=0.1), lambda t: t.params["weight"].square().sum(), checked=False
        )
    assert "wrong with respect to: batches (" in str(caught.value)
    assert "the derivative of the inner loss's gradient is wrong, because of" in str(caught.value)


def test_a_training_that_diverges_is_said_to() -> None:
    assert "the training diverges" in cause(lambda learner, hidden: hidden * hidden, SGD(lr=1e30))


def test_reported_instead_of_raised() -> None:
    check = checked(score=of_trained(lambda logits: logits * logits.detach()), options={"raise_exception": False})
    assert not check.passed
    assert min(check.errors) > 1e-3
    assert any("detach()" in each for each in check.causes)


def test_what_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match="directions must be at least 1, got 0"):
        checked(options={"directions": 0})
    with pytest.raises(ValueError, match="batches: expected one per inner step, got none"):
        check_meta_gradient(lambda p, b: (p["x"], b), {"x": torch.ones(())}, {}, [], SGD(0.1), lambda t: t.losses[0])


def test_the_example_of_its_docstring() -> None:
    result = doctest.testmod(module)
    assert result.attempted > 5
    assert result.failed == 0
