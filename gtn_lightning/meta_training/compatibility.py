"""Whether the parts of a GTN fit together."""

from gtn_lightning.curricula import Curriculum
from gtn_lightning.errors import RecipeError
from gtn_lightning.evaluation import Evaluation
from gtn_lightning.inner_loop import InnerLoop, InnerOptimizer
from gtn_lightning.learners import LearnerDistribution, check_distribution
from gtn_lightning.task import Task
from gtn_lightning.teachers import Teacher


def check_parts(
    teacher: Teacher,
    curriculum: Curriculum,
    learners: LearnerDistribution,
    inner_optimizer: InnerOptimizer,
    task: Task,
    inner_loop: InnerLoop,
    evaluation: Evaluation,
) -> None:
    """See that the parts of a GTN are of the right kinds, and that their sizes agree.

    Raises:
        RecipeError: if they do not fit together, naming the keys that disagree.
    """
    for name, part, kind in (
        ("teacher", teacher, Teacher),
        ("curriculum", curriculum, Curriculum),
        ("inner_optimizer", inner_optimizer, InnerOptimizer),
        ("task", task, Task),
        ("inner_loop", inner_loop, InnerLoop),
        ("evaluation", evaluation, Evaluation),
    ):
        if not isinstance(part, kind):
            raise RecipeError(f"model.{name}: expected a {kind.__name__}, got a {type(part).__name__}")
    check_distribution(learners)
    steps = inner_loop.steps
    if steps != curriculum.steps:
        raise RecipeError(
            f"model.inner_loop.steps is {steps} but model.curriculum.steps is {curriculum.steps}: make them agree"
        )
    if inner_optimizer.learned_per_step and inner_optimizer.steps != steps:
        raise RecipeError(
            f"model.inner_loop.steps is {steps} but model.inner_optimizer.steps is {inner_optimizer.steps}: "
            "make them agree"
        )
    if outside := [step for step in evaluation.steps or () if step > steps]:
        raise RecipeError(f"model.evaluation.steps must be at most model.inner_loop.steps, {steps}, got {outside[0]}")
    if teacher.noise != curriculum.noise:
        raise RecipeError(
            f"model.teacher takes noise of size {teacher.noise} but model.curriculum gives {curriculum.noise}: "
            "make their noise agree"
        )
    check_fields(teacher, curriculum, task)
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
