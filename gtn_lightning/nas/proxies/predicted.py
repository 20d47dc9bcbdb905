"""A proxy that learns from the known accuracies of some architectures."""

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PowerTransformer

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies.base import Cost, Proxy, Report, Score
from gtn_lightning.nas.proxies.combined import CombinedProxy, CombinedScorer, comparable, listed
from gtn_lightning.nas.reference import TableReference
from gtn_lightning.nas.spaces import Architecture

MIN_KNOWN = 8
"""Minimum number of known architectures to learn from."""

HUGE = 1e100
"""Magnitudes above this are treated as infinite."""


class PredictedRankScorer(CombinedScorer):
    """Scores by predicted ranks."""

    proxy: "PredictedRank"

    def __post_init__(self) -> None:
        super().__post_init__()
        prior = self.proxy.prior
        self.prior = None if prior is None else prior.bind(self.space, self.data, self.device)
        reference, held_out = self.proxy.reference, self.proxy.held_out
        known = reference.architectures(self.space)
        self.known = [architecture for architecture in known if not self.space.is_held_out(architecture, held_out)]
        if len(self.known) < MIN_KNOWN:
            raise RecipeError(
                f"PredictedRank: {reference.path} must hold at least {MIN_KNOWN} architectures that are not held out, "
                f"got {len(self.known)}: measure more of them, or lower held_out"
            )

    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        """Return the predicted rank; nothing is reported, since there are no intermediate predictions."""
        return self.evaluate_all([architecture], seed)[0]

    def evaluate_all(self, architectures: Sequence[Architecture], seed: int = 0) -> list[Score]:
        """Return the predicted ranks; see the base class."""
        if not architectures:
            return []
        predictor = self.predictor
        inputs, prior, costs = self._measured(architectures, seed)
        return [Score(value, cost) for value, cost in zip(predictor.predict(inputs, prior), costs, strict=True)]

    @cached_property
    def predictor(self) -> "RankPredictor":
        """The regression, fitted when the first architecture is scored."""
        inputs, prior, costs = self._measured(self.known, 0)
        self.calibration_cost = sum(costs, Cost())
        accuracies = self.proxy.reference.accuracies(self.space, self.known)
        return RankPredictor(inputs, accuracies.mean(dim=1).numpy(), prior)

    def settings(self) -> Any:
        """Return what the scores depend on; see the base class. The table counts by its contents, not by its path."""
        described = super().settings()
        described["init_args"]["reference"] = self.proxy.reference.digest()
        described["init_args"]["prior"] = None if self.prior is None else self.prior.settings()
        return described

    def overhead(self) -> Cost:
        """Return the cost of the known accuracies, the parts' overhead and, once paid, their scores of the known."""
        prior = Cost() if self.prior is None else self.prior.overhead()
        return super().overhead() + prior + Cost(seconds=self.proxy.reference.seconds(self.space, self.known))

    def _measured(
        self, architectures: Sequence[Architecture], seed: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, list[Cost]]:
        """Return the inputs of architectures, ``[architectures, inputs]``, their values by the prior, and the costs."""
        if self.proxy.features:
            rows = [[part.features(architecture, seed) for part in self.parts] for architecture in architectures]
            inputs = comparable([[value for part in row for value in part.values] for row in rows])
            costs = [sum((part.cost for part in row), Cost()) for row in rows]
        else:
            values, costs = self.score_all(architectures, seed)
            inputs = values.T
        if self.proxy.choices:
            encoded = [self.space.encode(architecture) for architecture in architectures]
            inputs = np.hstack([inputs, np.array(encoded)])
        if self.prior is None:
            return inputs, None, costs
        scores = [self.prior.evaluate(architecture, seed) for architecture in architectures]
        costs = [cost + score.cost for cost, score in zip(costs, scores, strict=True)]
        return inputs, comparable([score.value for score in scores]), costs


