"""The sampler of random candidates."""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from gtn_lightning.nas.spaces import Architecture, SearchSpace
from gtn_lightning.randomness import keyed_generator

DRAWS = "candidates"
"""Key of the generator that random candidates are drawn from."""

LIVE = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
"""States of a trial that is a valid claim."""


class Draws(RandomSampler):
    """Draws without replacement that depend on the seed and the trial's number alone.

    Trials numbered beyond the number of candidates replace failed ones.

    Args:
        space: the search space.
        count: number of candidates.
        seed: of the draws.
    """

    def __init__(self, space: SearchSpace, count: int, seed: int) -> None:
        super().__init__(seed)
        self._space = space
        self._drawn = space.draw(count, keyed_generator(seed, DRAWS))
        self._chosen: dict[int, Architecture] = {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a choice of the architecture that belongs to the trial."""
        if trial.number not in self._chosen:
            self._chosen[trial.number] = self._architecture(study, trial.number)
        return self._chosen[trial.number].choices[param_name]

    def _architecture(self, study: optuna.Study, number: int) -> Architecture:
        if number < len(self._drawn):
            return self._drawn[number]
        taken = {t.user_attrs.get("canonical") for t in study.get_trials(deepcopy=False, states=LIVE)}
        free = (one for one in self._drawn if self._space.canonical(one) not in taken)
        return next(free, self._drawn[number % len(self._drawn)])
