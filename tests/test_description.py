"""Components as plain data and back."""

import datetime
import enum
import json
import math
from collections import Counter, OrderedDict, namedtuple
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gtn_lightning.curricula import Full, NoCurriculum, ShuffledAll, ShuffledBatches, ShuffledPasses
from gtn_lightning.description import build, describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Field
from gtn_lightning.inner_loop import SGD, AdamW, RMSprop
from gtn_lightning.learners import MLP, ConvNet, Fixed, Mixture, RandomWidth
from gtn_lightning.tasks import Classification, Regression
from gtn_lightning.teachers import FreeTensors, Generator, Pixels, RealData, Teacher, TeacherInput

SHAPE = (1, 8, 8)

TRUST = [__name__, "torch.nn", "no_such_module", "os.system"]


def there_and_back(component: Any) -> Any:
    return build(json.loads(json.dumps(describe(component))), TRUST)


@pytest.mark.parametrize(
    "component",
    [
        Generator(SHAPE, 10, noise=4, hidden=8, channels=(4, 3), soft_labels=True),
        Pixels(SHAPE, 10, 40, soft_labels=True),
        FreeTensors({"inputs": Field("real", (13,)), "targets": Field("real", (2,))}, 40, init="real"),
        RealData(),
        Full(3, 20, 10, noise=4, learned=False),
        ShuffledBatches(3, 20, 10),
        ShuffledAll(3, 20, 10, noise=2),
        NoCurriculum(3, 20, 10, noise=4),
        ShuffledPasses(3, 20, 10, images=500),
        SGD(lr=0.3, nesterov=True, learned=["momentum"], learned_per_step=["lr"], steps=3),
        AdamW(beta1=0.7, weight_decay=0.1),
        RMSprop(momentum=0.2),
        Classification(10, meta_every=2),
        Classification(10, shape=(13,)),
        Regression(2, shape=(13,)),
        Fixed(partial(MLP, shape=SHAPE, outputs=10, hidden=[])),
        RandomWidth(partial(ConvNet, image_shape=SHAPE, classes=10, depth=2), ranges={"width": [4, 9]}),
        Mixture(
            {"a": partial(MLP, shape=SHAPE, outputs=10), "b": partial(ConvNet, SHAPE, 10, width=3)},
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
        self.colors = nn.Parameter(torch.tensor(list(palette.values())))

    def forward(self, request: TeacherInput) -> Batch:
        assert request.labels is not None
        images = self.colors[request.labels].view(-1, 1, 1, 1).expand(-1, *self.image_shape)
        return {"inputs": images, "targets": request.labels}


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
    assert torch.equal(again.colors, painter.colors)


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


class Kind(enum.Enum):
    A = "a"
    B = "b"


class Level(enum.IntEnum):
    LOW = 1


class Net(nn.Module):
    """A learner that takes anything."""

    def __init__(self, argument: Any = None) -> None:
        super().__init__()
        self.argument = argument
        self.layer = nn.Linear(4, 2)

    class Inner(nn.Linear):
        """A network that is defined in another."""


class Typed(nn.Module):
    """A learner whose arguments' kinds its annotations tell."""

    def __init__(
        self,
        kind: Kind = Kind.A,
        level: Level | None = None,
        shape: tuple[int, ...] = (),
        path: Path | None = None,
        dtype: torch.dtype = torch.float32,
        norm: type[nn.Module] = nn.Identity,
        make: Callable[[int], nn.Module] = nn.BatchNorm1d,
        scale: float = 1.0,
        picks: set[int] = frozenset(),  # type: ignore[assignment]
    ) -> None:
        super().__init__()
        self.arguments = (kind, level, shape, path, dtype, norm, scale, picks)
        self.make = make
        self.layer = nn.Linear(64, 10)
        # Something to see in a run's files: of another kind, they would not get here.
        assert isinstance(kind, Kind)
        assert isinstance(dtype, torch.dtype)
        assert issubclass(norm, nn.Module)
        assert path is None or path.name

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


VALUES = [
    Path("/data/mnist"), PurePosixPath("a/b"), torch.float64, torch.channels_last, torch.device("cuda:1"),
    torch.Size([2]), {1, 2}, frozenset({"a"}), (1, (2, 3)), [(1,), [2]],
    {1: "a", None: [2]}, {(1, 2): {3: 4}}, {"$path": "a"}, {"$odd": 1},
    {"class_path": "os.system", "init_args": {}}, {"class_path": 1}, OrderedDict(a=1),
    float("inf"), -float("inf"), 1e-300, -0.0,
    2**80, True, False, None, "nan", "1e-3", "${model}", "ü\n", 1j, complex(float("inf"), 2), b"\0\xff", range(3, 9, 2),
    np.float32(0.1), np.float64(0.1), np.int64(3), np.bool_(True), np.str_("a"), nn.GELU, nn.BatchNorm1d, Net.Inner,
    [nn.GELU, {"a": nn.ReLU}], {"norm": {"class": nn.BatchNorm1d}},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_an_argument_comes_back_as_what_it_was(value: Any) -> None:
    described = json.dumps(describe(Fixed(partial(Net, argument=value))), allow_nan=False)
    back = build(json.loads(described), TRUST).sample(torch.Generator()).argument
    assert back == value
    # NumPy's numbers are plain ones.
    expected = value.item() if isinstance(value, np.generic) else value
    plain = {torch.Size: tuple, OrderedDict: dict, PurePosixPath: PosixPath}
    assert type(back) is plain.get(type(expected), type(expected))
    assert math.copysign(1, back) == math.copysign(1, value) if isinstance(value, float) else True


def test_not_a_number_comes_back() -> None:
    assert math.isnan(there_and_back(Fixed(partial(Net, float("nan")))).sample(torch.Generator()).argument)


@pytest.mark.parametrize(
    "made",
    [
        partial(nn.BatchNorm1d, eps=1e-3),
        partial(nn.GELU),
        partial(nn.Linear, bias=False),
        partial(Typed, shape=(1, 2)),
    ],
)
def test_a_partial_of_a_class_comes_back(made: "partial[nn.Module]") -> None:
    learner = there_and_back(Fixed(partial(Net, argument={"norm": made}))).sample(torch.Generator())
    back = learner.argument["norm"]
    assert isinstance(back, partial)
    assert back.func is made.func
    assert back.keywords == made.keywords


def test_what_annotations_tell_needs_no_kind() -> None:
    factory = partial(Typed, Kind.B, level=Level.LOW, shape=(1, 2))
    written = describe(Fixed(factory))["init_args"]["learner"]["init_args"]
    assert written == {"kind": {"$enum": "B"}, "level": {"$enum": "LOW"}, "shape": [1, 2]}
    learner = there_and_back(Fixed(factory)).sample(torch.Generator())
    assert learner.arguments[:3] == (Kind.B, Level.LOW, (1, 2))
    assert type(learner.arguments[1]) is Level
    listed = there_and_back(Fixed(partial(Typed, shape=[1, 2]))).sample(torch.Generator())
    assert listed.arguments[2] == [1, 2]


class Teaching(Teacher):
    """A teacher that keeps a network, some options and what else it is given."""

    def __init__(self, body: nn.Module, *colors: float, classes: int = 2, **options: Any) -> None:
        super().__init__()
        self.body = body
        self.classes = classes
        self.colors = colors
        self.options = options

    def forward(self, request: TeacherInput) -> Batch:
        raise NotImplementedError


class Brighter(Pixels):
    """Hands on to its base what it does not know."""

    def __init__(self, *args: Any, light: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.light = light


class Swallowing(nn.Module):
    """Takes what it pleases, and keeps it under no name."""

    def __init__(self, **extra: Any) -> None:
        super().__init__()
        self.depth = extra.get("depth", 3)


def test_further_arguments_come_back_from_where_they_are_stored() -> None:
    again = there_and_back(Teaching(nn.GELU("tanh"), deep=True))
    assert again.options == {"deep": True}
    assert again.body.approximate == "tanh"
    brighter = there_and_back(Brighter(SHAPE, 10, images=40, light=2.0))
    assert (brighter.image_shape, brighter.pixels.shape, brighter.light) == (SHAPE, (40, *SHAPE), 2.0)


def a_function() -> None:
    pass


class Text(str):
    """A text of one's own."""


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Fixed(partial(Net, {"norm": [Kind.A]})), r"^Fixed.learner.argument.norm\[0\]: a value of the class Kind "),
        (Fixed(partial(Net, argument=Level.LOW)), r"^Fixed.learner.argument: a value of the class Level"),
        (Mixture({"a": partial(Net, torch.ones(2))}), r"^Mixture.learners.a.argument: a value of the class Tensor"),
        (Fixed(partial(Net, nn.Parameter(torch.ones(2)))), r"a value of the class Parameter"),
        (Fixed(partial(Net, np.ones(2))), r"a value of the class ndarray"),
        (Fixed(partial(Net, torch.Generator())), r"a value of the class Generator"),
        (Fixed(partial(Net, Fraction(1, 3))), r"a value of the class Fraction"),
        (Fixed(partial(Net, datetime.date(2000, 1, 1))), r"a value of the class date"),
        (Fixed(partial(Net, slice(3))), r"a value of the class slice"),
        (Fixed(partial(Net, Text("a"))), r"a value of the class Text"),
        (Fixed(partial(Net, Pair(1, 2))), r"a value of the class Pair"),
        (Fixed(partial(Net, Counter("aa"))), r"a value of the class Counter"),
        (Fixed(partial(Net, object())), r"a value of the class object"),
        (Fixed(partial(Net, {Text("a"): 1})), r"^Fixed.learner.argument's key: a value of the class Text"),
        (Fixed(partial(Net, dict)), r"^Fixed.learner.argument: the class dict cannot be written .*nn.Module"),
        (Fixed(partial(Net, torch.relu)), r"^Fixed.learner.argument: the function .*relu cannot be described"),
        (Fixed(partial(Net, a_function)), r"^Fixed.learner.argument: the function a_function cannot be described"),
        (Fixed(partial(Net, lambda: None)), r"cannot be described"),
        (Fixed(partial(Net, nn.Linear(2, 3))), r"^Fixed.learner.argument: the weights of a Linear .*give its class"),
        (Fixed(partial(Net, partial(nn.Linear, 3))), r"^Fixed.learner.argument: functools.* name its arguments"),
        (Fixed(partial(nn.Sequential, nn.ReLU(), nn.ReLU())), r"^Fixed.learner: the argument args of Sequential"),
        (Teaching(nn.GELU(), 0.5), r"^Teaching.colors: \*colors of Teaching cannot be written .*one list"),
        (Swallowing(depth=4), r"^Swallowing does not store its arguments \*\*extra.*write self.extra = extra"),
    ],
)  # fmt: skip
def test_what_could_not_come_back_is_refused_with_its_place(component: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        describe(component)
    assert "\n" not in str(caught.value)


def test_a_class_that_nobody_finds_is_refused() -> None:
    class Hidden(nn.Module):
        pass

    with pytest.raises(RecipeError, match=r"^Fixed.learner: the class .*Hidden cannot be written.*top of a module"):
        describe(Fixed(Hidden))


def test_a_network_that_a_distribution_holds_is_no_factory() -> None:
    class_, instance = (there_and_back(Holding(value)).network for value in (nn.GELU, nn.GELU("tanh")))
    assert class_ == partial(nn.GELU).func or class_.func is nn.GELU
    assert isinstance(instance, nn.GELU)
    assert instance.approximate == "tanh"


class Holding(Fixed):
    """A distribution with an argument of its own."""

    def __init__(self, network: Any) -> None:
        super().__init__(partial(Net))
        self.network = network


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
        (named("no_such_module.Net"), r"the class no_such_module.Net named in the file cannot be imported.*PYTHONPATH"),
        (
            named("gtn_lightning.teachers.Nonsense"),
            r"names gtn_lightning.teachers.Nonsense, which is not a component of this version",
        ),
        (named("Net"), r"the file names Net, which is not a class of gtn-lightning"),
        (named("os.system", command="true"), r"the file names os.system, which is not a class"),
        (named("subprocess.Popen", args="true"), r"names subprocess.Popen, which is not a class.*--trust subprocess"),
        (named("os.path.join.system"), r"names os.path.join.system, which is not a class"),
        ({"$class": "subprocess.Popen"}, r"names subprocess.Popen, which is not a class.*--trust subprocess"),
        ({"$class": "gtn_lightning.tasks.Classification"}, r"where a class of networks is expected"),
        ({"$partial": named("os.system")}, r"names os.system, which is not a class"),
        ({"$built": named("subprocess.Popen")}, r"names subprocess.Popen"),
        ({"$torch": "load"}, r"the file holds \$torch with an invalid value"),
        ({"$device": "nowhere"}, r"the file holds \$device with an invalid value"),
        ({"$set": [[1]]}, r"the file holds \$set with an invalid value"),
        ({"$float": ["a"]}, r"the file holds \$float"),
        ({"$list": {"$range": [0, 10**10, 1]}}, r"the file holds \$range with an invalid value"),
        ({"$set": {"$range": [0, 9, 1]}}, r"the file holds \$set with an invalid value"),
        ({"$range": 3}, r"the file holds \$range"),
        ({"$partial": 3}, r"the file holds \$partial"),
        ({"$enum": "A"}, r"the file holds \$enum"),
        (named(f"{__name__}.Typed", kind={"$enum": "C"}), r"Typed.kind: the file names 'C', which is no member"),
        ({"class_path": 3, "init_args": {}}, r"the file names 3 with the arguments"),
        (named("gtn_lightning.tasks.Classification", sorts=10), r"does not accept the arguments in the file.*sorts"),
    ],
)
def test_what_cannot_be_built(description: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(description, TRUST)


def test_a_described_callable_is_never_run() -> None:
    """A learner's factory, too, can only be a class of the kinds that a recipe has."""
    inner = named("functools.partial", func="print")
    with pytest.raises(RecipeError, match=r"names functools.partial"):
        build(named("gtn_lightning.learners.Fixed", learner=inner))
