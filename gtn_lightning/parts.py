"""The parts that a GTN is made of, and whether they fit together."""

from dataclasses import dataclass

from gtn_lightning.curricula import Curriculum
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import InnerLoop, InnerOptimizer
from gtn_lightning.learners import LearnerDistribution, check_distribution
from gtn_lightning.task import Task
from gtn_lightning.teachers import Teacher


@dataclass(frozen=True)
class Parts:
    """The parts of a GTN; see `gtn_lightning.GTN` for each.

    Raises:
        RecipeError: if one is of the wrong kind, or they do not fit together, naming the keys that disagree.
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


def check_steps(steps: int, curriculum: Curriculum, optimizer: InnerOptimizer) -> None:
    """See that curriculum and learned schedules are as long as the inner loop.

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
    """See that a curriculum gives the noise that a teacher takes, and asks for as many samples as it holds.

    Raises:
        RecipeError: if not.
    """
    if teacher.noise != curriculum.noise:
        raise RecipeError(
            f"model.teacher takes noise of size {teacher.noise} but model.curriculum gives {curriculum.noise}: "
            "make their noise agree"
        )
    if teacher.pool is not None and teacher.pool != curriculum.pool:
        asked = "an unbounded number" if curriculum.pool is None else str(curriculum.pool)
        raise RecipeError(
            f"model.teacher holds {teacher.pool} samples but model.curriculum asks for {asked}: set the teacher's "
            "number to steps times batch_size, and use a curriculum with a pool"
        )


def check_fields(teacher: Teacher, curriculum: Curriculum, task: Task) -> None:
    """See that a teacher makes what a task takes, of the classes that a curriculum names.

    Raises:
        RecipeError: if not, naming the keys that disagree.
    """
    for name, wanted in task.fields.items():
        made = teacher.fields.get(name)
        if made is None:
            if teacher.fields:  # real data is whatever the data module hands over
                raise RecipeError(
                    f"model.teacher makes {', '.join(teacher.fields)} but model.task takes {', '.join(task.fields)}: "
                    "use a teacher that makes these"
                )
        elif made.classes != wanted.classes:
            raise RecipeError(
                f"model.teacher has {made.classes or 'no'} classes but model.task {wanted.classes or 'no'}: make them "
                "agree"
            )
        elif None not in (made.shape, wanted.shape) and made.shape != wanted.shape:
            raise RecipeError(
                f"model.teacher makes {name} of shape {list(made.sample_shape)} but model.task takes "
                f"{list(wanted.sample_shape)}: make them agree"
            )
    classes = next((field for field in task.fields.values() if field.classes), None)
    if curriculum.classes is not None and (classes is None or classes.classes != curriculum.classes):
        raise RecipeError(
            f"model.task has {'no' if classes is None else classes.classes} classes but model.curriculum "
            f"{curriculum.classes}: make them agree"
        )
