"""Classification: its losses, its metric, and what it refuses."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import Functional
from gtn_lightning.learners import MLP
from gtn_lightning.tasks import Classification

SHAPE = (1, 4, 4)


def images(count: int = 6) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_the_inner_loss_is_the_cross_entropy_against_labels_or_probabilities() -> None:
    learner = Functional(MLP(SHAPE, 3, hidden=[4]))
    loss = Classification(3).inner_loss(learner)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    soft = torch.tensor([[0.7, 0.2, 0.1]]).repeat(6, 1)
    with torch.no_grad():
        log_probabilities = learner(*learner.init(), images())[0].log_softmax(dim=1)
        hard_loss, _ = loss(*learner.init(), images(), labels)
        soft_loss, _ = loss(*learner.init(), images(), soft)
    torch.testing.assert_close(hard_loss, -log_probabilities[range(6), labels].mean())
    torch.testing.assert_close(soft_loss, -(soft * log_probabilities).sum(dim=1).mean())


@pytest.mark.parametrize(
    ("meta_every", "steps", "points"),
    [(0, 10, [10]), (1, 4, [1, 2, 3, 4]), (3, 10, [3, 6, 9, 10]), (5, 10, [5, 10]), (16, 10, [10])],
)
def test_where_the_meta_loss_is_taken(meta_every: int, steps: int, points: list[int]) -> None:
    assert Classification(10, meta_every).meta_steps(steps) == points


def test_a_score_is_taken_in_evaluation_mode_and_adds_up_over_batches() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(16, 3))
    learner, task = Functional(net), Classification(3)
    params, buffers = learner.init()
    inputs, labels = images(10), torch.arange(10) % 3
    metric = task.metrics()[0].make()
    with torch.no_grad():
        losses = [
            task.score(learner, params, buffers, (inputs[rows], labels[rows]), [metric])
            for rows in (slice(7), slice(7, 10))
        ]
        logits = net.eval()(inputs)
    assert float(metric.compute()) == pytest.approx(float((logits.argmax(dim=1) == labels).float().mean()))
    whole = nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close((7 * losses[0] + 3 * losses[1]) / 10, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_one_hot_labels_score_as_classes_do(dtype: torch.dtype) -> None:
    learner, task = Functional(MLP(SHAPE, 3, hidden=[4])), Classification(3)
    labels = torch.arange(30) % 3
    scores = []
    for targets in (labels, nn.functional.one_hot(labels).to(dtype)):
        metric = task.metrics()[0].make()
        with torch.no_grad():
            loss = task.score(learner, *learner.init(), (images(30), targets), [metric])
            meta_loss, _ = task.meta_loss(learner)(*learner.init(), images(30), targets)
        scores.append((float(metric.compute()), float(loss), float(meta_loss)))
    assert scores[0][0] > 0.1
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)


def test_soft_labels_count_by_their_most_probable_class() -> None:
    learner, task = Functional(nn.Sequential(nn.Flatten(), nn.Linear(16, 3))), Classification(3)
    params, buffers = learner.init()
    with torch.no_grad():
        probabilities = learner(params, buffers, images(20))[0].softmax(1)
        metric = task.metrics()[0].make()
        loss = task.score(learner, params, buffers, (images(20), probabilities), [metric])
    assert float(metric.compute()) == 1
    assert float(loss) == pytest.approx(float(-(probabilities * probabilities.log()).sum(1).mean()), rel=1e-5)


def test_probabilities_in_full_precision_beside_logits_in_half() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).bfloat16()
    learner = Functional(net)
    soft = torch.tensor([[0.7, 0.2, 0.1]]).repeat(6, 1)
    with torch.no_grad():
        loss, _ = Classification(3).meta_loss(learner)(*learner.init(), images().bfloat16(), soft)
        expected = nn.functional.cross_entropy(net(images().bfloat16()).float(), soft)
    torch.testing.assert_close(loss, expected)


def test_every_image_counts_the_same_whatever_its_class() -> None:
    metric = Classification(2).metrics()[0].make()
    metric.update(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))
    assert float(metric.compute()) == 0.75


def test_a_learner_that_fits_passes() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    for targets in (labels, nn.functional.one_hot(labels).float(), torch.full((6, 3), 1 / 3).bfloat16()):
        Classification(3).check(MLP(SHAPE, 3), (images(), targets))


def test_a_batch_of_one_image_is_enough_to_check_a_learner_with_batch_norm() -> None:
    Classification(3).check(MLP(SHAPE, 3, hidden=[4], norm="batch"), (images(1), torch.tensor([2])))


class Returning(nn.Module):
    """A learner that makes something else of its scores."""

    def __init__(self, made: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.made = nn.Linear(16, 3), made

    def forward(self, images: Tensor) -> Any:
        return self.made(self.linear(images.flatten(1)))


class TwoInputs(nn.Module):
    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        return images * masks


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (Returning(lambda logits: (logits, logits)), r"returns a tuple .*expected one tensor .*one of its 2 parts"),
        (Returning(lambda logits: {"logits": logits}), r"returns a dict .*return its logits alone"),
        (Returning(lambda logits: SimpleNamespace(logits=logits)), r"a SimpleNamespace .*return its logits alone"),
        (Returning(lambda logits: logits.argmax(1)), r"returns numbers of type int64.*the scores before argmax"),
        (Returning(lambda logits: logits * torch.nan), r"returns NaN or infinity .*before its first step"),
        (MLP(SHAPE, 3).double(), r"MLP has parameters of type float64 but .*float32: do not convert"),
        (TwoInputs(), r"TwoInputs cannot take images .*give it a forward that takes only a batch of images"),
        (Returning(lambda logits: logits @ torch.ones(4, 3)), r"Returning cannot take .*make its layers fit"),
    ],
)
def test_learners_that_are_no_classifiers(learner: nn.Module, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^the learner .*{message}") as caught:
        Classification(3).check(learner, (images(3), torch.tensor([0, 1, 2])))
    assert "\n" not in str(caught.value)
    assert "image_shape" not in str(caught.value)


@pytest.mark.parametrize(
    ("learner", "labels", "message"),
    [
        (MLP(SHAPE, 3), [0, 1, 3], r"labels from 0 to 3 but task.classes is 3.*set classes to 4"),
        (MLP(SHAPE, 3), [-1, 1, 2], r"labels from -1 to 2 but task.classes is 3"),
        (MLP((1, 5, 5), 3), [0, 1, 2], r"the learner MLP cannot take images of shape \[1, 4, 4\].*set its shape"),
        (MLP(SHAPE, 4), [0, 1, 2], r"the learner MLP returns a tensor of shape \[2, 4\] .* task has 3 classes"),
        (nn.Linear(4, 3), [0, 1, 2], r"the learner Linear returns .*expected \[2, 3\]"),
    ],
)
def test_what_does_not_fit_together(learner: nn.Module, labels: list[int], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        Classification(3).check(learner, (images(3), torch.tensor(labels)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1,), r"classes must be at least 2, got 1"), ((10, -1), r"meta_every must be at least 0, got -1")],
)
def test_error_messages(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Classification(*arguments)
