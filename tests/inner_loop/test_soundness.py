"""Every kind of learner is taught with the meta-gradient of central differences, or refused; there is no other way."""

import random
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gtn_lightning.inner_loop import (
    SGD,
    Buffers,
    Functional,
    InnerLoopError,
    Params,
    RecomputationError,
    WrongDerivativeError,
    unroll,
    unroll_population,
)
from tests.inner_loop.learner_zoo import OWN, REFUSED, TAUGHT, Make, Net, net
from tests.inner_loop.test_gradients import cross_entropy

STEPS, SHIFT = 5, 1e-5
UNCOMPILED = ("mixed", "remat", "reverse")

WAYS: dict[str, dict[str, object]] = {
    "whole": {},
    "segments": {"segment": 2},
    "window": {"window": (0, 4)},
    "population": {"batched": False},
    "batched": {"batched": True},
}

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of modes that give way to another
        yield


def meta_loss(make: Make, mode: str, way: str, shift: float = 0.0) -> tuple[Tensor, list[Tensor]]:
    """A smooth function of trained parameters and inner losses; and the leaves: a learned rate, and the inputs."""
    torch.manual_seed(0)
    learners = [Functional(make()) for _ in range(2 if way in ("population", "batched") else 1)]
    optimizer = SGD(lr=0.3, momentum=0.3, learned=["lr"])
    generator = torch.Generator().manual_seed(1)
    batches, leaves = [], [optimizer.logs["lr"]]
    with torch.no_grad():
        optimizer.logs["lr"].add_(shift)
    for _ in range(STEPS):
        inputs, direction = torch.randn(2, 4, 8, generator=generator)
        leaves.append((inputs + shift * direction).requires_grad_())
        batches.append((1 * leaves[-1], torch.arange(4) % 3))
    # Every source of random numbers, as it is before training.
    torch.manual_seed(2), random.seed(2), np.random.seed(2), OWN.manual_seed(2)  # noqa: NPY002
    loss, options = cross_entropy(learners[0]), {"mode": mode, **WAYS[way]}
    if len(learners) > 1:
        taught = unroll_population(loss, [learner.init() for learner in learners], batches, optimizer, **options)
    else:
        taught = [unroll(loss, *learners[0].init(), batches, optimizer, **options)]
    total = torch.zeros(())
    for trained in taught:
        total = total + 0.1 * trained.losses.sum()
        for parameter in trained.params.values():
            numbers = torch.view_as_real(parameter) if parameter.is_complex() else parameter
            total = total + (numbers * torch.linspace(-1, 1, numbers.numel()).view_as(numbers)).sum()
            total = total + numbers.square().sum()
    return total, leaves


def error_of(make: Make, mode: str, way: str = "whole") -> float:
    """The meta-gradient's relative distance from central differences, along all leaves at once."""
    total, leaves = meta_loss(make, mode, way)
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    generator = torch.Generator().manual_seed(1)
    found = float(gradients[0])
    for gradient in gradients[1:]:
        _, direction = torch.randn(2, 4, 8, generator=generator)
        found += 0.0 if gradient is None else float((gradient * direction).sum())
    with torch.no_grad():
        expected = float(meta_loss(make, mode, way, SHIFT)[0] - meta_loss(make, mode, way, -SHIFT)[0]) / (2 * SHIFT)
    return abs(found - expected) / abs(expected)


@pytest.mark.parametrize("mode", UNCOMPILED)
@pytest.mark.parametrize("learner", TAUGHT)
def test_meta_gradient_is_that_of_central_differences(learner: str, mode: str) -> None:
    assert error_of(TAUGHT[learner], mode) <= 1e-5


DIFFERENT = {"depth by its own generator", "frozen"}
"""Learners of a population that differ in more than parameters and buffers."""


@pytest.mark.parametrize("way", ["segments", "window", "population", "batched"])
@pytest.mark.parametrize("learner", TAUGHT)
def test_so_it_is_in_segments_windows_and_populations(learner: str, way: str) -> None:
    if learner in DIFFERENT and way in ("population", "batched"):
        with pytest.raises(ValueError, match="which is neither parameter nor buffer"):
            error_of(TAUGHT[learner], "mixed", way)
        return
    assert error_of(TAUGHT[learner], "mixed", way) <= 1e-5


@pytest.mark.parametrize("learner", TAUGHT)
def test_so_it_is_in_segments_of_double_backward(learner: str) -> None:
    assert error_of(TAUGHT[learner], "reverse", "segments") <= 1e-5


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["compiled", "linearized"])
@pytest.mark.parametrize(
    "learner",
    ["spectral", "dropout", "depth by Python", "checkpointed", "reversed gradient", "detached gate", "constant scale",
     "writes into its input", "complex", "counting buffer"],
)  # fmt: skip
def test_so_it_is_compiled(learner: str, mode: str) -> None:
    assert error_of(TAUGHT[learner], mode) <= 1e-5


@pytest.mark.parametrize("mode", UNCOMPILED)
@pytest.mark.parametrize("learner", REFUSED)
def test_what_cannot_be_taught_rightly_is_refused_by_name(learner: str, mode: str) -> None:
    make, error, named = REFUSED[learner]
    with pytest.raises(error, match=named):
        error_of(make, mode)


@pytest.mark.parametrize("way", ["segments", "window", "population"])
@pytest.mark.parametrize("learner", REFUSED)
def test_so_it_is_in_every_way(learner: str, way: str) -> None:
    make, error, named = REFUSED[learner]
    with pytest.raises(error, match=named):
        error_of(make, "mixed", way)


def counting(net: Net, inputs: Tensor) -> Tensor:
    net.calls += 1
    outputs: Tensor = net.first(inputs).tanh() * (1 + 1 / net.calls)
    return outputs


