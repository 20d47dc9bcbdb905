"""The pages of `benchmarks.nasbench201`: the answers with their pictures, and all tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.nas_report import NOTE, TITLE
from benchmarks.nasbench201 import pictures
from benchmarks.nasbench201.bench import Reduction
from benchmarks.nasbench201.costs import Meta, costs, training_rate
from benchmarks.nasbench201.curves import SCORED
from benchmarks.nasbench201.rankings import BEST, DRAWS, TOLD, anchors, best_tenth, combined, grid, told
from benchmarks.nasbench201.searches import EVERY, FIRST, SEEDS, WANTED, Found, searches
from benchmarks.nasbench201.steps import Equal, equal, longer, noise, paired, settings, steps
from benchmarks.nasbench201.study import Study, shown
from benchmarks.report import RESULTS, markdown_table, write_sections

WHOLE = "12 epochs 0.871 / 0.54 (all cells), AZ-NAS 0.913 (its paper, arXiv 2403.19232)"
"""Known of the whole benchmark, which is not at hand."""

LOSSES = ("training loss", "validation loss")
"""By which real and synthetic steps are compared in the answer."""

SECTION = "NAS-Bench-201 on CIFAR-10"


def write(study: Study, sources: Mapping[str, str], teachers: Meta, found: Path, mnist: str | None) -> None:
    """Write the sections of the pages `nas` and `nas_tables`, and the pictures.

    Args:
        study: the measurements.
        sources: sources of the comparison of settings, by name.
        teachers: what the meta-trainings took.
        found: the file of the searches.
        mnist: MNIST on the hub or in a local folder, for a table of the second space; None for none.
    """
    fixed_table, fixed = anchors(study)
    steps_table, of_steps = steps(study)
    longer_table, of_longer = longer(study)
    equal_table, equals = equal(study, teachers.seconds)
    noise_table, of_noise = noise(study)
    settings_table, of_settings = settings(study, sources)
    together_table, chosen, untold = combined(study)
    told_table, of_told = told(study)
    rate = training_rate(study.bench)
    search_table, of_searches = searches(study, found, rate)
    RESULTS.mkdir(parents=True, exist_ok=True)
    pictures.scores(study, fixed, of_longer or of_steps, untold, teachers.seconds)
    pictures.steps(of_longer or of_steps, fixed)
    pictures.noise(of_noise)
    pictures.settings(of_settings)
    pictures.told(of_told)
    pictures.searches(of_searches)
    (data, score, step), few = max(of_steps.items(), key=lambda item: item[1].spearman[0])
    known = of_told[BEST, 64]
    azs = fixed["AZ-NAS"]
    twelve = fixed["12 real epochs (the table's)"]
    answers = [
        [
            "Spearman over all cells / the top tenth, at most 128 steps, nothing told",
            f"12 epochs {shown(twelve.spearman)} / {shown(twelve.tenth)}; AZ-NAS {shown(azs.spearman)} / "
            f"{shown(azs.tenth)}; of the whole benchmark: {WHOLE}",
            f"{chosen}: {shown(untold.spearman)} / {shown(untold.tenth)}; steps alone, at best: {data}, {score}, "
            f"{step} steps: {shown(few.spearman)} / {shown(few.tenth)}",
        ],
        ["the same, told 64 accuracies", "0.95 wanted", f"{BEST}: {shown(known.spearman)} / {shown(known.tenth)}"],
        ["real steps that rank as well as synthetic ones", "ten times as many wanted", _equal_words(equals)],
        [
            f"12-epoch trainings until the mean of {SEEDS} searches finds {WANTED} %",
            f"random: {_until(of_searches, 'random')}",
            "; ".join(f"{name}: {_until(of_searches, name)}" for name in of_searches if name != "random"),
        ],
    ]
    about = (
        f"The {len(study.reported)} cells that are ranked all differ, and are of a half of the table at hand that "
        f"nothing is learned from. Trainings: networks of {Reduction().words}, CIFAR-10, 64 images a step, Adam 0.01, "
        f"{SCORED} validation images. AZ-NAS, naswot and synflow measure the benchmark's own networks. Intervals: "
        "95 %, by bootstrap over the cells. Scores of several seeds are ranked for each seed, and the correlations "
        "averaged. CPU seconds are those of one thread."
    )
    answer = [
        about,
        *("### The answer", markdown_table(["what", "beside", "here"], answers)),
        "All numbers: [tables](nas_tables.md).",
        "### What ranks best, and for how much",
        "![Spearman against CPU seconds](nas_scores.png)",
        f"Steps: by the training loss. The meta-training of a teacher is shared by {pictures.SHARED} cells.",
        "### Do synthetic steps replace real ones",
        "![Spearman against steps](nas_steps.png)",
        "### Why few steps say little",
        "![Spearman of one seed, and without noise](nas_noise.png)",
        "*Without noise*: the correlation of one seed divided by the root of that between two seeds (Spearman, 1904), "
        "which infinitely many seeds would give. What is missing to 1 is bias.",
        "### Which networks and rates to train",
        "![Spearman against CPU seconds, by setting](nas_settings.png)",
        "### What known accuracies are worth",
        "![Spearman against known accuracies](nas_told.png)",
        "### What a search finds",
        "![Best found against trainings and hours](nas_search.png)",
        search_table,
        f"Mean true accuracy of the cell that is best by its 12-epoch accuracy, ± the standard deviation over {SEEDS} "
        "seeds. For a mutation or proposal that the table does not hold, another is taken, at no cost. A regression "
        "is told the 12-epoch accuracies of the cells trained so far, the first "
        f"{FIRST} at random or the best {FIRST // 2} by the untrained rank and others at random; it is fitted again "
        f"after every {EVERY}. The untrained rank is that of AZ-NAS, naswot and synflow together. CPU hours: one core, "
        "extrapolated from the operations of each cell's training and from "
        f"{rate / 1e9:.0f} 10^9 operations a second, measured on a few steps; measurements without training included.",
    ]
    if mnist:
        answer += ["### The same scores on the grid of the second space", grid(mnist)]
    tables = [
        about,
        *("### Without training, and 12 epochs", fixed_table),
        *("### What steps say", steps_table),
        *("### Longer trainings", longer_table or "Not made."),
        *(["### Real steps that rank as well as synthetic ones", equal_table] if equal_table else []),
        *(["### Synthetic steps beside real ones, over the same cells", paired(study)] if teachers.seconds else []),
        *("### Optimizers, rates and networks", settings_table),
        *("### Noise and bias", noise_table),
        "*Misplacement against parameters*: the correlation of the number of parameters with the places that a score "
        "ranks a cell too high; below zero, small cells are ranked too high.",
        *("### Within the best tenth", best_tenth(study)),
        "Over all cells of the reported half that were measured. *The same network* is an isomorphic cell of the "
        "table, trained with other seeds: noise leaves not much more to any score.",
        *("### Ranked together, nothing told", together_table),
        "The score is the sum of the logarithms of the ranks, as `AZNAS` with `proxies` computes it. Which are ranked "
        "together was chosen on cells of the other half.",
        *("### Told some accuracies", told_table),
        f"`PredictedRank` with `features: true`. Means over {DRAWS} random choices of the known cells among the "
        f"{max(TOLD)} first that are measured. *Prior*: AZ-NAS, naswot and synflow, ranked together.",
        *("### What a look costs", costs(study, teachers, rate)),
        "The benchmark's validation accuracies are of trainings on half of CIFAR-10's training images.",
    ]
    write_sections("nas", TITLE, {SECTION: "\n\n".join(answer)}, NOTE)
    write_sections("nas_tables", f"{TITLE} Tables", {SECTION: "\n\n".join(tables)}, "")


def _until(found: Mapping[str, Found], search: str) -> str:
    if search not in found:
        return "not run"
    first = found[search].first
    if first is None:
        return f"not in {found[search].accuracies.shape[1]} trainings"
    return f"after {first} trainings, {found[search].hours.mean(axis=0)[first - 1]:.1f} CPU hours"


def _equal_words(equals: Sequence[Equal]) -> str:
    """Return, for every teacher's last steps, how many real ones rank as well by two scores."""
    said = []
    for teacher in dict.fromkeys(one.teacher for one in equals):
        own = [one for one in equals if one.teacher == teacher]
        last = {one.score: one for one in own if one.steps == max(other.steps for other in own)}
        losses = " / ".join(f"{last[name].words()} ({last[name].spearman:.2f})" for name in LOSSES)
        said.append(f"{teacher}: {last[LOSSES[0]].steps} steps as well as {losses}")
    return f"by {' / '.join(LOSSES)}: {'; '.join(said)}" if said else "no longer trainings"
