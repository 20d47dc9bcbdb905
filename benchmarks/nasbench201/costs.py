"""What looks at a cell, teachers and trainings cost."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.nasbench201.bench import FULL, Bench, Reduction
from benchmarks.nasbench201.curves import SCORED
from benchmarks.nasbench201.study import Array, Study
from benchmarks.report import markdown_table
from gtn_lightning.nas.proxies.flops import forward_flops
from gtn_lightning.nas.spaces import Architecture

COSTED = 20
"""Cells whose operations are counted."""

EPOCHS, IMAGES = 12, 25_000
"""Of the benchmark's short trainings, whose validation accuracies the table has."""


@dataclass(frozen=True)
class Meta:
    """What the meta-trainings of the teachers took."""

    seconds: Mapping[str, float]
    """CPU seconds."""
    steps: Mapping[str, int]


def training_operations(bench: Bench, cells: Sequence[Architecture]) -> Array:
    """Return the floating-point operations of the benchmark's short training of each cell, ``[cells]``.

    A backward pass counts twice a forward pass. The benchmark runs all operations of a cell, also those without effect
    on the output, so that the numbers of convolutions decide.
    """
    space = bench.space(FULL)
    known: dict[tuple[int, int], int] = {}
    found = []
    for cell in cells:
        operations = list(cell.choices.values())
        key = narrow, wide = operations.count("nor_conv_1x1"), operations.count("nor_conv_3x3")
        if key not in known:
            alike = narrow * ["nor_conv_1x1"] + wide * ["nor_conv_3x3"]
            alike += (len(operations) - len(alike)) * ["skip_connect"]
            network = space.build(space.architecture(dict(zip(cell.choices, alike, strict=True))))
            known[key] = forward_flops(network, (3, 32, 32))
        found.append(3 * EPOCHS * IMAGES * known[key])
    return np.array(found, dtype=np.float64)


def training_rate(bench: Bench, batch: int = 64, steps: int = 3) -> float:
    """Return the operations per CPU second of plain training steps of the benchmark's networks on one thread."""
    space = bench.space(FULL)
    operations, seconds = 0.0, 0.0
    for cell in bench.known[:4]:
        network = space.build(cell).train()
        images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
        for step in range(steps + 1):
            began = time.process_time()
            F.cross_entropy(network(images), labels).backward()
            if step:  # the first one allocates
                seconds += time.process_time() - began
                operations += 3 * batch * forward_flops(network, (3, 32, 32))
    return operations / seconds


def costs(study: Study, teachers: Meta, rate: float) -> str:
    """Return a table of what a look at a cell costs, in operations and in CPU seconds.

    Args:
        study: the measurements.
        teachers: what the meta-trainings took.
        rate: operations of a training in a CPU second.
    """
    cells = study.reported[:COSTED]
    full = float(np.mean(training_operations(study.bench, cells)))
    small = study.bench.space(Reduction())
    image = full / (3 * EPOCHS * IMAGES)
    reduced = float(np.mean([forward_flops(small.build(cell), small.image_shape) for cell in cells]))
    looks = {
        f"{EPOCHS} epochs of {IMAGES:,} images, the benchmark's network": (full, f"{full / rate:.0f}, extrapolated"),
        "AZ-NAS (16 images)": (2 * 16 * image, f"{study.untrained_seconds('AZ-NAS'):.2f}"),
        "naswot (32 images)": (32 * image, f"{study.untrained_seconds('naswot'):.2f}"),
    }
    for step in (32, 128):
        operations = (3 * 64 * step + SCORED) * reduced
        looks[f"{step} steps on real images, reduced network"] = operations, f"{study.seconds(study.reals, step):.1f}"
    rows = [[name, f"{operations / 1e9:.0f}", seconds] for name, (operations, seconds) in looks.items()]
    for name, seconds in teachers.seconds.items():
        rows.append([f"meta-training of {name}, {teachers.steps[name]} meta-steps, once", "", f"{seconds:.0f}"])
    return markdown_table(["look", "10^9 operations", "CPU seconds"], rows)
