"""What meta-training does about gradients that are not finite."""

from copy import deepcopy
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gtn_lightning.errors import RecipeError
from gtn_lightning.meta_training.checkpoints import CheckpointError, is_number, misfit, shown
from gtn_lightning.meta_training.outer import scale_rates


class DivergedError(RecipeError):
    """Meta-training has left the realm of finite numbers and does not find back."""


class Recovery:
    """Skips meta-steps without a finite gradient, goes back where there are many in a row, and then gives up.

    A learner that diverges within its inner loop spoils one meta-step, which is skipped and counted. Where nothing but
    such meta-steps follow, the meta-parameters are where learners diverge: they return to what they were at the last
    validation that no skipped meta-step preceded, or at the start, with the outer optimizer's state of then and a
    smaller rate. Gradients are averaged over processes before, so that all decide alike. A resumed run keeps the
    smaller rate: where its recipe names another rate than before, that one is made smaller by as much.

    Args:
        limit: so many skipped meta-steps in a row lead back; None only counts.
        returns: how many times meta-training goes back before it stops with an error.
        factor: by which the outer rate is multiplied each time.

    Raises:
        RecipeError: if a value is out of range.
    """

    def __init__(self, limit: int | None = 20, returns: int = 2, factor: float = 0.5) -> None:
        if limit is not None and limit < 1:
            raise RecipeError(f"Recovery.limit: got {limit}; expected at least 1, or null to count only")
        if returns < 0:
            raise RecipeError(f"Recovery.returns: got {returns}; expected at least 0")
        if not 0 < factor <= 1:
            raise RecipeError(f"Recovery.factor: got {factor}; expected a number above 0, at most 1")
        self.limit = limit
        self.returns = returns
        self.factor = factor
        self.skipped = 0
        """Meta-steps skipped so far."""
        self.reduction = 1.0
        """By which the outer rates have been multiplied so far."""
        self._in_a_row = 0
        self._returned = 0
        self._cause = ""
        self._good: dict[str, Any] | None = None

    def remember(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take the present state for a good one, unless the last meta-step was skipped."""
        if self.limit is not None and self._in_a_row == 0:
            state = {
                "step": trainer.global_step,
                "weights": dict(module.state_dict()),
                "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            }
            self._good = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)

    def examine(self, module: pl.LightningModule, meta_loss: Tensor | None) -> bool:
        """Look at the averaged meta-gradient of a meta-step; return whether it is finite."""
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        # Stacked, so that the device is waited for once and not for every parameter.
        if not gradients or torch.stack([gradient.isfinite().all() for gradient in gradients.values()]).all():
            self._in_a_row = 0
            return True
        self.skipped += 1
        self._in_a_row += 1
        if meta_loss is not None and not meta_loss.isfinite():
            self._cause = f"the meta-loss is {float(meta_loss)}"
        else:
            name = next(name for name, gradient in gradients.items() if not gradient.isfinite().all())
            self._cause = f"the meta-loss is finite, the meta-gradient of {name} is not"
        return False

    def act(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Go back or give up, if it is time for that.

        Raises:
            DivergedError: if there were as many returns as allowed.
        """
        if self.limit is None or self._in_a_row < self.limit or self._good is None:
            return
        if self._returned == self.returns:
            raise DivergedError(
                f"meta-step {trainer.global_step}: {self._in_a_row} meta-steps in a row had no finite gradient "
                f"({self._cause}), also after {self._returned} returns to a good state with a smaller outer rate: "
                "lower model.inner_optimizer's lr or model.outer_optimizer's, clip with trainer.gradient_clip_val or "
                "GradientNorm, or begin with fewer inner_loop.steps; checkpoints/best-*.ckpt holds the best state"
            )
        self._returned += 1
        self._in_a_row = 0
        module.load_state_dict(self._good["weights"])
        for optimizer, state in zip(trainer.optimizers, self._good["optimizers"], strict=True):
            groups = [{name: group[name] for name in group.keys() - {"params"}} for group in optimizer.param_groups]
            optimizer.load_state_dict(deepcopy(state))
            # The schedule has gone on since.
            for group, now in zip(optimizer.param_groups, groups, strict=True):
                group |= now
            scale_rates(optimizer, [config.scheduler for config in trainer.lr_scheduler_configs], self.factor)
        self.reduction *= self.factor
        rank_zero_warn(
            f"meta-step {trainer.global_step}: {self.limit} meta-steps in a row had no finite gradient "
            f"({self._cause}); back to meta-step {self._good['step']} with {self.factor} times the outer rate "
            f"(return {self._returned} of {self.returns})"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on."""
        counts = {"skipped": self.skipped, "in_a_row": self._in_a_row, "returned": self._returned}
        return counts | {"reduction": self.reduction}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: if it is not what `state_dict` returns.
        """
        if fault := misfit(state, dict.fromkeys(("skipped", "in_a_row", "returned"), 0), "recovery", counts=True):
            raise CheckpointError(fault)
        reduction = state.get("reduction", self.factor ** state["returned"])
        if not is_number(reduction) or not 0 < reduction <= 1:
            raise CheckpointError(f"recovery.reduction: expected a number above 0, at most 1, got {shown(reduction)}")
        self.skipped, self._in_a_row, self._returned = state["skipped"], state["in_a_row"], state["returned"]
        self.reduction = float(reduction)
