"""Pictures of what a learner reconstructs."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from gtn_lightning.callbacks.figures import save_figure
from gtn_lightning.callbacks.samples import draw_images, evenly_chosen, pictured
from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import Callback, LightningModule, Trainer
from gtn_lightning.task import Images
from gtn_lightning.tasks import Autoencoding


class Reconstructions(Callback):
    """Draws real images beside their reconstructions by an autoencoder that has just been taught.

    The learner is a new one, the same at every drawing. Each row is an image of the validation split; the first column
    is the image, the others are what the learner makes of it after several inner steps. All share one gray scale.

    The picture is written to ``<run folder>/pictures/reconstructions.png`` and to the logger after validations. Nothing
    is drawn for inputs that are no images.

    Args:
        every_n_validations: number of validations between two pictures.
        images: maximum number of images.

    Raises:
        RecipeError: if a number is below 1; from ``setup``, if the task is not `Autoencoding`.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from gtn_lightning.callbacks import Reconstructions
        >>> trainer = pl.Trainer(max_steps=600, callbacks=[Reconstructions(images=8)])
    """

    def __init__(self, every_n_validations: int = 1, images: int = 10) -> None:
        for name, value in (("every_n_validations", every_n_validations), ("images", images)):
            if value < 1:
                raise RecipeError(f"Reconstructions.{name} must be at least 1, got {value}")
        self.every_n_validations = every_n_validations
        self.images = images
        self._validations = 0
        self._real: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that learners reconstruct."""
        gtn: Any = pl_module
        if not isinstance(gtn.task, Autoencoding):
            raise RecipeError(
                f"Reconstructions: model.task must be Autoencoding, got {type(gtn.task).__name__}: leave it out"
            )

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep some images of the first batch, evenly spread, for a split may be sorted by class."""
        if batch_idx == 0:
            inputs = batch if isinstance(batch, Tensor) else batch[0]
            self._real = inputs[evenly_chosen(len(inputs), self.images)]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw after every ``every_n_validations`` validations."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        real, self._real = self._real, None
        if self._validations % self.every_n_validations or not trainer.is_global_zero:
            return
        if real is None or real.dim() != 4:
            return
        name, columns = _reconstructions(pl_module, real)
        real, columns = pictured(trainer, real), {step: pictured(trainer, each) for step, each in columns.items()}
        title = f"What a new {name} reconstructs"
        if trainer.global_step:  # 0 if the teacher was loaded from a file
            title += f" after {trainer.global_step} meta-steps"
        save_figure(trainer, draw_reconstructions(real, columns, title), "reconstructions", trainer.global_step)


def draw_reconstructions(real: Tensor, reconstructions: dict[int, Tensor], title: str) -> Figure:
    """Draw images beside their reconstructions after several inner steps.

    Args:
        real: ``[N, C, H, W]``.
        reconstructions: by the number of inner steps, each of the shape of ``real``.
        title: title of the figure.
    """
    columns: Sequence[Tensor] = [real, *reconstructions.values()]
    names = ["real", *map(str, reconstructions)]
    figure = draw_images([Images(column, None) for column in columns], names, {}, title)
    figure.axes[0].set_xlabel("real images, then reconstructions after inner steps", fontsize=9)
    figure.axes[0].set_ylabel("")
    return figure


def _reconstructions(gtn: Any, real: Tensor) -> tuple[str, dict[int, Tensor]]:
    """Teach a new learner; return its class's name, and what it makes of images by the number of inner steps."""
    steps = gtn.evaluation.scored_steps(gtn.inner_loop.steps)
    with torch.inference_mode(False), torch.no_grad():
        taught = gtn.fresh_learner("reconstructions", steps=steps)
        made = {
            step: each.learner(each.params, each.buffers, real.clone(), training=False)[0][0]
            for step, each in zip(steps, taught, strict=True)
        }
    return type(taught[0].learner.module).__name__, made
