"""How fast the synthetic data teaches, beside real data."""

import csv
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from gtn_lightning.callbacks.figures import save_figure
from gtn_lightning.callbacks.writing import unless_unwritable
from gtn_lightning.files import whole_file

COLUMNS = ["steps", "synthetic_mean", "synthetic_std", "real_mean", "real_std"]


class LearningCurve(Callback):
    """Draws accuracy against inner steps, for never-seen learners taught with synthetic and with real data.

    The lines are means over the learners, the bands one standard deviation to either side. After each
    validation the picture goes to ``<run folder>/pictures/learning_curve.png`` and to the logger, and the
    numbers to ``learning_curve.csv`` in the run folder; after a test, to files of the same names with
    ``test_`` before them.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the validation learners."""
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, "learning_curve", "validation")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the test learners."""
        self._draw(trainer, pl_module, "test_learning_curve", "test")

    def _draw(self, trainer: Trainer, gtn: Any, name: str, split: str) -> None:
        curve = gtn.result
        if curve is None or not trainer.is_global_zero:
            return
        statistics = curve_statistics(curve.synthetic, curve.real)
        with unless_unwritable(trainer, f"{name}.csv"):
            write_curve(Path(trainer.default_root_dir) / f"{name}.csv", curve.steps, statistics)
        title = f"{len(curve.synthetic)} never-seen learners, {split} split"
        if trainer.global_step:  # unknown where a teacher was only loaded
            title += f", after {trainer.global_step} meta-steps"
        figure = draw_curve(curve.steps, statistics, gtn.task.metric_name, title)
        save_figure(trainer, figure, name, trainer.global_step)


def curve_statistics(synthetic: Tensor, real: Tensor | None) -> dict[str, list[float]]:
    """Return mean and standard deviation over learners at each point of the curve, named as in ``COLUMNS``.

    Args:
        synthetic: scores [K, points] of K learners taught with synthetic data.
        real: scores [K, points] of the same learners taught with real data, if that was measured.
    """
    statistics = {}
    for kind, scores in (("synthetic", synthetic), ("real", real)):
        if scores is not None:
            scores = scores.double().cpu()
            statistics[f"{kind}_mean"] = scores.mean(0).tolist()
            statistics[f"{kind}_std"] = scores.std(0, correction=0).tolist()  # as it is logged
    return statistics


def write_curve(path: Path, steps: list[int], statistics: dict[str, list[float]]) -> None:
    """Write the curve as CSV, one row per point; the columns of what was not measured stay empty."""
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row, step in enumerate(steps):
            writer.writerow({"steps": step, **{name: values[row] for name, values in statistics.items()}})


def draw_curve(steps: list[int], statistics: dict[str, list[float]], metric: str, title: str) -> Figure:
    """Draw the curve.

    Args:
        steps: inner steps at which learners were scored.
        statistics: what ``curve_statistics`` returns.
        metric: what was measured, for the axis.
        title: what stands above.
    """
    figure = Figure(figsize=(6, 3.8), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for kind, colour, style in (("synthetic", "C0", "o-"), ("real", "C1", "s--")):
        if f"{kind}_mean" in statistics:
            mean, std = statistics[f"{kind}_mean"], statistics[f"{kind}_std"]
            axes.plot(steps, mean, style, color=colour, markersize=4, label=f"{kind} data")
            low, high = zip(*((m - s, m + s) for m, s in zip(mean, std, strict=True)), strict=True)
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("inner steps")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if metric == "accuracy":
        # A band may reach beyond what an accuracy can be; the line at 100 % is to be seen whole.
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0.0), min(top, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    return figure
