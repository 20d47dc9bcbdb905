"""What an inner loss does that decides how it can be evaluated and differentiated, found out by watching it."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from torch.utils.weak import WeakIdKeyDictionary

from gtn_lightning.inner_loop.following import STOP, Following
from gtn_lightning.inner_loop.operators import Graph, Look
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
    written: set[str] = field(default_factory=set)
    """Buffers that it has changed."""
    pending: set[str] = field(default_factory=set)
    """Those of them that depend on variables, and may enter the loss of the next step."""
    carried: set[str] = field(default_factory=set)
    """Buffers that are computed from the parameters or the batch, and enter the next step's loss."""
    cleared: dict[tuple[bool, ...], tuple[set[str], int]] = field(default_factory=dict)
    """For what a derivative was wanted by: suspects for which it was right, and after how many evaluations."""
    asymmetric: bool = False
    """Whether the derivative of its gradient is right but not symmetric."""
    looks: set[Look] = field(default_factory=set)
    """What its graphs looked like: one that looks otherwise may do something new."""

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
        due = self.due
        self.evaluations += 1
        return due

    @property
    def reverse_only(self) -> bool:
        """Whether reverse mode alone differentiates its gradient rightly."""
        return self.followed or self.makes_leaves or self.nested or self.checkpoints or self.asymmetric

    def unsettled(self, wanted: tuple[bool, ...]) -> set[str]:
        """Return the suspects for which the derivative is to be checked now.

        What is right at first may go wrong later, such as a clipped norm: a loss is checked again whenever it has been
        evaluated twice as often.
        """
        cleared, evaluations = self.cleared.get(wanted, (set(), 0))
        if self.suspects <= cleared and self.evaluations < 2 * evaluations:
            return set()
        return set(self.suspects)

    def settle(self, wanted: tuple[bool, ...]) -> None:
        """Take note that the derivative is right in spite of all suspects."""
        self.cleared[wanted] = set(self.suspects), self.evaluations

    def is_new(self, graph: Graph) -> bool:
        """Return whether a graph looks like none before, other than by lacking what they had."""
        look = graph.look
        if look in self.looks:
            return False
        known = not self.looks or any(look.names <= other.names and look.custom <= other.custom for other in self.looks)
        first = not any(other.variables == look.variables for other in self.looks)
        self.looks.add(look)
        return not (known and first)

    @property
    def uncompilable(self) -> bool:
        """Whether a compiled program would not repeat it, or differentiate it wrongly."""
        return self.reverse_only or self.foreign or bool(self.generators)

    def learn(self, following: Following, graph: Graph) -> None:
        """Complete the traits by what a watched evaluation met."""
        self.followed |= following.hooked or STOP in graph.names
        self.makes_leaves |= bool(following.made)
        self.nested |= following.nested
        self.asymmetric |= following.asymmetric
        self.looks.add(graph.look)
        self.generators |= following.generators
        self.suspects |= following.lost
        if following.stops:
            self.suspects |= {f"the autograd function {function.__name__}" for function in graph.custom}


_known = WeakIdKeyDictionary()

_kept: "OrderedDict[int, tuple[LossFn, Traits]]" = OrderedDict()
"""Losses that cannot be referenced weakly, the latest of them."""

MOST_KEPT = 64
"""How many of those are kept."""


def traits_of(loss_fn: LossFn) -> Traits:
    """Return what is known of a loss, a record that its evaluations complete."""
    try:
        known: Traits | None = _known.get(loss_fn)
        if known is None:
            known = _known[loss_fn] = Traits()
        return known
    except TypeError:  # an object with slots
        _, known = _kept.setdefault(id(loss_fn), (loss_fn, Traits()))
        while len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
        return known
