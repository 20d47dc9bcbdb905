"""What the world was like when a computation ran, so that it can run again alike: random state and autocast state."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

RandomState = tuple[Tensor, Tensor | None]
"""The state of the CPU's generator and, for a CUDA device, of the device's."""


class AutocastState(NamedTuple):
    """The autocast setting under which a piece of code ran."""

    device_type: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device) -> "AutocastState":
        """Return the setting in force for a device."""
        kind = device.type
        return cls(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    def context(self) -> torch.autocast:
        """Return the context in which this setting is in force."""
        # Without the cache, which would keep alive cast copies of every inner step's parameters and their graphs.
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.enabled, cache_enabled=False)


def random_state(device: torch.device) -> RandomState:
    """Return the random state that a computation on this device starts from."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def same_state(one: RandomState, other: RandomState) -> bool:
    """Return whether nothing was drawn between two random states."""
    return all(
        a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(one, other, strict=True)
    )


class Surroundings:
    """The surroundings of a computation, taken before it and closed after it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.autocast = AutocastState.now(device)
        self._before: RandomState | None = random_state(device)

    def close(self) -> None:
        """Look whether random numbers were drawn: only a learner that draws some pays for replaying them."""
        assert self._before is not None
        if same_state(self._before, random_state(self.device)):
            self._before = None

    @property
    def drew(self) -> bool:
        """Whether the computation drew random numbers."""
        return self._before is not None

    @contextmanager
    def again(self) -> Iterator[None]:
        """Put autocast and random state back to what they were, for the duration of the block."""
        with ExitStack() as stack:
            stack.enter_context(self.autocast.context())
            if self._before is not None:
                cpu_state, cuda_state = self._before
                stack.enter_context(torch.random.fork_rng(devices=[] if cuda_state is None else [self.device]))
                torch.set_rng_state(cpu_state)
                if cuda_state is not None:
                    torch.cuda.set_rng_state(cuda_state, self.device)
            yield
