"""Distributions over learners, from which every meta-step samples a fresh one.

There are two sources of random numbers: the architecture is sampled with the generator argument, the parameters with
torch's global random state, which the caller seeds.
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
"""Returns a freshly initialized learner. In a recipe: a ``class_path`` with its ``init_args``."""


class LearnerDistribution(Component, ABC):
    """A distribution over learners.

    Attributes:
        one_architecture: whether all learners of a population have the same architecture, so that one batched
            computation can teach them.
        architectures: number of different architectures in all meta-steps; None for many, or an unknown number.
    """

    one_architecture: bool = True
    architectures: int | None = None
    makes_networks = True

    @abstractmethod
    def sample(self, generator: torch.Generator) -> nn.Module:
        """Return a fresh learner on the CPU.

        Args:
            generator: a CPU generator, from which alone the architecture is drawn. The parameters are drawn from
                torch's global random state.
        """

    def population(self, generator: torch.Generator, count: int) -> list[nn.Module]:
        """Return the learners of a meta-step; by default, all of one architecture with different parameters.

        Args:
            generator: as for `sample`.
            count: number of learners.
        """
        state = generator.get_state()
        learners = []
        for _ in range(count):
            generator.set_state(state)  # so that all have the same architecture
            learners.append(self.sample(generator))
        return learners

    def meta_loss(self, learners: Sequence[nn.Module], losses: Tensor) -> Tensor:
        """Return the meta-loss of a meta-step from its learners' meta-losses ``[learners]``; by default their mean."""
        return losses.mean()

    @abstractmethod
    def families(self) -> dict[str, "LearnerDistribution"]:
        """Return the architecture families for which results are reported separately: name to distribution."""


class Fixed(LearnerDistribution):
    """One architecture; only its parameters are random.

    Args:
        learner: returns a new learner at every call.

    Raises:
        RecipeError: if the learner is a network instead of a factory, or needs more arguments.

    Examples:
        >>> from functools import partial
        >>> import torch
        >>> from gtn_lightning.learners import MLP, Fixed
        >>> learners = Fixed(partial(MLP, shape=(13,), outputs=3))
        >>> type(learners.sample(torch.Generator())).__name__
        'MLP'
    """

    architectures = 1

    def __init__(self, learner: LearnerFactory) -> None:
        _check_factory("Fixed: learner", learner)
        self.learner = learner

    def sample(self, generator: torch.Generator) -> nn.Module:
        return _make(self.learner)

    def families(self) -> dict[str, LearnerDistribution]:
        return {_class_name(self.learner): self}


