"""What every proxy is: a cheap score of an architecture, with what it cost."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from gtn_lightning.data import TensorData
from gtn_lightning.description import describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies.flops import forward_flops
from gtn_lightning.nas.spaces import SearchSpace


@dataclass(frozen=True)
class Cost:
    """What a score cost."""

    seconds: float = 0.0
    """Wall clock."""
    steps: int = 0
    """Optimizer steps."""
    images: int = 0
    """Images that went through a network, forward or forward and back."""
    flops: float = 0.0
    """Floating-point operations of the networks: twice the multiplications of a forward pass, three times that with a
    backward pass."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Score:
    """How good an architecture seems to be."""

    value: float
    """More is better."""
    cost: Cost


Report = Callable[[int, float], bool]
"""Called with a number of steps and the value so far, while a candidate is being scored; True ends that at once."""


class Proxy(ABC):
    """A cheap score of an architecture that predicts its score after full training.

    A proxy is a plain callable as well, ``proxy(architecture) -> float``, for whoever has a search loop already.

    Attributes:
        name: what it is called in tables and plots.
    """

    name: str

    def __init__(self) -> None:
        self._space: SearchSpace | None = None
        self._data: TensorData | None = None
        self._flops: dict[str, int] = {}
        self.device = torch.device("cpu")

    def attach(self, space: SearchSpace, data: TensorData, device: torch.device | str = "cpu") -> None:
        """Give the search space, the data, set up, and where networks run; once, before the first score."""
        self._space = space
        self._data = data
        self._flops = {}
        self.device = torch.device(device)

    @property
    def space(self) -> SearchSpace:
        """The search space.

        Raises:
            RecipeError: none was attached.
        """
        if self._space is None:
            raise RecipeError(f"{type(self).__name__}: attach a search space and data before the first score")
        return self._space

    @property
    def data(self) -> TensorData:
        """The data.

        Raises:
            RecipeError: none was attached.
        """
        if self._data is None:
            raise RecipeError(f"{type(self).__name__}: attach a search space and data before the first score")
        return self._data

    def flops(self, architecture: str, network: nn.Module) -> int:
        """Return the operations of one image's forward pass through an architecture's network, counted once."""
        if architecture not in self._flops:
            self._flops[architecture] = forward_flops(network, self.data.image_shape)
        return self._flops[architecture]

    @abstractmethod
    def evaluate(self, architecture: str, seed: int = 0, report: Report | None = None) -> Score:
        """Score an architecture.

        Args:
            architecture: a member of the search space.
            seed: of whatever is random; with the architecture's name, so that scores are independent of each other.
            report: hears of intermediate values, where there are any, and may end the scoring.
        """

    def evaluate_all(self, architectures: Sequence[str], seed: int = 0) -> list[Score]:
        """Score several architectures; override if a score depends on the other architectures."""
        return [self.evaluate(architecture, seed) for architecture in architectures]

    def settings(self) -> Any:
        """Return what its scores depend on, as plain data: its class, and its arguments under their own names."""
        return describe(self, rebuilt=False)

    def overhead(self) -> Cost:
        """Return what had to be paid before the first score, such as a teacher's meta-training."""
        return Cost()

    def __call__(self, architecture: str) -> float:
        """Return the value alone."""
        return self.evaluate(architecture).value
