"""The tables and the plot of `benchmarks.nas`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import bootstrap, rankdata

from benchmarks.report import RESULTS, markdown_table, write_report
from gtn_lightning.nas.correlation import Interval, Ranking, measure_ranking, noise_ceiling, split_half
from gtn_lightning.nas.proxies.predicted import RankPredictor
from gtn_lightning.nas.spaces import Architecture, ConvNetGrid

SYNTHETIC_STEPS = (4, 8)
REAL_STEPS = (4, 8, 40, 80, 128, 320)
"""Includes ten times the synthetic steps."""

SUBSET_STEPS = (4, 8, 40)
SHOWN = max(SYNTHETIC_STEPS)
"""Inner steps of the tables of measures, mean ranks and families."""

RANKED = "GTN, ranking-aware"
"""The teacher that is meta-trained with the known accuracies."""

BROKEN_BELOW = 0.2
GRID = 720
"""Number of networks in the grid."""


class Scores(NamedTuple):
    """A proxy's scores of all architectures after a number of steps."""

    proxy: str
    steps: int
    seed: int
    values: dict[str, list[float]]
    """By measure of the learning curve (accuracy, loss, area): of the ranked networks, then of the known ones."""
    seconds: list[float]
    """Seconds of each network."""


@dataclass
class Evidence:
    """The data of the report."""

    space: ConvNetGrid
    ranked: list[Architecture]
    known: list[Architecture]
    accuracies: torch.Tensor
    """Accuracies of the ranked networks after full training, ``[ranked, trainings]``."""
    known_accuracies: torch.Tensor
    """Accuracies of the known networks, ``[known]``."""
    known_seconds: float
    """Seconds of the known networks' trainings."""
    teacher_seconds: dict[str, float]
    """Seconds of each teacher's meta-training."""
    scores: list[Scores]
    worth: torch.Tensor = field(init=False)
    """The mean accuracies of the ranked networks, ``[ranked]``."""
    rankings: dict[tuple[str, int, int], Ranking] = field(init=False)
    """Ranking quality of the accuracies, by proxy, steps and seed."""
    places: dict[tuple[str, int, int, bool] | None, list[float]] = field(init=False, default_factory=dict)
    """Predicted places, by the regression's inputs."""

    def __post_init__(self) -> None:
        self.worth = self.accuracies.mean(dim=1)
        self.rankings = {(s.proxy, s.steps, s.seed): self.ranking(self.values(s)) for s in self.scores}

    @property
    def first(self) -> list[Scores]:
        """The scores with the first seed."""
        return [s for s in self.scores if s.seed == 0]

    def values(self, scores: Scores, measure: str = "accuracy") -> list[float]:
        """Return a proxy's values of the ranked networks."""
        return scores.values[measure][: len(self.ranked)]

    def ranking(self, values: Sequence[float]) -> Ranking:
        """Return the ranking quality of values for the ranked networks."""
        return measure_ranking(values, self.worth, BROKEN_BELOW)

    def spearman(self, scores: Scores) -> float:
        """Return Spearman's correlation, the mean over the seeds."""
        found = [self.rankings[s.proxy, s.steps, s.seed] for s in self.seeds(scores)]
        return float(np.mean([ranking.spearman.overall.value for ranking in found]))

    def seconds(self, scores: Scores) -> float:
        """Return a proxy's seconds per ranked network."""
        return float(np.mean(scores.seconds[: len(self.ranked)]))

    def seeds(self, scores: Scores) -> list[Scores]:
        """Return the same proxy's scores after the same number of steps with every seed."""
        return [s for s in self.scores if (s.proxy, s.steps) == (scores.proxy, scores.steps)]

    def predicted_places(self, scores: Scores | None, choices: bool = True) -> list[float]:
        """Return the ranked networks' places, predicted by a regression on the known accuracies.

        Args:
            scores: scores to use as an input.
            choices: whether the choices are inputs.
        """
        key = (scores.proxy, scores.steps, scores.seed, choices) if scores else None
        if key not in self.places:
            columns = [np.array([scores.values["accuracy"]]).T] if scores else []
            if choices:
                columns.append(np.array([self.space.encode(cell) for cell in (*self.ranked, *self.known)]))
            inputs = np.hstack(columns)
            count = len(self.ranked)
            self.places[key] = RankPredictor(inputs[count:], self.known_accuracies.numpy()).predict(inputs[:count])
        return self.places[key]

    def predicted_spearman(self, scores: Scores | None) -> float:
        """Return the correlation of the predicted places, the mean over the seeds."""
        same = self.seeds(scores) if scores else [None]
        # Without resamples: the intervals would be thrown away.
        found = [measure_ranking(self.predicted_places(s), self.worth, BROKEN_BELOW, resamples=0) for s in same]
        return float(np.mean([one.spearman.overall.value for one in found]))


