"""Random numbers keyed by their purpose.

Every random choice in meta-training is a function of a key such as (seed, rank, meta-step), and independent of earlier
ones. Therefore ranks teach different learners, validation teaches the same learners on any number of processes, and a
resumed run continues with the same meta-steps as an uninterrupted one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def keyed_seed(seed: int, *key: int | str) -> int:
    """Return a 63-bit seed that is a function of the run's seed and of the key's parts in their order."""
    words: list[int] = [seed]
    for part in key:
        # The tag and the length distinguish ("ab", "c") from ("a", "bc"), and 7 from "7".
        encoded = part.encode() if isinstance(part, str) else str(part).encode()
        words += [1 if isinstance(part, str) else 2, len(encoded), *encoded]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def keyed_generator(seed: int, *key: int | str) -> torch.Generator:
    """Return a CPU generator seeded by the key."""
    return torch.Generator().manual_seed(keyed_seed(seed, *key))


@contextmanager
def keyed_rng(seed: int, *key: int | str, device: torch.device) -> Iterator[None]:
    """Seed torch's global random state by the key within a block, then restore the earlier state.

    Args:
        seed: the run's seed.
        key: purpose of the random numbers, for instance ``("train", rank, meta_step)``.
        device: the device to seed in addition to the CPU.
    """
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(keyed_seed(seed, *key))
        yield
