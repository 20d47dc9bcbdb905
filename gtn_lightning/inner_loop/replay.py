"""The random and autocast state of a computation, so that it can be repeated exactly."""

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtn_lightning.inner_loop.capture import is_recorded, note_obstacle
from gtn_lightning.inner_loop.types import is_continuous

RandomState = tuple[Tensor, Tensor | None]
"""The states of the CPU's generator and, for a CUDA device, of the device's generator."""


class AutocastState(NamedTuple):
    """The autocast setting of a computation."""

    device_type: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def current(cls, device: torch.device) -> "AutocastState":
        """Return the current setting of a device."""
        kind = device.type
        return cls(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    def context(self) -> torch.autocast:
        """Return a context with this setting."""
        # Without the cache, which would keep cast copies of every inner step's parameters, and their graphs.
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.enabled, cache_enabled=False)

    def rounding(self, tensors: Iterable[Tensor]) -> torch.dtype:
        """Return the least precise type to which a computation with such tensors rounds."""
        if self.enabled:
            return self.dtype
        kinds = [t.real.dtype if t.is_complex() else t.dtype for t in tensors if is_continuous(t)]
        return max(kinds, key=lambda kind: torch.finfo(kind).eps)


def random_state(device: torch.device) -> RandomState:
    """Return the current random state for computations on a device."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def restore_random_state(state: RandomState, device: torch.device) -> None:
    """Restore what `random_state` returned."""
    cpu_state, cuda_state = state
    torch.set_rng_state(cpu_state)
    if cuda_state is not None:
        torch.cuda.set_rng_state(cuda_state, device)


def same_state(one: RandomState, other: RandomState) -> bool:
    """Return whether two random states are equal."""
    return all(
        a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(one, other, strict=True)
    )


class Source(NamedTuple):
    """A source of random numbers other than torch's default generators."""

    get: Callable[[], Any]
    """Returns its state."""
    set: Callable[[Any], Any]
    """Restores a state."""

    @staticmethod
    def types() -> tuple[type, ...]:
        """Return the types of generators of torch, Python and NumPy."""
        numpy: Any = sys.modules.get("numpy")
        own = (torch.Generator, random.Random)
        return own if numpy is None else (*own, numpy.random.Generator, numpy.random.RandomState)

    @classmethod
    def of(cls, generator: Any) -> "Source":
        """Return a generator of one of these types as a source."""
        if isinstance(generator, torch.Generator):
            return cls(generator.get_state, generator.set_state)
        if isinstance(generator, random.Random):
            return cls(generator.getstate, generator.setstate)
        if hasattr(generator, "bit_generator"):
            bits = generator.bit_generator
            return cls(lambda: bits.state, lambda state: setattr(bits, "state", state))
        return cls(lambda: generator.get_state(legacy=False), generator.set_state)


class ForeignState:
    """The state of Python's and NumPy's global generators. Reading it takes a tenth of a millisecond."""

    def __init__(self) -> None:
        self._python = random.getstate()
        # A program that has not imported NumPy does not draw from it.
        self._numpy: Any = sys.modules.get("numpy")
        self._state = None if self._numpy is None else self._numpy.random.get_state(legacy=False)

    def restore(self) -> None:
        """Restore this state."""
        random.setstate(self._python)
        if self._numpy is not None:
            self._numpy.random.set_state(self._state)

    def same(self, other: "ForeignState") -> bool:
        """Return whether two states are equal."""
        return self._python == other._python and _equal(self._state, other._state)


def _equal(one: Any, other: Any) -> bool:
    """Return whether two states of a NumPy generator, nested dictionaries of numbers and arrays, are equal."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    return bool((one == other).all() if hasattr(one, "all") else one == other)


class ReplayContext:
    """The random and autocast state of a computation, captured at its beginning.

    Args:
        device: the device of the computation.
        foreign: whether to capture Python's and NumPy's global random states as well.
    """

    _recording: list["ReplayContext"] = []  # noqa: RUF012 (shared on purpose: the contexts of all running computations)

    def __init__(self, device: torch.device, foreign: bool = True) -> None:
        self.device = device
        self.autocast = AutocastState.current(device)
        # A CUDA graph can neither read nor restore a random state; a rehearsal has shown that none is needed.
        self._before: RandomState | None = None if is_recorded() else random_state(device)
        self._foreign = ForeignState() if foreign and not is_recorded() else None
        self._sources: dict[int, tuple[Source, Any]] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the generators that are passed to random functions within the block."""
        self._recording.append(self)
        try:
            yield
        finally:
            self._recording.remove(self)

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Run the computation within the block; random states that it does not change are dropped."""
        with self.recording():
            yield
        if self._before is not None and same_state(self._before, random_state(self.device)):
            self._before = None
        if self._foreign is not None and self._foreign.same(ForeignState()):
            self._foreign = None
        if self._before is not None or self._foreign is not None or self._sources:
            note_obstacle("random numbers are drawn that the backward pass has to draw again")

    @classmethod
    def record(cls, generators: Iterable[Any]) -> None:
        """Keep the states of generators that a recorded computation is about to draw from."""
        for generator in generators:
            for context in cls._recording:
                if id(generator) not in context._sources:
                    source = Source.of(generator)
                    context._sources[id(generator)] = source, source.get()

    @property
    def drew_foreign(self) -> bool:
        """Whether the computation drew random numbers from Python's or NumPy's global generators."""
        return self._foreign is not None

    def drew(self) -> bool:
        """Return whether random numbers have been drawn since the beginning."""
        assert self._before is not None
        foreign = self._foreign is not None and not self._foreign.same(ForeignState())
        return foreign or not same_state(self._before, random_state(self.device))

    def rewind(self) -> None:
        """Restore the random states of the beginning."""
        if self._before is not None:
            restore_random_state(self._before, self.device)
        if self._foreign is not None:
            self._foreign.restore()
        for source, state in self._sources.values():
            source.set(state)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the autocast and random states of the beginning for the duration of the block."""
        with ExitStack() as stack:
            stack.enter_context(self.autocast.context())
            if self._before is not None:
                stack.callback(restore_random_state, random_state(self.device), self.device)
            if self._foreign is not None:
                stack.callback(ForeignState().restore)
            for source, _ in self._sources.values():
                stack.callback(source.set, source.get())
            self.rewind()
            yield