def report(evidence: Evidence) -> None:
    """Write tables and the plot."""
    worth = evidence.worth
    top = noise_ceiling(evidence.accuracies)
    broken = next(iter(evidence.rankings.values())).broken
    body = [
        f"Reference: {len(evidence.ranked)} networks, {evidence.accuracies.shape[1]} trainings each; accuracies from "
        f"{100 * float(worth.min()):.1f} to {100 * float(worth.max()):.1f} %, median {100 * float(worth.median()):.1f} "
        f"%, {broken} of them broken. Split-half Spearman {interval(split_half(evidence.accuracies))}; a perfect proxy "
        f"would reach {interval(top)}.",
        alone(evidence, top),
        "![Spearman against steps](nas.png)",
        "## Told some accuracies",
        predicted_table(evidence, top),
        "## Against ten times as many real steps",
        tenfold(evidence),
        "## What the whole grid costs",
        whole_grid(evidence),
        "## What is made of a course",
        measures(evidence),
        "## Together with the FLOPs",
        together(evidence),
        "## Who is overrated",
        overrated(evidence),
        f"## Accuracy after {SHOWN} steps, by family of network",
        families(evidence),
    ]
    write_report(
        "nas",
        "Ranking networks of the ConvNet grid on MNIST",
        "\n\n".join(body),
        "Spearman and Kendall of the proxy's accuracy on 2,000 validation images with the mean test accuracy after "
        "full training, with 95 % bootstrap intervals over the networks; one learner per network, proxy and seed, seed "
        "0 where none is named. Seconds are of one thread, with one look at the validation images. Regret of 5: the "
        "best network's accuracy less that of the best among the five with the highest scores, in points.",
    )
    plot(evidence, top)


def interval(found: Interval) -> str:
    """Return a value with its interval."""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def alone(evidence: Evidence, top: Interval) -> str:
    """Return the table of every proxy by itself."""
    rows = []
    for s in evidence.first:
        ranking = evidence.rankings[s.proxy, s.steps, 0]
        spearman = ranking.spearman
        others = [evidence.rankings[o.proxy, o.steps, o.seed] for o in evidence.seeds(s) if o.seed]
        rows.append(
            [
                s.proxy,
                str(s.steps),
                f"{evidence.seconds(s):.2f}",
                interval(spearman.overall),
                ", ".join(f"{other.spearman.overall.value:.2f}" for other in others),
                f"{spearman.overall.value / top.value:.2f}",
                interval(ranking.kendall.overall),
                interval(spearman.top_half),
                f"{100 * ranking.regret[5].value:.2f}",
            ]
        )
    header = ["proxy", "steps", "seconds", "Spearman", "with other seeds", "of the ceiling", "Kendall"]
    return markdown_table([*header, "Spearman, top half", "regret of 5"], rows)


def predicted_table(evidence: Evidence, top: Interval) -> str:
    """Return the table of places predicted from choices, proxies and known accuracies."""
    rows = []
    inputs: list[Scores | None] = [None, *(s for s in evidence.first if not s.steps or s.steps >= SHOWN)]
    for s in inputs:
        both = evidence.ranking(evidence.predicted_places(s)).spearman
        others = [evidence.ranking(evidence.predicted_places(o)) for o in evidence.seeds(s) if o.seed] if s else []
        rows.append(
            [
                s.proxy if s else "nothing",
                str(s.steps) if s else "",
                interval(evidence.rankings[s.proxy, s.steps, 0].spearman.overall) if s else "",
                interval(evidence.ranking(evidence.predicted_places(s, choices=False)).spearman.overall) if s else "",
                interval(both.overall),
                ", ".join(f"{other.spearman.overall.value:.2f}" for other in others),
                f"{both.overall.value / top.value:.2f}",
                interval(both.top_half),
            ]
        )
    header = ["proxy", "steps", "alone", "predicted from it", "predicted from it and the choices", "with other seeds"]
    return markdown_table([*header, "of the ceiling", "top half"], rows) + (
        f"\n\n`PredictedRank`: a Gaussian process that is told the accuracies of {len(evidence.known)} other networks, "
        f"one training each, {evidence.known_seconds:.0f} seconds in all. The choices are width, depth, activation, "
        "norm and pooling."
    )


