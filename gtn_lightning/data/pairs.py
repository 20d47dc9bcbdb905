"""What loaders of any data module have to hand over: pairs of inputs and targets, as the learners see them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import CombinedLoader

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "inputs", "x")
LABEL_KEYS = ("label", "labels", "fine_label", "targets", "target", "y")


def only_loader(loaders: Any, split: str, structured: bool = False) -> Any:
    """Return the one loader of a split, or None where there is none.

    Args:
        loaders: what a trainer or a data module has for the split.
        split: what the split is called, in words for an error.
        structured: whether Lightning makes batches in the form of a collection of loaders, as it does in training.

    Raises:
        RecipeError: if there are several.
    """
    if structured and isinstance(loaders, CombinedLoader | Mapping | list | tuple):
        raise RecipeError(
            f"the {split} loader is a {type(loaders).__name__}, expected a DataLoader: give one alone, not in a list, "
            "and join several data sets, for instance with torch.utils.data.ConcatDataset"
        )
    if isinstance(loaders, CombinedLoader):
        loaders = loaders.iterables
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        if len(loaders) > 1:
            raise RecipeError(
                f"there are {len(loaders)} {split} loaders, expected one: join their data sets, for instance with "
                "torch.utils.data.ConcatDataset"
            )
        return loaders[0] if loaders else None
    return loaders


def batches_of(loader: Any, split: str) -> Iterator[Any]:
    """Yield a loader's batches.

    Args:
        loader: the loader.
        split: what the split is called, in words for an error.

    Raises:
        RecipeError: if there is none, or its images cannot be put together.
    """
    found = False
    try:
        for batch in loader:
            found = True
            yield batch
    except (TypeError, RuntimeError) as error:
        text = str(error)
        if "default_collate" in text:
            kind = text.rpartition("<class '")[2].partition("'")[0]
            raise RecipeError(
                f"the {split} loader cannot make a batch of what its data set returns ({kind}): return each image as "
                "a tensor, for instance with torchvision's ToTensor, or pass the DataLoader a collate_fn"
            ) from error
        if "stack expects each tensor to be equal size" in text:
            raise RecipeError(
                f"the {split} loader cannot make a batch of images of several sizes: resize or crop them to one size "
                "in the data set"
            ) from error
        raise
    if not found:
        raise RecipeError(
            f"the {split} loader has no batch: give it a data set that is not empty, and with drop_last a batch_size "
            "of at most its number of images"
        )


def check_pair(batch: Any, shape: Sequence[int] | None, where: str) -> tuple[Tensor, Tensor]:
    """Return a batch as inputs and targets.

    Args:
        batch: what a loader made, after the data module's hooks.
        shape: shape of one input as the teacher makes it, for images ``(channels, height, width)``; None for any.
        where: which data this is, in words for an error.

    Raises:
        RecipeError: if it is anything but a pair, of inputs ``[B, *shape]`` of the type that learners compute in,
            torch's default, and a tensor of targets.
    """
    names = ("images", "labels") if shape is None or len(shape) == 3 else ("inputs", "targets")
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise RecipeError(
            f"{where} has batches that are {_described(batch)}, expected a pair of tensors ({', '.join(names)}): "
            f"{_advice_on_batch(batch)}"
        )
    for name, part in zip(names, batch, strict=True):
        if not isinstance(part, Tensor):
            raise RecipeError(
                f"{where} has {name} that are {_described(part)}, expected a tensor: convert them to one tensor in the "
                "data set or in the DataLoader's collate_fn"
            )
    inputs, targets = batch
    _check_inputs(inputs, None if shape is None else tuple(shape), names[0], where)
    return inputs, targets


def has_length(loader: Any) -> bool:
    """Return whether it is known how many batches a loader has: a stream does not say."""
    try:
        len(loader)
    except (TypeError, NotImplementedError):
        return False
    return True


def check_finite(inputs: Tensor, where: str) -> None:
    """Raise ``RecipeError`` if inputs have values that no learner can learn from."""
    if not inputs.isfinite().all():
        wrong = int((~inputs.isfinite()).flatten(1).any(dim=1).sum())
        what = "images" if inputs.dim() == 4 else "inputs"
        raise RecipeError(
            f"{where} has {what} with NaN or infinity, {wrong} of {len(inputs)} that were looked at: leave them out, "
            "or correct them or how they are normalized"
        )


def _check_inputs(inputs: Tensor, wanted: tuple[int, ...] | None, what: str, where: str) -> None:
    dtype, expected = (str(each).removeprefix("torch.") for each in (inputs.dtype, torch.get_default_dtype()))
    if dtype != expected:
        convert = f".to(torch.{expected})" if expected != "float32" else ".float()"
        if not inputs.is_floating_point():
            convert += ", and normalize them, for instance with / 255"
        raise RecipeError(
            f"{where} has {what} that are {dtype}, expected {expected}, in which the learners compute: convert them "
            f"with {convert}"
        )
    shape = tuple(inputs.shape[1:])
    if wanted is None or shape == wanted:
        if not len(inputs):
            raise RecipeError(f"{where} has a batch without {what}: leave empty batches out")
        return
    raise RecipeError(
        f"{where}'s {what} have shape {list(shape)} but model.teacher makes {list(wanted)}: "
        f"{_advice_on_shape(shape, wanted)}"
    )


def _advice_on_shape(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if len(wanted) != 3:
        return "set the task's shape, and with it the teacher's and the learners', to the data's"
    channels, height, width = wanted
    if shape == (height, width, channels):
        return "put the channels first with .permute(0, 3, 1, 2)"
    if shape == (height, width) and channels == 1:
        return "add the channel with .unsqueeze(1)"
    if shape and shape[0] * (len(shape) == 1) == channels * height * width:
        return f"bring them into shape with .view(-1, {channels}, {height}, {width})"
    return "set the teacher's and the learners' image_shape to the data's"


def _described(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"a single tensor of shape {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {kind} with the keys {', '.join(map(repr, value))}"
    if isinstance(value, list | tuple):
        return f"a {kind} of {len(value)}"
    return f"a {kind}"


def _advice_on_batch(batch: Any) -> str:
    if isinstance(batch, Mapping):
        image, label = (next((key for key in keys if key in batch), None) for keys in (IMAGE_KEYS, LABEL_KEYS))
        what = "the image and its label" if image is None or label is None else f"(row[{image!r}], row[{label!r}])"
        return f"return {what} from the data set, or pass the DataLoader a collate_fn that returns a pair"
    if isinstance(batch, Tensor):
        return "return each image with its label from the data set"
    if isinstance(batch, list | tuple) and len(batch) == 1:
        return "give the loader itself, not a list, and return each image with its label from the data set"
    return "return nothing else from the data set, or pass the DataLoader a collate_fn that leaves the rest out"
