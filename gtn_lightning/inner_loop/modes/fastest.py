"""Mode ``auto``: the mode that is fastest for the learner at hand, found by measuring.

Every architecture's inner gradients are differentiated in each of the uncompiled modes for a few steps; from then on in
the faster one. Compilation costs seconds, so it is tried only once uncompiled steps have taken as long as it is likely
to take: runs too short to gain from it never pay for it, and no run pays more than about twice what would have been
best.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from gtn_lightning.inner_loop.modes.base import first_order
from gtn_lightning.inner_loop.modes.compiled import Compiled
from gtn_lightning.inner_loop.modes.node import Call, Cotangents, NodeMode, Products
from gtn_lightning.inner_loop.modes.signature import Signature, signature
from gtn_lightning.inner_loop.types import Batch, InnerGradient, LossFn, Params

SAMPLES = 4
"""How many times a mode is measured, after once to warm up."""

COMPILE_AFTER = 20.0
"""Seconds that uncompiled steps of an architecture take before compilation is tried: about what it costs."""

_log = logging.getLogger(__name__)


@dataclass
class _Record:
    """What is known of one architecture."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    spent: float = 0.0
    choice: str | None = None
    final: bool = False


class Fastest(NodeMode):
    """Choose between modes by their measured time, per architecture; the choice holds for the life of the process.

    Args:
        modes: the uncompiled modes to choose from, by name.
        compiled: the mode that compiles.
    """

    def __init__(self, modes: Mapping[str, NodeMode], compiled: Compiled) -> None:
        self._modes = dict(modes)
        self._compiled = compiled
        self._records: dict[Signature, _Record] = {}

    def plain(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient:
        """Compute the gradient without a graph; see the base class."""
        record = self._records.get(signature(loss_fn, params, buffers, batch))
        if record is not None and record.choice == "compiled":
            return self._compiled.plain(loss_fn, params, buffers, batch)
        return first_order(loss_fn, params, buffers, batch)

    def products(
        self, call: Call, params: Params, batch: Batch, cotangents: Cotangents, wanted: Sequence[bool]
    ) -> Products:
        """Differentiate the gradient again in the chosen mode, or in the one to be measured next."""
        key = signature(call.loss_fn, params, call.buffers, batch, call.surroundings.autocast)
        record = self._records.setdefault(key, _Record())
        name = self._next(record)
        mode = self._compiled if name == "compiled" else self._modes[name]
        if record.final:
            return mode.products(call, params, batch, cotangents, wanted)
        if name == "compiled":
            # Its first evaluation of the gradient is the one that looks whether it can compile. Replayed: a learner
            # that draws random numbers must not draw more of them in the backward pass.
            with call.surroundings.again():
                self._compiled.plain(call.loss_fn, params, call.buffers, batch)
        device = next(iter(params.values())).device
        start = _now(device)
        found = mode.products(call, params, batch, cotangents, wanted)
        seconds = _now(device) - start
        record.seconds.setdefault(name, []).append(seconds)
        record.spent += seconds
        return found

    def _next(self, record: _Record) -> str:
        """Return the mode for the next step, once it is known to be measured enough the final one."""
        if record.final:
            assert record.choice is not None
            return record.choice
        for name in self._modes:
            if len(record.seconds.get(name, ())) <= SAMPLES:
                return name
        measured = {name: median(seconds[1:]) for name, seconds in record.seconds.items() if len(seconds) > SAMPLES}
        record.choice = min(measured, key=lambda name: measured[name])
        if "compiled" in measured:
            record.final = True
            times = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in measured.items())
            _log.info(
                "the inner gradient is differentiated in mode %r from here on (per inner step: %s)",
                record.choice,
                times,
            )
            return record.choice
        return "compiled" if record.spent >= COMPILE_AFTER else record.choice


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
