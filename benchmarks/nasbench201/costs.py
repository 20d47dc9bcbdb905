"""What looks at a cell, teachers and trainings cost."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.nasbench201.bench import FULL, Bench, Reduction
from benchmarks.nasbench201.curves import SCORED, append_line, read_lines
from benchmarks.nasbench201.study import Array, Study
from benchmarks.report import markdown_table
from gtn_lightning.nas.proxies.flops import forward_flops
from gtn_lightning.nas.spaces import Architecture

COSTED = 20
"""Cells whose operations are counted."""

TIMED, BATCH = 8, 64
"""Networks of which training steps are timed, and images of a step."""

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


def measure_speed(bench: Bench, file: Path, until: float) -> None:
    """Time plain training steps of the benchmark's own networks, unless a file has them.

    Args:
        bench: the benchmark.
        file: of lines of JSON, one for each network.
        until: ``time.monotonic()`` after which the rest is left for another run.
    """
    space = bench.space(FULL)
    for cell in bench.known[len(list(read_lines(file))) : TIMED]:
        if time.monotonic() > until:
            return
        torch.manual_seed(0)
        network = space.build(cell).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
        taken = []
        for _ in range(4):
            began = time.process_time()
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            taken.append(time.process_time() - began)
        operations = 3 * BATCH * forward_flops(network, (3, 32, 32))
        row = {"cell": cell.name, "operations": operations, "seconds": float(np.median(taken[1:]))}
        append_line(file, row)


@dataclass(frozen=True)
class Speed:
    """Floating-point operations per CPU second of plain training steps, from networks that were timed."""

    mean: float
    deviation: float
    """Standard deviation over the networks."""

    @classmethod
    def of(cls, file: Path) -> "Speed":
        """Return what a file of `measure_speed` holds.

        Raises:
            SystemExit: it holds fewer than two networks.
        """
        rows = list(read_lines(file))
        if len(rows) < 2:
            raise SystemExit(f"{file} holds {len(rows)} timed networks, expected at least 2: run the part 'speed'")
        rates = [row["operations"] / row["seconds"] for row in rows]
        total = sum(row["operations"] for row in rows) / sum(row["seconds"] for row in rows)
        return cls(total, float(np.std(rates, ddof=1)))


def costs_table(study: Study, teachers: Meta, speed: Speed) -> str:
    """Return a table of what a look at a cell costs, in operations and in CPU seconds."""
    cells = study.reported[:COSTED]
    full = float(np.mean(training_operations(study.bench, cells)))

    def image(reduction: Reduction) -> float:
        space = study.bench.space(reduction)
        return float(np.mean([forward_flops(space.build(cell), space.image_shape) for cell in cells]))

    looks = {
        f"{EPOCHS} epochs of {IMAGES:,} images, the benchmark's network": (full, f"{full / speed.mean:.0f}, estimated"),
        "AZ-NAS (16 images)": (2 * 16 * image(FULL), f"{study.untrained_seconds('AZ-NAS'):.2f}"),
        "naswot (32 images)": (32 * image(FULL), f"{study.untrained_seconds('naswot'):.2f}"),
    }
    for step in (32, 128):
        operations = (3 * 64 * step + SCORED) * image(study.reduction)
        looks[f"{step} steps on real images, {study.reduction.words}"] = (
            operations,
            f"{study.seconds(study.real, step):.1f}",
        )
    rows = [[name, f"{operations / 1e9:.0f}", seconds] for name, (operations, seconds) in looks.items()]
    for name, seconds in teachers.seconds.items():
        rows.append([f"meta-training of {name}, {teachers.steps[name]} meta-steps, once", "", f"{seconds:.0f}"])
    return markdown_table(["look", "10^9 operations", "CPU seconds"], rows)
