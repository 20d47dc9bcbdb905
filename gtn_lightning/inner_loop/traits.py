"""What an inner loss does that decides how it can be evaluated and differentiated, found out by watching it."""

import weakref
from dataclasses import dataclass, field
from typing import Any

from gtn_lightning.inner_loop.following import STOP, Following
from gtn_lightning.inner_loop.operators import Graph
from gtn_lightning.inner_loop.types import LossFn

EVERY = 64
"""Evaluations of one loss after which it is watched, and its recomputation compared, once more."""


@dataclass
class Traits:
    """What is known of a loss. A learner is a loss of its own: these hold for no other learner, whatever its shape."""

    evaluations: int = 0
    """How often the loss has been evaluated to be differentiated twice."""
    plain_evaluations: int = 0
    """How often it has been evaluated otherwise."""
    followed: bool = False
    """Whether it stops gradients on the way to the loss, or has gradient hooks."""
    makes_leaves: bool = False
    """Whether it makes leaves that require grad itself."""
    nested: bool = False
    """Whether it takes derivatives itself, by ``torch.autograd.grad``."""
    checkpoints: bool = False
    """Whether it checkpoints its activations."""
    foreign: bool = False
    """Whether it draws from Python's or NumPy's global generators."""
    generators: dict[int, Any] = field(default_factory=dict)
    """Generators that it draws from by name."""
    suspects: set[str] = field(default_factory=set)
    """What it does that may make its inner gradient's derivative wrong, and cannot be followed."""
    carried: set[str] = field(default_factory=set)
    """Buffers that are computed from the parameters or the batch, and enter the next step's loss."""
    cleared: set[str] = field(default_factory=set)
    """Suspects for which central differences have shown that the derivative is right."""

    @property
    def due(self) -> bool:
        """Whether the next evaluation is to be watched."""
        return self.evaluations % EVERY == 0

    def begin(self, twice: bool) -> bool:
        """Count an evaluation; return whether it is to be watched.

        Args:
            twice: whether it is to be differentiated twice.
        """
        if not twice:
            self.plain_evaluations += 1
            return self.plain_evaluations % EVERY == 1
        self.evaluations += 1
        return self.evaluations % EVERY == 1

    @property
    def reverse_only(self) -> bool:
        """Whether reverse mode alone differentiates its gradient rightly."""
        return self.followed or self.makes_leaves or self.nested or self.checkpoints

    @property
    def uncompilable(self) -> bool:
        """Whether a compiled program would not repeat it, or differentiate it wrongly."""
        return self.reverse_only or self.foreign or bool(self.generators)

    def learn(self, following: Following, graph: Graph) -> None:
        """Complete the traits by what a watched evaluation met."""
        self.followed |= following.hooked or STOP in graph.names
        self.makes_leaves |= bool(following.made)
        self.nested |= following.nested
        self.generators |= following.generators
        self.suspects |= following.lost
        if following.stops:
            self.suspects |= {f"the autograd function {function.__name__}" for function in graph.custom}


_known: "weakref.WeakKeyDictionary[LossFn, Traits]" = weakref.WeakKeyDictionary()


def traits_of(loss_fn: LossFn) -> Traits:
    """Return what is known of a loss, a record that its evaluations complete."""
    try:
        known = _known.get(loss_fn)
        if known is None:
            known = _known[loss_fn] = Traits()
        return known
    except TypeError:  # neither hashable nor weakly referenced, as some callable objects are
        return Traits()
