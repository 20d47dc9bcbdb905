"""Several learners at once: the same values and gradients as one after the other, and as finite differences say."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gtn_lightning.inner_loop import SGD, Adam, Functional, InnerOptimizer, Unrolled, unroll, unroll_population
from tests.inner_loop.test_gradients import NORMS, conv_net
from tests.inner_loop.test_unroll import cross_entropy

MEMBERS, STEPS = 3, 3

OPTIMIZERS: dict[str, Callable[[], InnerOptimizer]] = {
    "SGD": lambda: SGD(0.3, 0.9, learned=["momentum"], learned_per_step=["lr"], steps=STEPS),
    "Adam": lambda: Adam(0.05, eps=1e-2, learned=["beta1", "beta2", "lr"]),
}


class Experiment:
    """A population of small convolutional networks, and a loss that all of their trained parameters enter."""

    def __init__(self, norm: str, optimizer: InnerOptimizer) -> None:
        torch.manual_seed(0)
        self.learners = [Functional(conv_net(norm)) for _ in range(MEMBERS)]
        self.optimizer = optimizer
        self.images = torch.randn(STEPS, 6, 2, 4, 4, requires_grad=True)

    def taught(self, **options: Any) -> list[Unrolled]:
        batches = [(images, torch.arange(6) % 3) for images in self.images.unbind()]
        return unroll_population(
            cross_entropy(self.learners[0]),
            [learner.init() for learner in self.learners],
            iter(batches),
            self.optimizer,
            snapshots=[2],
            **options,
        )

    def loss(self, **options: Any) -> Tensor:
        total = torch.zeros(())
        for weight, unrolled in enumerate(self.taught(**options), start=1):
            for tensor in (*unrolled.params.values(), *unrolled.snapshots[2].params.values()):
                total = total + weight * tensor.sin().sum()
        return total

    def gradient(self, **options: Any) -> Tensor:
        variables = [self.images, *self.optimizer.parameters()]
        return torch.cat([g.flatten() for g in torch.autograd.grad(self.loss(**options), variables)])


@pytest.mark.parametrize("mode", ["reverse", "remat", "mixed"])
@pytest.mark.parametrize("norm", NORMS)
def test_batched_members_have_the_gradients_of_single_ones(norm: str, mode: str) -> None:
    experiment = Experiment(norm, OPTIMIZERS["SGD"]())
    expected = experiment.gradient(mode="reverse", batched=False)
    found = experiment.gradient(mode=mode, batched=True)
    assert float((found - expected).norm() / expected.norm()) <= 1e-9


@pytest.mark.parametrize("norm", ["batch", "layer", "instance"])
def test_batched_gradient_against_central_differences(norm: str) -> None:
    experiment = Experiment(norm, OPTIMIZERS["SGD"]())
    gradient = experiment.gradient(mode="mixed", batched=True)[: experiment.images.numel()]
    direction = torch.randn(experiment.images.shape)
    images, h, values = experiment.images, 1e-5, []
    for sign in (1, -1):
        experiment.images = (images + sign * h * direction).detach()
        values.append(float(experiment.loss(mode="mixed", batched=False).detach()))
    expected = (values[0] - values[1]) / (2 * h)
    assert float(gradient @ direction.flatten()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_batched_members_end_where_single_ones_do(optimizer: str) -> None:
    experiment = Experiment("batch_running", OPTIMIZERS[optimizer]())
    together, apart = (experiment.taught(mode="remat", batched=batched) for batched in (True, False))
    for one, other in zip(together, apart, strict=True):
        for found, expected in (
            (one.params, other.params),
            (one.buffers, other.buffers),
            (one.state[0], other.state[0]),
        ):
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value)
    mean = torch.stack([unrolled.losses for unrolled in apart]).mean(0)
    torch.testing.assert_close(together[0].losses, mean)


def test_segments_and_windows_hold_for_populations() -> None:
    experiment = Experiment("batch", OPTIMIZERS["SGD"]())
    options: dict[str, Any] = {"mode": "remat", "window": (1, 3)}
    expected = experiment.gradient(batched=False, **options)
    for batched in (False, True):
        found = experiment.gradient(batched=batched, segment=2, **options)
        assert float((found - expected).norm() / expected.norm()) <= 1e-9


def test_members_that_draw_draw_on_their_own() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    learner = Functional(net)
    taught = unroll_population(
        cross_entropy(learner),
        [learner.init()] * 2,
        [(torch.randn(6, 2, 4, 4), torch.arange(6) % 3)],
        SGD(0.1),
        batched=True,
    )
    assert not torch.equal(taught[0].params["1.weight"], taught[1].params["1.weight"])


def test_one_member_is_an_unroll() -> None:
    learner = Functional(conv_net("batch"))
    batches = [(torch.randn(6, 2, 4, 4), torch.arange(6) % 3)] * 2
    (found,) = unroll_population(cross_entropy(learner), [learner.init()], batches, SGD(0.1), mode="remat")
    expected = unroll(cross_entropy(learner), *learner.init(), batches, SGD(0.1), mode="remat")
    assert torch.equal(found.params["5.bias"], expected.params["5.bias"])


def test_no_more_batches_are_asked_for_than_the_window_needs() -> None:
    learner = Functional(conv_net("none"))
    asked: list[int] = []

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            asked.append(1)
            yield torch.randn(6, 2, 4, 4), torch.arange(6) % 3

    members = [learner.init(), learner.init()]
    unroll_population(cross_entropy(learner), members, endless(), SGD(0.1), mode="remat", window=(0, 3))
    assert len(asked) == 3


def test_learners_without_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="the learner has no parameters"):
        unroll_population(cross_entropy(Functional(nn.Flatten())), [({}, {})] * 2, [(torch.zeros(1),)], SGD(0.1))


def test_an_empty_population_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one learner"):
        unroll_population(cross_entropy(Functional(nn.Linear(2, 2))), [], [], SGD(0.1))


def test_learners_that_differ_are_not_taught_through_one_another() -> None:
    members = [Functional(nn.Sequential(nn.Dropout(rate), nn.Linear(8, 3))) for rate in (0.1, 0.5)]
    starts = [member.init() for member in members]
    batches = [(torch.randn(6, 8), torch.arange(6) % 3)] * STEPS
    with pytest.raises(ValueError, match=r"differ in 0\.p, which is neither parameter nor buffer"):
        unroll_population(cross_entropy(members[0]), starts, batches, SGD(0.1))
    torch.manual_seed(1)
    together = unroll_population([cross_entropy(member) for member in members], starts, batches, SGD(0.1))
    torch.manual_seed(1)
    for member, start, found in zip(members, starts, together, strict=True):
        alone = unroll(cross_entropy(member), *start, batches, SGD(0.1))
        assert torch.equal(found.params["1.weight"], alone.params["1.weight"])


def test_learners_that_vmap_cannot_take_are_taught_one_after_the_other() -> None:
    members = [Functional(nn.Sequential(Recurrent(), nn.Linear(4, 3))) for _ in range(2)]
    starts = [member.init() for member in members]
    batches = [(torch.randn(6, 8), torch.arange(6) % 3)] * STEPS
    with pytest.warns(UserWarning, match="trained one after the other"):
        found = unroll_population(cross_entropy(members[0]), starts, iter(batches), SGD(0.1), batched=True)
    expected = unroll_population(cross_entropy(members[0]), starts, batches, SGD(0.1), batched=False)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.params["1.weight"], other.params["1.weight"])


class Recurrent(nn.Module):
    """An LSTM's last output, for which torch has no rule of ``vmap``."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(2, 4, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.cells(inputs.view(-1, 4, 2))[0][:, -1]
        return outputs
