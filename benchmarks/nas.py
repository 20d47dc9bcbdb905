"""How well, and at what cost, proxies rank networks of the ConvNet grid on MNIST.

The networks are those of `benchmarks/nas_reference.csv` (made by `benchmarks.nas_reference`), none of which a teacher
was meta-trained on. What was measured before is not measured again: the command may be stopped, and `--only` lets
several processes share the work.
"""

import argparse
import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import rankdata

from benchmarks.nas_reference import TABLE, ground
from benchmarks.report import RESULTS, markdown_table, write_report
from benchmarks.transfer import newest
from gtn_lightning.inner_loop import Adam
from gtn_lightning.nas import NASWOT, FLOPs, GTNProxy, NumParameters, RealDataProxy, SynFlow
from gtn_lightning.nas.correlation import Interval, Ranking, ceiling, measure_ranking, split_half
from gtn_lightning.nas.proxies import Cost, Proxy
from gtn_lightning.nas.proxies.taught import TaughtProxy
from gtn_lightning.nas.reference import TableReference
from gtn_lightning.nas.spaces import ConvNetGrid

SYNTHETIC_STEPS = (2, 4, 6, 8)
REAL_STEPS = (2, 4, 6, 8, 16, 20, 32, 40, 60, 80, 128)
"""Ten times the synthetic ones among them."""

SUBSET_STEPS = (2, 4, 6, 8, 16, 32)
SHOWN = max(SYNTHETIC_STEPS)
"""Inner steps after which measures, mean ranks and families are shown."""

BROKEN_BELOW = 0.2
GRID = 720
"""Number of networks in the grid."""


class Scores(NamedTuple):
    """What a proxy made of all architectures, at one price."""

    proxy: str
    steps: int
    values: dict[str, list[float]]
    """By what is made of a course: accuracy, loss, area."""
    cost: Cost
    """The mean over the architectures."""


def main() -> None:
    """Measure what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ylecun/mnist", help="MNIST on the hub or in a local folder")
    parser.add_argument("--teacher", type=Path, help="teacher file of nas_mnist; the newest run's if left out")
    parser.add_argument("--ranked-teacher", type=Path, help="teacher file of nas_mnist_ranked; the newest run's")
    parser.add_argument("--cache", type=Path, default=Path("runs/nas/courses"), help="folder of what was measured")
    parser.add_argument("--rate", type=float, default=0.005, help="Adam's rate on real data: as the teachers'")
    parser.add_argument("--only", nargs="+", help="measure these proxies and write no report")
    options = parser.parse_args()
    space, data = ground(options.data)
    table = TableReference(str(TABLE))
    with TABLE.open(newline="") as rows:
        trainings = list(csv.DictReader(rows))
    names = list(dict.fromkeys(row["architecture"] for row in trainings if row["part"] == "ranked"))
    # The accuracies that the ranking-aware teacher was told.
    paid = Cost(seconds=sum(float(row["seconds"]) for row in trainings if row["part"] == "known"))
    teacher = str(options.teacher or newest("runs/nas_mnist"))
    ranked = str(options.ranked_teacher or newest("runs/nas_mnist_ranked"))
    taught: dict[str, tuple[Any, Sequence[int]]] = {
        "GTN": (lambda: GTNProxy(teacher), SYNTHETIC_STEPS),
        "GTN, ranking-aware": (lambda: GTNProxy(ranked), SYNTHETIC_STEPS),
        "untrained teacher": (lambda: GTNProxy(teacher, untrained=True), SYNTHETIC_STEPS),
        "real data": (lambda: real(options.rate), REAL_STEPS),
        "2048 real images": (lambda: real(options.rate, 2048), SUBSET_STEPS),
    }
    scores: list[Scores] = []
    for name, (make, steps) in taught.items():
        if options.only is None or name in options.only:
            proxy = make()
            proxy.attach(space, data)
            scores += courses(name, proxy, names, steps, options.cache)
    overheads = {"GTN": GTNProxy(teacher).overhead(), "GTN, ranking-aware": GTNProxy(ranked).overhead() + paid}
    if options.only is None:
        for looked_at in (NumParameters(), FLOPs(), SynFlow(), NASWOT()):
            looked_at.attach(space, data)
            scores.append(one_look(looked_at, names))
        report(scores, names, space, table.accuracies(space, names), overheads)


def real(rate: float, subset: int | None = None) -> RealDataProxy:
    """Return real data with the optimizer that the teachers' learners have."""
    return RealDataProxy(max(REAL_STEPS), subset=subset, optimizer=Adam(lr=rate))


