"""Unrolling in segments: the same meta-gradient from memory that grows with the root of the number of steps."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gtn_lightning.inner_loop import SGD, Functional, InnerOptimizer, Params, Unrolled, unroll
from tests.inner_loop.test_unroll import NETS, OPTIMIZERS, LiveBytes, cross_entropy, make_batches, small_net

STEPS = 6


class Experiment:
    """An inner loop whose result depends on all there is, and the gradient w.r.t. all of it."""

    def __init__(self, net: nn.Module, optimizer: InnerOptimizer) -> None:
        self.learner = Functional(net)
        self.optimizer = optimizer
        self.batches = make_batches(STEPS)
        params, self.buffers = self.learner.init()
        self.params = {name: parameter.requires_grad_() for name, parameter in params.items()}

    def run(self, **options: Any) -> tuple[Unrolled, list[Tensor]]:
        torch.manual_seed(3)  # for the learners that draw
        unrolled = unroll(
            cross_entropy(self.learner),
            self.params,
            self.buffers,
            self.batches,
            self.optimizer,
            snapshots=[4],
            **options,
        )
        looked_at = [*unrolled.params.values(), *unrolled.snapshots[4].params.values(), unrolled.losses]
        variables = [*self.params.values(), *(inputs for inputs, _ in self.batches), *self.optimizer.parameters()]
        gradients = torch.autograd.grad(
            sum(tensor.sin().sum() for tensor in looked_at), variables, allow_unused=True, materialize_grads=True
        )
        return unrolled, list(gradients)


@pytest.mark.parametrize("segment", [1, 3, 20])
@pytest.mark.parametrize(
    ("net", "optimizer"), [*((net, "SGD") for net in NETS), ("batch norm", "Adam"), ("dropout", "RMSprop")]
)
def test_segments_change_nothing_about_values_and_gradients(net: str, optimizer: str, segment: int) -> None:
    experiment = Experiment(NETS[net](), OPTIMIZERS[optimizer]())
    expected, expected_gradients = experiment.run(mode="remat")
    found, gradients = experiment.run(mode="remat", segment=segment, offload=True)
    assert torch.equal(found.losses, expected.losses)
    for name, value in expected.params.items():
        assert torch.equal(found.params[name], value)
    for name, value in expected.buffers.items():
        assert torch.equal(found.buffers[name], value)
        assert not found.buffers[name].requires_grad
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["mixed", "reverse"])
def test_segments_work_in_every_mode_and_in_a_window(mode: str) -> None:
    experiment = Experiment(small_net(), OPTIMIZERS["SGD"]())
    _, expected = experiment.run(mode="remat", window=(2, 6))
    _, found = experiment.run(mode=mode, window=(2, 6), segment=3)
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-12)


def test_memory_grows_with_the_root_of_the_number_of_steps() -> None:
    net = nn.Sequential(nn.Linear(4, 200), nn.Tanh(), nn.Linear(200, 3))
    learner = Functional(net)

    def kept(steps: int, segment: int | None) -> int:
        optimizer = SGD(0.1, 0.9, learned=["lr"])
        params, buffers = learner.init()
        batches = make_batches(steps)
        gc.collect()
        with LiveBytes() as live:
            trained = unroll(cross_entropy(learner), params, buffers, batches, optimizer, mode="remat", segment=segment)
            sum(parameter.sum() for parameter in trained.params.values()).backward()
        return live.peak

    assert kept(64, None) > 3 * kept(16, None)
    assert kept(64, 8) < 2.5 * kept(16, 4)  # twice, for four times the steps
    assert kept(64, 8) < kept(64, None) / 2.5


def test_a_tensor_that_an_optimizer_closes_over_is_not_lost() -> None:
    hidden = torch.tensor(0.1, requires_grad=True)

    class Closing(SGD):
        def update(self, grads: Params, state: Any, params: Params, step: int) -> tuple[Params, Any]:
            return {name: parameter - hidden * grads[name] for name, parameter in params.items()}, state

    experiment = Experiment(small_net(), Closing())
    experiment.run(mode="remat")  # without segments, ordinary autograd reaches it
    with pytest.raises(ValueError, match="closes over a tensor"):
        experiment.run(mode="remat", segment=2)


def test_a_state_in_which_tensors_hide_is_refused() -> None:
    class Hidden:
        def __init__(self, momentum: Params) -> None:
            self.momentum = momentum

    class Hiding(SGD):
        def init(self, params: Params) -> Any:
            return Hidden(params)

        def update(self, grads: Params, state: Any, params: Params, step: int) -> tuple[Params, Any]:
            return {name: params[name] - 0.1 * grads[name] for name in params}, Hidden(grads)

    experiment = Experiment(small_net(), Hiding())
    experiment.run(mode="remat")
    with pytest.raises(TypeError, match="cannot keep a Hidden in the inner optimizer's state"):
        experiment.run(mode="remat", segment=2)


def test_an_optimizer_may_have_no_state() -> None:
    class Stateless(SGD):
        def init(self, params: Params) -> Any:
            return None

        def update(self, grads: Params, state: Any, params: Params, step: int) -> tuple[Params, Any]:
            return {name: params[name] - 0.1 * grads[name] for name in params}, None

    experiment = Experiment(small_net(), Stateless())
    found, expected = (experiment.run(mode="remat", segment=segment)[1] for segment in (2, None))
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_without_grad_mode_there_is_nothing_to_run_again() -> None:
    experiment = Experiment(small_net(), SGD(0.1))
    with torch.no_grad():
        trained = unroll(
            cross_entropy(experiment.learner),
            experiment.params,
            experiment.buffers,
            experiment.batches,
            SGD(0.1),
            segment=3,
        )
    assert not any(parameter.requires_grad for parameter in trained.params.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"segment": 0}, "segment must be at least 1, got 0"), ({"offload": True}, "offload needs segment")],
)
def test_error_messages(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Experiment(small_net(), SGD(0.1)).run(**options)
