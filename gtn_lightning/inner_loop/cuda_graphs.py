"""Whole computations as CUDA graphs: the host fills static tensors and replays thousands of kernels by one call.

An inner loop of small networks launches kernels that take less time than their launch. `CudaGraphs` runs a function of
tensors as usual until it has settled, see `capture`; then it captures the function once and replays it. Without CUDA a
capture is an ordinary call of the function on the same static tensors, by which everything else can be tested.
"""

import gc
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gtn_lightning.errors import first_line
from gtn_lightning.inner_loop.capture import Rehearsal, recorded, rehearsed
from gtn_lightning.inner_loop.functional import difference
from gtn_lightning.inner_loop.replay import random_state, restore_random_state, same_state

REHEARSALS = 2
"""Number of settled runs before a computation is captured: a graph pays from about the fourth run on."""

MAX_GRAPHS = 32
"""Maximum number of graphs of a process's run."""

MAX_CANDIDATES = 32
"""Maximum number of computations that are remembered and not captured yet; the latest ones."""

MEMORY_SHARE = 1 / 3
"""Share of a GPU's memory that graphs may hold; none is captured beyond it."""

Results = list[Tensor | None]
Function = Callable[[Sequence[Tensor]], Results]
"""A function of tensors. It may read parameters of modules, whose memory must stay where it is, and nothing else that
changes."""


class CaptureError(RuntimeError):
    """A capture failed when it was under way; the device's allocator may still be in the state of a capture."""


class Capture(ABC):
    """A captured function."""

    @abstractmethod
    def replay(self) -> Results:
        """Compute the function of what the static tensors now hold; the results are the caller's."""


class FunctionCall(Capture):
    """A capture without CUDA: an ordinary call."""

    def __init__(self, function: Function, static: Sequence[Tensor]) -> None:
        self._function = function
        self._static = static

    def replay(self) -> Results:
        """Call the function."""
        with recorded():
            return _copied(self._function(self._static))


class CudaGraph(Capture):
    """A capture on a CUDA device.

    Args:
        function: the function.
        static: its arguments.
        stream: the stream of all captures, which is not the default one.
        pool: the memory pool of all graphs. They may share it, because the results of a replay are copied at once.

    Raises:
        CaptureError: if the capture fails.
        RuntimeError: if it cannot be captured, because the host would wait for the GPU.
    """

    def __init__(self, function: Function, static: Sequence[Tensor], stream: Any, pool: Any) -> None:
        stream.wait_stream(torch.cuda.current_stream())
        # Libraries keep a workspace for each stream, which must exist before; what waits for the GPU raises here.
        with torch.cuda.stream(stream), _no_waiting(), recorded():
            function(static)
        torch.cuda.current_stream().wait_stream(stream)
        self._function = function  # it may hold tensors that the graph reads
        self._graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(
            self._graph,
            pool,
            stream,
            capture_error_mode="thread_local",  # other threads, such as those that load data, may go on
        )
        try:
            # Twice in the stream: the outer block leaves it even if the capture's end fails.
            with _uncollected(), torch.cuda.stream(stream), capture, recorded():
                self._results = function(static)
        except Exception as error:
            cause = error.__context__ or error  # the end of a capture that has failed raises again
            raise CaptureError(f"{type(cause).__name__}: {first_line(cause)}") from error

    def replay(self) -> Results:
        """Launch all kernels at once."""
        self._graph.replay()
        return _copied(self._results)


def _copied(results: Results) -> Results:
    """Return copies: the next replay, of this or of another graph, overwrites the results."""
    return [None if result is None else result.detach().clone() for result in results]


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Raise where the host waits for the GPU, which cannot be captured."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not find everything that waits
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Collect garbage before the block and not within: the end of another graph must not fall into a capture."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class _Known:
    """A function that has been run for some networks."""

    networks: Sequence[nn.Module]
    """Networks for which it is the same function of its arguments."""
    settled: int = 0
    """Number of runs that showed nothing new."""
    static: list[Tensor] = field(default_factory=list)
    capture: Capture | None = None
    replays: int = 0
    is_refused: bool = False
    """Whether it runs as usual for good."""


