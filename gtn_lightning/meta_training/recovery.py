"""Non-finite meta-gradients: skips meta-steps, rolls back, and finally raises."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop.torch_internals import tree_map_only
from gtn_lightning.lightning import pl, rank_zero_warn
from gtn_lightning.meta_training.checkpoints import CheckpointError, is_number, misfit, shown
from gtn_lightning.meta_training.schedules import scale_rates


class DivergedError(RecipeError):
    """Meta-training diverged and could not be recovered."""


class Recovery:
    """Skips meta-steps with non-finite gradients, rolls back after several in a row, and raises after some rollbacks.

    If a learner diverges in its inner loop, the meta-step is skipped and counted. After many consecutive skips the
    meta-parameters are in a region where learners diverge. They and the outer optimizer's state are then rolled back to
    the last validation without a skipped meta-step before it, or to the start, and the outer rate is reduced.
    Gradients are averaged over the processes before they are checked, so that all decide alike. A resumed run keeps the
    reduced rate; if its recipe sets another rate, that one is reduced by the same factor.

    Args:
        max_consecutive_skips: number of consecutive skipped meta-steps that lead to a rollback; None for no rollbacks.
        max_rollbacks: maximum number of rollbacks; instead of another one the run stops with an error.
        lr_factor: factor of the outer rate at each rollback.

    Raises:
        RecipeError: if a value is out of range.
    """

    def __init__(self, max_consecutive_skips: int | None = 20, max_rollbacks: int = 2, lr_factor: float = 0.5) -> None:
        if max_consecutive_skips is not None and max_consecutive_skips < 1:
            raise RecipeError(
                f"Recovery: max_consecutive_skips must be at least 1 or null, got {max_consecutive_skips}"
            )
        if max_rollbacks < 0:
            raise RecipeError(f"Recovery: max_rollbacks must be at least 0, got {max_rollbacks}")
        if not 0 < lr_factor <= 1:
            raise RecipeError(f"Recovery: lr_factor must be above 0 and at most 1, got {lr_factor}")
        self.max_consecutive_skips = max_consecutive_skips
        self.max_rollbacks = max_rollbacks
        self.lr_factor = lr_factor
        self.skipped = 0
        """Meta-steps skipped so far."""
        self.reduction = 1.0
        """Factor of the outer rates so far."""
        self._consecutive = 0
        self._rollbacks = 0
        self._cause = ""
        self._last_good: dict[str, Any] | None = None

    def remember(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Keep the current state to roll back to, unless the last meta-step was skipped."""
        if self.max_consecutive_skips is not None and self._consecutive == 0:
            state = {
                "step": trainer.global_step,
                "weights": dict(module.state_dict()),
                "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            }
            self._last_good = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)

    def examine(self, module: pl.LightningModule, meta_loss: Tensor | None) -> bool:
        """Return whether the averaged meta-gradient of a meta-step is finite; count the meta-step if it is not."""
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        # Stacked, so that the host waits for the device once and not for every parameter.
        if not gradients or torch.stack([gradient.isfinite().all() for gradient in gradients.values()]).all():
            self._consecutive = 0
            return True
        self.skipped += 1
        self._consecutive += 1
        if meta_loss is not None and not meta_loss.isfinite():
            self._cause = f"the meta-loss is {float(meta_loss)}"
        else:
            name = next(name for name, gradient in gradients.items() if not gradient.isfinite().all())
            self._cause = f"the meta-loss is finite, the meta-gradient of {name} is not"
        return False

    def act(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Roll back or raise, if enough consecutive meta-steps were skipped.

        Raises:
            DivergedError: if the maximum number of rollbacks is reached.
        """
        if (
            self.max_consecutive_skips is None
            or self._consecutive < self.max_consecutive_skips
            or self._last_good is None
        ):
            return
        if self._rollbacks == self.max_rollbacks:
            raise DivergedError(
                f"meta-step {trainer.global_step}: {self._consecutive} consecutive meta-steps had no finite gradient "
                f"({self._cause}), also after {self._rollbacks} rollbacks with a smaller outer rate: "
                "lower model.inner_optimizer's lr or model.outer_optimizer's, clip with trainer.gradient_clip_val or "
                "GradientNorm, or begin with fewer inner_loop.steps; checkpoints/best-*.ckpt holds the best state"
            )
        self._rollbacks += 1
        self._consecutive = 0
        module.load_state_dict(self._last_good["weights"])
        for optimizer, state in zip(trainer.optimizers, self._last_good["optimizers"], strict=True):
            groups = [{name: group[name] for name in group.keys() - {"params"}} for group in optimizer.param_groups]
            optimizer.load_state_dict(deepcopy(state))
            # The options are those of the schedule now.
            for group, now in zip(optimizer.param_groups, groups, strict=True):
                group |= now
            scale_rates(optimizer, [config.scheduler for config in trainer.lr_scheduler_configs], self.lr_factor)
        self.reduction *= self.lr_factor
        rank_zero_warn(
            f"meta-step {trainer.global_step}: {self.max_consecutive_skips} consecutive meta-steps had no finite "
            f"gradient ({self._cause}); rolled back to meta-step {self._last_good['step']} with {self.lr_factor} times "
            f"the outer rate (rollback {self._rollbacks} of {self.max_rollbacks})"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and the reduction, for a checkpoint."""
        counts = {"skipped": self.skipped, "in_a_row": self._consecutive, "returned": self._rollbacks}
        return counts | {"reduction": self.reduction}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore counts and reduction from a checkpoint.

        Raises:
            CheckpointError: if it is no result of `state_dict`.
        """
        if fault := misfit(state, dict.fromkeys(("skipped", "in_a_row", "returned"), 0), "recovery", counts=True):
            raise CheckpointError(fault)
        reduction = state.get("reduction", self.lr_factor ** state["returned"])
        if not is_number(reduction) or not 0 < reduction <= 1:
            raise CheckpointError(f"recovery.reduction: expected a number above 0, at most 1, got {shown(reduction)}")
        self.skipped, self._consecutive, self._rollbacks = state["skipped"], state["in_a_row"], state["returned"]
        self.reduction = float(reduction)
