"""The tables and the plot of `benchmarks.nas`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.report import RESULTS, markdown_table, write_sections
from gtn_lightning.nas.correlation import Interval, Ranking, measure_ranking, noise_ceiling, split_half
from gtn_lightning.nas.proxies.predicted import RankPredictor
from gtn_lightning.nas.spaces import Architecture, ConvNetGrid

SYNTHETIC_STEPS = (4, 8)
REAL_STEPS = (4, 8, 40, 80, 128, 320)
"""Includes ten times the synthetic steps."""

SUBSET_STEPS = (4, 8, 40)
TITLE = "Architecture search: what ranks networks, and at what cost"

NOTE = (
    "Two spaces: the cells of NAS-Bench-201, whose accuracies after 200 epochs are published, and a grid of plain "
    "networks on MNIST, trained by us."
)
"""Of the page that `benchmarks.nasbench201` writes to as well."""

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
    values: list[float]
    """Of the ranked networks, then of the known ones."""
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
    places: dict[tuple[str, int, int] | None, list[float]] = field(init=False, default_factory=dict)
    """Predicted places, by the regression's inputs."""

    def __post_init__(self) -> None:
        self.worth = self.accuracies.mean(dim=1)
        self.rankings = {(s.proxy, s.steps, s.seed): self.ranking(self.values(s)) for s in self.scores}

    @property
    def first(self) -> list[Scores]:
        """The scores with the first seed."""
        return [s for s in self.scores if s.seed == 0]

    def values(self, scores: Scores) -> list[float]:
        """Return a proxy's values of the ranked networks."""
        return scores.values[: len(self.ranked)]

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

    def predicted_places(self, scores: Scores | None) -> list[float]:
        """Return the ranked networks' places, predicted from their choices, and from scores if some are given."""
        key = (scores.proxy, scores.steps, scores.seed) if scores else None
        if key not in self.places:
            encoded = np.array([self.space.encode(network) for network in (*self.ranked, *self.known)])
            inputs = np.hstack([np.array([scores.values]).T, encoded]) if scores else encoded
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
        "![Spearman against steps](nas.png)",
        table(evidence),
        "Spearman of the proxy's accuracy on 2,000 validation images with the mean test accuracy after full training, "
        "with 95 % bootstrap intervals over the networks; one learner per network, proxy and seed. Told: "
        f"`PredictedRank` with the choices, told the accuracies of {len(evidence.known)} other networks, one training "
        f"each, {evidence.known_seconds:.0f} seconds in all. Seconds are of one thread, with one look at the "
        "validation images.",
        f"What all {GRID} networks cost, with the teacher and the known accuracies, the mean over the seeds:",
        whole_grid(evidence),
    ]
    write_sections("nas", TITLE, {"A second space: the ConvNet grid on MNIST": "\n\n".join(body)}, NOTE)
    plot(evidence, top)


def interval(found: Interval) -> str:
    """Return a value with its interval."""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def table(evidence: Evidence) -> str:
    """Return the table of every proxy, alone and with known accuracies."""
    rows = []
    inputs: list[Scores | None] = [None, *evidence.first]
    for s in inputs:
        told = [evidence.ranking(evidence.predicted_places(o)).spearman for o in evidence.seeds(s)] if s else []
        told = told or [evidence.ranking(evidence.predicted_places(None)).spearman]
        found = [evidence.rankings[o.proxy, o.steps, o.seed].spearman for o in evidence.seeds(s)] if s else []
        rows.append(
            [
                *((s.proxy, str(s.steps), f"{evidence.seconds(s):.2f}") if s else ("the choices", "", "")),
                interval(found[0].overall) if s else "",
                ", ".join(f"{one.overall.value:.2f}" for one in found[1:]),
                interval(found[0].top_half) if s else "",
                interval(told[0].overall),
                ", ".join(f"{one.overall.value:.2f}" for one in told[1:]),
            ]
        )
    header = ["proxy", "steps", "seconds", "Spearman", "other seeds", "top half"]
    return markdown_table([*header, f"told {len(evidence.known)}", "other seeds"], rows)


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
    """Return, for each teacher, its cost and the cheapest way without a teacher to reach its quality."""
    ways = [Way("", 0, True, evidence.predicted_spearman(None), 0.0, evidence.known_seconds, 0.0)]
    for s in evidence.first:
        if not s.steps or "rate per" in s.proxy:
            continue
        made, seconds = evidence.teacher_seconds.get(s.proxy, 0.0), evidence.seconds(s)
        label_seconds = evidence.known_seconds if s.proxy == RANKED else 0.0
        ways.append(Way(s.proxy, s.steps, False, evidence.spearman(s), made, label_seconds, seconds))
        known = evidence.known_seconds + sum(s.seconds[len(evidence.ranked) :])
        ways.append(Way(s.proxy, s.steps, True, evidence.predicted_spearman(s), made, known, seconds))
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
    return "\n".join(f"- {sentence}" for sentence in said)


def cheapest(best: Way, rivals: Sequence[Way]) -> str:
    """Return in words the cheapest of some ways that rank as well as another, or the best if none does."""
    enough = [way for way in rivals if way.spearman >= best.spearman]
    rival = min(enough, key=lambda w: w.whole) if enough else max(rivals, key=lambda w: w.spearman)
    reaches = "as much is reached" if enough else f"it is not reached; the most, {rival.spearman:.3f}, is reached"
    times = best.whole / rival.whole
    return f"{reaches} in {rival.whole:.0f} seconds ({rival}): the teacher's way takes {times:.2f} times that"


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
