"""Unrolling in segments: the same meta-gradient from memory that grows with a root of the number of steps."""

import gc
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gtn_lightning.inner_loop import (
    SGD,
    Batch,
    Functional,
    InnerOptimizer,
    Params,
    RequestedBatches,
    Unrolled,
    unroll,
    unroll_population,
)
from gtn_lightning.inner_loop.offload import Offload
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


@pytest.mark.parametrize("segment", [1, 3, 20, [3, 2], [4, 3, 1]], ids=str)
@pytest.mark.parametrize(
    ("net", "optimizer"), [*((net, "SGD") for net in NETS), ("batch norm", "Adam"), ("dropout", "RMSprop")]
)
def test_segments_change_nothing_about_values_and_gradients(net: str, optimizer: str, segment: int | list[int]) -> None:
    experiment = Experiment(NETS[net](), OPTIMIZERS[optimizer]())
    expected, expected_gradients = experiment.run(mode="remat")
    found, gradients = experiment.run(mode="remat", segment=segment, offload="host")
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
    for segment in (3, [3, 2]):
        _, found = experiment.run(mode=mode, window=(2, 6), segment=segment)
        for gradient, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-12)


def test_memory_grows_with_a_root_of_the_number_of_steps() -> None:
    net = nn.Sequential(nn.Linear(4, 200), nn.Tanh(), nn.Linear(200, 3))
    learner = Functional(net)

    def kept(steps: int, segment: int | list[int] | None) -> int:
        optimizer = SGD(0.1, 0.9, learned=["lr"])
        params, buffers = learner.init()
        batches = make_batches(steps)
        gc.collect()
        with LiveBytes() as live:
            trained = unroll(cross_entropy(learner), params, buffers, batches, optimizer, mode="remat", segment=segment)
            sum(parameter.sum() for parameter in trained.params.values()).backward()
        return live.peak

    all_states, one_level = kept(64, None), kept(64, 8)
    assert all_states > 3 * kept(16, None)
    assert one_level < 2.5 * kept(16, 4)  # twice, for four times the steps
    assert one_level < all_states / 2.5
    assert kept(64, [16, 4]) < 2.3 * kept(8, [4, 2])  # twice, for eight times the steps


# --------------------------------------------------------------------------------------- batches that are made again


class Requesting:
    """An inner loop on batches that a teacher makes from learned noise, with random numbers."""

    def __init__(self, steps: int = STEPS, size: int = 4) -> None:
        self.learner = Functional(nn.Sequential(nn.Linear(size, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3)))
        self.teacher = nn.Sequential(nn.Linear(2, size), nn.Dropout(0.3), nn.Tanh())
        self.noise = torch.randn(steps, 6, 2).requires_grad_()
        self.optimizer = SGD(0.3, 0.9, learned=["lr"])
        self.variables = [*self.teacher.parameters(), self.noise, *self.optimizer.parameters()]
        self.made = 0

    def make(self, requests: Sequence[Tensor]) -> Iterator[Batch]:
        # Drawn before the learner draws for its dropout.
        factors = torch.rand(len(requests)) + 0.5 if self.teacher.training else torch.ones(len(requests))
        for noise, factor in zip(requests, factors, strict=True):
            self.made += 1
            yield factor * self.teacher(noise), torch.arange(6) % 3

    @property
    def batches(self) -> RequestedBatches:
        return RequestedBatches(list(self.noise), self.make, list(self.teacher.parameters()))

    def loss(self, **options: Any) -> Tensor:
        torch.manual_seed(3)
        trained = unroll(
            cross_entropy(self.learner), *self.learner.init(), self.batches, self.optimizer, mode="remat", **options
        )
        return torch.stack([parameter.sin().sum() for parameter in trained.params.values()]).sum()

    def gradient(self, **options: Any) -> list[Tensor]:
        return list(torch.autograd.grad(self.loss(**options), self.variables))


@pytest.mark.parametrize("segment", [2, [3, 1], [4, 2, 1]], ids=str)
def test_the_gradient_reaches_what_makes_the_batches(segment: int | list[int]) -> None:
    experiment = Requesting()
    gradient = experiment.gradient(segment=segment)
    directions = [torch.randn_like(variable) for variable in experiment.variables]
    slope = sum(float((g * d).sum()) for g, d in zip(gradient, directions, strict=True))

    def moved(distance: float) -> float:
        with torch.no_grad():
            for variable, direction in zip(experiment.variables, directions, strict=True):
                variable.add_(direction, alpha=distance)
            value = float(experiment.loss(segment=segment))
            for variable, direction in zip(experiment.variables, directions, strict=True):
                variable.sub_(direction, alpha=distance)
        return value

    assert slope == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("segment", [2, [3, 1]], ids=str)
def test_so_it_does_in_a_window(segment: int | list[int]) -> None:
    experiment = Requesting()
    experiment.teacher.eval()  # so that it draws no random numbers, whose order depends on the segments
    expected = experiment.gradient(window=(2, 6))
    for found, reference in zip(experiment.gradient(segment=segment, window=(2, 6)), expected, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("segment", "runs"), [(2, 2), ([3, 1], 3), ([4, 2, 1], 4)], ids=str)
def test_each_level_makes_the_batches_once_more(segment: int | list[int], runs: int) -> None:
    experiment = Requesting()
    experiment.gradient(segment=segment)
    assert experiment.made == runs * STEPS


def test_batches_that_are_made_again_are_not_kept() -> None:
    def kept(again: bool) -> int:
        experiment = Requesting(steps=18, size=20_000)
        batches = experiment.batches if again else list(experiment.batches)
        gc.collect()
        with LiveBytes() as live:
            learner, optimizer = experiment.learner, experiment.optimizer
            trained = unroll(cross_entropy(learner), *learner.init(), batches, optimizer, mode="remat", segment=[9, 3])
            sum(parameter.sum() for parameter in trained.params.values()).backward()
        return live.peak + (0 if again else sum(inputs.nbytes for inputs, _ in batches))

    assert kept(again=True) < kept(again=False) - 12 * 6 * 20_000 * 8  # bytes of 12 batches


