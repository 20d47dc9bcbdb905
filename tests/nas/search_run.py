"""A worker of a search, started by test_candidates.py."""

import time
from collections.abc import Mapping

from torch import nn

from gtn_lightning.nas.proxies import Cost, Score
from gtn_lightning.nas.search import Candidates
from gtn_lightning.nas.spaces import Architecture, Choice, SearchSpace

COUNT = 16


class Sums(SearchSpace):
    """Three digits, whose order does not matter."""

    def __init__(self) -> None:
        self.decisions: Mapping[str, list[Choice]] = {key: list(range(6)) for key in "abc"}

    def name(self, choices: Mapping[str, Choice]) -> str:
        return "{a}{b}{c}".format(**choices)

    def choices(self, name: str) -> dict[str, Choice]:
        choices: dict[str, Choice] = dict(zip("abc", map(int, name), strict=True))
        return choices

    def canonical(self, architecture: Architecture) -> str:
        return "".join(sorted(architecture.name))

    def build(self, architecture: Architecture) -> nn.Module:
        return nn.Linear(int(architecture.name) + 1, 1)


def score(architecture: Architecture) -> float:
    return float(sum(int(digit) ** 2 for digit in architecture.name))


def main(storage: str, sampler: str, count: int = COUNT) -> None:
    candidates = Candidates(Sums(), "test", storage, count, sampler)
    while (claimed := candidates.claim()) is not None:
        trial, architecture = claimed
        time.sleep(0.05)
        candidates.finish(trial, Score(score(architecture), Cost(steps=1)))
