"""Proxies made of others."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from gtn_lightning.data import TensorData
from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies.base import Cost, Proxy, Report, Score
from gtn_lightning.nas.spaces import SearchSpace
from gtn_lightning.randomness import keyed_generator


class CombinedProxy(Proxy):
    """The base of proxies made of others.

    Args:
        proxies: the parts.
    """

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        super().__init__()
        self.proxies = list(proxies)
        self._calibration_cost = Cost()

    def attach(self, space: SearchSpace, data: TensorData, device: torch.device | str = "cpu") -> None:
        """Attach the parts; see the base class."""
        super().attach(space, data, device)
        for proxy in self.proxies:
            proxy.attach(space, data, device)
        self._calibration_cost = Cost()

    def score_all(self, architectures: Sequence[str], seed: int = 0) -> tuple[NDArray[np.float64], list[Cost]]:
        """Return the values of architectures by every part, ``[parts, architectures]``, and what each of them cost."""
        scores = [proxy.evaluate_all(architectures, seed) for proxy in self.proxies]
        values = np.array([[score.value for score in part] for part in scores]).reshape(len(scores), len(architectures))
        costs = [sum((part[place].cost for part in scores), Cost()) for place in range(len(architectures))]
        return comparable(values), costs

    def settings(self) -> Any:
        """Return what its scores depend on, as each part says of itself; see the base class."""
        described = super().settings()
        described["init_args"]["proxies"] = [proxy.settings() for proxy in self.proxies]
        return described

    def overhead(self) -> Cost:
        """Return the parts' overhead, and what scoring the first sample cost, once that was done."""
        return sum((proxy.overhead() for proxy in self.proxies), self._calibration_cost)


class MeanRank(CombinedProxy):
    """The mean of an architecture's ranks by several proxies: no proxy counts for more because its values are larger.

    Architectures that are scored together are ranked among each other. A search sees them one by one, and ranks
    them among a sample of the space, which is scored by every proxy before the first of them.

    Args:
        proxies: the proxies, at least one.
        calibration: number of architectures in the sample.

    Raises:
        RecipeError: there is no proxy, or the sample is smaller than 2.
    """

    def __init__(self, proxies: list[Proxy], calibration: int = 50) -> None:
        super().__init__(proxies)
        if not proxies:
            raise RecipeError("MeanRank: proxies is empty, expected at least one")
        if calibration < 2:
            raise RecipeError(f"MeanRank: calibration {calibration} given, expected 2 or more")
        self.calibration = calibration
        self.name = f"mean rank of {listed([proxy.name for proxy in self.proxies])}"
        self._scales: list[_Scale] | None = None

    def attach(self, space: SearchSpace, data: TensorData, device: torch.device | str = "cpu") -> None:
        """Attach the parts; see the base class."""
        super().attach(space, data, device)
        self._scales = None

    def evaluate(self, architecture: str, seed: int = 0, report: Report | None = None) -> Score:
        """Return the mean of an architecture's positions in the sample, at about 1 for the best of it.

        Between the sample's values, and beyond them, positions are linear in the value, so that the best of a search,
        better than all of the sample, are told apart. Nothing is reported: parts of a mean are not its course.
        """
        if self._scales is None:
            self._scales = self._calibrate()
        scores = [proxy.evaluate(architecture, seed) for proxy in self.proxies]
        positions = [scale.position(score.value) for scale, score in zip(self._scales, scores, strict=True)]
        return Score(sum(positions) / len(positions), sum((score.cost for score in scores), Cost()))

    def evaluate_all(self, architectures: Sequence[str], seed: int = 0) -> list[Score]:
        """Return the mean ranks of architectures among each other, from above 0 to 1 for what is best by all proxies.

        Equal values share their mean rank; NaN and -inf are the lowest.
        """
        if not architectures:
            return []
        values, costs = self.score_all(architectures, seed)
        means = np.mean(rankdata(values, axis=1), axis=0) / len(architectures)
        return [Score(float(mean), cost) for mean, cost in zip(means, costs, strict=True)]

    def _calibrate(self) -> list["_Scale"]:
        sample = self.space.draw(self.calibration, keyed_generator(0, "calibration"))
        values, costs = self.score_all(sample)
        self._calibration_cost = sum(costs, Cost())
        return [_Scale(part) for part in values]


class _Scale:
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
        # The lowest there is: the rank of those of the sample that have no value, or as far below it as it is wide.
        self.lowest = float(ranks[first][0]) if not finite[0] else -1.0

    def position(self, value: float) -> float:
        """Return the position of a value, from about 0 to 1 for the sample's own.

        Beyond the sample's ends, it goes on as steeply as it does on average over the outer quarter of the sample's
        different values: two values that happen to lie close would else make a cliff of the last step.
        """
        (value,) = comparable([value]).tolist()
        if value == -math.inf:
            return self.lowest
        if len(self.values) < 2:  # no slope to go on with: better than all, equal to all, or worse
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


def comparable(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values that have an order and a difference: NaN as -inf, +inf as the largest number."""
    return np.nan_to_num(
        np.array(values, dtype=np.float64), nan=-np.inf, posinf=np.finfo(np.float64).max / 4, neginf=-np.inf
    )


def listed(names: Sequence[str]) -> str:
    """Return names as in a sentence."""
    *first, last = names
    return " and ".join([", ".join(first), last] if first else [last])
