"""What every search space is: a finite product of choices whose members have names."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

import torch
from torch import nn

from gtn_lightning.component import Component
from gtn_lightning.description import describe
from gtn_lightning.errors import RecipeError

Choice = str | int
"""One of the things there is to choose from: an operation's name, a width, a depth."""

ATTEMPTS = 1000
"""Consecutive draws without a new architecture after which a space counts as exhausted."""


class SearchSpace(Component, ABC):
    """A finite set of architectures: one choice for each of some decisions.

    A space of your own sets `decisions` and writes `name`, `choices` and `build`; sampling, enumeration and
    mutation follow. Architectures are strings everywhere: in tables, in studies, on the command line.

    Attributes:
        decisions: for each decision's name, what there is to choose from.
    """

    decisions: Mapping[str, Sequence[Choice]]

    @abstractmethod
    def name(self, choices: Mapping[str, Choice]) -> str:
        """Return the architecture with these choices, one for every decision."""

    @abstractmethod
    def choices(self, architecture: str) -> dict[str, Choice]:
        """Return an architecture's choices.

        Raises:
            RecipeError: it is none of this space.
        """

    @abstractmethod
    def build(self, architecture: str) -> nn.Module:
        """Return a freshly initialised network; its parameters come from torch's global random state.

        Raises:
            RecipeError: the architecture is none of this space.
        """

    def canonical(self, architecture: str) -> str:
        """Return the name that all architectures share which compute the same function; here its own."""
        return architecture

    def family(self, architecture: str) -> str:
        """Return the family by which results are told apart; here there is only one."""
        return "all"

    def settings(self) -> dict[str, Any]:
        """Return what its members depend on, as plain data: its class, its arguments, and its decisions.

        Raises:
            RecipeError: an argument of its constructor is not stored under its own name.
        """
        decisions = {key: list(options) for key, options in self.decisions.items()}
        return {"description": describe(self, rebuilt=False), "decisions": decisions}

    def __len__(self) -> int:
        """Return the number of members, isomorphic ones counted apart."""
        return math.prod(len(options) for options in self.decisions.values())

    def __iter__(self) -> Iterator[str]:
        """Yield every member once, in a fixed order."""
        for chosen in product(*self.decisions.values()):
            yield self.name(dict(zip(self.decisions, chosen, strict=True)))

    def sample(self, generator: torch.Generator) -> str:
        """Return a member, every choice drawn uniformly from a CPU generator."""
        return self.name({key: _pick(options, generator) for key, options in self.decisions.items()})

    def mutate(self, architecture: str, generator: torch.Generator) -> str:
        """Return a member that differs in exactly one decision."""
        choices = self.choices(architecture)
        key = _pick([name for name, options in self.decisions.items() if len(options) > 1], generator)
        others = [option for option in self.decisions[str(key)] if option != choices[str(key)]]
        return self.name(choices | {str(key): _pick(others, generator)})

    def draw(
        self, count: int, generator: torch.Generator, held_out: float | None = None, without: Collection[str] = ()
    ) -> list[str]:
        """Return different members at random, no two of them isomorphic.

        Args:
            count: how many.
            generator: a CPU generator.
            held_out: draw from this share of the space only, see `is_held_out`; None for all of it.
            without: members that are not wanted, nor their isomorphs.

        Raises:
            RecipeError: there are fewer.
        """
        drawn = list(islice(self.draws(generator, held_out, without), count))
        if len(drawn) < count:
            raise RecipeError(
                f"{type(self).__name__}: {count} architectures wanted, {len(drawn)} found in {ATTEMPTS} more draws; "
                "ask for fewer"
            )
        return drawn

    def draws(
        self, generator: torch.Generator, held_out: float | None = None, without: Collection[str] = ()
    ) -> Iterator[str]:
        """Yield what `draw` returns, one by one, until there are hardly any left; the arguments are its own."""
        seen = {self.canonical(member) for member in without}
        vain = 0
        while vain < ATTEMPTS:
            member = self.sample(generator)
            canonical = self.canonical(member)
            if canonical in seen or (held_out is not None and not self.is_held_out(member, held_out)):
                vain += 1
            else:
                vain = 0
                seen.add(canonical)
                yield member

    def is_held_out(self, architecture: str, share: float) -> bool:
        """Whether an architecture is in the share of the space that is kept from meta-training.

        Depends only on the canonical name, so that the held-out share of any teacher can be computed again.
        """
        digest = hashlib.sha256(self.canonical(architecture).encode()).digest()
        return int.from_bytes(digest[:6], "big") < share * 2**48

    def _check(self, architecture: str, choices: Mapping[str, object]) -> None:
        """Raise RecipeError unless every choice is one that there is, and the name is theirs to the letter."""
        for key, options in self.decisions.items():
            if choices.get(key) not in options:
                raise RecipeError(
                    f"{type(self).__name__}: {architecture!r} is no architecture of this space: {key} is "
                    f"{choices.get(key)!r}, expected one of {', '.join(map(str, options))}"
                )

        named = self.name({key: choices[key] for key in self.decisions})  # type: ignore[misc]
        if named != architecture:
            raise RecipeError(
                f"{type(self).__name__}: {architecture!r} is no architecture of this space: expected {named!r}"
            )


def _pick(options: Sequence[Choice], generator: torch.Generator) -> Choice:
    return options[int(torch.randint(len(options), (), generator=generator))]
