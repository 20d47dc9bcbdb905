"""Components as plain data and back."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gtn_lightning.curricula import Full, NoCurriculum, ShuffledAll, ShuffledBatches, ShuffledPasses
from gtn_lightning.description import build, describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import SGD, AdamW, RMSprop
from gtn_lightning.learners import MLP, ConvNet, Fixed, Mixture, RandomWidth
from gtn_lightning.tasks import Classification
from gtn_lightning.teachers import Generator, Pixels, RealData, SyntheticBatch, Teacher

SHAPE = (1, 8, 8)


def there_and_back(component: Any) -> Any:
    return build(json.loads(json.dumps(describe(component))))


@pytest.mark.parametrize(
    "component",
    [
        Generator(SHAPE, 10, noise=4, hidden=8, channels=(4, 3), soft_labels=True),
        Pixels(SHAPE, 10, 40, soft_labels=True),
        RealData(SHAPE, 10),
        Full(3, 20, 10, noise=4, learned=False),
        ShuffledBatches(3, 20, 10),
        ShuffledAll(3, 20, 10, noise=2),
        NoCurriculum(3, 20, 10, noise=4),
        ShuffledPasses(3, 20, 10, images=500),
        SGD(lr=0.3, nesterov=True, learned=["momentum"], learned_per_step=["lr"], steps=3),
        AdamW(beta1=0.7, weight_decay=0.1),
        RMSprop(momentum=0.2),
        Classification(10, meta_every=2),
        Fixed(partial(MLP, image_shape=SHAPE, classes=10, hidden=[])),
        RandomWidth(partial(ConvNet, image_shape=SHAPE, classes=10, depth=2), ranges={"width": [4, 9]}),
        Mixture(
            {"a": partial(MLP, image_shape=SHAPE, classes=10), "b": partial(ConvNet, SHAPE, 10, width=3)},
            weights={"a": 1, "b": 2.5},
        ),
    ],
    ids=lambda component: type(component).__name__,
)
def test_every_part_comes_back_as_it_was(component: Any) -> None:
    again = there_and_back(component)
    assert type(again) is type(component)
    assert describe(again) == describe(component)
    if isinstance(component, nn.Module):
        assert {name: tensor.shape for name, tensor in again.state_dict().items()} == {
            name: tensor.shape for name, tensor in component.state_dict().items()
        }


def test_a_distribution_that_came_back_draws_the_same_learners() -> None:
    distribution = RandomWidth(partial(ConvNet, SHAPE, 10, depth=1), ranges={"width": [4, 40]})
    drawn = []
    for each in (distribution, there_and_back(distribution)):
        torch.manual_seed(0)
        drawn.append(each.sample(torch.Generator().manual_seed(3)).state_dict())
    assert drawn[0].keys() == drawn[1].keys()
    assert all(torch.equal(tensor, drawn[1][name]) for name, tensor in drawn[0].items())


class Painter(Teacher):
    """A teacher of a user's own."""

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, palette: dict[str, float], *, deep: bool
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.classes = classes
        self.palette = palette
        self.deep = deep
        self.colours = nn.Parameter(torch.tensor(list(palette.values())))

    def forward(self, index: Tensor, labels: Tensor, noise: Tensor | None) -> SyntheticBatch:
        return SyntheticBatch(self.colours[labels].view(-1, 1, 1, 1).expand(-1, *self.image_shape), labels, labels)


class Student(nn.Module):
    """A learner of a user's own, that hands on what it does not know."""

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.layer = nn.Linear(width, 10)


def test_custom_components() -> None:
    painter = Painter(SHAPE, 2, {"red": 0.5, "blue": -1.0}, deep=True)
    described = describe(painter)
    assert described == {
        "class_path": f"{__name__}.Painter",
        "init_args": {"image_shape": [1, 8, 8], "classes": 2, "palette": {"red": 0.5, "blue": -1.0}, "deep": True},
    }
    again = there_and_back(painter)
    assert isinstance(again, Painter)
    assert torch.equal(again.colours, painter.colours)


@pytest.mark.parametrize(
    "factory",
    [partial(Student, 7, bias=False, act="relu"), partial(Student, width=7, bias=False, act="relu")],
)
def test_a_learners_arguments_may_be_given_by_position_and_handed_on(factory: Callable[[], nn.Module]) -> None:
    description = describe(Fixed(factory))["init_args"]["learner"]
    assert description["init_args"] == {"width": 7, "bias": False, "act": "relu"}
    student = there_and_back(Fixed(factory)).sample(torch.Generator())
    assert isinstance(student, Student)
    assert student.options == {"bias": False, "act": "relu"}
    assert student.layer.in_features == 7


class Forgetful(nn.Module):
    """Does not store its argument."""

    def __init__(self, depth: int) -> None:
        super().__init__()


def make_student() -> nn.Module:
    return Student(3)


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Forgetful(3), r"Forgetful does not store its argument 'depth'.*write self.depth = depth in its constructor"),
        (partial(make_student), r"cannot be described: expected functools.partial of a learner class"),
    ],
)
def test_what_cannot_be_described(component: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        describe(component)


def named(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (named("no_such_module.Net"), r"the class no_such_module.Net named in the file cannot be imported"),
        (named("gtn_lightning.teachers.Nonsense"), r"cannot be imported.*PYTHONPATH"),
        (named("Net"), r"the class Net named in the file cannot be imported"),
        (named("os.system", command="true"), r"the file names os.system, which is no teacher"),
        (named("subprocess.Popen", args="true"), r"names subprocess.Popen, which is no teacher"),
        (named("gtn_lightning.tasks.Classification", sorts=10), r"does not accept the arguments in the file.*sorts"),
    ],
)
def test_what_cannot_be_built(description: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(description)


def test_a_described_callable_is_never_run() -> None:
    """A learner's factory, too, can only be a class of the kinds that a recipe has."""
    inner = named("functools.partial", func="print")
    with pytest.raises(RecipeError, match=r"names functools.partial"):
        build(named("gtn_lightning.learners.Fixed", learner=inner))