def courses(name: str, proxy: TaughtProxy, names: Sequence[str], steps: Sequence[int], cache: Path) -> list[Scores]:
    """Teach every architecture once, and return its scores at several steps."""
    cache.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(proxy.settings(), sort_keys=True)
    file = cache / f"{name.replace(' ', '_').replace(',', '')}.jsonl"
    known = {}
    if file.exists():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        known = {row["architecture"]: row for row in rows if row["settings"] == settings}
    for architecture in names:
        if architecture in known:
            continue
        points = [point._asdict() | {"cost": asdict(point.cost)} for point in proxy.course(architecture, 0, steps)]
        known[architecture] = {"architecture": architecture, "settings": settings, "points": points}
        with file.open("a") as out:
            out.write(json.dumps(known[architecture]) + "\n")
        print(name, "|", architecture, "|", f"{points[-1]['accuracy']:.3f}", flush=True)
    found = []
    for place, step in enumerate(steps):
        points = [known[architecture]["points"][: place + 1] for architecture in names]
        values = {
            "accuracy": [course[-1]["accuracy"] for course in points],
            "loss": [-course[-1]["loss"] for course in points],
            "area": [sum(point["accuracy"] for point in course) / len(course) for course in points],
        }
        costs = [Cost(**course[-1]["cost"]) for course in points]
        # Every look at the validation images costs; whoever wants one score takes one look.
        looks = place
        mean = Cost(
            float(np.mean([cost.seconds for cost in costs])),
            step,
            int(np.mean([cost.images for cost in costs])) - looks * proxy.images,
            float(np.mean([cost.flops for cost in costs])),
        )
        found.append(Scores(name, step, values, mean))
    return found


def one_look(proxy: Proxy, names: Sequence[str]) -> Scores:
    """Return the scores of a proxy that trains nothing."""
    scores = proxy.evaluate_all(names)
    cost = sum((score.cost for score in scores), Cost())
    return Scores(proxy.name, 0, {"accuracy": [s.value for s in scores]}, Cost(cost.seconds / len(scores)))


def report(
    scores: list[Scores], names: list[str], space: ConvNetGrid, reference: torch.Tensor, overheads: dict[str, Cost]
) -> None:
    """Write tables and the plot."""
    accuracies = reference.mean(dim=1)
    rankings = {(s.proxy, s.steps): measure_ranking(s.values["accuracy"], accuracies, BROKEN_BELOW) for s in scores}
    top = ceiling(reference)
    rows = [row(s, rankings[s.proxy, s.steps], top) for s in scores]
    header = ["proxy", "steps", "seconds", "Spearman", "of the ceiling", "Kendall", "Spearman, top half", "regret of 5"]
    halves = split_half(reference)
    body = [
        f"Reference: {len(names)} networks, {reference.shape[1]} trainings each; accuracies from "
        f"{100 * float(accuracies.min()):.1f} to {100 * float(accuracies.max()):.1f} %, median "
        f"{100 * float(accuracies.median()):.1f} %, {rankings['GTN', SHOWN].broken} of them broken. Split-half "
        f"Spearman {interval(halves)}; a perfect proxy would reach {interval(top)}.",
        markdown_table(header, rows),
        "![Spearman against steps](nas.png)",
        "## What is made of a course",
        measures(scores, accuracies),
        "## Together with the FLOPs",
        together(scores, accuracies),
        "## What it costs to reach the same correlation",
        tenfold(scores, rankings, accuracies),
        *(equal_correlation(scores, rankings, overheads, name) for name in overheads),
        "## Who is overrated",
        overrated(scores, names, space, accuracies),
        f"## Accuracy after {SHOWN} steps, by family of network",
        families(scores, names, space),
    ]
    write_report(
        "nas",
        "Ranking networks of the ConvNet grid on MNIST",
        "\n\n".join(body),
        "Spearman and Kendall of the proxy's accuracy on 2,000 validation images with the mean test accuracy after "
        "full training, with 95 % bootstrap intervals over the networks; one learner per network and proxy. Seconds "
        "are of one thread, all looks at the validation images on the way included. Regret of 5: the best network's "
        "accuracy less that of the best among the five with the highest scores, in points.",
    )
    plot(scores, rankings, top)


