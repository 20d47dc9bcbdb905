"""How an inner loop is run: its length, and which parts are differentiated and kept."""

from dataclasses import dataclass

import torch

from gtn_lightning.inner_loop.modes import MODES
from gtn_lightning.inner_loop.offload import check_offload
from gtn_lightning.inner_loop.segments import segment_lengths


@dataclass(frozen=True)
class InnerLoop:
    """How the inner loop of a meta-step is run.

    Args:
        steps: number of inner steps T.
        mode: how the inner gradient is differentiated, a key of ``gtn_lightning.inner_loop.MODES``. ``auto`` measures
            and uses the fastest, so two runs agree up to rounding; name a mode if they must agree in every bit.
        truncation: number of inner steps to differentiate through, the last ones; None for all. The meta-gradient is
            then biased: it lacks what earlier steps contribute.
        random_window: with ``truncation``, end the inner loop after a random number of steps, from ``truncation`` to
            ``steps``, the same on all processes (RaT-BPTT, Feng et al., arXiv 2311.07025). The meta-loss is computed
            there. It is biased as well. Evaluations always teach all steps.
        segment: number of steps after which the state of the inner loop is kept; the steps between are recomputed in
            the backward pass, their batches included. Several numbers are nested segments, the outermost first. For
            inner loops whose states do not fit into memory, see ``unroll``. States at which a meta-loss is computed
            are kept as well. None keeps all.
        offload: with ``segment``, where to keep these states: ``host``, its memory, or ``disk``, temporary files. None
            keeps them on the device.
        cuda_graphs: on a GPU, capture whole meta-steps as CUDA graphs and replay them. The code of teacher, learners
            and task then runs for the first meta-steps only; false runs it in all, to find an error in it.
        checked: raise an error if a learner's meta-gradient is found to be wrong.

    Raises:
        ValueError: if a value is out of range, or needs another one that is missing.

    Examples:
        >>> from gtn_lightning.inner_loop import InnerLoop
        >>> InnerLoop(steps=32, mode="remat").steps
        32
        >>> InnerLoop(steps=128, truncation=40, random_window=True).truncation  # RaT-BPTT
        40
        >>> InnerLoop(steps=2000, segment=[160, 13], offload="host").segment  # two levels
        [160, 13]
    """

    steps: int
    mode: str = "auto"
    truncation: int | None = None
    random_window: bool = False
    segment: int | list[int] | None = None
    offload: str | None = None
    cuda_graphs: bool = True
    checked: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"inner_loop.steps must be at least 1, got {self.steps}")
        if self.mode not in MODES:
            raise ValueError(f"inner_loop.mode must be one of {', '.join(sorted(MODES))}, got {self.mode!r}")
        if self.truncation is not None and not 1 <= self.truncation <= self.steps:
            raise ValueError(
                f"inner_loop.truncation must be from 1 to inner_loop.steps, {self.steps}, got {self.truncation}"
            )
        if self.random_window and self.truncation is None:
            raise ValueError("inner_loop.random_window needs inner_loop.truncation, the length of the window")
        segment_lengths(self.segment, "inner_loop.segment")
        check_offload(self.offload, "inner_loop.offload")
        if self.offload is not None and self.segment is None:
            raise ValueError("inner_loop.offload needs inner_loop.segment, the number of steps between kept states")

    def window(self, generator: torch.Generator) -> tuple[int, int]:
        """Return the inner steps to differentiate through, as ``unroll`` takes them.

        Args:
            generator: source of the end of a random window.
        """
        if self.truncation is None:
            return 0, self.steps
        last = self.steps
        if self.random_window:
            last = int(torch.randint(self.truncation, self.steps + 1, (), generator=generator))
        return last - self.truncation, last
