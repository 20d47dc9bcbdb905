"""The file of synthetic data: batches in order, learned rates, and a card that says how to train on them.

It is a safetensors file without any code. `gtn_lightning.replay` trains on it with torch and safetensors alone.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gtn_lightning.data.whitening import whitening_of
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import checksum
from gtn_lightning.files import whole_file
from gtn_lightning.replay import LOSSES

FORMAT = "gtn-lightning synthetic data 2"
"""Value of the metadata key ``format``."""

OPTIMIZERS = {"SGD": ("lr", "momentum"), "Adam": ("lr", "beta1", "beta2", "eps"), "LARS": ("lr", "momentum", "eps")}
"""Inner optimizers that `gtn_lightning.replay` knows, and the hyperparameters that it needs."""

CARD_LIMIT = 1_000_000
"""Maximum length of a card in characters."""


CLASS_LIMIT = 1_000_000
"""Maximum number of classes, so that a card cannot ask for a network of any size."""


@dataclass(frozen=True)
class Card:
    """What a file of synthetic data says of itself. All values are plain data."""

    fields: list[str]
    """The tensors that a network takes and its loss compares with, such as ``inputs`` and ``targets``."""
    loss: str
    """The inner loss: ``cross_entropy`` or ``mse_loss`` of ``torch.nn.functional``."""
    optimizer: dict[str, Any]
    """``name``; ``hyperparameters``, the names of their tensors, one value per step; ``nesterov``."""
    description: dict[str, str] = field(default_factory=dict)
    """What each tensor is, with its shape."""
    task: dict[str, Any] = field(default_factory=dict)
    """The task's class and arguments."""
    learners: dict[str, Any] = field(default_factory=dict)
    """The distribution of learners that the data was made with: class and arguments."""
    data: dict[str, Any] | None = None
    """The data module of the real data, class and arguments; None if it cannot be described."""
    real: dict[str, Any] = field(default_factory=dict)
    """The real data: ``source``, ``license``, and ``class_names`` and ``columns`` where it has them."""
    made: dict[str, Any] = field(default_factory=dict)
    """``date``, ``version``, ``torch``, ``seed``, and the cost of meta-training: ``seconds``, ``meta_steps``,
    ``processes``."""
    scores: dict[str, Any] = field(default_factory=dict)
    """What never-seen networks reach, see `gtn_lightning.distilled.scores`; empty if it was not measured."""
    checksum: str = ""
    """SHA-256 of the tensors: names, types, shapes and values."""


@dataclass(frozen=True)
class DistilledSet:
    """Synthetic data and how to train on it.

    Example:
        >>> data = read_distilled("synthetic.safetensors")  # doctest: +SKIP
        >>> data.steps, data.batch_size  # doctest: +SKIP
        (10, 32)
    """

    tensors: dict[str, Tensor]
    """Fields ``[T, B, ...]``, hyperparameters ``[T]``, ``normalize_center`` and ``normalize_scale``, and with whitening
    ``whiten_center`` and ``whiten_matrix``."""
    card: Card

    @property
    def steps(self) -> int:
        """Number of inner steps, T."""
        return len(self.inputs)

    @property
    def batch_size(self) -> int:
        """Samples per step, B."""
        return self.inputs.shape[1]

    @property
    def samples(self) -> int:
        """Number of different samples; few samples are gone through several times in ``T * B``."""
        return len(self.inputs.flatten(0, 1).flatten(1).unique(dim=0))

    @property
    def inputs(self) -> Tensor:
        """What a network takes, ``[T, B, ...]``."""
        return self.tensors[self.card.fields[0]]

    @property
    def targets(self) -> Tensor:
        """What the loss compares with: classes ``[T, B]``, probabilities ``[T, B, classes]``, or numbers."""
        return self.tensors[self.card.fields[1]]

    @property
    def classes(self) -> int | None:
        """Number of classes; None if the loss is no cross-entropy."""
        if self.card.loss != "cross_entropy":
            return None
        known = self.card.task.get("init_args", {}).get("classes")
        soft = self.targets.shape[2] if self.targets.ndim > 2 else None
        return int(known or soft or int(self.targets.max()) + 1)

    def prepare(self, raw: Tensor) -> Tensor:
        """Return raw data as a network's inputs: ``(raw - center) / scale``, whitened; unchanged without normalization.

        Raw data is ``[..., *shape of an input]``.
        """
        if "normalize_center" not in self.tensors:
            return raw.float()
        inputs = (raw.float() - self.tensors["normalize_center"]) / self.tensors["normalize_scale"]
        whitening = whitening_of(self.tensors)
        return inputs if whitening is None else whitening.apply(inputs)

    def raw(self, inputs: Tensor) -> Tensor:
        """Return a network's inputs as raw data, the inverse of `prepare`."""
        if "normalize_center" not in self.tensors:
            return inputs
        if (whitening := whitening_of(self.tensors)) is not None:
            inputs = whitening.invert(inputs)
        return inputs * self.tensors["normalize_scale"] + self.tensors["normalize_center"]

    def with_scores(self, scores: Mapping[str, Any]) -> "DistilledSet":
        """Return the set with other scores in its card."""
        return replace(self, card=replace(self.card, scores=dict(scores)))