def row(scores: Scores, ranking: Ranking, top: Interval) -> list[str]:
    """Return a line of the main table."""
    spearman = ranking.spearman
    return [
        scores.proxy,
        str(scores.steps),
        f"{scores.cost.seconds:.2f}",
        interval(spearman.overall),
        f"{spearman.overall.value / top.value:.2f}",
        interval(ranking.kendall.overall),
        interval(spearman.top_half),
        f"{100 * ranking.regret[5].value:.2f}",
    ]


def interval(found: Interval) -> str:
    """Return a value with its interval."""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def spearman(values: Sequence[float], accuracies: torch.Tensor) -> Interval:
    """Return the correlation over all architectures."""
    return measure_ranking(values, accuracies, BROKEN_BELOW).spearman.overall


def measures(scores: list[Scores], accuracies: torch.Tensor) -> str:
    """Return the table of accuracy, loss and area."""
    last = {s.proxy: s for s in scores if s.steps}
    chosen = [s for s in scores if s.steps and (s.steps == SHOWN or s is last[s.proxy])]
    rows = [
        [s.proxy, str(s.steps), *(interval(spearman(values, accuracies)) for values in s.values.values())]
        for s in chosen
    ]
    return markdown_table(["proxy", "steps", "last accuracy", "last loss", "mean of the accuracies so far"], rows)


def together(scores: list[Scores], accuracies: torch.Tensor) -> str:
    """Return the table of mean ranks."""
    flops = next(s for s in scores if s.proxy == "FLOPs")
    rows = [
        [
            s.proxy,
            str(s.steps),
            interval(spearman(s.values["accuracy"], accuracies)),
            interval(spearman(list(rankdata(s.values["accuracy"]) + rankdata(flops.values["accuracy"])), accuracies)),
        ]
        for s in scores
        if s.steps in (SHOWN, max(REAL_STEPS))
    ]
    return markdown_table(["proxy", "steps", "alone", "mean rank with FLOPs"], rows)


def tenfold(scores: list[Scores], rankings: dict[tuple[str, int], Ranking], accuracies: torch.Tensor) -> str:
    """Return the table of synthetic steps beside ten times as many real ones, and beside as many."""
    real = {s.steps: s.values["accuracy"] for s in scores if s.proxy == "real data"}
    rows = []
    for s in scores:
        if not s.steps or s.proxy == "real data" or 10 * s.steps not in real:
            continue
        own = s.values["accuracy"]
        gaps = [interval(difference(own, real[steps], accuracies)) for steps in (s.steps, 10 * s.steps)]
        reached = rankings[s.proxy, s.steps].spearman.overall.value
        enough = [steps for steps in real if rankings["real data", steps].spearman.overall.value >= reached]
        rows.append([s.proxy, str(s.steps), f"{reached:.2f}", *gaps, str(enough[0]) if enough else "none tried"])
    header = [
        "proxy",
        "steps",
        "Spearman",
        "less as many real steps",
        "less ten times as many",
        "first real steps to reach",
    ]
    return markdown_table(header, rows)


def difference(ours: Sequence[float], theirs: Sequence[float], accuracies: torch.Tensor) -> Interval:
    """Return how much more one proxy's Spearman is than another's, resampled over the same networks."""
    columns = np.array([ours, theirs, accuracies.tolist()])

    def gap(sample: Any) -> float:
        ranks = np.array([rankdata(row) for row in sample])
        correlations = np.corrcoef(ranks)
        return float(correlations[0, 2] - correlations[1, 2])

    generator = np.random.default_rng(0)
    count = columns.shape[1]
    gaps = [gap(columns[:, generator.integers(0, count, count)]) for _ in range(1000)]
    low, high = np.quantile(gaps, [0.025, 0.975])
    return Interval(gap(columns), float(low), float(high))


