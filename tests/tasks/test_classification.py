"""Classification: its losses, its metric, and what it refuses."""

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
    metric = task.metric()
    with torch.no_grad():
        losses = [
            task.score(learner, params, buffers, (inputs[rows], labels[rows]), metric)
            for rows in (slice(7), slice(7, 10))
        ]
        logits = net.eval()(inputs)
    assert float(metric.compute()) == pytest.approx(float((logits.argmax(dim=1) == labels).float().mean()))
    whole = nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close((7 * losses[0] + 3 * losses[1]) / 10, whole)


def test_every_image_counts_the_same_whatever_its_class() -> None:
    metric = Classification(2).metric()
    metric.update(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))
    assert float(metric.compute()) == 0.75


def test_a_learner_that_fits_passes() -> None:
    Classification(3).check(MLP(SHAPE, 3), (images(), torch.tensor([0, 1, 2, 0, 1, 2])))


@pytest.mark.parametrize(
    ("learner", "labels", "message"),
    [
        (MLP(SHAPE, 3), [0, 1, 3], r"labels from 0 to 3 but task.classes is 3.*set classes to 4"),
        (MLP(SHAPE, 3), [-1, 1, 2], r"labels from -1 to 2 but task.classes is 3"),
        (MLP((1, 5, 5), 3), [0, 1, 2], r"the learner MLP cannot take images of shape \[1, 4, 4\].*set its image_shape"),
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
    [((1,), r"classes must be at least 2; got 1"), ((10, -1), r"meta_every must be at least 0; got -1")],
)
def test_error_messages(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Classification(*arguments)
