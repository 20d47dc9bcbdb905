"""Stratified choice of rows to hold back for validation or testing, the same in every run."""

import math

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.labels import class_numbers
from gtn_lightning.randomness import keyed_generator


def hold_back(labels: Tensor, size: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Choose rows to hold back at random, in proportion to the classes; the same rows in every run.

    Every class keeps at least one of its rows; other classes give more rows in its place.

    Args:
        labels: int64 ``[N]``, or class probabilities ``[N, classes]``, of which the most probable class counts.
        size: number of rows to hold back.
        purpose: seed of the choice; another purpose chooses other rows.

    Returns:
        the remaining rows and the rows held back, both ascending, int64.

    Raises:
        RecipeError: if ``size`` is negative, or above the number of rows that the classes can give.
    """
    counts = class_numbers(labels).bincount()
    most = (counts - 1).clamp(min=0)
    if not 0 <= size <= int(most.sum()):
        raise RecipeError(
            f"{size} of {len(labels)} images to hold back for {purpose}, expected 0 to {int(most.sum())}, so that "
            f"each of the {int((counts > 0).sum())} classes keeps one"
        )
    held_back = _stratified(labels, counts, size, torch.zeros_like(counts), most, purpose)
    return (~held_back).nonzero()[:, 0], held_back.nonzero()[:, 0]


def choose(labels: Tensor, size: int, purpose: str) -> Tensor:
    """Choose rows to use at random, in proportion to the classes and at least one per class; the same in every run.

    If there are more classes than rows to choose, the rarest classes get none.

    Args:
        labels: as for ``hold_back``.
        size: number of rows, at most ``N``.
        purpose: as for ``hold_back``.

    Returns:
        the chosen rows, ascending, int64.
    """
    counts = class_numbers(labels).bincount()
    least = counts.clamp(max=1)
    if int(least.sum()) > size:
        least = torch.zeros_like(counts)
    return _stratified(labels, counts, size, least, counts, purpose).nonzero()[:, 0]


def _stratified(labels: Tensor, counts: Tensor, size: int, least: Tensor, most: Tensor, purpose: str) -> Tensor:
    """Return a mask of ``size`` rows, in proportion to the classes within ``least`` and ``most``, bool ``[N]``."""
    labels = class_numbers(labels)
    shares = counts.double() * size / len(labels)
    chosen = shares.floor().long()
    # The remainder of rounding down goes to the classes with the largest fractions.
    chosen[(shares - chosen).argsort(descending=True, stable=True)[: size - int(chosen.sum())]] += 1
    chosen = chosen.clamp(least, most)
    # The bounds changed the sum: correct it at the classes that are furthest from their share.
    while missing := size - int(chosen.sum()):
        step = 1 if missing > 0 else -1
        free = chosen < most if missing > 0 else chosen > least
        order = ((shares - chosen) * step).masked_fill(~free, -math.inf).argsort(descending=True, stable=True)
        chosen[order[: min(abs(missing), int(free.sum()))]] += step
    order = torch.randperm(len(labels), generator=keyed_generator(0, "hold back", purpose))
    marked = torch.zeros(len(labels), dtype=torch.bool)
    for label, number in enumerate(chosen.tolist()):
        marked[order[labels[order] == label][:number]] = True
    return marked
