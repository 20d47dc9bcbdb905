"""The teacher file: a meta-trained teacher, its curriculum and learned rates, with the recipe to rebuild them.

It is a safetensors file. Its tensors are the module's state, its metadata holds the recipe as JSON. The recipe names
classes; `gtn_lightning.trust` decides which of them are allowed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gtn_lightning import trust as trusted
from gtn_lightning.description import build
from gtn_lightning.errors import RecipeError
from gtn_lightning.files import whole_file

FORMAT = "gtn-lightning teacher 4"
"""Value of the metadata key ``format``."""

DEPTH = 100
"""Maximum nesting depth of a recipe."""


class TeacherRecipe(NamedTuple):
    """The recipe in a teacher file."""

    model: dict[str, Any]
    """The arguments of ``GTN`` as plain data, see `describe`."""
    data: dict[str, Any] | None
    """Description of the data module of its meta-training, None if it cannot be described."""
    trust: list[str | type]
    """Allowed classes in addition to this package's."""
    own: bool
    """Whether this user wrote the file."""


def write_teacher(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    model: dict[str, Any],
    data: dict[str, Any] | None,
    meta_training: Mapping[str, float],
) -> None:
    """Write a teacher file; an existing file is replaced only when the new one is complete.

    Args:
        path: path of the file.
        tensors: the module's state.
        model: the module's description.
        data: description of the data module, so that the file alone suffices for ``gtn test``.
        meta_training: the cost of meta-training, see ``GTN.meta_training``.

    Raises:
        RecipeError: if the file cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    recipe = json.dumps({"model": model, "data": data}, allow_nan=False)
    _write(path, state, {"format": FORMAT, "recipe": recipe, "meta_training": json.dumps(dict(meta_training))})
    trusted.remember(recipe)


def record_meta_training(path: str | Path, spent: Mapping[str, float]) -> None:
    """Store the cost of the whole meta-training in a teacher file, which may be of an earlier meta-step.

    Args:
        path: the teacher file.
        spent: the cost, see ``GTN.meta_training``.

    Raises:
        RecipeError: if the file is not a teacher file or cannot be written.
    """
    tensors, metadata = _read(path)
    _write(path, tensors, {**metadata, "meta_training": json.dumps(dict(spent))})


def read_meta_training(path: str | Path) -> dict[str, float] | None:
    """Return the cost of meta-training in a teacher file, see ``GTN.meta_training``; None if the file has none.

    Raises:
        RecipeError: if the file does not exist or is not a teacher file.
    """
    text = _metadata(path).get("meta_training")
    if text is None:
        return None
    spent = _parsed(text, path, "meta_training")
    if not isinstance(spent, dict) or "seconds" not in spent or not all(map(_is_amount, spent.values())):
        raise RecipeError(f"{path} is damaged: its meta_training is not a mapping of amounts: use an undamaged file")
    return dict(spent)


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a teacher file."""
    metadata = _metadata(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return tensors, metadata


def _write(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    # Serialized in memory: safetensors' writer hides the system's error, and makes files that only the owner can read.
    with whole_file(Path(path)) as part:
        part.write_bytes(save(tensors, metadata))


def read_recipe(path: str | Path, trust: trusted.Trusted = ()) -> TeacherRecipe:
    """Check that all classes in a teacher file's recipe are allowed, and return the recipe.

    Args:
        path: the teacher file.
        trust: allowed classes in addition to this package's, or names of them or of their modules.

    Raises:
        RecipeError: if the file does not exist, is damaged, is not a teacher file, or names a class that is not
            allowed.
    """
    text = _metadata(path).get("recipe")
    recipe = _parsed(text, path, "recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("model"), dict):
        raise RecipeError(f"{path} is damaged: its recipe has no model: use an undamaged file")
    data = recipe.get("data")
    if not (data is None or isinstance(data, dict)):
        raise RecipeError(f"{path} is damaged: the data in its recipe is not a mapping: use an undamaged file")
    own = trusted.own_classes(str(text))
    trusted.look_in_working_folder([*own, *(name for name in trust if isinstance(name, str))])
    allowed = [*trust, *own]
    trusted.check(recipe, str(path), allowed)
    return TeacherRecipe(recipe["model"], data, allowed, bool(own))


def read_shapes(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a teacher file without their contents, on the device ``meta``.

    Raises:
        RecipeError: if the file does not exist or is not a teacher file.
    """
    _metadata(path)
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}


def _parsed(text: str | None, path: str | Path, name: str) -> Any:
    """Return an entry of the metadata as plain data, of at most ``DEPTH`` levels."""
    if text is None:
        raise RecipeError(f"{path} is damaged: its metadata has no {name}: use an undamaged file")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RecipeError(f"{path} is damaged: its {name} is not JSON ({reason}): use an undamaged file") from error
    level = [value]
    for _ in range(DEPTH):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise RecipeError(f"{path} is damaged: its {name} has more than {DEPTH} nested levels: use an undamaged file")


def _metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of a teacher file; see `read_recipe`."""
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
    if metadata.get("format") != FORMAT:
        raise RecipeError(
            f"{path}: expected a teacher file of this version, whose metadata has format {FORMAT!r}, got "
            f"{metadata.get('format')!r}: meta-train it again, or use the version that wrote it"
        )
    return dict(metadata)


def check_sizes(model: Mapping[str, Any], held: Mapping[str, Tensor], source: str, trust: trusted.Trusted) -> None:
    """Check that a description's tensors have the shapes of those in its file, before memory is allocated for them.

    Args:
        model: the description of a module.
        held: the tensors of the file, with or without contents.
        source: the file, for error messages.
        trust: allowed classes in addition to this package's.

    Raises:
        RecipeError: if a shape differs.
    """
    for part in ("teacher", "curriculum", "inner_optimizer"):
        with torch.device("meta"):
            try:
                state = build(model.get(part), trust).state_dict()
            except (RecipeError, AttributeError, TypeError) as error:
                if trusted.is_known(model.get(part)):
                    raise RecipeError(f"{source}: {part}: {' '.join(str(error).split())}") from error
                continue  # a user's class that reads values of tensors, which the device meta does not have
        for name, tensor in state.items():
            # `load_weights` reports tensors that only one of them has.
            shape = held[f"{part}.{name}"].shape if f"{part}.{name}" in held else None
            if shape is not None and shape != tensor.shape:
                raise RecipeError(
                    f"{source} belongs to another architecture: {part}.{name} is {list(shape)} in the file and "
                    f"{list(tensor.shape)} in the model: use the recipe of the file"
                )


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load a teacher file's tensors into a module of the same recipe.

    Raises:
        RecipeError: if the file is not a teacher file or was written for another architecture.
    """
    tensors, _ = _read(path)
    check_state(module.state_dict(), tensors, str(path))
    module.load_state_dict(tensors)


def check_state(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Check that tensors have a module's names, shapes and kinds of types, and are finite.

    Args:
        own: the module's state.
        tensors: the tensors of a file.
        source: the file, for error messages.

    Raises:
        RecipeError: if not; the message names the first difference.
    """
    for name in sorted(own.keys() | tensors.keys()):
        shapes = [list(state[name].shape) if name in state else "nothing" for state in (tensors, own)]
        if shapes[0] != shapes[1]:
            raise RecipeError(
                f"{source} belongs to another architecture: {name} is {shapes[0]} in the file and "
                f"{shapes[1]} in the model: use the recipe of the file"
            )
        tensor, expected = tensors[name], own[name].dtype
        if tensor.is_floating_point() != expected.is_floating_point or tensor.is_complex() != expected.is_complex:
            raise RecipeError(
                f"{source}: {name}: expected a tensor of {expected}, got {tensor.dtype}: use an undamaged file"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise RecipeError(f"{source}: {name}: expected finite numbers, got NaN or infinity: use an undamaged file")