def equal_correlation(
    scores: list[Scores], rankings: dict[tuple[str, int], Ranking], overheads: dict[str, Cost], name: str
) -> str:
    """Return in words how many real steps reach what the synthetic ones do, and from when the teacher pays."""

    def value(s: Scores) -> float:
        return rankings[s.proxy, s.steps].spearman.overall.value

    best = max((s for s in scores if s.proxy == name), key=value)
    teacher = overheads[name].seconds
    reals = [s for s in scores if s.proxy == "real data"]
    enough = [s for s in reals if value(s) >= value(best)]
    said = f"**{name}**, which took {teacher:.0f} seconds to make, is best after {best.steps} steps: {value(best):.2f}."
    if not enough:
        return said + " No number of real steps that was tried reaches it."
    same = enough[0]
    said += (
        f" Of the numbers of real steps that were tried, {same.steps} is the first to reach it, "
        f"{same.steps / best.steps:.1f} times as many, in "
        f"{same.cost.seconds:.2f} seconds per network against {best.cost.seconds:.2f}."
    )
    saved = same.cost.seconds - best.cost.seconds
    whole = (teacher + GRID * best.cost.seconds) / (GRID * same.cost.seconds)
    pays = f"pays from {math.ceil(teacher / saved)} networks on" if saved > 0 else "never pays"
    return said + f" The teacher {pays}; the whole grid of {GRID} takes {whole:.1f} times the seconds of real data."


def overrated(scores: list[Scores], names: list[str], space: ConvNetGrid, accuracies: torch.Tensor) -> str:
    """Return the table of ranks given less ranks deserved, by what a network has."""
    deserved = rankdata(accuracies.tolist())
    shown = [s for s in scores if s.steps == SHOWN or (s.proxy == "real data" and s.steps in (80, max(REAL_STEPS)))]
    given = [rankdata(s.values["accuracy"]) - deserved for s in shown]
    rows = []
    for key, options in space.decisions.items():
        for option in options:
            members = [place for place, name in enumerate(names) if space.choices(name)[key] == option]
            means = [f"{float(np.mean(ranks[members])):+.0f}" for ranks in given]
            rows.append([f"{key} {option}", str(len(members)), *means])
    header = ["networks with", "number", *(f"{s.proxy}, {s.steps} steps" for s in shown)]
    return markdown_table(header, rows) + f"\n\nMean places among {len(names)} that a proxy puts them too high."


def families(scores: list[Scores], names: list[str], space: ConvNetGrid) -> str:
    """Return the table of mean accuracies after the synthetic steps."""
    columns = ["GTN", "GTN, ranking-aware", "untrained teacher", "real data"]
    found = {s.proxy: s.values["accuracy"] for s in scores if s.steps == SHOWN}
    rows = []
    for family in sorted({space.family(name) for name in names}):
        members = [place for place, name in enumerate(names) if space.family(name) == family]
        means = [100 * float(np.mean([found[column][place] for place in members])) for column in columns]
        rows.append([family, str(len(members)), *(f"{mean:.1f}" for mean in means), f"{means[0] - means[-1]:+.1f}"])
    return markdown_table(["norm-pooling", "networks", *columns, "GTN less real"], rows)


def plot(scores: list[Scores], rankings: dict[tuple[str, int], Ranking], top: Interval) -> None:
    """Draw Spearman against steps."""
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    taught = list(dict.fromkeys(s.proxy for s in scores if s.steps))
    for number, name in enumerate(taught):
        points = [s for s in scores if s.proxy == name]
        steps = [s.steps for s in points]
        found = [rankings[name, step].spearman.overall for step in steps]
        axes.plot(steps, [f.value for f in found], "o-", color=f"C{number}", label=name, markersize=4)
        low, high = [f.low for f in found], [f.high for f in found]
        axes.fill_between(steps, low, high, color=f"C{number}", alpha=0.08, linewidth=0)
    for number, s in enumerate(s for s in scores if not s.steps):
        value = rankings[s.proxy, 0].spearman.overall.value
        axes.axhline(value, color=f"C{number + len(taught)}", linestyle="--", linewidth=1, label=s.proxy)
    axes.axhline(top.value, color="black", linewidth=1, label="a perfect proxy")
    axes.set_ylim(-0.05, 1.03)
    axes.set_xscale("log", base=2)
    ticks = [step for step in REAL_STEPS if step & (step - 1) == 0]
    axes.set_xticks(ticks, [str(step) for step in ticks])
    axes.set_xlabel("inner steps of 64 images")
    axes.set_ylabel("Spearman with the accuracy after full training")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(RESULTS / "nas.png")


if __name__ == "__main__":
    main()