class CudaGraphs:
    """Runs functions of tensors, and captures those that come again, each once.

    A replay is compared with an ordinary run when it is the first, the second, the fourth, the eighth and so on of a
    graph. If they differ by more than rounding, the function runs as usual from then on, with a warning.

    Args:
        device: the device of the functions.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.captures = 0
        """Number of captured graphs."""
        self.replays = 0
        """Number of replays."""
        self._known: OrderedDict[Hashable, list[_Known]] = OrderedDict()
        self._said: set[tuple[str, str]] = set()
        self._full = False
        self._bytes = 0
        self._stream: Any = None
        self._pool: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Graphs cannot be copied: the copy of a module captures its own.
        return type(self), (self.device,)

    def run(
        self,
        what: str,
        key: Hashable,
        networks: Sequence[nn.Module],
        given: Sequence[Tensor],
        prepare: Callable[[], Function],
    ) -> Results:
        """Return the results of a function.

        Args:
            what: what the function computes, the beginning of warnings.
            key: what the function depends on besides networks and arguments.
            networks: networks of which it runs the code; their parameters and buffers are among the arguments.
            given: the arguments, on any device.
            prepare: returns the function; called for an ordinary run and for a capture. It may move the networks.
        """
        key = (what, key, tuple(type(network).__qualname__ for network in networks), *map(_kind, given))
        known = self._found(what, key, networks)
        if known is not None and known.capture is not None:
            return self._replayed(what, known, given, prepare)
        function = prepare()
        moved = [tensor.to(self.device) for tensor in given]
        if self._full if known is None else known.is_refused:
            return function(moved)
        known = known or self._remembered(what, key, networks)
        results, rehearsal = self._rehearsed(function, moved)
        known.settled += rehearsal.settled
        if rehearsal.obstacle is not None:
            self._refuse(what, rehearsal.obstacle, known)
        elif rehearsal.settled and known.settled >= REHEARSALS:
            self._capture(what, known, networks, moved, function)
        return results

    def say(self, what: str, reason: str) -> None:
        """Warn once why something runs as usual; the reason is the end of a sentence."""
        if (what, reason) not in self._said:
            self._said.add((what, reason))
            warnings.warn(f"{what} launches its kernels one by one, because {reason}", stacklevel=3)

    def _found(self, what: str, key: Hashable, networks: Sequence[nn.Module]) -> _Known | None:
        differences: list[str] = []
        for known in self._known.get(key, ()):
            pairs = zip(known.networks, networks, strict=True)
            name = next((name for one, other in pairs if (name := _difference(one, other, self.device))), None)
            if name is None:
                self._known.move_to_end(key)
                return known
            differences.append(name)
        if len(differences) > MAX_CANDIDATES // 2 and len(set(differences)) == 1:
            self.say(what, f"its networks of the same shape differ in {differences[0]}")
        return None

    def _remembered(self, what: str, key: Hashable, networks: Sequence[nn.Module]) -> _Known:
        known = _Known(networks)
        self._known.setdefault(key, []).append(known)
        candidates = [(place, each) for place, found in self._known.items() for each in found if each.capture is None]
        forgotten = candidates[: max(0, len(candidates) - MAX_CANDIDATES)]
        if forgotten and not self.captures:
            self.say(what, f"of {MAX_CANDIDATES} in a row, no two had the same architecture, shapes and settings")
        for place, each in forgotten:
            self._known[place].remove(each)
            if not self._known[place]:
                del self._known[place]
        return known

    def _refuse(self, what: str, reason: str, known: _Known) -> None:
        known.is_refused, known.capture, known.static = True, None, []
        self.say(what, reason)

    def _rehearsed(self, function: Function, given: Sequence[Tensor]) -> tuple[Results, Rehearsal]:
        before = random_state(self.device)
        with rehearsed() as rehearsal:
            results = function(given)
        if self.device.type == "cuda" and not same_state((before[0], None), (torch.get_rng_state(), None)):
            rehearsal.obstacle = rehearsal.obstacle or "random numbers are drawn on the host"
        return results, rehearsal

    def _capture(
        self, what: str, known: _Known, networks: Sequence[nn.Module], given: Sequence[Tensor], function: Function
    ) -> None:
        """Capture a function that has just been run."""
        if self.captures == MAX_GRAPHS or self._bytes > MEMORY_SHARE * _memory(self.device):
            self._full = True
            self._refuse(what, f"{self.captures} graphs are kept, and there are more architectures or windows", known)
            return
        known.networks = networks
        known.static = [tensor.detach().clone() for tensor in given]
        state = random_state(self.device)
        try:
            known.capture = self._captured(function, known.static)
        except Exception as error:  # torch raises whatever its parts raise
            self._full |= isinstance(error, CaptureError | torch.OutOfMemoryError)
            self._refuse(what, f"torch cannot capture it ({first_line(error)})", known)
            return
        finally:
            restore_random_state(state, self.device)
        self.captures += 1

    def _captured(self, function: Function, static: Sequence[Tensor]) -> Capture:
        if self.device.type != "cuda":
            return FunctionCall(function, static)
        with torch.cuda.device(self.device):
            if self._stream is None:
                self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            capture = CudaGraph(function, static, self._stream, self._pool)
            torch.cuda.empty_cache()
            self._bytes += max(0, torch.cuda.memory_reserved() - before)
        return capture

    def _replayed(self, what: str, known: _Known, given: Sequence[Tensor], prepare: Callable[[], Function]) -> Results:
        assert known.capture is not None
        with torch.no_grad():
            for static, tensor in zip(known.static, given, strict=True):
                static.copy_(tensor, non_blocking=True)
        is_compared = known.replays & (known.replays + 1) == 0  # the number of this one is a power of two
        state = random_state(self.device) if is_compared else None
        found = known.capture.replay()
        known.replays += 1
        self.replays += 1
        if state is None:
            return found
        restore_random_state(state, self.device)
        expected, _ = self._rehearsed(prepare(), [tensor.to(self.device) for tensor in given])
        if not agree_roughly(found, expected):
            self._refuse(what, "a replay had another result than an ordinary run", known)
            return expected
        return found


def agree_roughly(found: Results, expected: Results) -> bool:
    """Return whether results are equal but for rounding, which a long inner loop may amplify.

    Args:
        found: some results.
        expected: others of the same function.
    """
    if [result is None for result in found] != [result is None for result in expected]:
        return False
    pairs = [(one, other) for one, other in zip(found, expected, strict=True) if one is not None and other is not None]
    if all(torch.equal(one, other) for one, other in pairs):
        return True
    continuous = [(one, other) for one, other in pairs if one.is_floating_point()]
    size, distance = (
        float(torch.stack([part.double().norm() for part in parts]).norm())
        for parts in ([other for _, other in continuous], [one - other for one, other in continuous])
    )
    eps = max(torch.finfo(other.dtype).eps for _, other in continuous)
    # A diverged learner cannot be compared.
    return not size < float("inf") or distance <= eps**0.25 * size


def _kind(tensor: Tensor) -> Hashable:
    return tuple(tensor.shape), tensor.dtype, tensor.requires_grad


def _difference(one: nn.Module, other: nn.Module, device: torch.device) -> str | None:
    """Return in what networks differ as functions of their parameters and buffers, or None."""
    if not all(parameter.requires_grad for parameter in other.parameters()):
        other.to(device)  # frozen parameters are compared
    return difference(one, other)


def _memory(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 2**63
