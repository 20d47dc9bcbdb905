"""The base classes of proxies: what a recipe configures, and what then scores architectures."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from gtn_lightning.data import TensorData
from gtn_lightning.description import describe
from gtn_lightning.nas.proxies.flops import forward_flops
from gtn_lightning.nas.spaces import Architecture, SearchSpace


@dataclass(frozen=True)
class Cost:
    """What a score cost."""

    seconds: float = 0.0
    """Wall clock."""
    steps: int = 0
    """Optimizer steps."""
    images: int = 0
    """Images that a network processed, with or without a backward pass."""
    flops: float = 0.0
    """Floating-point operations of the networks: twice the multiplications of a forward pass, three times that with a
    backward pass."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Score:
    """The score of an architecture."""

    value: float
    """Higher is better."""
    cost: Cost


@dataclass(frozen=True)
class Features:
    """All numbers that a proxy measures of an architecture, from which a regression can predict."""

    values: tuple[float, ...]
    """As many for every architecture."""
    cost: Cost


Report = Callable[[int, float], bool]
"""Called with the number of steps and the value so far while an architecture is scored; True ends the scoring."""


class Proxy(ABC):
    """A cheap score of an architecture that predicts its score after full training, as a recipe configures it.

    A proxy of your own sets `name`, and stores its constructor's arguments under their own names. It sets `scorer`, or
    writes ``evaluate`` itself, with the arguments of `Scorer.evaluate`; it then finds ``space``, ``data`` and
    ``device`` on itself.

    Attributes:
        name: what it is called in tables and plots.
        scorer: the class of what `bind` returns.
    """

    name: str
    scorer: type["Scorer"]

    def bind(self, space: SearchSpace, data: TensorData, device: torch.device | str = "cpu") -> "Scorer":
        """Return what scores architectures. The proxy is not changed and may be bound again.

        Args:
            space: the search space.
            data: the data, set up.
            device: where networks run.

        Raises:
            RecipeError: the proxy cannot be used with this space or this data.
        """
        return getattr(self, "scorer", OwnScorer)(self, space, data, torch.device(device))


@dataclass(eq=False, repr=False)
class Scorer(ABC):
    """A proxy bound to a search space, data and a device. A scorer of your own writes `evaluate`.

    It is a plain callable as well, ``scorer(architecture) -> float``, for a search loop of your own.
    """

    proxy: Proxy
    space: SearchSpace
    data: TensorData
    device: torch.device

    def __post_init__(self) -> None:
        self._flops: dict[Architecture, int] = {}

    @property
    def name(self) -> str:
        """What the proxy is called in tables and plots."""
        return self.proxy.name

    def flops(self, architecture: Architecture, network: nn.Module) -> int:
        """Return the operations of one image's forward pass through an architecture's network, counted once."""
        if architecture not in self._flops:
            self._flops[architecture] = forward_flops(network, self.data.image_shape)
        return self._flops[architecture]

    @abstractmethod
    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        """Score an architecture.

        Args:
            architecture: a member of the search space.
            seed: of all random numbers, together with the architecture's name: scores do not depend on their order.
            report: is given intermediate values, where there are any, and may end the scoring.
        """

    def evaluate_all(self, architectures: Sequence[Architecture], seed: int = 0) -> list[Score]:
        """Score several architectures; override if a score depends on the other architectures."""
        return [self.evaluate(architecture, seed) for architecture in architectures]

    def features(self, architecture: Architecture, seed: int = 0) -> Features:
        """Return the numbers that the score is made of; here the score alone."""
        score = self.evaluate(architecture, seed)
        return Features((score.value,), score.cost)

    def settings(self) -> Any:
        """Return what the scores depend on besides space and data, as plain data: the proxy's class and arguments."""
        return describe(self.proxy, rebuilt=False)

    def overhead(self) -> Cost:
        """Return what had to be paid before the first score, such as a teacher's meta-training."""
        return Cost()

    def __call__(self, architecture: Architecture | str) -> float:
        """Return the value of an architecture, which may be given by its name."""
        if not isinstance(architecture, Architecture):
            architecture = self.space.parse(architecture)
        return self.evaluate(architecture).value


class OwnScorer(Scorer):
    """Scores by the ``evaluate`` of a proxy itself, of which it binds a copy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._bound: Any = copy(self.proxy)
        vars(self._bound).update(space=self.space, data=self.data, device=self.device)

    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        """Score an architecture; see the base class."""
        score: Score = self._bound.evaluate(architecture, seed, report)
        return score
