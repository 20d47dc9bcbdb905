"""The ways to compute an inner gradient that can be differentiated again, one per file."""

from gtn_lightning.inner_loop.modes.auto import Auto
from gtn_lightning.inner_loop.modes.base import Mode
from gtn_lightning.inner_loop.modes.compiled import Compiled
from gtn_lightning.inner_loop.modes.fused import Fused
from gtn_lightning.inner_loop.modes.linearized import Linearized
from gtn_lightning.inner_loop.modes.mixed import Mixed
from gtn_lightning.inner_loop.modes.remat import Remat
from gtn_lightning.inner_loop.modes.reverse import Reverse

__all__ = ["MODES", "Mode"]

_REMAT, _MIXED, _COMPILED = Remat(), Mixed(), Compiled()
_LINEARIZED, _FUSED = Linearized(_COMPILED), Fused(_REMAT)

MODES: dict[str, Mode] = {
    "auto": Auto({"remat": _REMAT, "mixed": _MIXED}, {"compiled": _COMPILED, "linearized": _LINEARIZED}, _FUSED),
    "compiled": _COMPILED,
    "fused": _FUSED,
    "linearized": _LINEARIZED,
    "mixed": _MIXED,
    "remat": _REMAT,
    "reverse": Reverse(_REMAT),
}
"""The interchangeable modes by name. They return the same gradients up to rounding:

* ``reverse`` keeps the graph of all inner gradients.
* ``remat`` recomputes each gradient in the backward pass and differentiates it in reverse mode.
* ``mixed`` recomputes it and differentiates it in forward mode.
* ``compiled`` is ``mixed``, compiled.
* ``linearized`` is ``compiled``, with costly intermediate results kept instead of recomputed.
* ``fused`` is reverse mode through several steps of a small learner and its optimizer at once, compiled, on a CPU.
* ``auto`` measures all but ``reverse`` and uses the fastest, within a limit of memory.
"""
