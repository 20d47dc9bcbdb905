"""The teacher file: a meta-trained teacher, its curriculum and learned rates, with the recipe to rebuild them.

It is a safetensors file. The tensors are the module's state; the metadata holds the recipe as JSON. Reading one
executes nothing from it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.files import whole_file
from gtn_lightning.inner_loop.optimizers import shifted

if TYPE_CHECKING:
    from gtn_lightning.module import GTN

FORMAT = "gtn-lightning teacher 2"
"""Value of the metadata key ``format``."""

EARLIER = ("gtn-lightning teacher 1",)
"""Formats that are read as well: inner hyperparameters without origins, recipes without kinds of values."""


def save_teacher(
    gtn: "GTN",
    path: str | Path,
    data: dict[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a teacher file; a file of that name is replaced only when the new one is complete.

    Args:
        gtn: the module.
        path: where to write.
        data: description of the data module, so that the file alone suffices for ``gtn test``.
        state: the module's tensors where they are others than it holds now.

    Raises:
        RecipeError: if a component does not store its constructor's arguments, or the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (state or gtn.state_dict()).items()}
    recipe = json.dumps({"model": gtn.description(), "data": data}, allow_nan=False)
    _write(path, tensors, {"format": FORMAT, "recipe": recipe, "meta_training": json.dumps(gtn.meta_training())})


def record_meta_training(path: str | Path, spent: Mapping[str, float]) -> None:
    """Put into a teacher file what the whole of its meta-training cost, of which it may have been the best moment.

    Args:
        path: the teacher file.
        spent: what ``GTN.meta_training`` returns.

    Raises:
        RecipeError: if the file is no teacher file or cannot be written.
    """
    tensors, metadata = _read(path)
    _write(path, tensors, {**metadata, "meta_training": json.dumps(dict(spent))})


def read_meta_training(path: str | Path) -> dict[str, float] | None:
    """Return what the meta-training of a teacher file cost, see ``GTN.meta_training``; None where the file is silent.

    Raises:
        RecipeError: if there is no such file or it is no teacher file.
    """
    spent = _metadata(path).get("meta_training")
    return None if spent is None else dict(json.loads(spent))


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of what is a teacher file."""
    metadata = _metadata(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return shifted(tensors, "optimizer."), {**metadata, "format": FORMAT}


def _write(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    try:
        with whole_file(Path(path)) as part:
            save_file(tensors, part, metadata)
    except SafetensorError as error:
        # The library wraps the system's error in its own.
        raise RecipeError(
            f"cannot write {path}: {error}; choose a folder that is writable and has space left"
        ) from error


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return the recipe in a teacher file: ``{"model": ..., "data": ...}``.

    Raises:
        RecipeError: if there is no such file or it is no teacher file.
    """
    recipe: dict[str, Any] = json.loads(_metadata(path)["recipe"])
    return recipe


def _metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of what is a teacher file; see `read_recipe`."""
    if not Path(path).is_file():
        raise RecipeError(
            f"there is no teacher file {path}: give the path of a teacher.safetensors that `gtn fit` wrote"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise RecipeError(
            f"{path} is not a complete safetensors file ({error}): expected a teacher.safetensors"
        ) from error
    if metadata.get("format") not in (FORMAT, *EARLIER):
        raise RecipeError(
            f"{path} is no teacher file of this version: its metadata has format "
            f"{metadata.get('format')!r}, expected {FORMAT!r}"
        )
    return dict(metadata)


def load_weights(gtn: "GTN", path: str | Path) -> None:
    """Load a teacher file's tensors into a module of the same recipe.

    Raises:
        RecipeError: if the file is no teacher file or was written for another architecture.
    """
    tensors, _ = _read(path)
    check_state(gtn, tensors, str(path))
    gtn.load_state_dict(tensors)


def check_state(gtn: "GTN", tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise ``RecipeError``, naming the first difference, unless the tensors belong to such a module."""
    own = gtn.state_dict()
    tensors = shifted(tensors, "optimizer.")
    for name in sorted(own.keys() | tensors.keys()):
        shapes = [list(state[name].shape) if name in state else "nothing" for state in (tensors, own)]
        if shapes[0] != shapes[1]:
            raise RecipeError(
                f"{source} belongs to another architecture: {name} is {shapes[0]} in the file and "
                f"{shapes[1]} in the model; use the recipe that it was made with"
            )
