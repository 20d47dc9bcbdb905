"""Learning curves on synthetic data and of the baseline, as pictures and CSV files."""

import csv
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gtn_lightning.callbacks.figures import save_figure
from gtn_lightning.callbacks.writing import unless_unwritable
from gtn_lightning.evaluation import EvaluationResult
from gtn_lightning.files import whole_file
from gtn_lightning.lightning import Callback, LightningModule, Trainer
from gtn_lightning.task import TaskMetric


class LearningCurve(Callback):
    """Draws the task's leading metric against inner steps, for never-seen learners and their baseline.

    The lines are means over the learners, the bands one standard deviation to either side. After each validation, the
    picture is written to ``<run folder>/pictures/learning_curve.png`` and to the logger, and the numbers to
    ``learning_curve.csv`` in the run folder; after a test, to files with the prefix ``test_``.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from gtn_lightning.callbacks import LearningCurve
        >>> trainer = pl.Trainer(max_steps=600, callbacks=[LearningCurve()])
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the validation learners."""
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, "learning_curve", "validation")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the test learners."""
        self._draw(trainer, pl_module, "test_learning_curve", "test")

    def _draw(self, trainer: Trainer, gtn: Any, name: str, split: str) -> None:
        result = gtn.result
        if result is None or not trainer.is_global_zero:
            return
        with unless_unwritable(trainer, f"{name}.csv"):
            write_curve(Path(trainer.default_root_dir) / f"{name}.csv", result)
        title = f"{len(result.synthetic)} never-seen learners, {split} split"
        if trainer.global_step:  # 0 if the teacher was loaded from a file
            title += f", after {trainer.global_step} meta-steps"
        figure = draw_curve(result, gtn.task.metrics()[0], title)
        save_figure(trainer, figure, name, trainer.global_step)


def curve_statistics(result: EvaluationResult) -> dict[str, list[float]]:
    """Return mean and standard deviation over learners at each point of the curve.

    Args:
        result: scores of learners.

    Returns:
        ``synthetic_mean`` and ``synthetic_std``, and with a baseline the same with its name as prefix.
    """
    statistics = {}
    for kind, _, scores in result.sources:
        scores = scores.double().cpu()
        statistics[f"{kind}_mean"] = scores.mean(0).tolist()
        statistics[f"{kind}_std"] = scores.std(0, correction=0).tolist()  # as in the logs
    return statistics


def write_curve(path: Path, result: EvaluationResult) -> None:
    """Write the curve as CSV, one row per point; without a baseline, its columns are empty."""
    columns = [f"{kind}_{statistic}" for kind in ("synthetic", result.baseline_name) for statistic in ("mean", "std")]
    statistics = curve_statistics(result)
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["steps", *columns])
        writer.writeheader()
        for row, step in enumerate(result.steps):
            writer.writerow({"steps": step, **{name: values[row] for name, values in statistics.items()}})


def draw_curve(result: EvaluationResult, metric: TaskMetric, title: str) -> Figure:
    """Draw the curve.

    Args:
        result: scores of learners, at several numbers of inner steps.
        metric: the metric of the scores, for the axis.
        title: title of the figure.
    """
    figure = Figure(figsize=(6, 3.8), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    statistics = curve_statistics(result)
    for (kind, title_of_source, _), (color, style) in zip(result.sources, (("C0", "o-"), ("C1", "s--")), strict=False):
        mean, std = statistics[f"{kind}_mean"], statistics[f"{kind}_std"]
        axes.plot(result.steps, mean, style, color=color, markersize=4, label=title_of_source)
        low, high = zip(*((m - s, m + s) for m, s in zip(mean, std, strict=True)), strict=True)
        axes.fill_between(result.steps, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(result.axis)
    axes.set_ylabel(metric.name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if metric.format == "share":
        # A band may leave the range of shares; the margin keeps a line at 100 % fully visible.
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0.0), min(top, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    return figure
