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


def fit_and_test(recipe: str, seed: int, output: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Meta-train by a packaged recipe and test the best teacher, in separate processes; return the test's metrics.

    Args:
        recipe: its name.
        seed: seed of the run.
        output: where the runs are kept; an interrupted benchmark goes on where it was.
        overrides: of the recipe's keys.
    """
    folder = output / recipe / str(seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    gtn = str(Path(sys.executable).with_name("gtn"))
    log = folder.with_suffix(".log")
    if not sorted(folder.glob("*/teacher.safetensors")):
        given = [f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}", *overrides]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _call([gtn, "fit", "--config", recipe, *given], environment, log)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        folder.with_suffix(".cpu").write_text(f"{cpu:.1f}", encoding="utf-8")
    teacher = sorted(folder.glob("*/teacher.safetensors"))[-1]
    _call([gtn, "test", "--teacher", str(teacher)], environment, log)
    metrics = sorted(teacher.parent.glob("test/*/metrics.csv"))[-1]
    with metrics.open(encoding="utf-8") as file:
        row = list(csv.DictReader(file))[-1]
    return {name: float(value) for name, value in row.items() if name.startswith("test/")}


def cpu_seconds(recipe: str, seed: int, output: Path) -> float:
    """Return the CPU seconds of a ``gtn fit`` of `fit_and_test`, start and validations among them."""
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


def _call(command: list[str], environment: dict[str, str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        result = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {result.returncode}: see {log}")
