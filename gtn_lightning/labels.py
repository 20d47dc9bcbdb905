"""Labels of images: classes, or class probabilities such as one-hot, soft, smoothed and mixed labels."""

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError

ROUNDING = 0.01
"""Tolerance of the sum of an image's probabilities, a little above the rounding error of bfloat16."""


def class_numbers(labels: Tensor) -> Tensor:
    """Return the class of every image, int64 ``[N]``; for probabilities, the most probable class.

    Args:
        labels: int64 ``[N]``, or class probabilities, float ``[N, classes]``.
    """
    return labels.argmax(dim=1) if labels.dim() == 2 else labels


def check_labels(images: Tensor, labels: Tensor, classes: int, where: str = "the data") -> None:
    """Raise ``RecipeError`` unless labels are class numbers or class probabilities, one for every image.

    Args:
        images: ``[N, ...]``.
        labels: the labels to check.
        classes: number of classes.
        where: name of the data, for error messages.
    """
    count, actual = len(images), f"{_name(labels)} {list(labels.shape)}"
    expected = f"expected classes, int64 [{count}], or class probabilities, float [{count}, {classes}]"
    if labels.dim() == 0 or len(labels) != count:
        raise RecipeError(f"{where} has labels that are {actual} for {count} images, {expected}: use one per image")
    floating = labels.is_floating_point()
    if labels.dim() == 2 and labels.shape[1] == 1:
        advice = (
            "remove the last dimension with .squeeze(1)"
            if labels.dtype == torch.int64
            else "convert them with .squeeze(1).long()"
        )
    elif labels.dim() == 2 and floating and labels.shape[1] != classes:
        raise RecipeError(
            f"{where} has labels that are {actual}, probabilities of {labels.shape[1]} classes, but task.classes is "
            f"{classes}: set classes to {labels.shape[1]} or correct the data"
        )
    elif labels.dim() == 2 and not floating and labels.shape[1] == classes:
        advice = "convert one-hot labels with .float(), or to classes with .argmax(1)"
    elif labels.dim() == 1 and labels.dtype != torch.int64:
        advice = "convert them with .long()"
    elif labels.dim() > 2 or (labels.dim() == 2 and not floating):
        advice = "use one class per image"
    else:
        _check_values(labels, classes, where)
        return
    raise RecipeError(f"{where} has labels that are {actual}, {expected}: {advice}")


def _check_values(labels: Tensor, classes: int, where: str) -> None:
    if labels.dim() == 2:
        sums = labels.float().sum(dim=1)
        wrong = ~((labels >= 0).all(dim=1) & ((sums - 1).abs() <= ROUNDING))  # NaN is wrong too
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise RecipeError(
                f"{where} has labels that are no class probabilities, such as {_shown(labels[row])}, expected numbers "
                "of at least 0 with sum 1: divide each row by its sum, or use class numbers"
            )
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        advice = "leave out images without a class" if low < 0 else f"set classes to {high + 1} or correct the data"
        raise RecipeError(
            f"{where} has labels from {low} to {high} but task.classes is {classes}, "
            f"expected labels 0 to {classes - 1}: {advice}"
        )


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shown(row: Tensor) -> str:
    values = [f"{value:.3g}" for value in row[:5].tolist()]
    return f"[{', '.join(values)}{', ...' if len(row) > 5 else ''}]"
