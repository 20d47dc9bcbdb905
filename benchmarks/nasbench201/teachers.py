"""The teachers of `benchmarks.nasbench201`: their meta-training, and trainings on their images."""

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.nasbench201.bench import COLUMN, HELD_OUT, Bench, Reduction
from benchmarks.nasbench201.costs import Meta
from benchmarks.nasbench201.curves import Cache, Source, taught
from benchmarks.nasbench201.study import KNOWN
from benchmarks.runs import cpu_seconds, fit_once
from gtn_lightning.teacher_file import read_meta_training

RECIPE = "nas_cifar10"


@dataclass(frozen=True)
class Variant:
    """How a teacher is meta-trained."""

    seed: int = 0
    ranked: bool = False
    """Whether the ranking loss is added, which knows `KNOWN` accuracies; a meta-step then teaches two cells."""
    inner_steps: int = 32
    meta_steps: int = 100


VARIANTS: Mapping[str, Variant] = {
    "teacher 1": Variant(),
    "ranking-aware teacher 1": Variant(ranked=True, meta_steps=50),
    "teacher 2": Variant(seed=1),
    "teacher of 128 steps 1": Variant(inner_steps=128),
    "ranking-aware teacher 2": Variant(seed=1, ranked=True, meta_steps=50),
    "teacher of 128 steps 2": Variant(seed=1, inner_steps=128),
    "longer meta-training 1": Variant(meta_steps=400),
    "longer meta-training 2": Variant(seed=1, meta_steps=400),
}
"""The teachers, in the order in which they are made."""


@dataclass(frozen=True)
class Teachers:
    """Teachers and their files."""

    bench: Bench
    cache: Cache
    reduction: Reduction
    output: Path
    """The folder of all measurements."""

    def source(self, name: str) -> Source:
        """Return trainings on the images of a teacher that is made."""
        return taught(str(self._file(name)), _slug(name), self.reduction)

    def made(self, ranked: bool | None = None) -> dict[str, Variant]:
        """Return the teachers that have curves: all, or those with or without the ranking loss."""
        return {
            name: one
            for name, one in VARIANTS.items()
            if ranked in (None, one.ranked) and self.cache.curves(f"{_slug(name)}-{self.reduction}")
        }

    def meta(self) -> Meta:
        """Return what the meta-trainings took."""
        seconds = {name: cpu_seconds(RECIPE, one.seed, self._folder(name)) for name, one in self.made().items()}
        steps = {
            name: int((read_meta_training(self._file(name)) or {"meta_steps": 0})["meta_steps"]) for name in seconds
        }
        return Meta(seconds, steps)

    def meta_train(self, name: str, table: str, until: float) -> None:
        """Meta-train a teacher, unless it is made, for at most half of the time until ``time.monotonic()`` is a limit.

        Args:
            name: one of `VARIANTS`.
            table: CSV file of the cells' accuracies.
            until: the limit; the other half of the time is for the trainings of cells.
        """
        variant, reduction = VARIANTS[name], self.reduction
        overrides = [
            *(f"--data.init_args.path={self.bench.path}", f"--data.init_args.size={reduction.size}"),
            f"--model.task.init_args.shape=[3, {reduction.size}, {reduction.size}]",
            *(f"--trainer.accelerator={self.bench.device}", f"--model.inner_loop.steps={variant.inner_steps}"),
            *("--model.evaluation.learners=2", "--model.evaluation.real_rates=[0.01]"),
            f"--trainer.max_time={clock((until - time.monotonic()) / 2)}",
            *(f"--trainer.max_steps={variant.meta_steps}", f"--trainer.val_check_interval={variant.meta_steps}"),
        ]
        space = f"{{class_path: NASBench201, init_args: {{cells: {reduction.cells}, channels: {reduction.channels}}}}}"
        if variant.ranked:
            known = write_known(self.bench, self.output / "known.csv", table)
            reference = f"{{class_path: TableReference, init_args: {{path: {known}}}}}"
            learners = f"space: {space}, reference: {reference}, weight: 5.0, held_out: {HELD_OUT}"
            overrides += [
                f"--model.learners={{class_path: RankedLearners, init_args: {{{learners}}}}}",
                "--model.population=2",
            ]
        else:
            overrides.append(f"--model.learners.init_args.space={space}")
        fit_once(RECIPE, variant.seed, self._folder(name), overrides)

    def _folder(self, name: str) -> Path:
        return self.output / "teachers" / _slug(name) / str(self.reduction)

    def _file(self, name: str) -> Path:
        """Return the newest file of a teacher, as `fit_once` does."""
        return sorted((self._folder(name) / RECIPE / str(VARIANTS[name].seed)).glob("*/teacher.safetensors"))[-1]


def write_known(bench: Bench, file: Path, table: str) -> Path:
    """Write the accuracies that a ranking-aware teacher knows, and no others."""
    names = {cell.name for cell in bench.known[:KNOWN]}
    with Path(table).open(newline="", encoding="utf-8") as source:
        rows = [row for row in csv.DictReader(source) if row["arch"] in names]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["architecture", "accuracy"])
        writer.writerows([row["arch"], f"{float(row[COLUMN]) / 100:.6f}"] for row in rows)
    return file


def clock(seconds: float) -> str:
    """Return a duration, at least a second, as days, hours, minutes and seconds."""
    minutes, rest = divmod(max(1, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24:02}:{hours % 24:02}:{minutes:02}:{rest:02}"


def _slug(name: str) -> str:
    """Return a name as part of a path."""
    return name.replace(" ", "-")
