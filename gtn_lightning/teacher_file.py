"""The teacher file: a meta-trained teacher, its curriculum and learned rates, with the recipe to rebuild them.

It is a safetensors file. The tensors are the module's state; the metadata holds the recipe as JSON. The recipe names
classes; which of them are allowed says `gtn_lightning.trust`.
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
"""The deepest nesting of a recipe that is read."""


class TeacherRecipe(NamedTuple):
    """What a teacher file says of the module that it belongs to."""

    model: dict[str, Any]
    """The arguments of ``GTN`` as plain data, see `describe`."""
    data: dict[str, Any] | None
    """The data module that it was meta-trained on, if it can be described."""
    trust: list[str | type]
    """The classes beside this package's that may be built."""
    own: bool
    """Whether this user wrote the file."""


def write_teacher(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    model: dict[str, Any],
    data: dict[str, Any] | None,
    meta_training: Mapping[str, float],
) -> None:
    """Write a teacher file; a file of that name is replaced only when the new one is complete.

    Args:
        path: where to write.
        tensors: the module's state.
        model: the module's description.
        data: description of the data module, so that the file alone suffices for ``gtn test``.
        meta_training: what meta-training cost.

    Raises:
        RecipeError: if the file cannot be written.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    recipe = json.dumps({"model": model, "data": data}, allow_nan=False)
    _write(path, kept, {"format": FORMAT, "recipe": recipe, "meta_training": json.dumps(dict(meta_training))})
    trusted.remember(recipe)


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
    text = _metadata(path).get("meta_training")
    if text is None:
        return None
    spent = _parsed(text, path, "meta_training")
    if not isinstance(spent, dict) or "seconds" not in spent or not all(map(_is_amount, spent.values())):
        raise RecipeError(f"{path} is damaged: its meta_training is no mapping of amounts: take a whole teacher file")
    return dict(spent)


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of what is a teacher file."""
    metadata = _metadata(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return tensors, metadata


def _write(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    # Serialized in memory: the library's own writer hides the system's reason when it fails, and lets nobody else read.
    with whole_file(Path(path)) as part:
        part.write_bytes(save(tensors, metadata))


def read_recipe(path: str | Path, trust: trusted.Trusted = ()) -> TeacherRecipe:
    """Return the recipe in a teacher file, once all classes that it names are known to be allowed.

    Args:
        path: the teacher file.
        trust: classes beside this package's that may be built, or names of them or of their modules.

    Raises:
        RecipeError: if there is no such file, it is damaged or no teacher file, or it names a class that is not
            allowed.
    """
    text = _metadata(path).get("recipe")
    recipe = _parsed(text, path, "recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("model"), dict):
        raise RecipeError(f"{path}: the recipe in the file has no model: take a whole file")
    data = recipe.get("data")
    if not (data is None or isinstance(data, dict)):
        raise RecipeError(f"{path}: the data in the file's recipe is no mapping: take a whole file")
    own = trusted.own_classes(str(text))
    trusted.look_in_working_folder([*own, *(name for name in trust if isinstance(name, str))])
    allowed = [*trust, *own]
    trusted.check(recipe, str(path), allowed)
    return TeacherRecipe(recipe["model"], data, allowed, bool(own))


def read_shapes(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a teacher file without their contents, on the device ``meta``.

    Raises:
        RecipeError: if there is no such file or it is no teacher file.
    """
    _metadata(path)
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}


def _parsed(text: str | None, path: str | Path, name: str) -> Any:
    """Return an entry of the metadata as plain data of a bounded depth."""
    if text is None:
        raise RecipeError(f"{path} is damaged: its metadata has no {name}: take a whole teacher file")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RecipeError(f"{path} is damaged: its {name} is no JSON ({reason}): take a whole teacher file") from error
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
    raise RecipeError(f"{path} is damaged: its {name} is nested more than {DEPTH} levels deep: take a whole file")


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
    if metadata.get("format") != FORMAT:
        raise RecipeError(
            f"{path}: expected a teacher file of this version, whose metadata has format {FORMAT!r}, got "
            f"{metadata.get('format')!r}: meta-train it again, or use the version that wrote it"
        )
    return dict(metadata)


def check_sizes(model: Mapping[str, Any], held: Mapping[str, Tensor], source: str, trust: trusted.Trusted) -> None:
    """See that a description makes no larger tensors than its file holds, before any memory is taken.

    Args:
        model: the description of a module.
        held: the tensors of the file, with or without contents.
        source: what errors call the file.
        trust: the classes beside this package's that may be built.

    Raises:
        RecipeError: if it is another architecture's.
    """
    for part in ("teacher", "curriculum", "inner_optimizer"):
        with torch.device("meta"):
            try:
                state = build(model.get(part), trust).state_dict()
            except (RecipeError, AttributeError, TypeError) as error:
                if trusted.is_known(model.get(part)):
                    raise RecipeError(f"{source}: {part}: {' '.join(str(error).split())}") from error
                continue  # a class of the user's own that looks at values: it is built as it is
        for name, tensor in state.items():
            # What is in the one only is said by `load_weights`.
            shape = held[f"{part}.{name}"].shape if f"{part}.{name}" in held else None
            if shape is not None and shape != tensor.shape:
                raise RecipeError(
                    f"{source} belongs to another architecture: {part}.{name} is {list(shape)} in the file and "
                    f"{list(tensor.shape)} in the model; use the recipe that it was made with"
                )


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load a teacher file's tensors into a module of the same recipe.

    Raises:
        RecipeError: if the file is no teacher file or was written for another architecture.
    """
    tensors, _ = _read(path)
    check_state(module.state_dict(), tensors, str(path))
    module.load_state_dict(tensors)


def check_state(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """See that tensors are such as a module holds.

    Args:
        own: the module's state.
        tensors: the tensors of a file.
        source: what errors call the file.

    Raises:
        RecipeError: if they are not, naming the first difference.
    """
    for name in sorted(own.keys() | tensors.keys()):
        shapes = [list(state[name].shape) if name in state else "nothing" for state in (tensors, own)]
        if shapes[0] != shapes[1]:
            raise RecipeError(
                f"{source} belongs to another architecture: {name} is {shapes[0]} in the file and "
                f"{shapes[1]} in the model; use the recipe that it was made with"
            )
        given, expected = tensors[name], own[name].dtype
        if given.is_floating_point() != expected.is_floating_point or given.is_complex() != expected.is_complex:
            raise RecipeError(
                f"{source}: {name}: expected a tensor of {expected}, got {given.dtype}: take a whole file"
            )
        if given.is_floating_point() and not given.isfinite().all():
            raise RecipeError(f"{source}: {name}: expected finite numbers, got others: take a whole file")
