"""Log the norm of the meta-gradient, and clip it by its running mean."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import Callback, LightningModule, Trainer
from gtn_lightning.meta_training.checkpoints import CheckpointError, misfit


class GradientNorm(Callback):
    """Logs the norm of the meta-gradient as ``train/gradient_norm`` and clips it by its running mean.

    Norms of meta-gradients of long inner loops and of random windows (RaT-BPTT, Feng et al., arXiv 2311.07025) differ
    by orders of magnitude between meta-steps, and their scale changes during training, so no fixed threshold is
    suitable. The running mean is of the clipped norms, so that a single outlier hardly raises it. Non-finite gradients
    are not counted, since the module skips them; neither are zero gradients.

    The running mean is stored in checkpoints. Gradients are already averaged over processes, so all clip equally.

    Args:
        clip: norms above this multiple of the running mean are clipped to it; None logs only.
        decay: decay factor of the running mean per meta-step; 0.99 averages over about a hundred.

    Raises:
        RecipeError: if a value is out of range.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from gtn_lightning.callbacks import GradientNorm
        >>> trainer = pl.Trainer(max_steps=600, callbacks=[GradientNorm(clip=2.0)])
    """

    def __init__(self, clip: float | None = 2.0, decay: float = 0.99) -> None:
        if clip is not None and not clip > 1:
            raise RecipeError(f"GradientNorm.clip must be above 1, or null to log only, got {clip}")
        if not 0 <= decay < 1:
            raise RecipeError(f"GradientNorm.decay must be at least 0 and below 1, got {decay}")
        self.clip = clip
        self.decay = decay
        self._sum = 0.0
        self._weight = 0.0

    @property
    def mean(self) -> float | None:
        """The running mean of the norm after clipping, or None before the first finite gradient."""
        return self._sum / self._weight if self._weight else None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure the norm, clip the gradient, and update the running mean."""
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        norm = _norm(gradients)
        pl_module.log("train/gradient_norm", norm)
        if not math.isfinite(norm) or norm == 0:
            return
        if self.clip is not None and self.mean is not None and norm > self.clip * self.mean:
            limit = self.clip * self.mean
            for gradient in gradients:
                gradient.mul_(limit / norm)
            norm = limit
        self._sum = self.decay * self._sum + (1 - self.decay) * norm
        self._weight = self.decay * self._weight + (1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        """Return the running mean, for checkpoints."""
        return {"sum": self._sum, "weight": self._weight}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a checkpoint's running mean.

        Raises:
            CheckpointError: if it is not what `state_dict` returns.
        """
        if fault := misfit(state_dict, {"sum": 0.0, "weight": 0.0}, "the state of GradientNorm"):
            raise CheckpointError(fault)
        self._sum, self._weight = state_dict["sum"], state_dict["weight"]


def _norm(gradients: Sequence[Tensor]) -> float:
    if not gradients:
        return 0.0
    # Scaled by the largest entry, whose square may overflow float32.
    largest = float(torch.stack([gradient.abs().max() for gradient in gradients]).max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    squares = torch.stack([(gradient / largest).square().sum() for gradient in gradients])
    return largest * float(squares.sum().sqrt())
