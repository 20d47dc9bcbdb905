"""Checks for options of a trainer that do not work with a GTN."""

from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import BatchSizeFinder, LearningRateFinder, pl

STRATEGIES = {
    "FSDPStrategy": "shards parameters",
    "ModelParallelStrategy": "shards parameters",
    "DeepSpeedStrategy": "shards parameters and optimizer states",
}
"""Lightning's strategies that cannot run a GTN, with the reason."""

CALLBACKS = {
    BatchSizeFinder: "the batch size of a meta-loss is a choice, not what fits into memory: set data.batch_size",
    LearningRateFinder: "it tries one rate per meta-step on a teacher that changes: set model.outer_optimizer's lr",
}
"""Lightning's callbacks that do not work with a GTN, with the reason and what to do."""


def check_trainer(trainer: pl.Trainer, updates: int) -> None:
    """Check that a trainer can run a GTN.

    Args:
        trainer: the trainer.
        updates: number of updates of the meta-parameters per meta-step.

    Raises:
        RecipeError: if an option does not work.
    """
    names = {kind.__name__ for kind in type(trainer.strategy).__mro__}
    for name, reason in STRATEGIES.items():
        if name in names:
            raise RecipeError(
                f"trainer.strategy: {name} {reason}, but every process needs the whole teacher to teach its own "
                "learner: use ddp"
            )
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    for callback in callbacks:
        for kind, reason in CALLBACKS.items():
            if isinstance(callback, kind):
                raise RecipeError(f"trainer.callbacks: {kind.__name__} does not work with a GTN: {reason}")
    if updates > 1 and trainer.accumulate_grad_batches > 1:
        # Lightning would add the gradients of all updates up.
        raise RecipeError(
            f"trainer.accumulate_grad_batches must be 1 with {updates} updates per meta-step, got "
            f"{trainer.accumulate_grad_batches}: set model.population instead"
        )
    clip = trainer.gradient_clip_val
    if clip is not None and clip < 0:  # Lightning treats it as no clipping
        raise RecipeError(f"trainer.gradient_clip_val must be at least 0, or null for no clipping, got {clip}")