class PredictedRank(CombinedProxy):
    """The rank that a regression predicts for an architecture among some whose accuracies are known.

    The inputs are the architecture's values by other proxies, and its choices, as `SearchSpace.encode` writes them.
    With ``features`` they are all numbers that the proxies measure (`Scorer.features`), such as the losses of a
    training after several steps. The output is a normal score: 0 for the middle of the known ones, 1 for the best
    sixth. The model is a Gaussian process with the kernel ``a * exp(-|x - x'|^2 / (2 * l^2)) + b * (x . x' + c) +
    noise``, its constants those of the largest marginal likelihood (Rasmussen and Williams, "Gaussian Processes for
    Machine Learning", 2006), on inputs brought near a normal distribution (Yeo and Johnson, 2000). Predictors of this
    kind, from a few accuracies, encodings and cheap proxies, are compared by White et al. (arXiv 2104.01177).

    With a ``prior``, a proxy that ranks well by itself, the process predicts what its rank leaves: the values are
    brought near a normal distribution and scaled by least squares, the process is fitted to the difference, and both
    are added. See "explicit basis functions" in Rasmussen and Williams, section 2.7, where both are fitted at once.

    The trainings behind the known accuracies count as overhead, see `TableReference.seconds`, and so do the proxies'
    scores of the known architectures. Known architectures that are held out are not used: no accuracy of an
    architecture to be ranked is an input.

    Args:
        reference: the known accuracies.
        proxies: their values are inputs; without any, the choices are the only inputs.
        choices: whether the choices are inputs.
        held_out: the share of the space whose accuracies are not used, see `SearchSpace.is_held_out`: that of the
            teacher's meta-training.
        features: whether all numbers of a proxy are inputs, not only its value.
        prior: a proxy whose value the prediction starts from; it is an input too, so that the process may correct it.

    Raises:
        RecipeError: a value is out of range, or there are no inputs. From `bind`: fewer than `MIN_KNOWN` architectures
            are known.
    """

    scorer = PredictedRankScorer

    def __init__(
        self,
        reference: TableReference,
        proxies: list[Proxy],
        choices: bool = True,
        held_out: float = 0.5,
        features: bool = False,
        prior: Proxy | None = None,
    ) -> None:
        if not proxies and not choices:
            raise RecipeError("PredictedRank: there are no inputs: give proxies, or set choices to true")
        if prior is not None and not isinstance(prior, Proxy):
            raise RecipeError(f"PredictedRank: prior must be a Proxy, got a {type(prior).__name__}")
        if not 0 <= held_out < 1:
            raise RecipeError(f"PredictedRank: held_out must be at least 0 and below 1, got {held_out}")
        super().__init__(proxies)
        self.reference = reference
        self.choices = choices
        self.held_out = held_out
        self.features = features
        self.prior = prior
        parts = [*(proxy.name for proxy in self.proxies), *(["choices"] if choices else [])]
        self.name = f"predicted from {listed(parts)}" + ("" if prior is None else f", prior: {prior.name}")


