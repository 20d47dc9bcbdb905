"""``gtn distil``: from one's own data to a file of synthetic data, its card and its comparison with real data.

It runs ``gtn fit`` and ``gtn predict`` with the recipe that `gtn_lightning.distilled.plan` chooses, which it writes
first, so that a user can go on from there.
"""

import csv
import itertools
import os
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Literal

from rich.console import Console

from gtn_lightning.callbacks.synthetic_data import DATA_FILE
from gtn_lightning.cli.signals import InterruptedBySignal
from gtn_lightning.cli.strict_yaml import dump_yaml_lines
from gtn_lightning.distilled import read_distilled, write_distilled
from gtn_lightning.distilled.card_page import save_scores, write_page
from gtn_lightning.distilled.comparison import Comparison, compare
from gtn_lightning.distilled.facts import Facts, facts_of
from gtn_lightning.distilled.plan import plan
from gtn_lightning.distilled.real import real_samples
from gtn_lightning.errors import RecipeError

TRIAL = 24
"""Meta-steps whose duration is measured before the number of meta-steps is chosen: about two of every family."""

SHARE = 0.7
"""The share of the time that meta-training gets; the rest is for validations, the file and the comparison."""

SCORED = 2000
"""Most real samples that the closing comparison scores networks on; `gtn compare` takes all."""

TO_THE_END = 1000
"""Most steps of its training on all real data to the end."""

END_SHARE = 0.1
"""The share of the time that this training gets."""

SLOWER = 1.5
"""How much longer than measured meta-training may take before it is ended."""

LEAST, MOST = 50, 2000
"""Fewest and most meta-steps."""


REFUSED = "gtn: error: "
"""How the line begins with which a command refuses its input."""


