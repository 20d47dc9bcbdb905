"""Runs of ``gtn`` in subprocesses."""

import csv
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gtn_lightning.description.recipes import as_recipe
from gtn_lightning.teacher_file import read_recipe
from gtn_lightning.trust import resolve


def fit(recipe: str, folder: str, overrides: Sequence[str], environment: Mapping[str, str]) -> Path:
    """Run a packaged recipe on the CPU, without W&B; return the run's folder.

    Args:
        recipe: its name.
        folder: an empty folder for the run.
        overrides: of the recipe's keys.
        environment: variables besides those of this process.
    """
    command = [str(Path(sys.executable).with_name("gtn")), "fit", "--config", recipe, "--trainer.accelerator=cpu"]
    command += [f"--trainer.default_root_dir={folder}", *overrides]
    variables = {**os.environ, "WANDB_MODE": "disabled", **environment}
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {(result.stderr.strip().splitlines() or ['killed'])[-1]}")
    (run,) = Path(folder).iterdir()
    return run


def fit_once(recipe: str, seed: int, output: Path, overrides: Sequence[str] = ()) -> Path:
    """Meta-train by a packaged recipe in a separate process, unless a finished run is kept; return the teacher file.

    Args:
        recipe: its name.
        seed: seed of the run.
        output: where the runs are kept; an interrupted benchmark goes on where it was.
        overrides: of the recipe's keys.
    """
    folder = output / recipe / str(seed)
    finished = folder.with_suffix(".cpu")
    if not finished.exists():
        given = [f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}", *overrides]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _call(["fit", "--config", recipe, *given], folder.with_suffix(".log"))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        finished.write_text(f"{cpu:.1f}", encoding="utf-8")
    return sorted(folder.glob("*/teacher.safetensors"))[-1]


def fit_and_test(recipe: str, seed: int, output: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Meta-train as `fit_once` does, and test the best teacher in a separate process; return the test's metrics."""
    teacher = fit_once(recipe, seed, output, overrides)
    _call(["test", "--teacher", str(teacher)], (output / recipe / str(seed)).with_suffix(".log"))
    metrics = sorted(teacher.parent.glob("test/*/metrics.csv"))[-1]
    with metrics.open(encoding="utf-8") as file:
        row = list(csv.DictReader(file))[-1]
    return {name: float(value) for name, value in row.items() if name.startswith("test/")}


def cpu_seconds(recipe: str, seed: int, output: Path) -> float:
    """Return the CPU seconds of a ``gtn fit`` of `fit_once`, start and validations among them."""
    return float((output / recipe / f"{seed}.cpu").read_text(encoding="utf-8"))


def data_of(teacher: Path) -> Any:
    """Return the data module that a teacher file names, set up."""
    data = module_of(read_recipe(teacher).data)
    data.prepare_data()
    data.setup()
    return data


def module_of(description: Any) -> Any:
    """Return what a description of a data module says, parts of it included."""
    return _made(as_recipe(description))


def _made(value: Any) -> Any:
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    return resolve(value["class_path"])(**{name: _made(part) for name, part in value["init_args"].items()})


def _call(arguments: list[str], log: Path) -> None:
    """Run ``gtn`` on one thread, without W&B; its output is added to a file."""
    command = [str(Path(sys.executable).with_name("gtn")), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        result = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {result.returncode}: see {log}")
