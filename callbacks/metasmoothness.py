"""Log the metasmoothness of the inner loop."""

import math
from itertools import chain
from typing import Any

from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import metasmoothness
from gtn_lightning.inner_loop.central_differences import random_direction
from gtn_lightning.inner_loop.types import Params
from gtn_lightning.lightning import Callback, LightningModule, Trainer
from gtn_lightning.meta_training.gradients import shifted
from gtn_lightning.meta_training.outer import meta_learned
from gtn_lightning.randomness import keyed_generator


class Metasmoothness(Callback):
    """Logs the metasmoothness of the inner loop as ``train/metasmoothness``, every so many meta-steps.

    See `gtn_lightning.inner_loop.metasmoothness` (Engstrom et al., arXiv 2503.13751). A fresh learner is taught three
    times, with the meta-parameters as they are and shifted once and twice by ``step`` along a random direction: one if
    its parameters respond alike to both shifts, near zero if they respond at random. It costs about as much as a
    meta-step, changes no random number of the run, and is the same on all processes. NaN stands for a learner that
    diverges. Loggers repeat the last value until the next measurement.

    Args:
        every_n_steps: number of meta-steps between two measurements.
        step: size of a shift of each tensor of the meta-parameters, relative to its norm; of a tensor of zeros, its
            norm.
        directions: number of directions, and of learners, over which the mean is taken.

    Raises:
        RecipeError: if a value is out of range.
    """

    def __init__(self, every_n_steps: int = 100, step: float = 0.01, directions: int = 1) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("directions", directions)):
            if value < 1:
                raise RecipeError(f"Metasmoothness.{name} must be at least 1, got {value}")
        if not 0 < step < float("inf"):
            raise RecipeError(f"Metasmoothness.step must be above 0 and finite, got {step}")
        self.every_n_steps = every_n_steps
        self.step = step
        self.directions = directions
        self._measured_at = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure and log, after a meta-step whose number is a multiple."""
        at = trainer.global_step
        if at % self.every_n_steps or at == self._measured_at:  # several batches of one meta-step
            return
        self._measured_at = at
        found = []
        for number in range(self.directions):
            try:
                found.append(self._measure(pl_module, at, number))
            except ValueError:  # a diverged learner
                found.append(math.nan)
        pl_module.log("train/metasmoothness", sum(found) / len(found))

    def _measure(self, gtn: Any, *key: int) -> float:
        parameters = list(chain.from_iterable(meta_learned(gtn).values()))
        generator = keyed_generator(gtn.seed, "metasmoothness", "direction", *key)
        along = [random_direction(parameter.detach(), generator) for parameter in parameters]

        def train(distance: float) -> Params:
            with shifted(parameters, along, distance):
                (taught,) = gtn.fresh_learner("metasmoothness", *key)
            return {name: parameter.detach() for name, parameter in taught.params.items()}

        return metasmoothness(train, lambda distance: distance, self.step)
