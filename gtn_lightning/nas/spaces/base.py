"""The base class of search spaces, and its members: architectures with a name and choices."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

import torch
from torch import nn

from gtn_lightning.component import Component
from gtn_lightning.description import describe
from gtn_lightning.errors import RecipeError, first_line

Choice = str | int
"""An option of a decision: an operation's name, a width, a depth."""

ATTEMPTS = 1000
"""Consecutive draws without a new architecture after which a space counts as exhausted."""


class Architecture(str):
    """A member of a search space, made by `SearchSpace.architecture` and `SearchSpace.parse` alone.

    It is its name, as it is written in tables, in studies and on the command line: architectures of one space are equal
    if their names are.

    Args:
        name: the name.
        choices: its choice for every decision, in the order of the decisions.
    """

    choices: Mapping[str, Choice]

    def __new__(cls, name: str, choices: Mapping[str, Choice]) -> "Architecture":
        made = super().__new__(cls, name)
        made.choices = choices
        return made

    def __getnewargs__(self) -> tuple[str, Mapping[str, Choice]]:  # type: ignore[override]  # for copies
        return self.name, self.choices

    @property
    def name(self) -> str:
        """The name as plain text."""
        return str(self)


class SearchSpace(Component, ABC):
    """A finite set of architectures: one choice for each of some decisions.

    A space of your own sets `decisions` and writes `name`, `choices` and `build`; parsing, sampling, enumeration and
    mutation follow.

    Attributes:
        decisions: the options of every decision, by the decision's name.
    """

    decisions: Mapping[str, Sequence[Choice]]

    @abstractmethod
    def name(self, choices: Mapping[str, Choice]) -> str:
        """Return the name of the architecture with these choices, one for every decision."""

    @abstractmethod
    def choices(self, name: str) -> Mapping[str, Choice]:
        """Read the choices from a name that `name` returned.

        For any other text it may return anything, or raise ValueError, IndexError or KeyError: `parse` checks.
        """

    @abstractmethod
    def build(self, architecture: Architecture) -> nn.Module:
        """Return a freshly initialized network; its parameters come from torch's global random state."""

    def canonical(self, architecture: Architecture) -> str:
        """Return the name of one of the architectures that compute the same function; here its own."""
        return architecture.name

    def family(self, architecture: Architecture) -> str:
        """Return the group that results are reported by; here there is only one."""
        return "all"

    def encode(self, architecture: Architecture) -> tuple[float, ...]:
        """Return an architecture as numbers, from which a regression can predict; here its choices, one-hot.

        A space whose choices depend on each other says more by numbers that depend on several of them.
        """
        return tuple(
            float(architecture.choices[key] == option) for key, options in self.decisions.items() for option in options
        )

    def architecture(self, choices: Mapping[str, Choice]) -> Architecture:
        """Return the architecture with these choices, one for every decision."""
        return Architecture(self.name(choices), {key: choices[key] for key in self.decisions})

    def parse(self, name: str) -> Architecture:
        """Return the architecture of a name.

        Raises:
            RecipeError: no architecture of this space has that name.
        """
        wrong = f"{type(self).__name__}: {name!r} is not an architecture of this space"
        try:
            choices = self.choices(name)
        except (ValueError, LookupError) as error:
            raise RecipeError(f"{wrong} ({first_line(error)})") from error
        for key, options in self.decisions.items():
            if choices.get(key) not in options:
                raise RecipeError(
                    f"{wrong}: {key} must be one of {', '.join(map(str, options))}, got {choices.get(key)!r}"
                )
        parsed = self.architecture(choices)
        if parsed.name != name:
            raise RecipeError(f"{wrong}: expected {parsed.name!r}")
        return parsed

    def settings(self) -> dict[str, Any]:
        """Return what its members depend on, as plain data: its class, its arguments and its decisions.

        Raises:
            RecipeError: an argument of its constructor is not stored under its own name.
        """
        decisions = {key: list(options) for key, options in self.decisions.items()}
        return {"description": describe(self, rebuilt=False), "decisions": decisions}

    def __len__(self) -> int:
        """Return the number of members, each isomorphic one counted."""
        return math.prod(len(options) for options in self.decisions.values())

    def __iter__(self) -> Iterator[Architecture]:
        """Yield every member once, in a fixed order."""
        for chosen in product(*self.decisions.values()):
            yield self.architecture(dict(zip(self.decisions, chosen, strict=True)))

    def sample(self, generator: torch.Generator) -> Architecture:
        """Return a member, every choice drawn uniformly from a CPU generator."""
        return self.architecture({key: _pick(options, generator) for key, options in self.decisions.items()})

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """Return a member that differs in exactly one decision."""
        choices = architecture.choices
        key = _pick([name for name, options in self.decisions.items() if len(options) > 1], generator)
        others = [option for option in self.decisions[str(key)] if option != choices[str(key)]]
        return self.architecture({**choices, str(key): _pick(others, generator)})

    def draw(
        self,
        count: int,
        generator: torch.Generator,
        held_out: float | None = None,
        without: Iterable[Architecture] = (),
    ) -> list[Architecture]:
        """Return different members at random, no two of them isomorphic.

        Args:
            count: number of members.
            generator: a CPU generator.
            held_out: draw from this share of the space only, see `is_held_out`; None for all of it.
            without: neither these members nor their isomorphs are returned.

        Raises:
            RecipeError: there are fewer.
        """
        drawn = list(islice(self.draws(generator, held_out, without), count))
        if len(drawn) < count:
            raise RecipeError(
                f"{type(self).__name__}: {count} architectures wanted, {len(drawn)} found in {ATTEMPTS} more draws: "
                "ask for fewer"
            )
        return drawn

    def draws(
        self, generator: torch.Generator, held_out: float | None = None, without: Iterable[Architecture] = ()
    ) -> Iterator[Architecture]:
        """Yield the members that `draw` returns until `ATTEMPTS` draws in a row bring no new one; see there."""
        seen = {self.canonical(member) for member in without}
        failed = 0
        while failed < ATTEMPTS:
            member = self.sample(generator)
            canonical = self.canonical(member)
            if canonical in seen or (held_out is not None and not self.is_held_out(member, held_out)):
                failed += 1
            else:
                failed = 0
                seen.add(canonical)
                yield member

    def is_held_out(self, architecture: Architecture, share: float) -> bool:
        """Return whether an architecture is in the share of the space that meta-training leaves out.

        Depends only on the canonical name, so that the held-out share of any teacher can be computed again.
        """
        digest = hashlib.sha256(self.canonical(architecture).encode()).digest()
        return int.from_bytes(digest[:6], "big") < share * 2**48


def _pick(options: Sequence[Choice], generator: torch.Generator) -> Choice:
    return options[int(torch.randint(len(options), (), generator=generator))]
