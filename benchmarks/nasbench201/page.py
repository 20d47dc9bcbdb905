"""The page of `benchmarks.nasbench201` and its pictures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.nas_report import NOTE, TITLE
from benchmarks.nasbench201.costs import MOST, Meta, costs, payoff, training_rate
from benchmarks.nasbench201.curves import SCORED
from benchmarks.nasbench201.rankings import BEST, DRAWS, TOLD, anchors, best_tenth, combined, grid, told
from benchmarks.nasbench201.searches import BUDGET, EVERY, FIRST, SEEDS, WANTED, Found, searches
from benchmarks.nasbench201.steps import equal, longer, noise, paired, settings, steps
from benchmarks.nasbench201.study import Quality, Study, shown
from benchmarks.report import RESULTS, markdown_table, write_sections

WHOLE = "12 epochs 0.871 / 0.54 (all cells), AZ-NAS 0.913 (its paper, arXiv 2403.19232)"
"""Known of the whole benchmark, which is not at hand."""


def write(study: Study, sources: Mapping[str, str], teachers: Meta, found: Path, mnist: str | None) -> None:
    """Write the section of the page `nas`, and its pictures.

    Args:
        study: the measurements.
        sources: sources of the comparison of settings, by name.
        teachers: what the meta-trainings took.
        found: the file of the searches.
        mnist: MNIST on the hub or in a local folder, for a table of the second space; None for none.
    """
    fixed_table, fixed = anchors(study)
    steps_table, of_steps = steps(study)
    together_table, chosen, untold = combined(study)
    told_table, of_told = told(study)
    rate = training_rate(study.bench)
    search_table, of_searches = searches(study, found, rate)
    RESULTS.mkdir(parents=True, exist_ok=True)
    draw_steps(of_steps, fixed)
    draw_told(of_told)
    draw_searches(of_searches)
    short = {key: one for key, one in of_steps.items() if key[2] <= MOST}
    (data, score, step), few = max(short.items(), key=lambda item: item[1].spearman[0])
    known = of_told[BEST, 64]
    azs = fixed["AZ-NAS"]
    twelve = fixed["12 real epochs (the table's)"]

    def until(search: str) -> str:
        if search not in of_searches:
            return "not run"
        first = of_searches[search].first
        if first is None:
            return f"not in {of_searches[search].accuracies.shape[1]} trainings"
        return f"after {first} trainings, {of_searches[search].hours.mean(axis=0)[first - 1]:.1f} CPU hours"

    answers = [
        [
            "Spearman over all cells / the top tenth, at most 128 steps, nothing told",
            f"12 epochs {shown(twelve.spearman)} / {shown(twelve.tenth)}; AZ-NAS {shown(azs.spearman)} / "
            f"{shown(azs.tenth)}; of the whole benchmark: {WHOLE}",
            f"{chosen}: {shown(untold.spearman)} / {shown(untold.tenth)}; steps alone, at best: {data}, {score}, "
            f"{step} steps: {shown(few.spearman)} / {shown(few.tenth)}",
        ],
        [
            "the same, told 64 accuracies",
            "0.95 wanted",
            f"{BEST}: {shown(known.spearman)} / {shown(known.tenth)}",
        ],
        [
            f"12-epoch trainings until the mean of {SEEDS} searches finds {WANTED} %",
            f"random: {until('random')}",
            "; ".join(f"{name}: {until(name)}" for name in of_searches if name != "random"),
        ],
    ]
    pays = payoff(study, of_steps, teachers.seconds)
    answers.insert(
        2,
        ["steps for equal rank correlation, synthetic beside real", "a tenth wanted", "; ".join(pays) or "no teacher"],
    )
    parts = [
        *("### The answer", markdown_table(["what", "beside", "here"], answers)),
        "### Without training, and 12 epochs",
        fixed_table,
        *("### What steps say", "![Spearman against steps](nas_steps.png)", steps_table),
        longer(study) or "Longer trainings were not made.",
        equal(study),
        *(
            ["Synthetic steps beside real ones, by differences over the same cells:", paired(study)]
            if teachers.seconds
            else []
        ),
        "Which optimizer and rate, " + settings(study, sources),
        *("### Why: noise, bias, rates", noise(study)),
        "*Without noise*: the correlation of one seed divided by the root of that between two seeds (Spearman, 1904), "
        "which infinitely many seeds would give. *Misplacement against parameters*: the correlation of the number of "
        "parameters with the places that a score ranks a cell too high; below zero, small cells are ranked too high.",
        *("### Within the best tenth", best_tenth(study)),
        "Over all cells of the reported half that were measured. *The same network* is an isomorphic cell of the "
        "table, trained with other seeds: noise leaves not much more to any score.",
        *("### Ranked together, nothing told", together_table),
        "The score is the sum of the logarithms of the ranks, as `AZNAS` with `proxies` computes it. Which are ranked "
        "together was chosen on cells of the other half.",
        "### Told some accuracies",
        "![Spearman against known accuracies](nas_told.png)",
        told_table,
        f"`PredictedRank` with `features: true`. Means over {DRAWS} random choices of the known cells among the "
        f"{max(TOLD)} first that are measured.",
        *("### The search", "![Best found against trainings](nas_search.png)", search_table),
        f"Mean true accuracy of the cell that is best by its 12-epoch accuracy, ± the standard deviation over {SEEDS} "
        "seeds. For a mutation or proposal that the table does not hold, another is taken, at no cost. The regression "
        "is told the 12-epoch accuracies of the cells trained so far, the first "
        f"{FIRST} at random; it is fitted again after every {EVERY}. The untrained rank is that of AZ-NAS, naswot and "
        f"synflow together. CPU hours: one core, extrapolated from the operations of each cell's training and from "
        f"{rate / 1e9:.0f} 10^9 operations a second, measured on a few steps; those measurements included.",
    ]
    parts += ["### What a look costs", costs(study, teachers, rate)]
    parts.append("The benchmark's validation accuracies are of trainings on half of CIFAR-10's training images.")
    if mnist:
        parts += ["### The same scores on the grid of the second space", grid(mnist)]
    text = "\n\n".join(part for part in parts if part)
    settings_ = (
        f"The {len(study.reported)} cells that are ranked all differ, and are of a half of the table at hand that "
        "nothing is learned from. Trainings: networks of one cell a stage and 8 channels, CIFAR-10 scaled to 16x16, "
        f"64 images a step, Adam 0.01, {SCORED} validation images. AZ-NAS, naswot and synflow measure the benchmark's "
        "own networks. Intervals: 95 %, by bootstrap over the cells. Scores of several seeds are ranked for each seed, "
        "and the correlations averaged. CPU seconds are those of one thread."
    )
    write_sections("nas", TITLE, {"NAS-Bench-201 on CIFAR-10": f"{settings_}\n\n{text}"}, NOTE)


def draw_steps(found: Mapping[tuple[str, str, int], Quality], fixed: Mapping[str, Quality]) -> None:
    """Draw the correlation against steps."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(name for name, _, _ in found):
        color = None
        for score, style in (("training loss", "-"), ("validation loss", ":")):
            points = [(step, q.spearman) for (one, what, step), q in found.items() if (one, what) == (name, score)]
            x, y = [step for step, _ in points], np.array([value for _, value in points])
            (line,) = axes.plot(x, y[:, 0], style, marker="o", markersize=3, label=f"{name}, {score}", color=color)
            color = line.get_color()
            if score == "training loss":
                axes.fill_between(x, y[:, 1], y[:, 2], alpha=0.15, color=color)
    for name, color in (("12 real epochs (the table's)", "0.3"), ("AZ-NAS", "0.6")):
        axes.axhline(fixed[name].spearman[0], color=color, linestyle="--", linewidth=1, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(shown_steps := sorted({step for _, _, step in found}), [str(step) for step in shown_steps])
    axes.set_xlabel("steps of 64 images, a cell")
    axes.set_ylabel("Spearman with the accuracy after 200 epochs")
    axes.legend(fontsize=7)
    figure.savefig(RESULTS / "nas_steps.png", dpi=120)


def draw_told(found: Mapping[tuple[str, int], Quality]) -> None:
    """Draw the correlation against the number of known accuracies."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    colors: dict[str, str] = {}
    for name in dict.fromkeys(name for name, _ in found):
        points = [(count, value.spearman[0]) for (one, count), value in found.items() if one == name]
        if name.startswith("choices"):
            # A color for the steps, a line for what they are given with.
            steps = name.removeprefix("choices").removeprefix(", AZ-NAS").removeprefix(", naswot, synflow")
            color = colors.setdefault(steps, f"C{len(colors)}")
            style = "-" if "AZ-NAS" in name else ":"
            marker = "s" if "synflow" in name else "o"
            axes.plot(*zip(*points, strict=True), style, color=color, marker=marker, markersize=3, label=name)
    axes.axhline(0.95, color="0.3", linestyle="--", linewidth=1, label="wanted")
    axes.set_xscale("log", base=2)
    axes.set_xticks(TOLD, [str(count) for count in TOLD])
    axes.set_xlabel("known accuracies")
    axes.set_ylabel("Spearman on held-back cells")
    axes.legend(fontsize=7)
    figure.savefig(RESULTS / "nas_told.png", dpi=120)


def draw_searches(found: Mapping[str, Found]) -> None:
    """Draw the best found against the number of trainings, and against their duration."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    counts, hours = figure.subplots(1, 2, sharey=True)
    for name, one in found.items():
        rows = one.accuracies[:, :BUDGET]
        mean, spread = rows.mean(axis=0), 1.96 * rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
        for axes, x in ((counts, np.arange(1, rows.shape[1] + 1)), (hours, one.hours[:, :BUDGET].mean(axis=0))):
            (line,) = axes.plot(x, mean, label=name)
            axes.fill_between(x, mean - spread, mean + spread, alpha=0.15, color=line.get_color())
    for axes, label in ((counts, "trainings of 12 epochs"), (hours, "CPU hours, extrapolated")):
        axes.axhline(WANTED, color="0.3", linestyle="--", linewidth=1)
        axes.set_ylim(92, 94.5)
        axes.set_xlabel(label)
    counts.set_ylabel("test accuracy of the best so far, %")
    counts.legend(fontsize=7)
    figure.savefig(RESULTS / "nas_search.png", dpi=120)
