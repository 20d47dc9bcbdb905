"""How the inner learning rate of an architecture is chosen, one class for every way."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gtn_lightning.nas.proxies.base import Cost
from gtn_lightning.nas.spaces import ATTEMPTS, Architecture, SearchSpace
from gtn_lightning.randomness import keyed_generator

TUNE = ("architecture", "family")
"""What the best of several rates is chosen for."""

FAMILY_SAMPLE = 3
"""Number of family members on which the family's rate is tuned."""

Attempt = Callable[[Architecture, float], tuple[float, Cost]]
"""Trains a network of an architecture at a rate; returns its value, higher is better, and the cost."""


class Rates(ABC):
    """A way of choosing inner learning rates.

    Attributes:
        cost: what choosing has cost so far, beside the scores themselves.
    """

    cost: Cost = Cost()

    @abstractmethod
    def candidates(self, architecture: Architecture) -> Sequence[float | None]:
        """Return the rates of which the best counts for an architecture; None for the optimizer's own."""


class OwnRate(Rates):
    """The optimizer's own rate, whether learned or given."""

    def candidates(self, architecture: Architecture) -> Sequence[float | None]:
        """Return None alone."""
        return [None]


@dataclass
class RatePerArchitecture(Rates):
    """The best of several rates for every architecture, all of which are part of the cost of its score."""

    values: Sequence[float]

    def candidates(self, architecture: Architecture) -> Sequence[float]:
        """Return all of them."""
        return self.values


@dataclass
class RatePerFamily(Rates):
    """The best of several rates for every family of a space, by the mean value over `FAMILY_SAMPLE` of its members."""

    values: Sequence[float]
    space: SearchSpace
    attempt: Attempt
    chosen: dict[str, float] = field(default_factory=dict, init=False)
    """The rates of the families that were asked for."""

    def candidates(self, architecture: Architecture) -> Sequence[float]:
        """Return the family's rate, which is tuned when the first of the family is asked for."""
        family = self.space.family(architecture)
        if family not in self.chosen:
            generator = keyed_generator(0, "tuned", family)
            drawn = (self.space.sample(generator) for _ in range(ATTEMPTS))
            members = list(dict.fromkeys(one for one in drawn if self.space.family(one) == family))[:FAMILY_SAMPLE]
            if not members:  # a family too rare to be drawn: each of its members is tuned by itself
                return self.values
            self.chosen[family] = max(self.values, key=lambda rate: self._mean_value(members, rate))
        return [self.chosen[family]]

    def _mean_value(self, members: Sequence[Architecture], rate: float) -> float:
        values, costs = zip(*(self.attempt(member, rate) for member in members), strict=True)
        self.cost = sum(costs, self.cost)
        return sum(values) / len(values)


def rates_of(values: Sequence[float] | None, tune: str, space: SearchSpace, attempt: Attempt) -> Rates:
    """Return the way of choosing that a proxy's arguments ``rates`` and ``tune`` name."""
    if values is None:
        return OwnRate()
    return RatePerFamily(values, space, attempt) if tune == "family" else RatePerArchitecture(values)