class RankPredictor:
    """The regression of `PredictedRank`, from inputs to normal scores.

    Infinite values, and those above `HUGE`, are replaced by the lowest or highest finite value of the same input.

    Args:
        inputs: of the known architectures, ``[known, inputs]``.
        accuracies: ``[known]``.
        prior: values that the prediction starts from, ``[known]``; None for none.

    Raises:
        ValueError: from `predict`, if values of the prior are given and none were fitted, or the reverse.
    """

    def __init__(
        self, inputs: NDArray[np.float64], accuracies: NDArray[np.float64], prior: NDArray[np.float64] | None = None
    ) -> None:
        targets = norm.ppf((rankdata(accuracies) - 0.5) / len(accuracies))
        self._has_prior = prior is not None
        values = np.zeros(len(inputs)) if prior is None else prior  # equal values tell nothing
        self._trend = _Trend(values, targets)
        targets = targets - self._trend.predict(values)
        inputs = self._with(inputs, values)
        self._bounds = _Bounds(inputs)
        kernel = ConstantKernel() * RBF(3.0, (0.5, 100.0)) + ConstantKernel() * DotProduct() + WhiteKernel(0.1)
        process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=0)
        self._model: Pipeline = make_pipeline(PowerTransformer(), process)
        with warnings.catch_warnings():  # a constant at the end of its range is a valid fit
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(self._bounds.apply(inputs), targets)

    def predict(self, inputs: NDArray[np.float64], prior: NDArray[np.float64] | None = None) -> list[float]:
        """Return the normal scores of architectures, from inputs ``[architectures, inputs]`` and the prior's values."""
        if (prior is not None) != self._has_prior:
            raise ValueError(f"prior must {'' if self._has_prior else 'not '}be given, as when this was fitted")
        values = np.zeros(len(inputs)) if prior is None else prior
        predicted: NDArray[np.float64] = self._model.predict(self._bounds.apply(self._with(inputs, values)))
        found: list[float] = (predicted + self._trend.predict(values)).tolist()
        return found

    def _with(self, inputs: NDArray[np.float64], prior: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the inputs and, if it tells anything, the prior as one more: the process may correct it."""
        if self._trend.is_constant:
            return inputs
        return np.hstack([inputs, self._trend.normal(prior)[:, None]])


class _Bounds:
    """The finite range of every input, of known ones ``[known, inputs]``."""

    def __init__(self, inputs: NDArray[np.float64]) -> None:
        sane = np.where(np.abs(inputs) < HUGE, inputs, np.nan)
        sane[:, np.isnan(sane).all(axis=0)] = 0.0
        self.lowest, self.highest = np.nanmin(sane, axis=0), np.nanmax(sane, axis=0)

    def apply(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``[architectures, inputs]`` with infinite and huge values at the ends of the range."""
        bounded = np.clip(inputs, self.lowest, self.highest)
        return np.where(np.abs(inputs) < HUGE, inputs, bounded)


class _Trend:
    """Values brought near a normal distribution (Yeo and Johnson, 2000), times the factor of least squares to targets.

    Beyond the known values the transformation, which may grow without limit, is continued as a line, with the mean
    slope over the outer quarter of them.

    Args:
        values: known ones, ``[known]``.
        targets: ``[known]``.
    """

    def __init__(self, values: NDArray[np.float64], targets: NDArray[np.float64]) -> None:
        column = values[:, None]
        self._bounds = _Bounds(column)
        known = np.unique(self._bounds.apply(column))
        self._lowest, self._highest = known[0], known[-1]
        self.is_constant = len(known) == 1
        if self.is_constant:  # nothing to learn from
            return
        self._transform = PowerTransformer().fit(self._bounds.apply(column))
        quarter = max(1, len(known) // 4)
        inside = self._inside(known)
        self._slopes = (
            (inside[quarter] - inside[0]) / (known[quarter] - known[0]),
            (inside[-1] - inside[-1 - quarter]) / (known[-1] - known[-1 - quarter]),
        )
        fitted = self.normal(values)
        size = float(fitted @ fitted)
        self.is_constant = size == 0  # values that differ by less than the transformation can tell
        self._factor = 0.0 if self.is_constant else float(fitted @ targets) / size

    def normal(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values ``[architectures]`` brought near a normal distribution."""
        values = self._bounds.apply(values[:, None])[:, 0]
        below, above = np.minimum(values - self._lowest, 0), np.maximum(values - self._highest, 0)
        inside = self._inside(np.clip(values, self._lowest, self._highest))
        found: NDArray[np.float64] = inside + self._slopes[0] * below + self._slopes[1] * above
        return found

    def predict(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the part of the targets that values explain, ``[architectures]``; zero if the known were all equal."""
        return np.zeros(len(values)) if self.is_constant else self._factor * self.normal(values)

    def _inside(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        transformed: NDArray[np.float64] = self._transform.transform(values[:, None])[:, 0]
        return transformed
