"""Random numbers keyed by what they are for.

Every draw in meta-training is a function of a key such as (seed, rank, meta-step), never of how many draws came
before it. Ranks therefore teach different learners, validation teaches the same learners on any number of processes,
and a resumed run repeats the very next meta-step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def keyed_seed(seed: int, *key: int | str) -> int:
    """Return a 63-bit seed that depends on the run's seed and every part of the key, and on their order."""
    words: list[int] = [seed]
    for part in key:
        # The leading tag and length keep ("ab", "c") apart from ("a", "bc"), and 7 apart from "7".
        encoded = part.encode() if isinstance(part, str) else str(part).encode()
        words += [1 if isinstance(part, str) else 2, len(encoded), *encoded]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def keyed_generator(seed: int, *key: int | str) -> torch.Generator:
    """Return a CPU generator seeded by the key."""
    return torch.Generator().manual_seed(keyed_seed(seed, *key))


@contextmanager
def keyed_rng(seed: int, *key: int | str, device: torch.device) -> Iterator[None]:
    """Seed torch's global random state by the key for the duration of the block, then restore what was there before.

    Args:
        seed: the run's seed.
        key: what the random numbers are for, for instance ``("train", rank, meta_step)``.
        device: the device whose state is seeded beside the CPU's.
    """
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(keyed_seed(seed, *key))
        yield
