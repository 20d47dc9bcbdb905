"""The pages of `benchmarks.nasbench201`: the answers with their pictures, and all tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.nas_report import NOTE, TITLE
from benchmarks.nasbench201 import pictures
from benchmarks.nasbench201.costs import Meta, Speed, costs_table
from benchmarks.nasbench201.curves import LOOKS, SCORED
from benchmarks.nasbench201.rankings import (
    TWELVE_EPOCHS,
    fixed_qualities,
    fixed_table,
    tenth_table,
    together_table,
    twins_table,
)
from benchmarks.nasbench201.search_runs import SEEDS, WANTED, searches_table
from benchmarks.nasbench201.searches import EVERY, FIRST
from benchmarks.nasbench201.second_space import grid_table
from benchmarks.nasbench201.steps import (
    Equal,
    Qualities,
    best_steps,
    equal_table,
    learners_qualities,
    learners_table,
    long_cells,
    longer_table,
    noise_table,
    paired_table,
    settings_table,
    steps_table,
)
from benchmarks.nasbench201.study import CURVES, KNOWN, LEARNERS, MOST, SHORT, Quality, Study, quality, shown
from benchmarks.nasbench201.told import BEST, told_table
from benchmarks.report import RESULTS, markdown_table, write_sections

WHOLE = "12 epochs 0.871 / 0.54 (from all rows of the published table), AZ-NAS 0.913 (its paper, arXiv 2403.19232)"
"""Known of the whole benchmark, which is not at hand."""

LOSSES = ("training loss", "validation loss")
"""By which real and synthetic steps are compared in the answer."""

SECTION = "NAS-Bench-201 on CIFAR-10"


def write(
    study: Study, settings: Mapping[str, str], teachers: Meta, searched: Path, speed: Speed, mnist: str | None
) -> None:
    """Write the sections of the pages `nas` and `nas_tables`, and the pictures.

    Args:
        study: the measurements.
        settings: sources of the comparison of settings, by name.
        teachers: what the meta-trainings took.
        searched: the file of the searches.
        speed: of the trainings of the benchmark's own networks.
        mnist: MNIST on the hub or in a local folder, for a table of the second space; None for none.

    Raises:
        SystemExit: too little is measured.
    """
    study.check()
    RESULTS.mkdir(parents=True, exist_ok=True)
    fixed = fixed_qualities(study, study.reported)
    all_steps, of_steps = steps_table(study)
    of_learners = learners_qualities(study, study.reported)
    all_longer, of_longer = longer_table(study)
    all_equal, equals = equal_table(study, teachers.seconds)
    all_noise, of_noise = noise_table(study)
    all_settings, of_settings = settings_table(study, settings)
    all_together, together = together_table(study)
    all_told, of_told = told_table(study)
    all_searches, of_searches = searches_table(study, searched, speed)
    pictures.draw_scores(study, fixed, of_steps, together, teachers.seconds)
    if of_longer:
        cells = long_cells(study)
        pictures.draw_steps(of_longer, learners_qualities(study, cells), fixed_qualities(study, cells))
    else:
        pictures.draw_steps(of_steps, of_learners, fixed)
    pictures.draw_noise(of_noise)
    pictures.draw_settings(of_settings)
    pictures.draw_told(study, of_told)
    pictures.draw_searches(of_searches)
    data, score, step, learners = best_steps(study, MOST)
    alone = quality(study.scores(study.untold[data], score, step, learners=learners), study.truth)
    known, azs, twelve = of_told[BEST, 64], fixed["AZ-NAS"], fixed[TWELVE_EPOCHS]
    answers = [
        [
            f"Spearman over all cells / the top tenth, at most {MOST} steps, nothing told",
            f"12 epochs {shown(twelve.spearman)} / {shown(twelve.tenth)}; AZ-NAS {shown(azs.spearman)} / "
            f"{shown(azs.tenth)}; of the whole benchmark: {WHOLE}",
            f"{together.name}: {shown(together.reached.spearman)} / {shown(together.reached.tenth)}; steps alone, "
            f"{data}, {score}, {learners} times {step} steps: {shown(alone.spearman)} / {shown(alone.tenth)}",
        ],
        ["the same, told 64 accuracies", "0.95 wanted", f"{BEST}: {shown(known.spearman)} / {shown(known.tenth)}"],
        *_learners_words(of_learners, of_longer),
        ["real steps that rank as well as synthetic ones", "ten times as many wanted", _equal_words(equals)],
        [
            f"12-epoch trainings until the mean of {SEEDS} searches finds {WANTED} %",
            f"random: {of_searches['random'].words() if 'random' in of_searches else 'not run'}",
            "; ".join(f"{name}: {one.words()}" for name, one in of_searches.items() if name != "random"),
        ],
    ]
    about = (
        f"The {len(study.reported)} cells that are ranked all differ, and are of a half of the table at hand that "
        f"nothing is learned from; what is compared is chosen on cells of the other half. Trainings: networks of "
        f"{study.reduction.words}, CIFAR-10 in that size, 64 images a step, Adam 0.01, {SCORED} validation images. "
        "AZ-NAS, naswot and synflow measure the benchmark's own networks. Intervals: 95 %, by bootstrap over the "
        "ranked cells. Scores of several seeds are ranked for each seed, and the correlations averaged. CPU seconds "
        "are those of one thread."
    )
    answer = [
        about,
        *("### The answer", markdown_table(["what", "beside", "here"], answers)),
        "All numbers: [tables](nas_tables.md).",
        *("### What ranks best, and for how much", "![Spearman against CPU seconds](nas_scores.png)"),
        f"Steps: by the training loss. Each of {pictures.SHARED} cells bears a part of a teacher's meta-training.",
        *("### Do synthetic steps replace real ones", "![Spearman against steps](nas_steps.png)"),
        f"Over {len(long_cells(study)) or len(study.reported)} cells. Dashed: the mean rank by {LEARNERS} learners, "
        "whose steps are added.",
        *("### What noise does", "![Spearman of one seed, and without noise](nas_noise.png)"),
        "*Without noise*: the correlation of one seed divided by the root of that between two seeds (Spearman, 1904), "
        "an estimate of what infinitely many seeds would give. What is missing to 1 is bias, and noise of the "
        "accuracies themselves.",
        *("### Which networks and rates to train", "![Spearman against CPU seconds, by setting](nas_settings.png)"),
        *("### What known accuracies are worth", "![Spearman against known accuracies](nas_told.png)"),
        *("### What a search finds", "![Best found against trainings and hours](nas_search.png)", all_searches),
        f"Mean true accuracy of the cell that is best by its 12-epoch accuracy, ± the standard deviation over {SEEDS} "
        "seeds. For a mutation or proposal that the table does not hold, another is taken, at no cost. A regression "
        f"is told the 12-epoch accuracies of the cells trained so far, the first {FIRST} at random or the best "
        f"{FIRST // 2} by the untrained rank and others at random; it is fitted again after every {EVERY}. The "
        "untrained rank is that of AZ-NAS, naswot and synflow together, and has no seed. CPU hours: one core, "
        "estimated from the operations of each cell's training and from a speed of "
        f"{speed.mean / 1e9:.0f} ± {speed.deviation / 1e9:.0f} 10^9 operations a second, measured on a few training "
        "steps without loading of data; measurements without training included.",
    ]
    if mnist:
        answer += ["### The same scores on the grid of the second space", grid_table(mnist)]
    tables = [
        about,
        *("### Without training, and 12 epochs", fixed_table(study, fixed)),
        *("### Steps", all_steps),
        *("### Several short trainings", learners_table(study, of_learners)),
        "The mean rank over the learners of a cell, which differ in initialization and order of data.",
        *("### Longer trainings", all_longer or "Too few cells."),
        *(["### Real steps that rank as well as synthetic ones", all_equal] if all_equal else []),
        *("### Synthetic steps beside real ones, over the same cells", paired_table(study)),
        *("### Optimizers, rates and networks", all_settings),
        *("### Noise and bias", all_noise),
        "*Misplacement against parameters*: the correlation of the number of parameters with the places that a score "
        "ranks a cell too high; below zero, small cells are ranked too high.",
        *("### The best tenth of the reported half", tenth_table(study)),
        *("### What noise of the accuracies allows", twins_table(study)),
        "If two trainings correlate at r, a score without noise correlates with one of them at the root of r.",
        *("### Ranked together, nothing told", all_together),
        "The score is the sum of the logarithms of the ranks, as `AZNAS` with `proxies` computes it.",
        *("### Told some accuracies", all_told),
        f"`PredictedRank` with `features: true`, told random ones of {CURVES} cells of the other half, the same for "
        "all inputs; the intervals are over the ranked cells alone. *Prior*: AZ-NAS, naswot and synflow, ranked "
        f"together. The ranking-aware teachers, who know {KNOWN} of these accuracies, are left out here and above.",
        *("### What a look costs", costs_table(study, teachers, speed)),
        "The benchmark's validation accuracies are of trainings on half of CIFAR-10's training images.",
    ]
    write_sections("nas", TITLE, {SECTION: "\n\n".join(answer)}, NOTE)
    note = "All numbers behind [the answers](nas.md)."
    write_sections("nas_tables", "Architecture search: tables", {SECTION: "\n\n".join(tables)}, note)


def _learners_words(found: Mapping[tuple[str, str, int, int], Quality], longer: Qualities) -> list[list[str]]:
    """Return a row of the answer on the mean rank by several short trainings; none if there are none."""
    long = longer.get(("real images", LOSSES[0], LOOKS[-1]))
    said = [
        f"{name}: {shown(one.spearman)}"
        for (name, score, step, learners), one in found.items()
        if (score, step, learners) == (LOSSES[0], SHORT, LEARNERS)
    ]
    what = f"Spearman by the {LOSSES[0]} after {SHORT} steps of each of {LEARNERS} learners"
    beside = f"one learner, {LOOKS[-1]:,} real steps: {shown(long.spearman)}" if long else ""
    return [[what, beside, "; ".join(said)]] if said else []


def _equal_words(equals: Sequence[Equal]) -> str:
    """Return, for every teacher's last steps, how many real ones rank as well by two scores."""
    said = []
    for teacher in dict.fromkeys(one.teacher for one in equals):
        own = [one for one in equals if one.teacher == teacher]
        last = {one.score: one for one in own if one.steps == max(other.steps for other in own)}
        losses = " / ".join(last[name].words() for name in LOSSES)
        said.append(f"{teacher}: {last[LOSSES[0]].steps} steps as well as {losses}")
    return f"by {' / '.join(LOSSES)}: {'; '.join(said)}" if said else "no longer trainings"
