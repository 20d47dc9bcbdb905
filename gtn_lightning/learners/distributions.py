"""Distributions over learners: every meta-step teaches a fresh one drawn from here.

Two sources of randomness stay apart. *Which architecture* is drawn from the generator that is passed in;
*which parameters* come from torch's global random state, which the caller seeds.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gtn_lightning.component import Component
from gtn_lightning.errors import RecipeError

LearnerFactory = Callable[[], nn.Module]
"""Makes a freshly initialized learner. In a recipe: a ``class_path`` with its ``init_args``."""


class LearnerDistribution(Component, ABC):
    """A distribution over learners.

    Attributes:
        one_architecture: whether the learners of a population have one architecture, and so can be taught as one
            operation.
    """

    one_architecture: bool = True
    makes_networks = True

    @abstractmethod
    def sample(self, generator: torch.Generator) -> nn.Module:
        """Return a fresh learner on the CPU.

        Args:
            generator: a CPU generator; the architecture, where there is a choice, is drawn from it alone. The
                parameters are drawn from torch's global random state.
        """

    def population(self, generator: torch.Generator, count: int) -> list[nn.Module]:
        """Return the learners of a meta-step: here of one architecture, each with parameters of its own.

        Args:
            generator: as for `sample`.
            count: number of learners.
        """
        state = generator.get_state()
        learners = []
        for _ in range(count):
            generator.set_state(state)  # the architecture is drawn from it
            learners.append(self.sample(generator))
        return learners

    def meta_loss(self, learners: Sequence[nn.Module], losses: Tensor) -> Tensor:
        """Return the meta-loss of a meta-step, from those of its learners ``[learners]``: here their mean."""
        return losses.mean()

    @abstractmethod
    def families(self) -> dict[str, "LearnerDistribution"]:
        """Return the families of architecture that results tell apart, by name, each as a distribution."""


class Fixed(LearnerDistribution):
    """One architecture; only its parameters are random.

    Args:
        learner: makes the learner.

    Raises:
        RecipeError: the learner is a network, or cannot be made without more arguments.
    """

    def __init__(self, learner: LearnerFactory) -> None:
        _check_factory("Fixed: learner", learner)
        self.learner = learner

    def sample(self, generator: torch.Generator) -> nn.Module:
        return _make(self.learner)

    def families(self) -> dict[str, LearnerDistribution]:
        return {_class_name(self.learner): self}


class RandomWidth(LearnerDistribution):
    """One kind of architecture, with whole-number arguments (widths, a depth) drawn uniformly.

    The paper's random widths: a teacher that meets many sizes makes data that teaches sizes it has not met.

    Args:
        learner: makes the learner; must take the arguments named in `ranges` as keywords.
        ranges: for each argument's name, ``[low, high]``: drawn from low to high - 1.

    Raises:
        RecipeError: a range is empty or not two whole numbers, or the learner does not take an argument of
            that name, or cannot be built at an end of its ranges.
    """

    def __init__(self, learner: LearnerFactory, ranges: dict[str, list[int]]) -> None:
        if not ranges:
            raise RecipeError("ranges: empty; name an argument of the learner, as in {width: [16, 64]}")
        for name, bounds in ranges.items():
            if len(bounds) != 2 or not all(isinstance(bound, int) for bound in bounds) or bounds[0] >= bounds[1]:
                raise RecipeError(
                    f"ranges.{name}: got {list(bounds)}; give two whole numbers [low, high] with low < high "
                    "(high is never drawn)"
                )
        _check_factory("RandomWidth: learner", learner, **{name: low for name, (low, _) in ranges.items()})
        self.learner = learner
        self.ranges = {name: list(bounds) for name, bounds in ranges.items()}
        # Both ends are built once, so that a range that cannot work fails now and not in the middle of
        # meta-training.
        for widths in (self._narrowest(), {name: high - 1 for name, (_, high) in self.ranges.items()}):
            try:
                _class_name(learner, **widths)
            except TypeError as error:
                raise RecipeError(
                    f"ranges: the learner does not take {', '.join(ranges)} as keyword arguments ({error}); "
                    "name arguments that it has"
                ) from error

    def sample(self, generator: torch.Generator) -> nn.Module:
        widths = {
            name: int(torch.randint(low, high, (), generator=generator)) for name, (low, high) in self.ranges.items()
        }
        return _make(self.learner, **widths)

    def families(self) -> dict[str, LearnerDistribution]:
        return {_class_name(self.learner, **self._narrowest()): self}

    def _narrowest(self) -> dict[str, int]:
        return {name: low for name, (low, _) in self.ranges.items()}


class Mixture(LearnerDistribution):
    """Several families of architecture; each learner comes from one of them, drawn by weight.

    Args:
        learners: for each family's name, what makes its learners.
        weights: for each family's name, how often it is drawn relative to the others; equally often if None.

    Raises:
        RecipeError: no learners, or weights that are not positive or that do not name the families.
    """

    def __init__(self, learners: dict[str, LearnerFactory], weights: dict[str, float] | None = None) -> None:
        if not learners:
            raise RecipeError("learners: empty; name at least one family and its learner")
        if weights is not None:
            if weights.keys() != learners.keys():
                odd = ", ".join(sorted(weights.keys() ^ learners.keys()))
                raise RecipeError(f"weights: must name the same families as learners; {odd} stands in one of them only")
            for name, weight in weights.items():
                if not (weight > 0 and math.isfinite(weight)):
                    raise RecipeError(f"weights.{name}: got {weight}; give a positive number, or leave the family out")
        for name, learner in learners.items():
            _check_factory(f"Mixture: learners.{name}", learner)
        self.learners = dict(learners)
        self.weights = None if weights is None else dict(weights)

    def sample(self, generator: torch.Generator) -> nn.Module:
        names = list(self.learners)
        weights = torch.tensor([1.0 if self.weights is None else self.weights[name] for name in names])
        return _make(self.learners[names[int(torch.multinomial(weights, 1, generator=generator))]])

    def families(self) -> dict[str, LearnerDistribution]:
        return {name: Fixed(learner) for name, learner in self.learners.items()}


def check_distribution(learners: object) -> None:
    """Raise ``RecipeError`` if what is given as a distribution over learners is a network, its class or another thing.

    Args:
        learners: what was given.
    """
    if isinstance(learners, LearnerDistribution):
        return
    advice = "give Fixed(partial(MyNet, ...)) with the class of your network"
    if isinstance(learners, nn.Module):
        advice = f"give Fixed({_partial_of(type(learners))}), which makes a new one for every meta-step"
    elif inspect.isclass(learners) and issubclass(learners, nn.Module):
        advice = f"give Fixed({_partial_of(learners)})"
    raise RecipeError(f"model.learners must be a distribution over learners, got {_named(learners)}: {advice}")


def check_learner(learner: nn.Module) -> None:
    """Raise ``RecipeError`` if a network cannot be taught, whatever the task: its parameters could not be followed.

    Args:
        learner: a learner as a distribution made it.
    """
    name = type(learner).__name__
    for part in learner.modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise RecipeError(
                f"the learner {name} is or has a TorchScript module, through whose steps there is no meta-gradient: "
                "give the class that was scripted or traced"
            )
        tensors = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        if any(is_lazy(tensor) for tensor in tensors):
            raise RecipeError(
                f"the learner {name} has a {type(part).__name__}, whose size is not known before it is used: give its "
                f"size, as in {type(part).__name__.removeprefix('Lazy')}"
            )


def _check_factory(key: str, factory: object, **overrides: int) -> None:
    """Raise ``RecipeError`` unless a learner can be made by a call."""
    if isinstance(factory, nn.Module) or not callable(factory):
        of = type(factory) if isinstance(factory, nn.Module) else None
        raise RecipeError(
            f"{key} must be a class, or a function, that makes a new learner at every call, got {_named(factory)}: "
            f"give {_partial_of(of)}, as in Fixed({_partial_of(of)})"
        )
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # of a builtin, nothing is known
        return
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in overrides
    ]
    if missing:
        values = ", ".join(f"{name}=..." for name in missing)
        name = getattr(factory, "__name__", type(factory).__name__)
        raise RecipeError(
            f"{key} must be made without arguments, but {name} needs {', '.join(missing)}: give partial({name}, "
            f"{values})"
        )


def _named(given: object) -> str:
    if isinstance(given, nn.Module):
        return f"a network, {type(given).__name__}"
    if inspect.isclass(given):
        return f"the class {given.__name__}"
    return f"a {type(given).__name__}"


def _partial_of(network: type | None) -> str:
    return f"partial({'MyNet' if network is None else network.__name__}, ...)"


def _make(factory: LearnerFactory, **overrides: int) -> nn.Module:
    # The type promises a call without arguments, which is what jsonargparse needs to read in order to hand
    # over a functools.partial of the class; a partial takes overrides as well.
    learner = cast(Callable[..., Any], factory)(**overrides)
    if not isinstance(learner, nn.Module):
        raise RecipeError(f"learner: made a {type(learner).__name__}; give the class of a torch.nn.Module")
    return learner


def _class_name(factory: LearnerFactory, **overrides: int) -> str:
    """Return the class name of what the factory makes, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        return type(_make(factory, **overrides)).__name__
