"""Computations that are to become CUDA graphs: whether one may be captured, and what it leaves out while it is.

A CUDA graph repeats kernels, and nothing that the host does. A computation is therefore first run as usual, in a
`Rehearsal`: with all checks, measurements and compilations. It notes what is not decided yet, and what no graph can
hold. Then the computation is `recorded`: it only launches kernels, reads no value on the host, and takes no random
state. Programs that are compiled for a rehearsed computation are no CUDA graphs of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Rehearsal:
    """What an ordinary run of a computation shows."""

    settled: bool = True
    """Whether the next run launches the same kernels: nothing was measured, compiled or given up."""
    obstacle: str | None = None
    """Why no graph can hold the computation, the end of a sentence; None if one can."""


# Of the process and not of a thread: on a CUDA device, backward passes run in threads of their own.
_rehearsals: list[Rehearsal] = []
_recorded: list[bool] = []


@contextmanager
def rehearsed() -> Iterator[Rehearsal]:
    """Run a computation as usual within the block, and note what it shows."""
    rehearsal = Rehearsal()
    _rehearsals.append(rehearsal)
    try:
        yield rehearsal
    finally:
        _rehearsals.remove(rehearsal)


@contextmanager
def recorded() -> Iterator[None]:
    """Run a computation within the block as a CUDA graph will repeat it."""
    _recorded.append(True)
    try:
        yield
    finally:
        _recorded.pop()


def is_recorded() -> bool:
    """Return whether the current computation is recorded."""
    return bool(_recorded)


def is_part_of_a_graph() -> bool:
    """Return whether the current computation is, or is to become, part of one CUDA graph."""
    return bool(_recorded or _rehearsals)


def note_unsettled() -> None:
    """Note in a rehearsal that the next run may launch other kernels."""
    for rehearsal in _rehearsals:
        rehearsal.settled = False


def note_obstacle(reason: str) -> None:
    """Note in a rehearsal why no graph can hold the computation, as the end of a sentence."""
    for rehearsal in _rehearsals:
        rehearsal.obstacle = rehearsal.obstacle or reason
