"""Checks of the loaders of any data module: their batches must be inputs alone, or inputs, targets and so on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import CombinedLoader

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "inputs", "x")
LABEL_KEYS = ("label", "labels", "fine_label", "targets", "target", "y")


def only_loader(loaders: Any, split: str, structured: bool = False) -> Any:
    """Return the only loader of a split, or None if there is no loader.

    Args:
        loaders: the loaders of a trainer or a data module for the split.
        split: name of the split, for error messages.
        structured: whether Lightning would return a batch per loader of a collection, as it does in training.

    Raises:
        RecipeError: if there are several.
    """
    if structured and isinstance(loaders, CombinedLoader | Mapping | list | tuple):
        raise RecipeError(
            f"the {split} loader is a {type(loaders).__name__}, expected a DataLoader: return one DataLoader, not in a "
            "list, and join several data sets, for instance with torch.utils.data.ConcatDataset"
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
        split: name of the split, for error messages.

    Raises:
        RecipeError: if there is no batch, or its samples cannot be collated.
    """
    empty = True
    try:
        for batch in loader:
            empty = False
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
    if empty:
        raise RecipeError(
            f"the {split} loader has no batch: give it a data set that is not empty, and with drop_last a batch_size "
            "of at most its number of images"
        )


def check_pair(batch: Any, shape: Sequence[int] | None, where: str) -> tuple[Tensor, Tensor]:
    """Check that a batch is a pair of inputs and targets, and return it.

    Args:
        batch: a loader's batch, after the data module's hooks.
        shape: shape of one input of the teacher, for images ``(channels, height, width)``; None for any.
        where: name of the data, for error messages.

    Raises:
        RecipeError: if the batch is not a pair of inputs ``[B, *shape]``, of torch's default type, and a tensor of
            targets.
    """
    names = ("images", "labels") if shape is None or len(shape) == 3 else ("inputs", "targets")
    inputs, targets = _tensors(batch, names, where)
    _check_inputs(inputs, None if shape is None else tuple(shape), names[0], where)
    return inputs, targets


def check_tensors(batch: Any, names: Sequence[str], shape: Sequence[int] | None, where: str) -> tuple[Tensor, ...]:
    """Check that a batch has a tensor for each of several names, inputs first, and return it.

    Args:
        batch: a loader's batch, after the data module's hooks.
        names: names of the tensors, for error messages.
        shape, where: as for `check_pair`.

    Raises:
        RecipeError: if it has not, or the inputs are not ``[B, *shape]`` of torch's default type.
    """
    tensors = _tensors(batch, names, where)
    _check_inputs(tensors[0], None if shape is None else tuple(shape), names[0], where)
    return tensors


def _tensors(batch: Any, names: Sequence[str], where: str) -> tuple[Tensor, ...]:
    if not isinstance(batch, list | tuple) or len(batch) != len(names):
        expected = "a pair of tensors" if len(names) == 2 else f"{len(names)} tensors"
        raise RecipeError(
            f"{where} has batches that are {_described(batch)}, expected {expected} ({', '.join(names)}): "
            f"{_advice_on_batch(batch)}"
        )
    for name, part in zip(names, batch, strict=True):
        if not isinstance(part, Tensor):
            raise RecipeError(
                f"{where} has {name} that are {_described(part)}, expected a tensor: convert them to one tensor in the "
                "data set or in the DataLoader's collate_fn"
            )
    return tuple(batch)


def check_inputs(batch: Any, shape: Sequence[int] | None, where: str) -> tuple[Tensor]:
    """Check that a batch has inputs, and return them; what else it has, such as labels, is left out.

    Args:
        batch: a loader's batch, after the data module's hooks: a tensor, or a sequence that begins with one.
        shape, where: as for `check_pair`.

    Raises:
        RecipeError: if there are no inputs ``[B, *shape]`` of torch's default type.
    """
    inputs = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(inputs, Tensor):
        raise RecipeError(
            f"{where} has batches that are {_described(batch)}, expected a tensor of inputs, or a list that begins "
            "with it: return it from the data set, or pass the DataLoader a collate_fn"
        )
    _check_inputs(inputs, None if shape is None else tuple(shape), "inputs", where)
    return (inputs,)


def has_length(loader: Any) -> bool:
    """Return whether a loader has a length, which a stream does not."""
    try:
        len(loader)
    except (TypeError, NotImplementedError):
        return False
    return True


def check_finite(inputs: Tensor, where: str) -> None:
    """Raise ``RecipeError`` if inputs contain NaN or infinity."""
    if not inputs.isfinite().all():
        wrong = int((~inputs.isfinite()).flatten(1).any(dim=1).sum())
        noun = "images" if inputs.dim() == 4 else "inputs"
        raise RecipeError(
            f"{where} has {noun} with NaN or infinity, {wrong} of {len(inputs)} that were checked: leave them out, or "
            "correct them or their normalization"
        )


def _check_inputs(inputs: Tensor, expected_shape: tuple[int, ...] | None, noun: str, where: str) -> None:
    dtype, expected = (str(each).removeprefix("torch.") for each in (inputs.dtype, torch.get_default_dtype()))
    if dtype != expected:
        convert = f".to(torch.{expected})" if expected != "float32" else ".float()"
        if not inputs.is_floating_point():
            convert += ", and normalize them, for instance with / 255"
        raise RecipeError(
            f"{where} has {noun} that are {dtype}, expected {expected}, the type of the learners: convert them with "
            f"{convert}"
        )
    shape = tuple(inputs.shape[1:])
    if expected_shape is None or shape == expected_shape:
        if not len(inputs):
            raise RecipeError(f"{where} has a batch without {noun}: leave empty batches out")
        return
    raise RecipeError(
        f"{where}'s {noun} have shape {list(shape)} but model.teacher makes {list(expected_shape)}: "
        f"{_advice_on_shape(shape, expected_shape)}"
    )


def _advice_on_shape(shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if len(expected) != 3:
        return "set the task's shape, and with it the teacher's and the learners', to the data's"
    channels, height, width = expected
    if shape == (height, width, channels):
        return "put the channels first with .permute(0, 3, 1, 2)"
    if shape == (height, width) and channels == 1:
        return "add the channel with .unsqueeze(1)"
    if shape and shape[0] * (len(shape) == 1) == channels * height * width:
        return f"reshape them with .view(-1, {channels}, {height}, {width})"
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
        pair = "the image and its label" if image is None or label is None else f"(row[{image!r}], row[{label!r}])"
        return f"return {pair} from the data set, or pass the DataLoader a collate_fn that returns a pair"
    if isinstance(batch, Tensor):
        return "return each image with its label from the data set"
    if isinstance(batch, list | tuple) and len(batch) == 1:
        return "return the loader itself, not a list, and return each image with its label from the data set"
    return "return nothing else from the data set, or pass the DataLoader a collate_fn that leaves the rest out"
