"""A proxy that is told the accuracies of some architectures."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PowerTransformer

from gtn_lightning.data import TensorData
from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies.base import Cost, Proxy, Report, Score
from gtn_lightning.nas.proxies.combined import CombinedProxy, listed
from gtn_lightning.nas.reference import TableReference
from gtn_lightning.nas.spaces import Choice, SearchSpace

MIN_KNOWN = 8
"""Minimum number of known architectures to learn from."""

HUGE = 1e100
"""Magnitudes above this are treated as infinite."""


class PredictedRank(CombinedProxy):
    r"""The place that a regression gives an architecture among some whose accuracies are known.

    What goes in are the architecture's values by other proxies, and its choices, one-hot. What comes out is a normal
    score: 0 for the middle of the known ones, 1 for the best sixth. It is a Gaussian process with the kernel
    :math:`a \exp(-|x - x'|^2 / 2 l^2) + b \, (x \cdot x' + c) + \sigma^2 \delta`, its constants those of the largest
    marginal likelihood (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006), on inputs brought
    near a normal distribution (Yeo and Johnson, 2000). Predictors of this kind, from a few accuracies, encodings and
    cheap proxies, are compared by White et al. (arXiv 2104.01177).

    The known accuracies are paid for, see `TableReference.seconds`, and so are the proxies' scores of the known
    architectures. Known architectures that are held out are left alone: what is ranked is not among what is told.

    Args:
        reference: the known accuracies.
        proxies: whose values go in; with none of them, the choices alone decide.
        choices: whether the choices go in.
        held_out: the share of the space from which nothing is told, see `SearchSpace.is_held_out`: that of the
            teacher's meta-training.

    Raises:
        RecipeError: a value is out of range, nothing goes in, or fewer than `MIN_KNOWN` architectures are known.
    """

    def __init__(
        self, reference: TableReference, proxies: list[Proxy], choices: bool = True, held_out: float = 0.5
    ) -> None:
        super().__init__(proxies)
        if not proxies and not choices:
            raise RecipeError("PredictedRank: nothing goes in: give proxies, or set choices to true")
        if not 0 <= held_out < 1:
            raise RecipeError(f"PredictedRank: held_out {held_out} given, expected from 0 to below 1")
        self.reference = reference
        self.choices = choices
        self.held_out = held_out
        parts = [*(proxy.name for proxy in self.proxies), *(["choices"] if choices else [])]
        self.name = f"predicted from {listed(parts)}"
        self._known: list[str] = []
        self._predictor: RankPredictor | None = None

    def attach(self, space: SearchSpace, data: TensorData, device: torch.device | str = "cpu") -> None:
        """Attach the parts, and find what is known of the space; see the base class."""
        super().attach(space, data, device)
        self._predictor = None
        self._known = [name for name in self.reference.architectures if not space.is_held_out(name, self.held_out)]
        if len(self._known) < MIN_KNOWN:
            raise RecipeError(
                f"PredictedRank: {len(self._known)} architectures of {self.reference.path} may be known, expected at "
                f"least {MIN_KNOWN}: measure more of them, or hold out less"
            )

    def evaluate(self, architecture: str, seed: int = 0, report: Report | None = None) -> Score:
        """Return the predicted place; nothing is reported, since parts of an input are not its course."""
        return self.evaluate_all([architecture], seed)[0]

    def evaluate_all(self, architectures: Sequence[str], seed: int = 0) -> list[Score]:
        """Return the predicted places; see the base class."""
        if self._predictor is None:
            self._predictor = self._fit()
        inputs, costs = self._inputs(architectures, seed)
        return [Score(value, cost) for value, cost in zip(self._predictor.predict(inputs), costs, strict=True)]

    def settings(self) -> Any:
        """Return what its scores depend on; see the base class. Of the table it is the contents, not the path."""
        described = super().settings()
        described["init_args"]["reference"] = self.reference.digest()
        return described

    def overhead(self) -> Cost:
        """Return what the known accuracies cost, and the parts' overhead; their scores of the known, once made."""
        return super().overhead() + Cost(seconds=self.reference.seconds(self.space, self._known))

    def _fit(self) -> "RankPredictor":
        inputs, costs = self._inputs(self._known, 0)
        self._calibration_cost = sum(costs, Cost())
        return RankPredictor(inputs, self.reference.accuracies(self.space, self._known).mean(dim=1).numpy())

    def _inputs(self, architectures: Sequence[str], seed: int) -> tuple[NDArray[np.float64], list[Cost]]:
        values, costs = self.score_all(architectures, seed)
        inputs = values.T
        if self.choices:
            inputs = np.hstack([inputs, encode(self.space, architectures)])
        return inputs, costs


class RankPredictor:
    """The regression of `PredictedRank`, from inputs to normal scores.

    Args:
        inputs: of the known architectures, ``[known, inputs]``. What is infinite, or as good as, counts as the lowest
            or highest number that was seen.
        accuracies: ``[known]``.
    """

    def __init__(self, inputs: NDArray[np.float64], accuracies: NDArray[np.float64]) -> None:
        sane = np.where(np.abs(inputs) < HUGE, inputs, np.nan)
        sane[:, np.isnan(sane).all(axis=0)] = 0.0
        self._lowest, self._highest = np.nanmin(sane, axis=0), np.nanmax(sane, axis=0)
        targets = norm.ppf((rankdata(accuracies) - 0.5) / len(accuracies))
        kernel = ConstantKernel() * RBF(3.0, (0.5, 100.0)) + ConstantKernel() * DotProduct() + WhiteKernel(0.1)
        process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=0)
        self._model: Pipeline = make_pipeline(PowerTransformer(), process)
        with warnings.catch_warnings():  # a constant at the end of its range is an answer like any other
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(self._finite(inputs), targets)

    def predict(self, inputs: NDArray[np.float64]) -> list[float]:
        """Return the normal scores of architectures, ``[architectures, inputs]``."""
        if not len(inputs):
            return []
        predicted: list[float] = self._model.predict(self._finite(inputs)).tolist()
        return predicted

    def _finite(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        bounded = np.clip(inputs, self._lowest, self._highest)
        return np.where(np.abs(inputs) < HUGE, inputs, bounded)


def encode(space: SearchSpace, architectures: Sequence[str]) -> NDArray[np.float64]:
    """Return the choices of architectures, one-hot, ``[architectures, sum of the numbers of options]``."""
    rows = []
    for architecture in architectures:
        chosen: Mapping[str, Choice] = space.choices(architecture)
        rows.append([float(chosen[key] == option) for key, options in space.decisions.items() for option in options])
    return np.array(rows).reshape(len(rows), sum(len(options) for options in space.decisions.values()))
