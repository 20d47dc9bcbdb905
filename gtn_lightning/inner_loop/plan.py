"""How an inner loop is run: its length, and what of it is differentiated and kept."""

from dataclasses import dataclass

import torch

from gtn_lightning.inner_loop.modes import MODES


@dataclass(frozen=True)
class InnerLoop:
    """How the inner loop of a meta-step is run.

    Args:
        steps: number of inner steps T.
        mode: how the inner gradient is differentiated, a key of ``gtn_lightning.inner_loop.MODES``. ``auto`` measures
            and takes the fastest, so that two runs agree but for rounding; name a mode where they must agree in every
            bit.
        truncation: differentiate through the last inner steps only, this many of them; None for all.
        random_window: with ``truncation``, end the inner loop after a random number of steps (RaT-BPTT, Feng et al.,
            arXiv 2311.06152).
        segment: keep the state of the inner loop only after every this many steps, and run the steps between again in
            the backward pass: for inner loops whose states do not fit into memory. States at which a meta-loss is taken
            are kept as well. None keeps all.
        offload: with ``segment``, keep these states in the host's memory.
        checked: refuse learners whose meta-gradient is found to be wrong. If false, they are taught all the same.

    Raises:
        ValueError: if a value is out of range, or one needs another that is missing.
    """

    steps: int
    mode: str = "auto"
    truncation: int | None = None
    random_window: bool = False
    segment: int | None = None
    offload: bool = False
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
        if self.segment is not None and self.segment < 1:
            raise ValueError(f"inner_loop.segment must be at least 1, got {self.segment}")
        if self.offload and self.segment is None:
            raise ValueError("inner_loop.offload needs inner_loop.segment, the number of steps between kept states")

    def window(self, generator: torch.Generator) -> tuple[int, int]:
        """Return the inner steps to differentiate through, as ``unroll`` takes them.

        Args:
            generator: where the end of a random window comes from.
        """
        if self.truncation is None:
            return 0, self.steps
        last = self.steps
        if self.random_window:
            last = int(torch.randint(self.truncation, self.steps + 1, (), generator=generator))
        return last - self.truncation, last