KEEPS_STATE = net(counting, calls=lambda: 0)
HIDDEN = random.Random(0)  # nobody but the learner knows of it
DRAWS = net(lambda n, x: n.first(x).tanh() * (1 + HIDDEN.random()))


@pytest.mark.parametrize("mode", ["mixed", "remat"])
@pytest.mark.parametrize("make", [KEEPS_STATE, DRAWS], ids=["state", "generator"])
def test_a_recomputation_with_another_result_is_refused(make: Make, mode: str) -> None:
    total, leaves = meta_loss(make, mode, "whole")
    with pytest.raises(RecomputationError, match=r"its loss was [\d.]+ in the forward pass and [\d.]+ when"):
        torch.autograd.grad(total, leaves)


def test_a_recomputed_segment_with_another_result_is_refused() -> None:
    total, leaves = meta_loss(KEEPS_STATE, "reverse", "segments")
    with pytest.raises(RecomputationError):
        torch.autograd.grad(total, leaves)


def test_double_backward_teaches_a_learner_that_keeps_a_state() -> None:
    assert error_of(KEEPS_STATE, "reverse") <= 1e-5


def test_unchecked_it_is_taught_all_the_same() -> None:
    def run(mode: str, checked: bool) -> Tensor:
        torch.manual_seed(0)
        learner, optimizer = Functional(REFUSED["gradient reversal"][0]()), SGD(lr=0.3, learned=["lr"])
        batches = [(torch.randn(4, 8), torch.arange(4) % 3) for _ in range(3)]
        trained = unroll(cross_entropy(learner), *learner.init(), batches, optimizer, mode=mode, checked=checked)
        return torch.autograd.grad(trained.params["head.weight"].sum(), optimizer.logs["lr"])[0]

    with pytest.raises(WrongDerivativeError):
        run("remat", checked=True)
    torch.testing.assert_close(run("remat", checked=False), run("reverse", checked=False))


def test_training_without_a_meta_gradient_refuses_nothing_that_can_be_trained() -> None:
    for name in ("gradient reversal", "mean carried along", "spectral norm", "divided by a number"):
        make = REFUSED[name][0]
        torch.manual_seed(0)
        learner = Functional(make())
        torch.manual_seed(0)
        twin = make()
        optimizer = torch.optim.SGD(twin.parameters(), 0.1)
        batches = [(torch.randn(4, 8), torch.arange(4) % 3) for _ in range(3)]
        with torch.no_grad():
            trained = unroll(cross_entropy(learner), *learner.init(), batches, SGD(0.1, 0.0))
        for inputs, targets in batches:
            optimizer.zero_grad()
            F.cross_entropy(twin(inputs), targets).backward()
            optimizer.step()
        for parameter, expected in twin.named_parameters():
            torch.testing.assert_close(trained.params[parameter], expected.detach(), msg=name)


@dataclass
class UnhashableLoss:
    """A loss that has no hash, and so is found by nothing but itself."""

    learner: Functional

    def __call__(self, params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        logits, buffers = self.learner(params, buffers, inputs)
        return F.cross_entropy(logits, targets), buffers


@pytest.mark.parametrize("mode", UNCOMPILED)
def test_what_is_known_of_a_loss_is_known_of_an_object_without_a_hash(mode: str) -> None:
    torch.manual_seed(0)
    learner = Functional(REFUSED["gradient reversal"][0]())
    batches = [(torch.randn(4, 8), torch.arange(4) % 3)]
    with pytest.raises(WrongDerivativeError):
        unroll(UnhashableLoss(learner), *learner.init(), batches, SGD(0.1, learned=["lr"]), mode=mode)


@pytest.mark.parametrize("mode", UNCOMPILED)
def test_what_is_known_of_a_loss_follows_what_its_learner_does(mode: str) -> None:
    def gated(net: Net, inputs: Tensor) -> Tensor:
        hidden: Tensor = net.first(inputs)
        return hidden * (hidden.detach() if net.stops else hidden)

    torch.manual_seed(0)
    module = Net(gated, stops=False)
    learner = Functional(module)
    loss, start, batch = cross_entropy(learner), learner.init(), (torch.randn(4, 8), torch.arange(4) % 3)

    def trained(shift: float = 0.0) -> tuple[Tensor, Tensor]:
        optimizer = SGD(0.3, learned=["lr"])
        with torch.no_grad():
            optimizer.logs["lr"].add_(shift)
        params = unroll(loss, *start, [batch] * 4, optimizer, mode=mode).params
        return params["head.weight"].square().sum(), optimizer.logs["lr"]

    trained()[0].backward()
    module.stops = True  # the same loss, which stops gradients from here on
    (found,) = torch.autograd.grad(*trained())
    with torch.no_grad():
        expected = (trained(SHIFT)[0] - trained(-SHIFT)[0]) / (2 * SHIFT)
    assert abs(float(found - expected)) <= 1e-6 * abs(float(expected))


def test_a_checkpointed_learner_that_is_called_by_hand_is_refused() -> None:
    learner = Functional(TAUGHT["checkpointed"]())
    params, buffers = learner.init()
    params = {name: p.clone().requires_grad_() for name, p in params.items()}
    with pytest.raises(InnerLoopError, match="compute its loss by eager_loss"):
        learner(params, buffers, torch.randn(4, 8))


def test_saved_tensor_hooks_around_a_meta_step_are_none_of_the_learners() -> None:
    total, leaves = meta_loss(TAUGHT["convolutional"], "mixed", "whole")
    with torch.autograd.graph.save_on_cpu():
        again, others = meta_loss(TAUGHT["convolutional"], "mixed", "whole")
    expected, found = (torch.autograd.grad(loss, of) for loss, of in ((total, leaves), (again, others)))
    torch.testing.assert_close(found, expected)
