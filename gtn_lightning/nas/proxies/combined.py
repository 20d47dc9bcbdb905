"""Proxies that combine the scores of others."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies.base import Cost, Proxy, Report, Score, Scorer
from gtn_lightning.nas.spaces import Architecture
from gtn_lightning.randomness import keyed_generator


class CombinedScorer(Scorer):
    """The base of scorers that combine the scores of other proxies.

    Attributes:
        parts: the scorers of the other proxies.
        calibration_cost: the cost of the scores that had to be known before the first one could be returned.
    """

    proxy: "CombinedProxy"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parts = [proxy.bind(self.space, self.data, self.device) for proxy in self.proxy.proxies]
        self.calibration_cost = Cost()

    def score_all(self, architectures: Sequence[Architecture], seed: int = 0) -> tuple[NDArray[np.float64], list[Cost]]:
        """Return the values of architectures by every part, ``[parts, architectures]``, and the cost of each.

        An architecture's values do not depend on the others, also where a part ranks among those scored together.
        """
        scores = [[part.evaluate(architecture, seed) for architecture in architectures] for part in self.parts]
        values = np.array([[score.value for score in part] for part in scores]).reshape(len(scores), len(architectures))
        costs = [sum((part[place].cost for part in scores), Cost()) for place in range(len(architectures))]
        return comparable(values), costs

    def settings(self) -> Any:
        """Return what the scores depend on, for every part as its scorer returns it; see the base class."""
        described = super().settings()
        described["init_args"]["proxies"] = [part.settings() for part in self.parts]
        return described

    def overhead(self) -> Cost:
        """Return the parts' overhead and, once it was paid, the cost of calibration."""
        return sum((part.overhead() for part in self.parts), self.calibration_cost)


class CombinedProxy(Proxy):
    """The base of proxies that combine the scores of others.

    Args:
        proxies: the others.
    """

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self.proxies = list(proxies)


class MeanRankScorer(CombinedScorer):
    """Scores by mean ranks."""

    proxy: "MeanRank"

    @cached_property
    def scales(self) -> list["Scale"]:
        """The scale of every part, by the sample, which is scored when the first architecture is."""
        values, costs = self.score_all(self.space.draw(self.proxy.calibration, keyed_generator(0, "calibration")))
        self.calibration_cost = sum(costs, Cost())
        return [Scale(part) for part in values]

    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        """Return the mean of an architecture's positions in the sample, at about 1 for the best of it.

        Between the sample's values and beyond them, positions are linear in the value, so that architectures better
        than the whole sample still differ. Nothing is reported: a mean of some parts is not an intermediate value.
        """
        scales = self.scales
        scores = [part.evaluate(architecture, seed) for part in self.parts]
        positions = [scale.position(score.value) for scale, score in zip(scales, scores, strict=True)]
        return Score(sum(positions) / len(positions), sum((score.cost for score in scores), Cost()))

    def evaluate_all(self, architectures: Sequence[Architecture], seed: int = 0) -> list[Score]:
        """Return the mean ranks of architectures among each other, from above 0 to 1 for the best by all proxies.

        Equal values share their mean rank; NaN and -inf are the lowest.
        """
        if not architectures:
            return []
        values, costs = self.score_all(architectures, seed)
        means = np.mean(rankdata(values, axis=1), axis=0) / len(architectures)
        return [Score(float(mean), cost) for mean, cost in zip(means, costs, strict=True)]


class MeanRank(CombinedProxy):
    """The mean of an architecture's ranks by several proxies, so that proxies with larger values have no more weight.

    Architectures that are scored together are ranked among each other. A search scores them one by one, and ranks
    each among a sample of the space, which is scored by every proxy before the first candidate.

    Args:
        proxies: the proxies, at least one.
        calibration: number of architectures in the sample.

    Raises:
        RecipeError: there is no proxy, or the sample is smaller than 2.
    """

    scorer = MeanRankScorer

    def __init__(self, proxies: list[Proxy], calibration: int = 50) -> None:
        if not proxies:
            raise RecipeError("MeanRank: proxies is empty: give at least one")
        if calibration < 2:
            raise RecipeError(f"MeanRank: calibration must be at least 2, got {calibration}")
        super().__init__(proxies)
        self.calibration = calibration
        self.name = f"mean rank of {listed([proxy.name for proxy in self.proxies])}"


class Scale:
    """Positions of values among those of a sample.

    Args:
        sample: the sample's values, comparable.
    """

    def __init__(self, sample: NDArray[np.float64]) -> None:
        ranks = rankdata(sample) / len(sample)
        known, first = np.unique(sample, return_index=True)
        finite = known > -math.inf
        self.values = known[finite]
        self.positions = ranks[first][finite]
        # The lowest position: that of the sample's members without a value, or else the sample's width below its end.
        self.lowest = float(ranks[first][0]) if not finite[0] else -1.0

    def position(self, value: float) -> float:
        """Return the position of a value, from about 0 to 1 for the sample's own.

        Beyond the sample's ends the slope is the mean slope over the outer quarter of the sample's different values:
        that of the last step alone would be very steep where two values happen to be close.
        """
        (value,) = comparable([value]).tolist()
        if value == -math.inf:
            return self.lowest
        if len(self.values) < 2:  # no slope: above the only value, equal to it, or below
            known = self.values[0] if len(self.values) else -math.inf
            if value == known:
                return float(self.positions[0])
            return 1.0 if value > known else self.lowest
        quarter = max(1, len(self.values) // 4)
        for end, inner in ((0, quarter), (-1, -1 - quarter)):
            beyond = value - self.values[end]
            if beyond < 0 if end == 0 else beyond > 0:
                rise = self.positions[end] - self.positions[inner]
                slope = rise / (self.values[end] - self.values[inner])
                return max(self.lowest, float(self.positions[end] + slope * beyond))
        return float(np.interp(value, self.values, self.positions))


def comparable(values: Sequence[float] | Sequence[Sequence[float]] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values that can be ordered and subtracted: NaN becomes -inf, +inf a large number."""
    return np.nan_to_num(
        np.array(values, dtype=np.float64), nan=-np.inf, posinf=np.finfo(np.float64).max / 4, neginf=-np.inf
    )


def listed(names: Sequence[str]) -> str:
    """Return names as a phrase: ``a, b and c``."""
    *first, last = names
    return " and ".join([", ".join(first), last] if first else [last])