def tenfold(evidence: Evidence) -> str:
    """Return the table of synthetic steps beside ten times as many real ones, and beside as many."""
    real = {(s.steps, s.seed): s for s in evidence.scores if s.proxy == "real data"}
    rows = []
    for s in evidence.first:
        if not s.steps or s.proxy == "real data" or (10 * s.steps, 0) not in real:
            continue
        for told_what, reached, values in (
            ("alone", evidence.spearman, evidence.values),
            ("predicted, with the choices", evidence.predicted_spearman, evidence.predicted_places),
        ):
            gaps = []
            for steps in (s.steps, 10 * s.steps):
                pairs = [(values(own), values(real[steps, own.seed])) for own in evidence.seeds(s)]
                gaps.append(interval(difference(pairs, evidence.worth)))
            rows.append([s.proxy, str(s.steps), told_what, f"{reached(s):.2f}", *gaps])
    header = ["proxy", "steps", "", "Spearman", "less as many real steps", "less ten times as many"]
    return markdown_table(header, rows) + "\n\nMeans over the seeds, the networks resampled in pairs."


def difference(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], accuracies: torch.Tensor) -> Interval:
    """Return how much more one proxy's Spearman is than another's, resampled over the same networks.

    Args:
        pairs: the two proxies' values with each seed; the difference is the mean over them.
        accuracies: of the networks.
    """
    rows = np.array([values for pair in pairs for values in pair] + [accuracies.tolist()])

    def gap(sample: Any) -> float:
        correlations = np.corrcoef(np.array([rankdata(row) for row in sample]))[-1, :-1]
        return float(np.mean(correlations[0::2] - correlations[1::2]))

    drawn = bootstrap(
        (np.arange(rows.shape[1]),),
        lambda places: gap(rows[:, places]),
        n_resamples=1000,
        vectorized=False,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return Interval(gap(rows), float(drawn.low), float(drawn.high))


class Way(NamedTuple):
    """A way to rank the whole grid."""

    proxy: str
    """Empty for the choices only."""
    steps: int
    labels: bool
    """Whether known accuracies and the choices are used."""
    spearman: float
    teacher: float
    """Seconds of meta-training."""
    known: float
    """Seconds of the known networks' full training, and of scoring them."""
    network: float
    """Seconds per network."""

    @property
    def whole(self) -> float:
        """Return the seconds for the whole grid."""
        return self.teacher + self.known + GRID * self.network

    def __str__(self) -> str:
        if not self.proxy:
            return "predicted from the choices"
        name = f"{self.proxy}, {self.steps} steps"
        return f"predicted from {name}, and the choices" if self.labels else name


def whole_grid(evidence: Evidence) -> str:
    """Return the table of costs, and a text on the cheapest ways without a teacher to reach each teacher's quality."""
    ways = [Way("", 0, True, evidence.predicted_spearman(None), 0.0, evidence.known_seconds, 0.0)]
    for s in evidence.first:
        if not s.steps or "rate per" in s.proxy:
            continue
        made, seconds = evidence.teacher_seconds.get(s.proxy, 0.0), evidence.seconds(s)
        label_seconds = evidence.known_seconds if s.proxy == RANKED else 0.0
        ways.append(Way(s.proxy, s.steps, False, evidence.spearman(s), made, label_seconds, seconds))
        known = evidence.known_seconds + sum(s.seconds[len(evidence.ranked) :])
        ways.append(Way(s.proxy, s.steps, True, evidence.predicted_spearman(s), made, known, seconds))
    rows = [
        [
            str(way),
            f"{way.spearman:.2f}",
            *(f"{seconds:.0f}" for seconds in (way.teacher, way.known)),
            f"{way.network:.2f}",
            f"{way.whole:.0f}",
        ]
        for way in sorted(ways, key=lambda way: way.whole)
    ]
    header = ["way", "Spearman", "teacher", "known networks", "per network", f"all {GRID} networks"]
    real = [way for way in ways if way.proxy == "real data" and not way.labels]
    without = [way for way in ways if way.proxy in ("real data", "")]
    said = []
    for name in ("GTN", RANKED):
        for with_labels in (False, True):
            best = max((w for w in ways if w.proxy == name and w.labels == with_labels), key=lambda way: way.spearman)
            said.append(
                f"**{best}**: {best.spearman:.3f} in {best.whole:.0f} seconds. By real steps alone, "
                f"{cheapest(best, real)}. By whatever was tried without a teacher, {cheapest(best, without)}."
            )
    return "\n\n".join([markdown_table(header, rows), "All in seconds; Spearman is the mean over the seeds.", *said])


def cheapest(best: Way, rivals: Sequence[Way]) -> str:
    """Return in words the cheapest of some ways that rank as well as another, or the best if none does."""
    enough = [way for way in rivals if way.spearman >= best.spearman]
    rival = min(enough, key=lambda w: w.whole) if enough else max(rivals, key=lambda w: w.spearman)
    reaches = "as much is reached" if enough else f"it is not reached; the most, {rival.spearman:.3f}, is reached"
    times = best.whole / rival.whole
    return f"{reaches} in {rival.whole:.0f} seconds ({rival}): the teacher's way takes {times:.2f} times that"


def measures(evidence: Evidence) -> str:
    """Return the table of accuracy, loss and area."""
    shown = [s for s in evidence.first if s.steps in (SHOWN, max(REAL_STEPS))]
    rows = [
        [
            s.proxy,
            str(s.steps),
            *(interval(evidence.ranking(evidence.values(s, measure)).spearman.overall) for measure in s.values),
        ]
        for s in shown
    ]
    return markdown_table(["proxy", "steps", "last accuracy", "last loss", "mean of the accuracies so far"], rows)


def together(evidence: Evidence) -> str:
    """Return the table of mean ranks."""
    flops = rankdata(next(evidence.values(s) for s in evidence.scores if s.proxy == "FLOPs"))
    rows = [
        [
            s.proxy,
            str(s.steps),
            interval(evidence.rankings[s.proxy, s.steps, 0].spearman.overall),
            interval(evidence.ranking(list(rankdata(evidence.values(s)) + flops)).spearman.overall),
        ]
        for s in evidence.first
        if s.steps in (SHOWN, 10 * SHOWN, max(REAL_STEPS))
    ]
    return markdown_table(["proxy", "steps", "alone", "mean rank with FLOPs"], rows)


def overrated(evidence: Evidence) -> str:
    """Return the table of ranks given less ranks deserved, by what a network has."""
    space, names = evidence.space, evidence.ranked
    deserved = rankdata(evidence.worth.tolist())
    shown = [s for s in evidence.first if s.steps in (SHOWN, 10 * SHOWN, max(REAL_STEPS))]
    given = [rankdata(evidence.values(s)) - deserved for s in shown]
    rows = []
    for key, options in space.decisions.items():
        for option in options:
            members = [place for place, one in enumerate(names) if one.choices[key] == option]
            means = [f"{float(np.mean(ranks[members])):+.0f}" for ranks in given]
            rows.append([f"{key} {option}", str(len(members)), *means])
    header = ["networks with", "number", *(f"{s.proxy}, {s.steps} steps" for s in shown)]
    return markdown_table(header, rows) + f"\n\nMean places among {len(names)} that a proxy puts them too high."


def families(evidence: Evidence) -> str:
    """Return the table of mean accuracies after the synthetic steps, over the seeds as well."""
    space, names = evidence.space, evidence.ranked
    columns = ["GTN", RANKED, "untrained teacher", "real data"]
    shown = [s for s in evidence.first if s.steps == SHOWN]
    found = {s.proxy: np.mean([evidence.values(o) for o in evidence.seeds(s)], axis=0) for s in shown}
    rows = []
    for family in sorted({space.family(name) for name in names}):
        members = [place for place, name in enumerate(names) if space.family(name) == family]
        means = [100 * float(np.mean([found[column][place] for place in members])) for column in columns]
        rows.append([family, str(len(members)), *(f"{mean:.1f}" for mean in means), f"{means[0] - means[-1]:+.1f}"])
    return markdown_table(["norm-pooling", "networks", *columns, "GTN less real"], rows)


def plot(evidence: Evidence, top: Interval) -> None:
    """Draw Spearman against steps, without and with known accuracies."""
    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    taught = list(dict.fromkeys(s.proxy for s in evidence.first if s.steps))
    for number, name in enumerate(taught):
        points = [s for s in evidence.first if s.proxy == name]
        steps = [s.steps for s in points]
        found = [evidence.rankings[name, step, 0].spearman.overall for step in steps]
        predicted = [evidence.ranking(evidence.predicted_places(s)).spearman.overall for s in points]
        for axes, values in zip(panels, (found, predicted), strict=True):
            axes.plot(steps, [v.value for v in values], "o-", color=f"C{number}", label=name, markersize=4)
            low, high = [v.low for v in values], [v.high for v in values]
            axes.fill_between(steps, low, high, color=f"C{number}", alpha=0.08, linewidth=0)
    for number, s in enumerate(s for s in evidence.first if not s.steps):
        value = evidence.rankings[s.proxy, 0, 0].spearman.overall.value
        panels[0].axhline(value, color=f"C{number + len(taught)}", linestyle="--", linewidth=1, label=s.proxy)
    panels[1].axhline(
        evidence.predicted_spearman(None), color="gray", linestyle="--", linewidth=1, label="choices alone"
    )
    for axes, title in zip(panels, ("alone", f"told {len(evidence.known)} accuracies, with the choices"), strict=True):
        axes.axhline(top.value, color="black", linewidth=1, label="a perfect proxy")
        axes.set_title(title)
        axes.set_ylim(-0.05, 1.03)
        axes.set_xscale("log", base=2)
        axes.set_xticks(REAL_STEPS, [str(step) for step in REAL_STEPS])
        axes.minorticks_off()
        axes.set_xlabel("inner steps of 64 images")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="lower right")
    panels[0].set_ylabel("Spearman with the accuracy after full training")
    figure.savefig(RESULTS / "nas.png")
