"""A linear probe: how much of the classes a linear model finds in a network's features."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from gtn_lightning.errors import RecipeError

RIDGE = 1e-2
"""Penalty of the squared weights relative to the number of samples; features are standardized."""

FEW = 0.01
"""Share of the labels that the probe ``probe_few`` uses."""


def probes(classes: int) -> dict[str, Callable[[], "RidgeProbe"]]:
    """Return what makes the probes of a task by their names: with all labels, and with 1 % of them."""
    shares = {"probe": 1.0, "probe_few": FEW}
    return {name: partial(RidgeProbe, classes, share, sync_on_compute=False) for name, share in shares.items()}


class RidgeProbe(Metric):
    """The accuracy of a ridge regression from features to one-hot classes.

    It keeps all features and labels; `compute` fits the regression on every second sample and scores it on the others.

    Args:
        classes: number of classes.
        share: share of the fitted half whose labels are used, at least one per class on average.

    Raises:
        RecipeError: if a value is out of range.

    Examples:
        >>> import torch
        >>> from gtn_lightning.probe import RidgeProbe
        >>> probe = RidgeProbe(classes=2)
        >>> probe.update(torch.tensor([[0.0], [0.1], [1.0], [0.9]]), torch.tensor([0, 0, 1, 1]))
        >>> float(probe.compute())
        1.0
    """

    full_state_update = False
    higher_is_better = True

    features: list[Tensor]
    labels: list[Tensor]

    def __init__(self, classes: int, share: float = 1.0, **kwargs: bool) -> None:
        super().__init__(**kwargs)
        if classes < 2:
            raise RecipeError(f"RidgeProbe: classes must be at least 2, got {classes}")
        if not 0 < share <= 1:
            raise RecipeError(f"RidgeProbe: share must be above 0 and at most 1, got {share}")
        self.classes = classes
        self.share = share
        self.add_state("features", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Keep features ``[B, ...]`` and classes ``[B]``."""
        self.features.append(features.detach().flatten(1).double())
        self.labels.append(labels)

    def compute(self) -> Tensor:
        """Return the accuracy on the half that was not fitted, a scalar."""
        features, labels = dim_zero_cat(self.features), dim_zero_cat(self.labels)
        fitted = features[::2]
        known = min(len(fitted), max(round(self.share * len(fitted)), self.classes))
        # Evenly spread, for a split may be sorted by class.
        rows_known = torch.linspace(0, len(fitted) - 1, known).round().long().to(fitted.device)
        fitted, targets = fitted[rows_known], F.one_hot(labels[::2][rows_known], self.classes).double()
        center, scale = fitted.mean(0), fitted.std(0, correction=0).clamp(min=1e-8)
        rows, mean = (fitted - center) / scale, targets.mean(0)
        gram = rows.T @ rows + RIDGE * known * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        weights = torch.linalg.solve(gram, rows.T @ (targets - mean))
        scores = (features[1::2] - center) / scale @ weights + mean
        return (scores.argmax(1) == labels[1::2]).double().mean()
