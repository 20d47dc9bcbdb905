"""Checks that the parts of a GTN fit together."""

from gtn_lightning.curricula import Curriculum
from gtn_lightning.errors import RecipeError
from gtn_lightning.evaluation import Evaluation
from gtn_lightning.inner_loop import InnerLoop, InnerOptimizer
from gtn_lightning.learners import LearnerDistribution, check_distribution
from gtn_lightning.tasks import Task
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
    """Check that the parts of a GTN have the right classes and that their sizes agree.

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
    if teacher.classes != curriculum.classes:
        raise RecipeError(
            f"model.teacher has {teacher.classes} classes but model.curriculum {curriculum.classes}: make them agree"
        )
    # A task need not have classes.
    classes = getattr(task, "classes", teacher.classes)
    if classes != teacher.classes:
        raise RecipeError(f"model.teacher has {teacher.classes} classes but model.task {classes}: make them agree")
    if teacher.pool is not None and teacher.pool != curriculum.pool:
        asked = "an unbounded number" if curriculum.pool is None else str(curriculum.pool)
        raise RecipeError(
            f"model.teacher holds {teacher.pool} images but model.curriculum asks for {asked}: set the teacher's "
            "images to steps times batch_size, and use a curriculum with a pool"
        )