class Distillation:
    """One run of ``gtn distil``.

    Args:
        facts: the data.
        folder: the new folder for all files.
        minutes: how long it may take.
        per_class: number of learned samples of each class, None to choose.
        cpu: whether a GPU is left alone.
        console: where progress is printed.
    """

    def __init__(
        self, facts: Facts, folder: Path, minutes: float, per_class: int | None, cpu: bool, console: Console
    ) -> None:
        self.facts = facts
        self.folder = folder
        self.minutes = minutes
        self.per_class = per_class
        self.accelerator = "cpu" if cpu else "auto"
        self.console = console
        self._began = time.monotonic()

    def run(self) -> Comparison:
        """Choose a recipe, meta-train, write the file, compare it, and write its card.

        Raises:
            RecipeError: if a command fails.
        """
        recipe = self.folder / "recipe.yaml"
        try:
            self._write(recipe, LEAST)
            seconds = self._trial(recipe)
        except BaseException:
            with suppress(OSError):  # nothing is of use yet
                recipe.unlink()
                self.folder.rmdir()
            raise
        left = 60 * self.minutes * SHARE - (time.monotonic() - self._began)
        steps = int(min(max(left / seconds, LEAST), MOST))
        self._write(recipe, steps)
        self.console.print(f"{steps} meta-steps of about {seconds:.2f} s", soft_wrap=True)
        # If other programs take the cores, meta-training ends early rather than much too late.
        limit = timedelta(seconds=round(max(SLOWER * seconds * steps, left, 60)))
        self._gtn(
            *("fit", "--config", str(recipe), f"--trainer.default_root_dir={self.folder / 'fit'}"),
            f"--trainer.max_time={_in_parts(limit)}",
        )
        teacher = next((self.folder / "fit").glob("*/teacher.safetensors"), None)
        if teacher is None:
            raise RecipeError(f"meta-training ended before its first validation, after {limit}: give it more --minutes")
        self._gtn("predict", "--teacher", str(teacher), f"--trainer.default_root_dir={self.folder / 'predict'}")
        (written,) = (self.folder / "predict").glob(f"*/{DATA_FILE}")
        data = read_distilled(written)
        # Of use already if the comparison is interrupted.
        write_distilled(self.folder / DATA_FILE, data)
        write_page(self.folder, data, self.facts.name)
        real = real_samples(data).limited(SCORED)
        seconds = max(10.0, 60 * self.minutes * END_SHARE)
        result = compare(
            data, real, networks=2, passes=[1], most_steps=TO_THE_END, most_seconds=seconds, progress=self._said
        )
        save_scores(self.folder / DATA_FILE, result.plain() | {"samples": len(real.test.targets)})
        return result

    def _write(self, path: Path, meta_steps: int) -> None:
        recipe = plan(self.facts, meta_steps, self.per_class, self.accelerator)
        recipe["trainer"]["default_root_dir"] = str(self.folder / "fit")
        given = "" if self.per_class is None else f" --images-per-class {self.per_class}"
        text = (
            f"# gtn fit --config {path.name}\n# Chosen by gtn distil for {self.facts.name} ({self.facts.text()})"
            f"{given}, {self.minutes:g} minutes.\n"
            "# Then, for the file: gtn predict --teacher path/to/teacher.safetensors\n\n"
            f"{dump_yaml_lines(recipe)}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _trial(self, recipe: Path) -> float:
        """Return the seconds of a meta-step, measured."""
        with tempfile.TemporaryDirectory() as folder:
            self._gtn(
                *("fit", "--config", str(recipe), f"--trainer.max_steps={TRIAL}", "--trainer.log_every_n_steps=1"),
                *("--trainer.limit_val_batches=0", "--trainer.callbacks=[]", "--trainer.val_check_interval=null"),
                f"--trainer.default_root_dir={folder}",
                quiet=True,
            )
            (path,) = Path(folder).glob("*/metrics.csv")
            with path.open(encoding="utf-8", newline="") as file:
                rows = [float(row["time/meta_step"]) for row in csv.DictReader(file) if row.get("time/meta_step")]
        # The first of every family is slower, since it is compiled or prepared.
        rows = sorted(rows)[: max(1, 3 * len(rows) // 4)]
        return sum(rows) / len(rows)

    def _gtn(self, *arguments: str, quiet: bool = False) -> None:
        """Run a command of this package in a process of its own.

        Raises:
            RecipeError: if it fails; it has said why.
        """
        if not quiet:
            self.console.print(f"$ {shlex.join(['gtn', *arguments])}", soft_wrap=True)
        command = [sys.executable, "-m", "gtn_lightning", *arguments]
        with tempfile.TemporaryFile() as said:
            output = subprocess.DEVNULL if quiet else None
            # The data has been read before: this time it takes moments.
            environment = os.environ | {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
            process = subprocess.Popen(command, stdout=output, stderr=said if quiet else None, env=environment)
            try:
                code = process.wait()
            except BaseException:
                # A signal reaches a process in the foreground by itself, one in the background not.
                with suppress(ProcessLookupError):
                    process.terminate()
                process.wait()
                raise
            said.seek(0)
            *_, last = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()] or [""]
        if not code:
            return
        if last.startswith(REFUSED):
            raise RecipeError(f"{self.facts.name}: {last.removeprefix(REFUSED)}")
        raise RecipeError(
            f"gtn {arguments[0]} ended with exit code {code}{f' ({last})' if last else ''}: run it by itself to see "
            f"why: {shlex.join(['gtn', *arguments])}"
        )

    def _said(self, text: str) -> None:
        self.console.print(f"training networks on: {text}", soft_wrap=True)


def distil(
    console: Console,
    data: str,
    target: str | None,
    minutes: float,
    per_class: int | None,
    size: int | None,
    out: str | None,
    seed: int,
    cpu: bool,
    predicts: Literal["auto", "classes", "numbers"],
    ignore: list[str] | None,
) -> tuple[Distillation, Comparison]:
    """Distil one's own data; the arguments are those of the command.

    Raises:
        RecipeError: if the data cannot be used, or an option is out of range.
    """
    if not 0 < minutes < float("inf"):
        raise RecipeError(f"--minutes must be above 0 and finite, got {minutes}")
    if not 0 <= seed < 2**32:
        raise RecipeError(f"--seed must be from 0 to {2**32 - 1}, got {seed}")
    facts = facts_of(data, target, size, seed, predicts, ignore)
    plan(facts, LEAST, per_class)  # refuses what cannot be before a folder is made
    folder = _new_folder(Path(out) if out else Path("runs") / "distil" / facts.name, named=out is not None)
    console.print(f"{facts.name}: {facts.text()}", soft_wrap=True)
    console.print(f"recipe and files: {folder}", soft_wrap=True)
    run = Distillation(facts, folder, minutes, per_class, cpu, console)
    try:
        return run, run.run()
    except InterruptedBySignal:
        if folder.exists():
            console.print(f"kept: {folder}", soft_wrap=True)
        if (folder / DATA_FILE).exists():
            console.print(f"finish the comparison: gtn compare {folder / DATA_FILE} --save", soft_wrap=True)
        raise


def _in_parts(time: timedelta) -> str:
    """Return a duration as Lightning reads it: days, hours, minutes, seconds."""
    minutes, seconds = divmod(int(time.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24:02}:{hours % 24:02}:{minutes:02}:{seconds:02}"


def _new_folder(wanted: Path, named: bool) -> Path:
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return folder
        if named:
            raise RecipeError(f"--out {wanted}: is there already: name a folder that is not, or an empty one")
    raise AssertionError
