"""Mode ``auto``: measures the other modes and uses the fastest for each architecture.

The inner gradients of an architecture are computed and differentiated in each uncompiled mode for a few steps, then in
the faster one. Compilation takes seconds, so it is tried once uncompiled steps have taken about as long: runs too short
to gain from it never pay for it, and no run takes more than about three times the best possible time. Where a step of
the fastest of them still takes less than `SMALL`, several steps at once are measured as well.
"""

import logging
import time
import weakref
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.inner_loop.capture import is_recorded, note_unsettled
from gtn_lightning.inner_loop.modes.base import Mode, Together, first_order
from gtn_lightning.inner_loop.modes.node import Call, Computed, NodeMode, Saved
from gtn_lightning.inner_loop.modes.signature import Signature, signature
from gtn_lightning.inner_loop.optimizers import InnerOptimizer
from gtn_lightning.inner_loop.types import Batch, Buffers, Cotangents, InnerGradient, LossFn, Params, Products

SAMPLES = 5
"""Number of measurements of a mode; the median excludes the compilation in the first of them."""

COMPILE_AFTER = 20.0
"""Seconds of uncompiled steps of an architecture before compilation is tried: about the time that it takes."""

SMALL = 5e-3
"""Seconds of an inner step below which its dispatch may take most of its time, so that mode ``fused`` is tried."""

MAX_KEPT = 2 * 1024**3
"""Bytes that all steps may keep besides their inputs on a CPU; on a GPU, a quarter of its memory."""

_log = logging.getLogger(__name__)


@dataclass
class _Record:
    """Measurements of one architecture."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    spent: float = 0.0
    kept: int = 0
    """Maximum number of bytes that a step keeps besides its inputs."""
    choice: str | None = None
    final: bool = False
    together: bool | None = None
    """Whether several steps are taken at once; None until that is measured."""


class Auto(NodeMode):
    """Choose between modes by their measured time, per architecture, for the life of the process.

    A step that would exceed the limit of kept memory uses the first compiled mode, which keeps nothing.

    Args:
        uncompiled: the uncompiled modes to choose from, by name.
        compiled: those that compile; each is tried only if the one before it was the fastest so far.
        fused: the mode that takes several steps at once, tried when the others have been measured; None for none.
    """

    def __init__(
        self, uncompiled: Mapping[str, NodeMode], compiled: Mapping[str, NodeMode], fused: Mode | None = None
    ) -> None:
        self._fused = fused
        self._uncompiled = dict(uncompiled)
        self._compiled = dict(compiled)
        self._modes = self._uncompiled | self._compiled
        self._records: dict[Signature, _Record] = defaultdict(_Record)
        self._kept = 0

    def together(
        self, loss_fn: LossFn, optimizer: InnerOptimizer, device: torch.device, checked: bool = True
    ) -> Together | None:
        """Return how to take several inner steps at once, if that may be the fastest; see the base class."""
        # Before that, batches are made one by one.
        if self._fused is None or not any(
            record.final and record.together is not False for record in self._records.values()
        ):
            return None
        inner = self._fused.together(loss_fn, optimizer, device, checked)
        return inner and _Measured(inner, loss_fn, self._records)

    def plain(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient:
        """Compute the gradient without a graph; see the base class."""
        record = self._records.get(signature(loss_fn, params, buffers, batch))
        if record is not None and record.choice in self._compiled:
            return self._compiled[record.choice].plain(loss_fn, params, buffers, batch)
        return first_order(loss_fn, params, buffers, batch)

    def gradient(self, call: Call, params: Mapping[str, Tensor], batch: Batch, wanted: Sequence[bool]) -> Computed:
        """Compute the gradient in the chosen mode, or in the mode to measure next; see the base class."""
        device = next(iter(params.values())).device
        record = self._records[signature(call.loss_fn, params, call.buffers, batch)]
        measured = not record.final and not is_recorded()
        name = self._next(record, device) if measured else record.choice
        name = name or next(iter(self._uncompiled))
        if measured:
            note_unsettled()
        if name in self._compiled and self._kept + record.kept > _max_kept(device):
            name = next(iter(self._compiled))
        start = _now(device, measured)
        computed = self._modes[name].gradient(call, params, batch, wanted)
        forward = _now(device, measured) - start
        if computed.kept:
            size = sum(tensor.nbytes for tensor in computed.kept)
            record.kept = max(record.kept, size)
            self._kept += size
            weakref.finalize(call, self._release, size)
        if not measured:
            return computed

        apply = computed.products  # not `computed`: its gradients reference the node, which references this function

        def products(call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
            start = _now(device, measured)
            found = apply(call, saved, cotangents, wanted)
            seconds = forward + _now(device, measured) - start
            record.seconds[name].append(seconds)
            record.spent += seconds
            return found

        return computed._replace(products=products)

    def _next(self, record: _Record, device: torch.device) -> str:
        """Return the mode for the next step; when all are measured, it is final."""
        measured = {name: median(times) for name, times in record.seconds.items() if len(times) >= SAMPLES}
        for name in self._uncompiled:
            if name not in measured:
                return name
        record.choice = min(measured, key=lambda name: measured[name])
        if record.spent < COMPILE_AFTER:
            return record.choice
        before = None
        for name in self._compiled:
            if name not in measured and before in (None, record.choice) and record.kept <= _max_kept(device):
                return name
            before = name
        record.final = True
        times = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in measured.items())
        _log.info("inner gradients are computed in mode %r from now on (per inner step: %s)", record.choice, times)
        return record.choice

    def _release(self, size: int) -> None:
        self._kept -= size


class _Measured(Together):
    """Several steps at once where that is faster than the mode of single steps, which is measured first."""

    def __init__(self, inner: Together, loss_fn: LossFn, records: Mapping[Signature, _Record]) -> None:
        self._inner = inner
        self._loss_fn = loss_fn
        self._records = records

    def take(
        self, params: Params, buffers: Buffers, state: Any, batches: Sequence[Batch], first: int
    ) -> tuple[Params, Buffers, Any, Tensor] | None:
        """Take one step for every batch; see the base class."""
        record = self._records.get(signature(self._loss_fn, params, buffers, batches[0]))
        if record is None or not record.final or record.together is False:
            return None
        if record.together:
            return self._inner.take(params, buffers, state, batches, first)
        assert record.choice is not None
        single = median(record.seconds[record.choice])
        if single > SMALL:
            record.together = False
            return None

        def measured(backward: float) -> None:
            times = record.seconds["fused"]
            times.append((forward + backward) / len(batches))
            if len(times) == SAMPLES:
                record.together = median(times) < single
                _log.info(
                    "several inner steps at once take %.1f ms each: they are %s from now on",
                    1000 * median(times),
                    "taken so" if record.together else "taken one by one",
                )

        start = time.perf_counter()
        self._inner.on_backward = measured
        taken = self._inner.take(params, buffers, state, batches, first)
        forward = time.perf_counter() - start
        if taken is None:
            record.together = False
        return taken


def _max_kept(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory // 4 if device.type == "cuda" else MAX_KEPT


def _now(device: torch.device, measured: bool) -> float:
    """Return the time in seconds; on a GPU it is exact only while modes are measured."""
    if device.type == "cuda" and measured:
        torch.cuda.synchronize(device)
    return time.perf_counter()
