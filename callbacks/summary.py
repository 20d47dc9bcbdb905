"""Print the result of a run and the paths of its files."""

import shlex
import sys
from pathlib import Path
from typing import IO, Any, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gtn_lightning.callbacks.checkpoint import TEACHER_FILE
from gtn_lightning.callbacks.curve import curve_statistics
from gtn_lightning.callbacks.synthetic_data import DATA_FILE
from gtn_lightning.evaluation import EvaluationResult
from gtn_lightning.lightning import Callback, LightningModule, ModelCheckpoint, Trainer, WandbLogger
from gtn_lightning.streams import Escaping
from gtn_lightning.task import TaskMetric

SPLITS = {"fit": "validation", "validate": "validation", "test": "test"}
"""The split that each stage scores learners on."""


class RunSummary(Callback):
    """Prints the scores of a run, on synthetic data and of the baseline, and the paths of its files.

    The last line is ``run folder: <path>``.
    """

    # Not in a hook at the end of a stage: Lightning's table of test metrics and the progress bar's last state come
    # later.
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the result."""
        if not trainer.is_global_zero:
            return
        if trainer.progress_bar_callback is not None:
            # A bar that is still active would be drawn again, below the summary.
            trainer.progress_bar_callback.teardown(trainer, pl_module, stage)
        console = Console(highlight=False, file=cast(IO[str], Escaping(sys.stdout)))
        gtn: Any = pl_module
        metric = gtn.task.metrics()[0]
        if gtn.result is not None and stage in SPLITS:
            result = gtn.result
            console.print(
                f"{metric.name} after {result.steps[-1]} {result.axis}, {SPLITS[stage]} split, "
                f"{len(result.synthetic)} never-seen learners",
                soft_wrap=True,
            )
            console.print(_result_table(result, metric))
        folder = Path(trainer.default_root_dir)
        lines = _best(trainer, metric) if stage == "fit" else []
        lines += [("pictures", folder / "pictures"), ("teacher", folder / TEACHER_FILE)]
        if stage == "predict":
            lines.append(("synthetic data", folder / DATA_FILE))
        lines = [(name, path) for name, path in lines if not isinstance(path, Path) or path.exists()]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                lines += _wandb_commands(logger)
        lines.append(("run folder", folder))
        for name, value in lines:
            # Paths are not wrapped, so that they can be copied.
            console.print(f"{name}: {value}", markup=False, soft_wrap=True)


def _result_table(result: EvaluationResult, metric: TaskMetric) -> Table:
    statistics = curve_statistics(result)
    table = Table(box=SIMPLE_HEAD)
    for heading in ("taught with", "mean", "± std", "lowest", "highest"):
        table.add_column(heading, justify="left" if heading == "taught with" else "right")
    for kind, title, scores in result.sources:
        last = scores[:, -1]
        numbers = [statistics[f"{kind}_mean"][-1], statistics[f"{kind}_std"][-1], float(last.min()), float(last.max())]
        table.add_row(title, *map(metric.text, numbers))
    return table


def _best(trainer: Trainer, metric: TaskMetric) -> list[tuple[str, Any]]:
    checkpoint = trainer.checkpoint_callback
    if not isinstance(checkpoint, ModelCheckpoint) or checkpoint.best_model_score is None:
        return []
    value = float(checkpoint.best_model_score)
    score = metric.text(value) if checkpoint.monitor == f"val/{metric.name}" else f"{value:.4g}"
    return [(f"best {checkpoint.monitor}", f"{score} ({Path(checkpoint.best_model_path).name})")]


def _wandb_commands(logger: WandbLogger) -> list[tuple[str, Any]]:
    run = logger.experiment
    if getattr(run, "disabled", False):
        return []
    folder = shlex.quote(str(Path(run.dir).parent))
    commands: list[tuple[str, Any]] = [("view the run", f"wandb leet {folder}")]
    if run.offline:
        commands.append(("upload it", f"wandb sync {folder}"))
    elif run.url:
        commands.append(("on the web", run.url))
    return commands
