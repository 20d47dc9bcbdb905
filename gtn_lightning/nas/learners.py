"""Teaching the architectures of a search space."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.learners import LearnerDistribution
from gtn_lightning.nas.spaces import ATTEMPTS, Choice, SearchSpace


class SpaceLearners(LearnerDistribution):
    """Every meta-step teaches an architecture drawn from a search space.

    Args:
        space: the search space.
        held_out: the share of the space that is never taught, so that architectures from it can be ranked by a
            teacher that has not met them; see `SearchSpace.is_held_out`.
        only: for some decisions, the choices that are taught: ``{width: [4, 8]}`` meta-trains on small networks.
        without_families: families that are never taught.

    Raises:
        RecipeError: a value is out of range or names what the space does not have, or nothing is left to teach.
    """

    def __init__(
        self,
        space: SearchSpace,
        held_out: float = 0.5,
        only: dict[str, list[Choice]] | None = None,
        without_families: Sequence[str] = (),
    ) -> None:
        if not 0 <= held_out < 1:
            raise RecipeError(f"SpaceLearners: held_out {held_out} given, expected from 0 to below 1")
        self.space = space
        self.held_out = held_out
        self.only = {key: list(options) for key, options in (only or {}).items()}
        self.without_families = list(without_families)
        for key, options in self.only.items():
            odd = [option for option in options if option not in space.decisions.get(key, ())]
            if key not in space.decisions or odd or not options:
                there_is = space.decisions.get(key, list(space.decisions))
                raise RecipeError(
                    f"SpaceLearners: only.{key}: {options} given; {type(space).__name__} has "
                    f"{', '.join(map(str, there_is))}"
                )
        self._families = sorted({space.family(self.draw(keyed)) for keyed in _generators()})
        if not self.without_families:
            return
        unknown = set(self.without_families) - {space.family(space.sample(keyed)) for keyed in _generators()}
        if unknown:
            raise RecipeError(f"SpaceLearners: without_families: the space has no family {', '.join(sorted(unknown))}")

    def draw(self, generator: torch.Generator, family: str | None = None) -> str:
        """Return an architecture that is taught, of one family if one is named."""
        for _ in range(ATTEMPTS):
            architecture = self.space.sample(generator)
            if self.teaches(architecture) and family in (None, self.space.family(architecture)):
                return architecture
        raise RecipeError(
            f"SpaceLearners: of {ATTEMPTS} architectures drawn, none is to be taught: hold out less, or allow more"
        )

    def teaches(self, architecture: str) -> bool:
        """Whether an architecture is among those taught."""
        choices: Mapping[str, Choice] = self.space.choices(architecture)
        return (
            all(choices[key] in options for key, options in self.only.items())
            and self.space.family(architecture) not in self.without_families
            and not self.space.is_held_out(architecture, self.held_out)
        )

    def sample(self, generator: torch.Generator) -> nn.Module:
        return self.space.build(self.draw(generator))

    def families(self) -> dict[str, LearnerDistribution]:
        return {name: _Family(self, name) for name in self._families}


class _Family(LearnerDistribution):
    def __init__(self, learners: SpaceLearners, family: str) -> None:
        self.learners = learners
        self.family = family

    def sample(self, generator: torch.Generator) -> nn.Module:
        return self.learners.space.build(self.learners.draw(generator, self.family))

    def families(self) -> dict[str, LearnerDistribution]:
        return {self.family: self}


def _generators() -> list[torch.Generator]:
    """Return generators for as many draws as show every family of any common space."""
    return [torch.Generator().manual_seed(seed) for seed in range(200)]
