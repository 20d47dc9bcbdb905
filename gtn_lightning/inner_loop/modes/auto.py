"""Mode ``auto``: the mode that is fastest for the learner at hand, found by measuring.

Every architecture's inner gradients are computed and differentiated in each of the uncompiled modes for a few steps;
from then on in the faster one. Compilation costs seconds, so it is tried only once uncompiled steps have taken as long
as it is likely to take: runs too short to gain from it never pay for it, and no run pays more than about three times
what would have been best.
"""

import logging
import time
import weakref
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from gtn_lightning.inner_loop.modes.base import first_order
from gtn_lightning.inner_loop.modes.node import Call, Computed, NodeMode, Saved
from gtn_lightning.inner_loop.modes.reverse_over_reverse import Cotangents, Products
from gtn_lightning.inner_loop.modes.signature import Signature, signature
from gtn_lightning.inner_loop.types import Batch, InnerGradient, LossFn

SAMPLES = 5
"""How many times a mode is measured: what compiles in the first of them does not reach the median."""

COMPILE_AFTER = 20.0
"""Seconds that uncompiled steps of an architecture take before compilation is tried: about what it costs."""

ROOM = 2 * 1024**3
"""Bytes that steps may keep besides their inputs on a CPU; on a GPU it is a quarter of the memory."""

_log = logging.getLogger(__name__)


@dataclass
class _Record:
    """What is known of one architecture."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    spent: float = 0.0
    kept: int = 0
    """Most bytes that a step keeps besides its inputs."""
    choice: str | None = None
    final: bool = False


class Auto(NodeMode):
    """Choose between modes by their measured time, per architecture; the choice holds for the life of the process.

    A step for whose keepings there is no room takes the first of the compiled modes, which keeps nothing.

    Args:
        uncompiled: the uncompiled modes to choose from, by name.
        compiled: those that compile; each is tried only if the one before it was the fastest so far.
    """

    def __init__(self, uncompiled: Mapping[str, NodeMode], compiled: Mapping[str, NodeMode]) -> None:
        self._uncompiled = dict(uncompiled)
        self._compiled = dict(compiled)
        self._modes = self._uncompiled | self._compiled
        self._records: dict[Signature, _Record] = defaultdict(_Record)
        self._kept = 0

    def plain(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient:
        """Compute the gradient without a graph; see the base class."""
        record = self._records.get(signature(loss_fn, params, buffers, batch))
        if record is not None and record.choice in self._compiled:
            return self._compiled[record.choice].plain(loss_fn, params, buffers, batch)
        return first_order(loss_fn, params, buffers, batch)

    def gradient(self, call: Call, params: Mapping[str, Tensor], batch: Batch, wanted: Sequence[bool]) -> Computed:
        """Compute the gradient in the chosen mode, or in the one to be measured next; see the base class."""
        device = next(iter(params.values())).device
        record = self._records[signature(call.loss_fn, params, call.buffers, batch)]
        name = record.choice if record.final else self._next(record, device)
        assert name is not None
        if name in self._compiled and self._kept + record.kept > _room(device):
            name = next(iter(self._compiled))
        start = _now(device, record)
        computed = self._modes[name].gradient(call, params, batch, wanted)
        forward = _now(device, record) - start
        if computed.kept:
            size = sum(tensor.nbytes for tensor in computed.kept)
            record.kept = max(record.kept, size)
            self._kept += size
            weakref.finalize(call, self._released, size)
        if record.final:
            return computed

        again = computed.products  # and nothing else of it: the gradients know the node that knows this function

        def products(call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
            start = _now(device, record)
            found = again(call, saved, cotangents, wanted)
            seconds = forward + _now(device, record) - start
            record.seconds[name].append(seconds)
            record.spent += seconds
            return found

        return computed._replace(products=products)

    def _next(self, record: _Record, device: torch.device) -> str:
        """Return the mode for the next step; once all are measured, it is final."""
        measured = {name: median(times) for name, times in record.seconds.items() if len(times) >= SAMPLES}
        for name in self._uncompiled:
            if name not in measured:
                return name
        record.choice = min(measured, key=lambda name: measured[name])
        if record.spent < COMPILE_AFTER:
            return record.choice
        before = None
        for name in self._compiled:
            if name not in measured and before in (None, record.choice) and record.kept <= _room(device):
                return name
            before = name
        record.final = True
        times = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in measured.items())
        _log.info("inner gradients are computed in mode %r from here on (per inner step: %s)", record.choice, times)
        return record.choice

    def _released(self, size: int) -> None:
        self._kept -= size


def _room(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory // 4 if device.type == "cuda" else ROOM


def _now(device: torch.device, record: _Record) -> float:
    """Return the time in seconds, exact as long as it matters."""
    if device.type == "cuda" and not record.final:
        torch.cuda.synchronize(device)
    return time.perf_counter()
