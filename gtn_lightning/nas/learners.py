"""Distributions of learners over a search space."""

from collections.abc import Sequence

import torch
from torch import nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.learners import LearnerDistribution
from gtn_lightning.nas.spaces import ATTEMPTS, Architecture, Choice, SearchSpace


class SpaceLearners(LearnerDistribution):
    """Learners whose architecture is drawn from a search space in every meta-step.

    Args:
        space: the search space.
        held_out: the share of the space that meta-training leaves out, so that a teacher can rank architectures that
            it was not trained on; see `SearchSpace.is_held_out`.
        only: for some decisions, the options that are used: ``{width: [4, 8]}`` meta-trains on small networks.
        without_families: families that meta-training leaves out.

    Raises:
        RecipeError: a value is out of range or unknown to the space, or no architecture is left.

    Examples:
        >>> import torch
        >>> from gtn_lightning.nas import ConvNetGrid, SpaceLearners
        >>> learners = SpaceLearners(ConvNetGrid(image_shape=(1, 8, 8), classes=10, depths=[1, 2]), held_out=0.5)
        >>> type(learners.sample(torch.Generator().manual_seed(0))).__name__
        'ConvNet'
    """

    def __init__(
        self,
        space: SearchSpace,
        held_out: float = 0.5,
        only: dict[str, list[Choice]] | None = None,
        without_families: Sequence[str] = (),
    ) -> None:
        if not 0 <= held_out < 1:
            raise RecipeError(f"SpaceLearners: held_out must be at least 0 and below 1, got {held_out}")
        self.space = space
        self.held_out = held_out
        self.only = {key: list(options) for key, options in (only or {}).items()}
        self.without_families = list(without_families)
        for key, options in self.only.items():
            odd = [option for option in options if option not in space.decisions.get(key, ())]
            if key not in space.decisions or odd or not options:
                expected = space.decisions.get(key, list(space.decisions))
                raise RecipeError(
                    f"SpaceLearners: only.{key} must be of {', '.join(map(str, expected))}, as {type(space).__name__} "
                    f"has them, got {options}"
                )
        self._families = sorted({space.family(self.draw(keyed)) for keyed in _generators()})
        if not self.without_families:
            return
        unknown = set(self.without_families) - {space.family(space.sample(keyed)) for keyed in _generators()}
        if unknown:
            raise RecipeError(f"SpaceLearners: without_families: the space has no family {', '.join(sorted(unknown))}")

    def draw(self, generator: torch.Generator, family: str | None = None) -> Architecture:
        """Return an architecture for meta-training, of one family if one is named.

        Raises:
            RecipeError: `ATTEMPTS` draws in a row brought none.
        """
        for _ in range(ATTEMPTS):
            architecture = self.space.sample(generator)
            if self.teaches(architecture) and family in (None, self.space.family(architecture)):
                return architecture
        raise RecipeError(
            f"SpaceLearners: none of {ATTEMPTS} architectures drawn may be taught: lower held_out, or allow more"
        )

    def teaches(self, architecture: Architecture) -> bool:
        """Return whether an architecture is one of those used in meta-training."""
        return (
            all(architecture.choices[key] in options for key, options in self.only.items())
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
    """Return generators for enough draws to find every family of a common space."""
    return [torch.Generator().manual_seed(seed) for seed in range(200)]
