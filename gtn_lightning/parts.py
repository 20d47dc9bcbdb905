"""The parts of a GTN, and checks that they fit together."""

from dataclasses import dataclass

from gtn_lightning.curricula import Curriculum
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import number_of_classes
from gtn_lightning.inner_loop import InnerLoop, InnerOptimizer
from gtn_lightning.learners import LearnerDistribution, check_distribution
from gtn_lightning.task import Task
from gtn_lightning.teachers import Teacher


@dataclass(frozen=True)
class Parts:
    """The parts of a GTN; see `gtn_lightning.GTN` for each.

    Raises:
        RecipeError: if one is of the wrong type, or two do not fit together; the message names their keys.
    """

    teacher: Teacher
    curriculum: Curriculum
    learners: LearnerDistribution
    inner_optimizer: InnerOptimizer
    task: Task
    inner_loop: InnerLoop
    seed: int

    def __post_init__(self) -> None:
        for name, kind in (
            ("teacher", Teacher),
            ("curriculum", Curriculum),
            ("inner_optimizer", InnerOptimizer),
            ("task", Task),
            ("inner_loop", InnerLoop),
        ):
            part = getattr(self, name)
            if not isinstance(part, kind):
                raise RecipeError(f"model.{name}: expected a {kind.__name__}, got a {type(part).__name__}")
        check_distribution(self.learners)
        if self.seed < 0:
            raise RecipeError(f"model.seed must be at least 0, got {self.seed}")
        check_steps(self.inner_loop.steps, self.curriculum, self.inner_optimizer)
        check_inputs(self.teacher, self.curriculum)
        check_fields(self.teacher, self.curriculum, self.task)
        names = [metric.name for metric in self.task.metrics()]
        if not names or len({*names, "loss"}) <= len(names):
            raise RecipeError(f"model.task: metrics must have different names, none of them loss, got {names}")


def check_steps(steps: int, curriculum: Curriculum, optimizer: InnerOptimizer) -> None:
    """Check that curriculum and learned schedules are as long as the inner loop.

    Raises:
        RecipeError: if not.
    """
    if steps != curriculum.steps:
        raise RecipeError(
            f"model.inner_loop.steps is {steps} but model.curriculum.steps is {curriculum.steps}: make them agree"
        )
    if optimizer.learned_per_step and optimizer.steps != steps:
        raise RecipeError(
            f"model.inner_loop.steps is {steps} but model.inner_optimizer.steps is {optimizer.steps}: make them agree"
        )


def check_inputs(teacher: Teacher, curriculum: Curriculum) -> None:
    """Check that curriculum and teacher agree on the size of the noise and on the number of samples.

    Raises:
        RecipeError: if not.
    """
    if teacher.noise != curriculum.noise:
        raise RecipeError(
            f"model.teacher takes noise of size {teacher.noise} but model.curriculum gives {curriculum.noise}: "
            "make their noise agree"
        )
    if teacher.pool is not None and teacher.pool != curriculum.pool:
        requested = "an unbounded number" if curriculum.pool is None else str(curriculum.pool)
        raise RecipeError(
            f"model.teacher has {teacher.pool} samples but model.curriculum requests {requested}: make them agree, "
            "and use a curriculum with a pool"
        )


def check_fields(teacher: Teacher, curriculum: Curriculum, task: Task) -> None:
    """Check that a teacher makes the task's fields, with the task's and the curriculum's number of classes.

    Raises:
        RecipeError: if not; the message names the keys that disagree.
    """
    for name, required in task.fields.items():
        made = teacher.fields.get(name)
        if made is None:
            if teacher.fields:  # a teacher of real data has none
                raise RecipeError(
                    f"model.teacher makes {', '.join(teacher.fields)} but model.task takes {', '.join(task.fields)}: "
                    "use a teacher that makes these"
                )
        elif required.kind == "probabilities" and made.kind == "classes":
            raise RecipeError(
                f"model.teacher makes classes as {name} but model.task takes probabilities: use soft_labels"
            )
        elif made.classes != required.classes:
            raise RecipeError(
                f"model.teacher has {made.classes or 'no'} classes but model.task {required.classes or 'no'}: make "
                "them agree"
            )
        elif None not in (made.shape, required.shape) and made.shape != required.shape:
            raise RecipeError(
                f"model.teacher makes {name} of shape {list(made.sample_shape)} but model.task takes "
                f"{list(required.sample_shape)}: make them agree"
            )
    if unused := [name for name in teacher.fields if name not in task.fields]:
        raise RecipeError(
            f"model.teacher makes {', '.join(unused)}, which model.task does not take: it takes "
            f"{', '.join(task.fields)}"
        )
    classes = number_of_classes(task.fields)
    if curriculum.classes not in (None, classes):
        raise RecipeError(
            f"model.task has {classes or 'no'} classes but model.curriculum {curriculum.classes}: make them agree"
        )
