"""Outer gradients: how the gradient of the meta-loss with respect to the meta-parameters is found.

`MetaGradient` differentiates the inner loop. `EvolutionStrategies` only needs values of the meta-loss: for tasks whose
inner loop cannot be differentiated, and as the method to compare with.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gtn_lightning.component import Component
from gtn_lightning.errors import RecipeError


@dataclass(frozen=True)
class MetaStep:
    """What an outer gradient may use of a meta-step."""

    evaluate: Callable[[int], tuple[Tensor, Tensor]]
    """Teaches learners, the same for the same number, and returns meta-loss and inner loss."""
    parameters: Callable[[], Sequence[Tensor]]
    """Returns the meta-parameters."""
    generator: Callable[[], torch.Generator]
    """Returns a CPU generator for random choices, different in every process."""
    gather: Callable[[Tensor], Tensor]
    """Takes a tensor ``[...]`` and returns those of all processes, ``[processes, ...]``."""
    rank: int
    """Index of this process."""


class OuterGradient(Component, ABC):
    """A way to find the gradient of the meta-loss."""

    updates: int = 1
    """Number of updates of the meta-parameters per meta-step."""

    @abstractmethod
    def loss(self, step: MetaStep) -> tuple[Tensor, Tensor]:
        """Return meta-loss and inner loss, scalars; the meta-loss's gradient is what Lightning passes to the optimizer.

        Args:
            step: the meta-step.
        """


class MetaGradient(OuterGradient):
    """The exact gradient, through the whole inner loop.

    Args:
        updates: number of updates of the meta-parameters per meta-step. Each teaches the same learners anew and scores
            them on what the first one experienced: for agents, several updates from one set of episodes, as in
            proximal policy optimization (Schulman et al., arXiv 1707.06347).

    Raises:
        RecipeError: if ``updates`` is below 1.

    Examples:
        >>> from gtn_lightning.meta_training import MetaGradient
        >>> MetaGradient(updates=4).updates
        4
    """

    def __init__(self, updates: int = 1) -> None:
        if updates < 1:
            raise RecipeError(f"MetaGradient: updates must be at least 1, got {updates}")
        self.updates = updates

    def loss(self, step: MetaStep) -> tuple[Tensor, Tensor]:
        """Return the losses of one meta-step, with their graph; see the base class."""
        return step.evaluate(step.rank)


class EvolutionStrategies(OuterGradient):
    """The gradient of the meta-loss smoothed by a Gaussian, estimated from antithetic pairs.

    Salimans et al., arXiv 1703.03864: for noise e of standard deviation ``sigma``, the estimate is the mean of
    ``(L(p + e) - L(p - e)) e / (2 sigma^2)`` over the pairs. Both members of a pair teach the same learners, from the
    same initial parameters, and score them on the same real data. With several processes, each evaluates ``pairs``
    pairs of its own.

    Args:
        pairs: number of antithetic pairs per meta-step, in each process.
        sigma: standard deviation of the noise.
        shaping: ``ranks`` replaces the meta-losses by their ranks among all pairs of all processes, from -1/2 to 1/2,
            so that outliers do not decide; ``values`` takes them as they are.

    Raises:
        RecipeError: if a value is out of range.

    Examples:
        >>> from gtn_lightning.meta_training import EvolutionStrategies
        >>> EvolutionStrategies(pairs=8, sigma=0.05).pairs
        8
    """

    def __init__(self, pairs: int = 16, sigma: float = 0.1, shaping: str = "ranks") -> None:
        if pairs < 1:
            raise RecipeError(f"EvolutionStrategies: pairs must be at least 1, got {pairs}")
        if not 0 < sigma < float("inf"):
            raise RecipeError(f"EvolutionStrategies: sigma must be above 0 and finite, got {sigma}")
        if shaping not in ("ranks", "values"):
            raise RecipeError(f"EvolutionStrategies: shaping must be ranks or values, got {shaping!r}")
        self.pairs = pairs
        self.sigma = sigma
        self.shaping = shaping

    def loss(self, step: MetaStep) -> tuple[Tensor, Tensor]:
        """Return the mean losses over all perturbed evaluations of this process; see the base class."""
        parameters, generator = step.parameters(), step.generator()
        noises, rows, inner_losses = [], [], []
        with torch.no_grad():
            for pair in range(self.pairs):
                noise = [
                    torch.randn(parameter.shape, generator=generator).to(parameter) * self.sigma
                    for parameter in parameters
                ]
                row = []
                for sign in (1, -1):
                    with shifted(parameters, noise, sign):
                        loss, inner_loss = step.evaluate(step.rank * self.pairs + pair)
                    row.append(loss)
                    inner_losses.append(inner_loss)
                noises.append(noise)
                rows.append(torch.stack(row))
            values = torch.stack(rows)
            shaped = self._shaped(step.gather(values))[step.rank]
            weights = (shaped[:, 0] - shaped[:, 1]) / (2 * self.sigma**2 * self.pairs)
            gradient = [
                torch.stack([weight * noise for weight, noise in zip(weights, own, strict=True)]).sum(0)
                for own in zip(*noises, strict=True)
            ]
        # A function with this gradient, so that Lightning and DDP treat it like any other loss.
        linear = torch.stack(
            [(parameter * part).sum() for parameter, part in zip(parameters, gradient, strict=True)]
        ).sum()
        return values.mean() + linear - linear.detach(), torch.stack(inner_losses).mean()

    def _shaped(self, values: Tensor) -> Tensor:
        """Return the values of all processes, ``[processes, pairs, 2]``, or their ranks."""
        if self.shaping == "values":
            return values
        flat = values.flatten().nan_to_num(nan=float("inf"))  # a diverged learner is the worst of all
        # The mean of the places that equal values share: a pair of equal values must have no weight.
        below, up_to = ((flat[:, None] > flat).sum(1), (flat[:, None] >= flat).sum(1))
        places = (below + up_to - 1).to(values) / 2
        return (places / max(flat.numel() - 1, 1) - 0.5).view_as(values)


@contextmanager
def shifted(parameters: Sequence[Tensor], along: Sequence[Tensor], distance: float) -> Iterator[None]:
    """Shift parameters along a direction within a block; they then have the same bits as before.

    Args:
        parameters: the parameters.
        along: the direction, of the shapes of the parameters.
        distance: a factor of the direction.
    """
    originals = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, part in zip(parameters, along, strict=True):
                parameter.add_(part, alpha=distance)
        yield
    finally:
        with torch.no_grad():
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.copy_(original)
