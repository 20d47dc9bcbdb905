"""The zoo: files of synthetic data that come with the package."""

import io
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gtn_lightning.distilled.file import DistilledSet, read_distilled
from gtn_lightning.distilled.scores import Metric
from gtn_lightning.errors import RecipeError


@dataclass(frozen=True)
class ZooEntry:
    """A file of the zoo and what its card says."""

    name: str
    """Its name, the file's without ``.safetensors``."""
    path: Path
    source: str
    """The real data that it was made from."""
    samples: int
    """Number of different samples."""
    per_class: float | None
    """Samples per class; None without classes."""
    reaches: str
    """The score of never-seen networks, such as ``accuracy 0.97 ± 0.01``; empty if it was not measured."""
    seconds: float | None
    """What meta-training took."""
    date: str
    """When it was made, such as ``2026-01-31``; empty if unknown."""
    checksum: str
    """SHA-256 of the tensors."""


def zoo_files(folder: Path | None = None) -> dict[str, Path]:
    """Return the files of the zoo by name.

    Args:
        folder: the folder to look in; by default, the zoo that comes with the package.
    """
    folder = Path(str(resources.files("gtn_lightning.zoo"))) if folder is None else folder
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def zoo_entries(folder: Path | None = None) -> list[ZooEntry]:
    """Return the files of the zoo with what their cards say, by name.

    Args:
        folder: as for `zoo_files`.

    Raises:
        RecipeError: if a file is damaged.
    """
    return [_entry(name, path, read_distilled(path)) for name, path in zoo_files(folder).items()]


def load_zoo(name: str, folder: Path | None = None) -> dict[str, Tensor]:
    """Return the tensors of a file of the zoo.

    These are the two fields ``[T, B, ...]``, the hyperparameters of each step ``[T]``, and the normalization. How to
    train on them is in its card: ``read_distilled(zoo_files()[name]).card``.

    Args:
        name: its name, see `zoo_entries`.
        folder: as for `zoo_files`.

    Raises:
        RecipeError: if there is none of that name, or it is damaged.

    Example:
        >>> from gtn_lightning import load_zoo
        >>> load_zoo("digits")["inputs"].shape
        torch.Size([12, 30, 1, 8, 8])
    """
    files = zoo_files(folder)
    if name not in files:
        have = f"it is one of {', '.join(files)}" if files else "the zoo is empty"
        raise RecipeError(f"load_zoo: there is no file of the name {name!r} in the zoo: {have}")
    return read_distilled(files[name]).tensors


def zoo_table(folder: Path | None = None, width: int = 120) -> str:
    """Return a table of the zoo as text.

    Args:
        folder: as for `zoo_files`.
        width: maximum number of columns of the text.

    Raises:
        RecipeError: if a file is damaged.
    """
    entries = zoo_entries(folder)
    if not entries:
        return "the zoo is empty"
    table = Table(box=SIMPLE_HEAD)
    for heading in ("name", "source", "samples", "per class", "reaches", "seconds", "made"):
        table.add_column(heading, justify="right" if heading in ("samples", "per class", "seconds") else "left")
    for entry in entries:
        cells = (
            entry.name,
            entry.source,
            str(entry.samples),
            "" if entry.per_class is None else f"{entry.per_class:g}",
            entry.reaches,
            "" if entry.seconds is None else f"{entry.seconds:.0f}",
            entry.date,
        )
        table.add_row(*map(Text, cells))  # a card's brackets are no markup
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def _entry(name: str, path: Path, data: DistilledSet) -> ZooEntry:
    card, samples = data.card, data.samples
    seconds = card.made.get("seconds")
    return ZooEntry(
        name=name,
        path=path,
        source=str(card.real.get("source") or ""),
        samples=samples,
        per_class=samples / data.classes if data.classes else None,
        reaches=_reaches(data),
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        date=str(card.made.get("date") or ""),
        checksum=card.checksum,
    )


def _reaches(data: DistilledSet) -> str:
    scores = data.card.scores
    mean, std = scores.get("mean"), scores.get("std")
    if not isinstance(mean, int | float):
        return ""
    metric = Metric(str(scores.get("metric")))
    spread = f" ± {metric.number(std)}" if isinstance(std, int | float) else ""
    return f"{metric.name} {metric.number(mean).removesuffix(' %')}{spread}"
