"""The real data that belongs to a file of synthetic data."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtn_lightning import trust
from gtn_lightning.data import ImageData, InMemoryData, TableData
from gtn_lightning.distilled.file import DistilledSet
from gtn_lightning.errors import RecipeError, one_line
from gtn_lightning.randomness import keyed_generator


class Samples(NamedTuple):
    """Inputs as a network takes them, float ``[N, ...]``, and targets: classes, int64 ``[N]``, or numbers."""

    inputs: Tensor
    targets: Tensor

    def take(self, rows: Tensor) -> "Samples":
        """Return the samples at these indices, int64 ``[n]``."""
        return Samples(self.inputs[rows], self.targets[rows])


@dataclass(frozen=True)
class RealSamples:
    """Real data in three disjoint splits: to train on, to choose rates on, to report."""

    train: Samples
    val: Samples
    test: Samples
    name: str
    """Where it is from."""

    def limited(self, count: int) -> "RealSamples":
        """Return the data with at most ``count`` samples to choose rates on and to report, the same in every run."""

        def some(samples: Samples, purpose: str) -> Samples:
            if len(samples.targets) <= count:
                return samples
            rows = torch.randperm(len(samples.targets), generator=keyed_generator(0, "limited", purpose))[:count]
            return samples.take(rows)

        return replace(self, val=some(self.val, "val"), test=some(self.test, "test"))


def real_samples(data: DistilledSet, path: str | None = None) -> RealSamples:
    """Read the real data that synthetic data was made from, normalized as the file says.

    Args:
        data: the synthetic data.
        path: where the real data lies; None for where the card says.

    Raises:
        RecipeError: if the card does not say where it lies, or it cannot be read, or has another shape.
    """
    module = _module(data, path)
    try:
        module.prepare_data()
        module.setup()
    except RecipeError as error:
        if path is not None:
            raise
        raise RecipeError(f"the real data of the file: {error}; or give it with --data") from error
    parts = []
    for name in ("train", "val", "test"):
        inputs, targets = module.split(name)[:2]
        inputs = data.prepare(inputs) if inputs.dtype == torch.uint8 else module.normalize(inputs)
        parts.append(Samples(inputs, targets))
    source = str(getattr(module, "path", type(module).__name__))
    if parts[0].inputs.shape[1:] != data.inputs.shape[2:]:
        raise RecipeError(
            f"{source}: expected real data of shape {list(data.inputs.shape[2:])}, as the file's, got "
            f"{list(parts[0].inputs.shape[1:])}: give the data that the file was made from with --data"
        )
    targets, found = parts[0].targets, getattr(module, "classes", None)
    if data.classes != found or (found is None and targets.shape[1:] != data.targets.shape[2:]):
        wanted = f"{data.classes} classes" if data.classes else f"numbers of shape {list(data.targets.shape[2:])}"
        got = f"{found} classes" if found else f"numbers of shape {list(targets.shape[1:])}"
        raise RecipeError(
            f"{source}: expected {wanted}, as the file's, got {got}: give the data that the file was made from with "
            "--data"
        )
    return RealSamples(parts[0], parts[1], parts[2], source)


def _module(data: DistilledSet, path: str | None) -> InMemoryData:
    described = data.card.data or {}
    arguments: dict[str, Any] = dict(described.get("init_args") or {})
    cls = None
    if described.get("class_path"):
        # Only classes of this package: the file may be a stranger's.
        cls = trust.find(str(described["class_path"]))
    if cls is None or not issubclass(cls, InMemoryData):
        if path is None:
            raise RecipeError(
                "the file does not say which data it was made from: give it with --data, a folder of images, a table "
                "or a name on the Hugging Face hub"
            )
        cls, arguments = (ImageData if data.inputs.ndim == 5 else TableData), {}
    if path is not None:
        if cls not in (ImageData, TableData):
            raise RecipeError(f"--data {path}: the file was made from {cls.__name__}, which has no path: leave it out")
        arguments["path"] = path
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"the file's data cannot be made ({one_line(error)}): give it with --data") from error