class RandomWidth(LearnerDistribution):
    """One kind of architecture, with whole-number arguments (widths, a depth) drawn uniformly.

    These are the paper's random widths (Such et al., arXiv 1912.07768): a teacher that is meta-trained on many sizes
    also teaches sizes that it was not trained on.

    Args:
        learner: returns a new learner; must take the arguments named in `ranges` as keywords.
        ranges: for each argument's name, ``[low, high]``: drawn from low to high - 1.

    Raises:
        RecipeError: if a range is empty or not two whole numbers, or the learner does not take an argument of
            that name, or cannot be built at an end of its ranges.

    Examples:
        >>> from functools import partial
        >>> import torch
        >>> from gtn_lightning.learners import ConvNet, RandomWidth
        >>> learners = RandomWidth(partial(ConvNet, image_shape=(1, 8, 8), classes=10, depth=1), {"width": [8, 16]})
        >>> network = learners.sample(torch.Generator().manual_seed(0))
        >>> network(torch.randn(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(self, learner: LearnerFactory, ranges: dict[str, list[int]]) -> None:
        if not ranges:
            raise RecipeError(
                "ranges must name at least one argument of the learner, as in {width: [16, 64]}, got none"
            )
        for name, bounds in ranges.items():
            if len(bounds) != 2 or not all(isinstance(bound, int) for bound in bounds) or bounds[0] >= bounds[1]:
                raise RecipeError(
                    f"ranges.{name} must be two whole numbers [low, high] with low < high (high is never drawn), "
                    f"got {list(bounds)}"
                )
        _check_factory("RandomWidth: learner", learner, **{name: low for name, (low, _) in ranges.items()})
        self.learner = learner
        self.ranges = {name: list(bounds) for name, bounds in ranges.items()}
        # Both ends are built once, so that an impossible range fails now and not during meta-training.
        for widths in (self._narrowest(), {name: high - 1 for name, (_, high) in self.ranges.items()}):
            try:
                _class_name(learner, **widths)
            except TypeError as error:
                raise RecipeError(
                    f"ranges: expected keyword arguments of the learner, got {', '.join(ranges)} ({error})"
                ) from error

    def sample(self, generator: torch.Generator) -> nn.Module:
        widths = {
            name: int(torch.randint(low, high, (), generator=generator, device=generator.device))
            for name, (low, high) in self.ranges.items()
        }
        return _make(self.learner, **widths)

    def families(self) -> dict[str, LearnerDistribution]:
        return {_class_name(self.learner, **self._narrowest()): self}

    def _narrowest(self) -> dict[str, int]:
        return {name: low for name, (low, _) in self.ranges.items()}


class Mixture(LearnerDistribution):
    """Several architecture families; the family of each learner is drawn by weight.

    Args:
        learners: for each family's name, a function that returns a new learner.
        weights: for each family's name, its relative probability; all are equal if None.

    Raises:
        RecipeError: if there are no learners, or weights are not positive or do not name the families.

    Examples:
        >>> from functools import partial
        >>> import torch
        >>> from gtn_lightning.learners import MLP, Mixture
        >>> small, large = (partial(MLP, shape=(13,), outputs=3, hidden=[size]) for size in (8, 64))
        >>> learners = Mixture({"small": small, "large": large}, weights={"small": 3.0, "large": 1.0})
        >>> learners.sample(torch.Generator().manual_seed(0))(torch.randn(4, 13)).shape
        torch.Size([4, 3])
    """

    def __init__(self, learners: dict[str, LearnerFactory], weights: dict[str, float] | None = None) -> None:
        if not learners:
            raise RecipeError("learners must have at least one family, got none")
        if weights is not None:
            if weights.keys() != learners.keys():
                odd = ", ".join(sorted(weights.keys() ^ learners.keys()))
                raise RecipeError(f"weights must name the same families as learners, but only one of them has {odd}")
            for name, weight in weights.items():
                if not (weight > 0 and math.isfinite(weight)):
                    raise RecipeError(
                        f"weights.{name} must be above 0 and finite, got {weight}: leave the family out of learners to "
                        "never draw it"
                    )
        for name, learner in learners.items():
            _check_factory(f"Mixture: learners.{name}", learner)
        self.learners = dict(learners)
        self.architectures = len(learners)
        self.weights = None if weights is None else dict(weights)

    def sample(self, generator: torch.Generator) -> nn.Module:
        names = list(self.learners)
        weights = torch.tensor([1.0 if self.weights is None else self.weights[name] for name in names])
        return _make(self.learners[names[int(torch.multinomial(weights, 1, generator=generator))]])

    def families(self) -> dict[str, LearnerDistribution]:
        return {name: Fixed(learner) for name, learner in self.learners.items()}


def check_distribution(learners: object) -> None:
    """Raise ``RecipeError`` if an object is not a distribution over learners, but a network or its class for instance.

    Args:
        learners: any object.
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
    """Raise ``RecipeError`` if a network has TorchScript modules or lazy parameters, which no task can teach.

    Args:
        learner: a learner of a distribution.
    """
    name = type(learner).__name__
    for part in learner.modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise RecipeError(
                f"the learner {name} is or contains a TorchScript module, for which there is no meta-gradient: use the "
                "class that was scripted or traced"
            )
        tensors = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        if any(is_lazy(tensor) for tensor in tensors):
            raise RecipeError(
                f"the learner {name} has a {type(part).__name__}, which has no size before its first call: use a layer "
                f"with a size, as in {type(part).__name__.removeprefix('Lazy')}"
            )


def _check_factory(key: str, factory: object, **overrides: int) -> None:
    """Raise ``RecipeError`` unless ``factory(**overrides)`` has all the arguments that it needs."""
    if isinstance(factory, nn.Module) or not callable(factory):
        of = type(factory) if isinstance(factory, nn.Module) else None
        raise RecipeError(
            f"{key} must be a class, or a function, that makes a new learner at every call, got {_named(factory)}: "
            f"give {_partial_of(of)}, as in Fixed({_partial_of(of)})"
        )
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
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
    # The type has no arguments because jsonargparse then passes a functools.partial of the class, which takes
    # overrides all the same.
    learner = cast(Callable[..., Any], factory)(**overrides)
    if not isinstance(learner, nn.Module):
        raise RecipeError(f"learner must make a torch.nn.Module, got a {type(learner).__name__}")
    return learner


def _class_name(factory: LearnerFactory, **overrides: int) -> str:
    """Return the class name of the factory's learners; the global random state is restored."""
    with torch.random.fork_rng(devices=[]):
        return type(_make(factory, **overrides)).__name__