@pytest.mark.parametrize("batched", [False, True])
def test_a_population_is_taught_the_same_batches(batched: bool) -> None:
    experiment = Requesting()
    experiment.teacher.eval()
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    learner = Functional(net)
    members = [learner.init() for _ in range(2)]

    def gradient(**options: Any) -> list[Tensor]:
        trained = unroll_population(
            cross_entropy(learner), members, experiment.batches, experiment.optimizer, batched=batched, mode="remat",
            **options,
        )  # fmt: skip
        total = torch.stack([value.sin().sum() for one in trained for value in one.params.values()]).sum()
        return list(torch.autograd.grad(total, experiment.variables))

    for found, expected in zip(gradient(segment=[3, 1]), gradient(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_missing_batch_is_reported() -> None:
    experiment = Requesting()
    batches = RequestedBatches(list(experiment.noise), lambda requests: list(experiment.make(requests))[:2])
    learner = experiment.learner
    with pytest.raises(ValueError, match=r"RequestedBatches.make made 2 batches of 3 requests"):
        unroll(cross_entropy(learner), *learner.init(), batches, SGD(0.3), mode="remat", segment=3)


def test_a_parameter_that_was_not_named_is_not_lost() -> None:
    experiment = Requesting()
    batches = RequestedBatches(list(experiment.noise), experiment.make)
    learner = experiment.learner
    trained = unroll(cross_entropy(learner), *learner.init(), batches, SGD(0.3), mode="remat", segment=[3, 1])
    with pytest.raises(ValueError, match="closes over a tensor"):
        next(iter(trained.params.values())).sum().backward()


# ------------------------------------------------------------------------------------------------------------- a disk


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_disk_keeps_the_states_until_they_are_used(temporary: Path) -> None:
    experiment = Experiment(small_net(), OPTIMIZERS["SGD"]())
    _, expected = experiment.run(mode="remat")
    trained, found = experiment.run(mode="remat", segment=[3, 2], offload="disk")
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-12)
    del trained
    gc.collect()
    assert not list(temporary.iterdir())
    learner = experiment.learner
    trained = unroll(
        cross_entropy(learner), *learner.init(), experiment.batches, SGD(0.1), mode="remat", segment=2, offload="disk"
    )
    (folder,) = temporary.iterdir()
    files = list(folder.iterdir())
    assert len(files) == 3
    assert max(file.stat().st_size for file in files) < 10_000  # the state alone, without what it is a part of
    del trained
    gc.collect()
    assert not list(temporary.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("offload", [None, "host", "disk"])
def test_nested_segments_on_cuda(offload: str | None) -> None:
    learner, device = Functional(small_net().cuda()), torch.device("cuda")
    batches = [(inputs.detach().to(device).requires_grad_(), labels.to(device)) for inputs, labels in make_batches(27)]
    optimizer = SGD(0.3, 0.9, learned=["lr"]).cuda()

    def gradient(**options: Any) -> list[Tensor]:
        trained = unroll(cross_entropy(learner), *learner.init(), batches, optimizer, mode="remat", **options)
        total = torch.stack([parameter.sin().sum() for parameter in trained.params.values()]).sum()
        return list(torch.autograd.grad(total, [*(inputs for inputs, _ in batches), *optimizer.parameters()]))

    for found, expected in zip(gradient(segment=[9, 3], offload=offload), gradient(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_disk_is_left_empty_after_an_error(temporary: Path) -> None:
    class Failing(SGD):
        def update(self, grads: Params, state: Any, params: Params, step: int) -> tuple[Params, Any]:
            if step == 4:
                (folder,) = temporary.iterdir()
                assert list(folder.iterdir())
                raise RuntimeError("the fifth step")
            return super().update(grads, state, params, step)

    with pytest.raises(RuntimeError, match="the fifth step"):
        Experiment(small_net(), Failing(0.1)).run(mode="remat", segment=2, offload="disk")
    gc.collect()
    assert not list(temporary.iterdir())


def test_a_disk_that_cannot_be_written_to_is_named(temporary: Path) -> None:
    class Vanishing(SGD):
        def update(self, grads: Params, state: Any, params: Params, step: int) -> tuple[Params, Any]:
            for folder in temporary.iterdir():
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
            return super().update(grads, state, params, step)

    with pytest.raises(OSError, match=r"cannot write a state of the inner loop to .*: set TMPDIR"):
        Experiment(small_net(), Vanishing(0.1)).run(mode="remat", segment=2, offload="disk")


def test_a_full_disk_is_named(temporary: Path) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    state = [torch.zeros(100_000)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))  # torch.save fails in the middle of the file
    try:
        with pytest.raises(OSError, match=r"cannot write a state of the inner loop to .*: set TMPDIR"):
            Offload("disk").keep(state, torch.device("cpu"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# ------------------------------------------------------------------------------------------------ what is not allowed


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
    [
        ({"segment": 0}, "segment must be at least 1, got 0"),
        ({"segment": [4, 0]}, "segment must be at least 1, got 0"),
        ({"segment": [2, 4]}, r"segment must be one number of steps, or several with the outermost and largest first"),
        ({"segment": []}, r"segment must be one number of steps, or several"),
        ({"offload": "host"}, "offload needs segment"),
        ({"segment": 2, "offload": "tape"}, "offload must be host or disk, got 'tape'"),
    ],
)
def test_error_messages(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Experiment(small_net(), SGD(0.1)).run(**options)