def write_distilled(path: str | Path, data: DistilledSet) -> None:
    """Write a file; an existing file is replaced only when the new one is complete.

    Args:
        path: path of the file.
        data: the synthetic data; its card's checksum is computed here.

    Raises:
        RecipeError: if the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in data.tensors.items()}
    card = replace(data.card, checksum=checksum(tensors))
    metadata = {"format": FORMAT, "card": json.dumps(asdict(card), allow_nan=False)}
    # Serialized in memory: safetensors' writer hides the system's error.
    with whole_file(Path(path)) as part:
        part.write_bytes(save(tensors, metadata))


def read_distilled(path: str | Path) -> DistilledSet:
    """Read a file of synthetic data and check it. No code of the file is run, and no class of it is made.

    Args:
        path: a file that ``gtn predict`` or ``gtn distil`` wrote.

    Raises:
        RecipeError: if it does not exist, is no such file, or is damaged.
    """
    if not Path(path).is_file():
        raise RecipeError(f"{path}: there is no such file: give the path of a synthetic.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise RecipeError(
                    f"{path}: expected a file of synthetic data, whose metadata has format {FORMAT!r}, got "
                    f"{metadata.get('format')!r}: write it with `gtn predict --teacher FILE`"
                )
            card = _card(metadata.get("card"), path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise RecipeError(
            f"{path} is not a complete safetensors file ({error}): expected a synthetic.safetensors"
        ) from error
    _check(tensors, card, path)
    return DistilledSet(tensors, card)


def _card(text: str | None, path: str | Path) -> Card:
    damaged = f"{path} is damaged: its card"
    if text is None or len(text) > CARD_LIMIT:
        raise RecipeError(f"{damaged} is missing or too long: use an undamaged file")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{damaged} is not JSON: use an undamaged file") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{damaged} is not a mapping: use an undamaged file")
    kinds = {each.name: each.type for each in fields(Card)}
    if unknown := [name for name in content if name not in kinds]:
        raise RecipeError(f"{damaged} has the unknown entry {unknown[0]!r}: use the version that wrote it")
    for name in ("fields", "loss", "optimizer"):
        if name not in content:
            raise RecipeError(f"{damaged} has no {name}: use an undamaged file")
    for name, value in content.items():
        kind: Any = {"fields": list, "loss": str, "checksum": str, "data": dict | None}.get(name, dict)
        if not isinstance(value, kind):
            raise RecipeError(f"{damaged} has {name} of another kind: use an undamaged file")
    card = Card(**content)
    if len(card.fields) != 2 or not all(isinstance(name, str) for name in card.fields):
        raise RecipeError(f"{damaged} must name two fields, got {card.fields}: use an undamaged file")
    if card.loss not in LOSSES:
        raise RecipeError(f"{path}: loss must be one of {', '.join(LOSSES)}, got {card.loss!r}")
    how = card.optimizer
    if how.get("name") not in OPTIMIZERS or not isinstance(how.get("hyperparameters"), list):
        raise RecipeError(f"{path}: optimizer must be one of {', '.join(OPTIMIZERS)}, got {how.get('name')!r}")
    names = how["hyperparameters"]
    if not all(isinstance(name, str) for name in names) or not isinstance(how.get("nesterov"), bool):
        raise RecipeError(f"{damaged} has optimizer of another kind: use an undamaged file")
    if missing := [name for name in OPTIMIZERS[how["name"]] if name not in names]:
        raise RecipeError(f"{damaged} has no {missing[0]} of {how['name']}: use an undamaged file")
    for name, part in (("task", card.task), ("data", card.data or {})):
        if not isinstance(part.get("init_args", {}), dict):
            raise RecipeError(f"{damaged} has {name} of another kind: use an undamaged file")
    if not isinstance(card.task.get("init_args", {}).get("classes"), int | None):
        raise RecipeError(f"{damaged} has classes of another kind: use an undamaged file")
    return card


def _check(tensors: Mapping[str, Tensor], card: Card, path: str | Path) -> None:
    names = [*card.fields, *card.optimizer["hyperparameters"]]
    if missing := [name for name in names if name not in tensors]:
        raise RecipeError(f"{path} is damaged: it has no tensor {missing[0]!r}: use an undamaged file")
    inputs, targets = (tensors[name] for name in card.fields)
    if inputs.ndim < 2 or targets.ndim < 2 or inputs.shape[:2] != targets.shape[:2] or not inputs.numel():
        raise RecipeError(
            f"{path} is damaged: {card.fields[0]} and {card.fields[1]} must be [T, B, ...], got {list(inputs.shape)} "
            f"and {list(targets.shape)}: use an undamaged file"
        )
    if not inputs.is_floating_point():
        raise RecipeError(
            f"{path} is damaged: {card.fields[0]} must be float, got {inputs.dtype}: use an undamaged file"
        )
    _check_targets(targets, DistilledSet(dict(tensors), card), path)
    shape, size = inputs.shape[2:], inputs[0, 0].numel()
    center = tensors.get("whiten_center", inputs[0, 0])
    if tensors.get("whiten_matrix", inputs.new_empty(size, size)).shape != (size, size) or (
        ("whiten_center" in tensors) != ("whiten_matrix" in tensors) or center.shape != shape
    ):
        raise RecipeError(
            f"{path} is damaged: whiten_center and whiten_matrix must be {list(shape)} and [{size}, {size}], both or "
            "neither: use an undamaged file"
        )
    try:
        fits = DistilledSet(dict(tensors), card).prepare(inputs[0, :1]).shape == inputs[0, :1].shape
    except (RuntimeError, KeyError):
        fits = False
    if not fits:
        raise RecipeError(
            f"{path} is damaged: normalize_center and normalize_scale do not fit {card.fields[0]}: use an undamaged "
            "file"
        )
    for name in card.optimizer["hyperparameters"]:
        if tensors[name].shape != (len(inputs),):
            raise RecipeError(
                f"{path} is damaged: {name} must have one value for each of {len(inputs)} steps, got "
                f"{list(tensors[name].shape)}: use an undamaged file"
            )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise RecipeError(f"{path} is damaged: {name} has values that are not finite: use an undamaged file")
    if checksum(tensors) != card.checksum:
        raise RecipeError(f"{path} is damaged: its tensors do not have the checksum of its card: use an undamaged file")


def _check_targets(targets: Tensor, data: DistilledSet, path: str | Path) -> None:
    """Raise ``RecipeError`` unless targets are numbers, classes below their number, or a probability of each."""
    name, classes = data.card.fields[1], data.classes
    if classes is None:
        right = targets.is_floating_point()
    elif targets.is_floating_point():
        right = targets.ndim == 3 and targets.shape[2] == classes
    else:
        right = targets.dtype == torch.int64 and targets.ndim == 2
        right = right and int(targets.min()) >= 0 and int(targets.max()) < classes <= CLASS_LIMIT
    if not right:
        what = "numbers" if classes is None else f"classes from 0 to {classes - 1} [T, B], or a probability of each"
        raise RecipeError(
            f"{path} is damaged: {name} must be {what}, got {targets.dtype} {list(targets.shape)}: use an undamaged "
            "file"
        )
