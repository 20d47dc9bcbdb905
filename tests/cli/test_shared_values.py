"""Values that a recipe states once."""

import sys
from typing import Any

import pytest
from jsonargparse import Namespace

from gtn_lightning.cli.shared_values import fill_in
from gtn_lightning.errors import RecipeError
from gtn_lightning.learners import MLP


def component(name: str, **arguments: Any) -> Namespace:
    return Namespace(class_path=f"gtn_lightning.{name}", init_args=Namespace(**arguments))


def model(task: Namespace, **parts: Namespace) -> Namespace:
    given = {
        "teacher": component("teachers.Generator", image_shape=None, classes=None, noise=64),
        "curriculum": component("curricula.Full", steps=None, batch_size=30, classes=None, noise=None),
        "learners": component(
            "learners.Fixed", learner=component("learners.ConvNet", image_shape=None, classes=None, width=8)
        ),
        "inner_optimizer": component("inner_loop.SGD", learned_per_step=["lr"], steps=None),
    }
    return Namespace(task=task, inner_loop=Namespace(steps=5), **(given | parts))


IMAGES = component("tasks.Classification", classes=10, meta_every=0, shape=(1, 8, 8))
NUMBERS = component("tasks.Regression", outputs=2, meta_every=0, shape=(13,))


def test_what_the_task_and_the_inner_loop_say_reaches_every_part() -> None:
    filled = model(IMAGES)
    fill_in(filled)
    assert filled.teacher.init_args.as_dict() == {"image_shape": [1, 8, 8], "classes": 10, "noise": 64}
    assert filled.curriculum.init_args.as_dict() == {"steps": 5, "batch_size": 30, "classes": 10, "noise": 64}
    assert filled.learners.init_args.learner.init_args.image_shape == [1, 8, 8]
    assert filled.inner_optimizer.init_args.steps == 5


def test_what_a_recipe_states_stands() -> None:
    stated = component("curricula.Full", steps=7, batch_size=30, classes=3, noise=0)
    filled = model(IMAGES, curriculum=stated)
    fill_in(filled)
    assert filled.curriculum.init_args.as_dict() == {"steps": 7, "batch_size": 30, "classes": 3, "noise": 0}


def test_free_tensors_get_the_tasks_fields_and_as_many_samples_as_are_asked_for() -> None:
    teacher = component("teachers.FreeTensors", fields=None, samples=None)
    mlp = component("learners.Fixed", learner=component("learners.MLP", shape=None, outputs=None))
    filled = model(NUMBERS, teacher=teacher, learners=mlp)
    fill_in(filled)
    fields = filled.teacher.init_args.fields
    assert [fields[name]["shape"] for name in ("inputs", "targets")] == [(13,), (2,)]
    assert filled.teacher.init_args.samples == 150
    assert filled.curriculum.init_args.as_dict() == {"steps": 5, "batch_size": 30, "classes": None, "noise": 0}
    assert filled.learners.init_args.learner.init_args.as_dict() == {"shape": [13], "outputs": 2}


def test_a_teacher_within_another_is_filled_in_too() -> None:
    inner = component("teachers.Generator", image_shape=None, classes=None, noise=16)
    filled = model(IMAGES, teacher=component("teachers.Augmented", teacher=inner, flip=True))
    fill_in(filled)
    assert inner.init_args.as_dict() == {"image_shape": [1, 8, 8], "classes": 10, "noise": 16}
    assert filled.curriculum.init_args.noise == 16


def test_fields_that_are_given_are_left_as_they_are() -> None:
    given = {"inputs": component("fields.Field", kind="real", shape=(13,), classes=None)}
    filled = model(IMAGES, teacher=component("teachers.FreeTensors", fields=given, samples=None))
    fill_in(filled)
    assert given["inputs"].init_args.classes is None
    assert filled.teacher.init_args.samples == 150


def test_learners_within_a_mixture_are_filled_in_too() -> None:
    learners = {
        "a": component("learners.MLP", shape=None, outputs=None),
        "b": component("learners.ConvNet", classes=None),
    }
    filled = model(IMAGES, learners=component("learners.Mixture", learners=learners))
    fill_in(filled)
    assert learners["a"].init_args.as_dict() == {"shape": [1, 8, 8], "outputs": 10}
    assert learners["b"].init_args.classes == 10


def test_the_number_of_images_of_a_data_set_is_not_what_a_curriculum_asks_for() -> None:
    passes = component("curricula.ShuffledPasses", steps=None, batch_size=30, classes=None, images=None)
    filled = model(IMAGES, curriculum=passes)
    fill_in(filled)
    assert filled.curriculum.init_args.images is None


def test_a_task_that_cannot_be_made_is_named() -> None:
    with pytest.raises(RecipeError, match=r"^model.task.init_args: Classification: classes must be at least 2"):
        fill_in(model(component("tasks.Classification", classes=1, shape=None)))


def test_what_is_no_task_is_left_to_the_parser() -> None:
    filled = model(component("curricula.Full"))
    fill_in(filled)
    assert filled.teacher.init_args.classes is None


class Own(MLP):
    """A network whose own argument has a name that others use."""

    def __init__(self, classes: list[str] | None = None, hidden: list[int] | None = None) -> None:
        super().__init__((64,), 10, hidden or [4])


def test_a_users_argument_of_the_same_name_is_left_as_it_is() -> None:
    own = Namespace(class_path=f"{__name__}.Own", init_args=Namespace(classes=None, hidden=None))
    sys.modules.setdefault(__name__, sys.modules[Own.__module__])
    filled = model(IMAGES, learners=component("learners.Fixed", learner=own))
    fill_in(filled)
    assert own.init_args.classes is None


def test_without_classes_an_image_classifier_returns_the_tasks_outputs_and_a_generator_makes_them() -> None:
    teacher = component("teachers.Generator", image_shape=None, classes=None, noise=64, targets=None)
    filled = model(component("tasks.Representation", outputs=7, classes=10, shape=(1, 8, 8)), teacher=teacher)
    fill_in(filled)
    assert filled.teacher.init_args.as_dict() == {"image_shape": [1, 8, 8], "classes": None, "noise": 64, "targets": 7}
    assert filled.learners.init_args.learner.init_args.classes == 7
    assert filled.curriculum.init_args.classes is None
