"""Properties of an inner loss, found by observation, that decide how it is evaluated and differentiated."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from torch.utils.weak import WeakIdKeyDictionary

from gtn_lightning.inner_loop.autograd_graph import AutogradGraph, GraphSignature
from gtn_lightning.inner_loop.capture import is_recorded
from gtn_lightning.inner_loop.stopped_gradients import STOP, LossObserver
from gtn_lightning.inner_loop.types import LossFn

OBSERVE_EVERY = 64
"""Number of evaluations after which a loss is observed, and its recomputation compared, again."""


@dataclass
class Traits:
    """Properties of one loss. Each learner has its own: they hold for no other learner, even of the same shape."""

    evaluations: int = 0
    """Number of evaluations of the loss for a second derivative."""
    plain_evaluations: int = 0
    """Number of other evaluations."""
    followed: bool = False
    """Whether it stops gradients between the parameters and the loss, or has gradient hooks."""
    makes_leaves: bool = False
    """Whether it creates leaves that require grad."""
    nested: bool = False
    """Whether it calls ``torch.autograd.grad``."""
    checkpoints: bool = False
    """Whether it checkpoints its activations."""
    foreign: bool = False
    """Whether it draws from Python's or NumPy's global generators."""
    generators: dict[int, Any] = field(default_factory=dict)
    """Generators that it passes to random functions."""
    suspects: set[str] = field(default_factory=set)
    """Operations that may make its inner gradient's derivative wrong."""
    written: set[str] = field(default_factory=set)
    """Buffers that it changed."""
    pending: set[str] = field(default_factory=set)
    """Those of them that depend on variables and may enter the loss of the next step."""
    carried: set[str] = field(default_factory=set)
    """Buffers that are computed from the parameters or the batch and enter the next step's loss."""
    cleared: dict[tuple[bool, ...], tuple[set[str], int]] = field(default_factory=dict)
    """By wanted derivatives: suspects with which they were correct, and the number of evaluations then."""
    asymmetric: bool = False
    """Whether the derivative of its gradient is correct but not symmetric."""
    graphs: set[GraphSignature] = field(default_factory=set)
    """Signatures of its graphs; a graph with another one may do something new."""

    @property
    def due(self) -> bool:
        """Whether the next evaluation is to be observed."""
        return self.evaluations % OBSERVE_EVERY == 0 and not is_recorded()

    def begin(self, twice: bool) -> bool:
        """Count an evaluation; return whether it is to be observed.

        Args:
            twice: whether it will be differentiated twice.
        """
        if is_recorded():
            return False
        if not twice:
            self.plain_evaluations += 1
            return self.plain_evaluations % OBSERVE_EVERY == 1
        due = self.due
        self.evaluations += 1
        return due

    @property
    def reverse_only(self) -> bool:
        """Whether only reverse mode differentiates its gradient correctly."""
        return self.followed or self.makes_leaves or self.nested or self.checkpoints or self.asymmetric

    def unsettled(self, wanted: tuple[bool, ...]) -> set[str]:
        """Return the suspects with which the derivative must be checked now.

        A derivative may be correct first and wrong later, for instance with a clipped norm: a loss is checked again
        whenever the number of its evaluations has doubled.
        """
        if is_recorded():
            return set()
        cleared, evaluations = self.cleared.get(wanted, (set(), 0))
        if self.suspects <= cleared and self.evaluations < 2 * evaluations:
            return set()
        return set(self.suspects)

    def settle(self, wanted: tuple[bool, ...]) -> None:
        """Record that the derivative is correct with all suspects."""
        self.cleared[wanted] = set(self.suspects), self.evaluations

    def is_new(self, graph: AutogradGraph) -> bool:
        """Return whether a graph differs from all earlier ones by more than missing operators."""
        new = graph.signature
        if new in self.graphs:
            return False
        known = not self.graphs or any(new.names <= old.names and new.custom <= old.custom for old in self.graphs)
        first = not any(old.variables == new.variables for old in self.graphs)
        self.graphs.add(new)
        return not (known and first)

    @property
    def uncompilable(self) -> bool:
        """Whether a compiled program would not repeat it, or would differentiate it wrongly."""
        return self.reverse_only or self.foreign or bool(self.generators)

    def learn(self, observer: LossObserver, graph: AutogradGraph) -> None:
        """Complete the traits after an observed evaluation."""
        self.followed |= observer.hooked or STOP in graph.names
        self.makes_leaves |= bool(observer.made)
        self.nested |= observer.nested
        self.asymmetric |= observer.asymmetric
        self.graphs.add(graph.signature)
        self.generators |= observer.generators
        self.suspects |= observer.lost
        if observer.stops:
            self.suspects |= {f"the autograd function {function.__name__}" for function in graph.custom}


_known = WeakIdKeyDictionary()

_kept: "OrderedDict[int, tuple[LossFn, Traits]]" = OrderedDict()
"""The latest losses that cannot be referenced weakly."""

MAX_KEPT = 64
"""Maximum number of those."""


def traits_of(loss_fn: LossFn) -> Traits:
    """Return the traits of a loss, which its evaluations complete."""
    try:
        known: Traits | None = _known.get(loss_fn)
        if known is None:
            known = _known[loss_fn] = Traits()
        return known
    except TypeError:  # an object with slots
        _, known = _kept.setdefault(id(loss_fn), (loss_fn, Traits()))
        while len(_kept) > MAX_KEPT:
            _kept.popitem(last=False)
        return known
