"""Which rows of a data set are held back, of every class its share, and always the same ones."""

import math

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.labels import class_numbers
from gtn_lightning.randomness import keyed_generator


def hold_back(labels: Tensor, size: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Choose rows at random, as many of every class as is its share, and always the same ones.

    A class that has rows keeps at least one of them, however rare it is: what it cannot give, the others do.

    Args:
        labels: int64 ``[N]``, or class probabilities ``[N, classes]``, of which the most probable class counts.
        size: number of rows to hold back.
        purpose: which choice this is: another purpose chooses other rows.

    Returns:
        the rows that stay and those held back, both ascending, int64.

    Raises:
        RecipeError: if fewer rows can be held back.
    """
    counts = class_numbers(labels).bincount()
    most = (counts - 1).clamp(min=0)
    if not 0 <= size <= int(most.sum()):
        raise RecipeError(
            f"{size} of {len(labels)} images to hold back for {purpose}, expected 0 to {int(most.sum())}, so that "
            f"each of the {int((counts > 0).sum())} classes keeps one"
        )
    held = _stratified(labels, counts, size, torch.zeros_like(counts), most, purpose)
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def choose(labels: Tensor, size: int, purpose: str) -> Tensor:
    """Choose rows to use, as ``hold_back`` chooses those to hold back, at least one of every class that has any.

    Where there are more classes than rows to choose, the rarest go without.

    Args:
        labels: as for ``hold_back``.
        size: number of rows, at most ``N``.
        purpose: as for ``hold_back``.

    Returns:
        the rows, ascending, int64.
    """
    counts = class_numbers(labels).bincount()
    least = counts.clamp(max=1)
    if int(least.sum()) > size:
        least = torch.zeros_like(counts)
    return _stratified(labels, counts, size, least, counts, purpose).nonzero()[:, 0]


def _stratified(labels: Tensor, counts: Tensor, size: int, least: Tensor, most: Tensor, purpose: str) -> Tensor:
    """Mark ``size`` rows, of every class its share of them as far as ``least`` and ``most`` allow, bool ``[N]``."""
    labels = class_numbers(labels)
    shares = counts.double() * size / len(labels)
    chosen = shares.floor().long()
    # What rounding down left over goes to the classes that lost most by it.
    chosen[(shares - chosen).argsort(descending=True, stable=True)[: size - int(chosen.sum())]] += 1
    chosen = chosen.clamp(least, most)
    # And what a class cannot give, or must have, to and from those that are furthest from their share.
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
