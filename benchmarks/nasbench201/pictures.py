"""The pictures of `benchmarks.nasbench201`, one for each question."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.nasbench201.rankings import TWELVE_EPOCHS, Together
from benchmarks.nasbench201.search_runs import BUDGET, WANTED, Found
from benchmarks.nasbench201.steps import Noise, Qualities
from benchmarks.nasbench201.study import LEARNERS, TOGETHER, Quality, Study
from benchmarks.nasbench201.told import TOLD, inputs_of
from benchmarks.report import RESULTS

SHARED = 1000
"""Cells that share the cost of a teacher in the picture of costs."""

SPEARMAN = "Spearman with the accuracy after 200 epochs"


def _start(width: float = 7) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    return figure, figure.subplots()


def _start_losses() -> tuple[Figure, dict[str, Axes]]:
    """Return a figure with a panel for each of two losses, side by side."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = dict(zip(("training loss", "validation loss"), figure.subplots(1, 2, sharey=True), strict=True))
    for score, axes in panels.items():
        axes.set_title(score, fontsize=9)
    figure.axes[0].set_ylabel(SPEARMAN)
    return figure, panels


def _save(figure: Figure, name: str) -> None:
    figure.savefig(RESULTS / f"{name}.png", dpi=120)


def _log_steps(axes: Axes, steps: set[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(steps), [str(step) for step in sorted(steps)], fontsize=8)
    axes.minorticks_off()


def draw_scores(
    study: Study, fixed: Mapping[str, Quality], found: Qualities, together: Together, meta: Mapping[str, float]
) -> None:
    """Draw the correlation over the reported cells against CPU seconds a cell.

    Args:
        study: the measurements.
        fixed: quality of scores without training.
        found: quality of steps.
        together: the best scores ranked together, nothing told.
        meta: CPU seconds of the meta-trainings, of which each of `SHARED` cells bears a part.
    """
    figure, axes = _start(9)
    points = {name: (study.untrained_seconds(name), fixed[name]) for name in ("parameters", *reversed(TOGETHER))}
    points[together.name] = together.seconds, together.reached
    for name, (seconds, one) in points.items():
        mean, low, high = one.spearman
        axes.errorbar(seconds, mean, [[mean - low], [high - mean]], fmt="o", capsize=2, markersize=4, label=name)
    for name in dict.fromkeys(name for name, _, _ in found):
        steps = [step for one, score, step in found if (one, score) == (name, "training loss")]
        source = study.sources[name]
        taken = [study.seconds(source, step) + meta.get(name, 0.0) / SHARED for step in steps]
        y = [found[name, "training loss", step].spearman[0] for step in steps]
        axes.plot(taken, y, "-" if name.startswith("real") else ":", marker=".", label=f"steps on {name}")
    axes.set_xscale("log")
    axes.set_xlabel("CPU seconds a cell")
    axes.set_ylabel(SPEARMAN)
    figure.legend(fontsize=7, loc="outside right center")
    _save(figure, "nas_scores")


def draw_steps(
    found: Qualities, several: Mapping[tuple[str, str, int, int], Quality], fixed: Mapping[str, Quality]
) -> None:
    """Draw the correlation against steps, for two losses.

    Args:
        found: quality of one learner.
        several: quality of the mean rank by several, of which those of `LEARNERS` are drawn.
        fixed: quality of scores without training.
    """
    figure, panels = _start_losses()
    for score, axes in panels.items():
        for name in dict.fromkeys(name for name, _, _ in found):
            points = [(step, q.spearman) for (one, what, step), q in found.items() if (one, what) == (name, score)]
            x, y = [step for step, _ in points], np.array([value for _, value in points])
            style = "-" if name.startswith("real") else ":"
            (line,) = axes.plot(x, y[:, 0], style, marker="o", markersize=3, label=name)
            if name == "real images":
                axes.fill_between(x, y[:, 1], y[:, 2], alpha=0.15, color=line.get_color())
            means = [
                (LEARNERS * step, q.spearman[0])
                for (one, what, step, learners), q in several.items()
                if (one, what, learners) == (name, score, LEARNERS)
            ]
            if means:
                axes.plot(*zip(*means, strict=True), "--", marker="s", markersize=3, color=line.get_color())
        for name, color in ((TWELVE_EPOCHS, "0.3"), ("AZ-NAS", "0.6")):
            axes.axhline(fixed[name].spearman[0], color=color, linestyle="--", linewidth=1, label=name)
        _log_steps(axes, {step for _, _, step in found})
        axes.set_xlabel("steps of 64 images, all learners of a cell")
    figure.axes[0].legend(fontsize=7)
    _save(figure, "nas_steps")


def draw_noise(found: Mapping[tuple[str, str, int], Noise]) -> None:
    """Draw the correlation of one seed, and without noise, against steps."""
    figure, panels = _start_losses()
    for score, axes in panels.items():
        for name in dict.fromkeys(name for name, _, _ in found):
            points = [(step, one) for (data, what, step), one in found.items() if (data, what) == (name, score)]
            x = [step for step, _ in points]
            (line,) = axes.plot(x, [one.alone for _, one in points], marker="o", markersize=3, label=name)
            axes.plot(x, [one.clean for _, one in points], ":", marker="o", markersize=3, color=line.get_color())
        axes.plot([], [], ":", color="0.3", label="without noise")
        _log_steps(axes, {step for _, _, step in found})
        axes.set_xlabel("steps of 64 images, a cell")
    figure.axes[0].legend(fontsize=7)
    _save(figure, "nas_noise")


def draw_settings(found: Mapping[tuple[str, int], tuple[float, Quality]]) -> None:
    """Draw the correlation against CPU seconds after 32 and 128 steps, by setting."""
    figure, axes = _start(9)
    for name in dict.fromkeys(name for name, _ in found):
        points = [point for (one, _), point in found.items() if one == name]
        axes.plot([s for s, _ in points], [q.spearman[0] for _, q in points], marker="o", markersize=3, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("CPU seconds a cell, 32 and 128 steps")
    axes.set_ylabel(f"{SPEARMAN}, by training loss", fontsize=8)
    figure.legend(fontsize=7, loc="outside right center")
    _save(figure, "nas_settings")


def draw_told(study: Study, found: Mapping[tuple[str, int], Quality]) -> None:
    """Draw the correlation against the number of known accuracies: a color for trainings, a line for what is added."""
    figure, axes = _start(9)
    colors: dict[str, str] = {}
    for name, inputs in inputs_of(study).items():
        points = [(count, value.spearman[0]) for (one, count), value in found.items() if one == name]
        if inputs.drawn and points:
            color = colors.setdefault(inputs.trained, f"C{len(colors)}")
            style = {(False, False): ":", (True, False): "-", (False, True): "-.", (True, True): "--"}[
                inputs.measures, inputs.prior
            ]
            axes.plot(*zip(*points, strict=True), style, color=color, marker="o", markersize=3, label=name)
    axes.axhline(0.95, color="0.3", linestyle="--", linewidth=1, label="wanted")
    axes.set_xscale("log", base=2)
    axes.set_xticks(TOLD, [str(count) for count in TOLD])
    axes.set_xlabel("known accuracies")
    axes.set_ylabel("Spearman on held-back cells")
    figure.legend(fontsize=6, loc="outside right center")
    _save(figure, "nas_told")


def draw_searches(found: Mapping[str, Found]) -> None:
    """Draw the best found against the number of trainings, and against their duration."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    counts, hours = figure.subplots(1, 2, sharey=True)
    for name, one in found.items():
        rows = one.accuracies[:, :BUDGET]
        mean = rows.mean(axis=0)
        for axes, x in ((counts, np.arange(1, rows.shape[1] + 1)), (hours, one.hours[:, :BUDGET].mean(axis=0))):
            (line,) = axes.plot(x, mean, label=name)
            if len(rows) > 1:
                spread = 1.96 * rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
                axes.fill_between(x, mean - spread, mean + spread, alpha=0.15, color=line.get_color())
    for axes, label in ((counts, "trainings of 12 epochs"), (hours, "CPU hours, estimated")):
        axes.axhline(WANTED, color="0.3", linestyle="--", linewidth=1)
        axes.set_ylim(92, 94.5)
        axes.set_xlabel(label)
    counts.set_ylabel("test accuracy of the best so far, %")
    if found:
        counts.legend(fontsize=7)
    _save(figure, "nas_search")
