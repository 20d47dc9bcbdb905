"""Cached measurements of NAS-Bench-201's cells: learning curves of reduced networks, and proxies without training."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.nasbench201.bench import FULL, Bench, Reduction
from gtn_lightning.inner_loop import LARS, Adam, InnerOptimizer
from gtn_lightning.nas import (
    AZNAS,
    NASWOT,
    GTNProxy,
    NumParameters,
    Proxy,
    RealDataProxy,
    SynFlow,
)
from gtn_lightning.nas.proxies.training import TaughtScorer
from gtn_lightning.nas.spaces import Architecture

LOOKS = (4, 8, 16, 32, 64, 128, 256, 512, 800, 1200)
"""Numbers of steps after which a network is scored on validation images."""

SCORED = 1000
"""Validation images on which a network is scored."""


@dataclass(frozen=True)
class Source:
    """Data, optimizer and networks of trainings."""

    name: str
    """Names the measurements in the cache, with the reduction."""
    make: Callable[[int], Proxy]
    """The proxy, by the number of steps."""
    reduction: Reduction

    @property
    def key(self) -> str:
        """The name of the cache's file."""
        return f"{self.name}-{self.reduction}"


def real(optimizer: InnerOptimizer, name: str, reduction: Reduction) -> Source:
    """Return trainings on real images, 64 a step."""
    return Source(f"real-{name}", lambda steps: RealDataProxy(steps, images=SCORED, optimizer=optimizer), reduction)


def adam(lr: float, reduction: Reduction) -> Source:
    """Return trainings on real images with Adam."""
    return real(Adam(lr=lr), f"adam{lr:g}", reduction)


def lars(lr: float, reduction: Reduction) -> Source:
    """Return trainings on real images with LARS."""
    return real(LARS(lr=lr), f"lars{lr:g}", reduction)


def taught(teacher: str, name: str, reduction: Reduction) -> Source:
    """Return trainings on a teacher's images."""
    return Source(name, lambda steps: GTNProxy(teacher, steps, images=SCORED), reduction)


@dataclass(frozen=True)
class Curve:
    """A training of one network."""

    losses: tuple[float, ...]
    """Training loss of every step."""
    looks: dict[int, tuple[float, float, float]]
    """Accuracy and loss on validation images after some steps, and the CPU seconds up to there with one look."""


class Cache:
    """Curves in files of one line of JSON each, to which every measurement is appended at once.

    Args:
        folder: of the files, one for each source.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, dict[tuple[str, int], Curve]] = {}
        self._untrained: dict[str, tuple[tuple[float, ...], float]] | None = None

    def curves(self, source: str) -> dict[tuple[str, int], Curve]:
        """Return all curves of a source, by cell and seed; a longer one counts more than a shorter."""
        if source not in self._read:
            found: dict[tuple[str, int], Curve] = {}
            for row in read_lines(self.folder / f"{source}.jsonl"):
                looks = {int(step): tuple(look) for step, look in row["looks"].items()}
                place = row["cell"], row["seed"]
                if place not in found or len(row["losses"]) > len(found[place].losses):
                    found[place] = Curve(tuple(row["losses"]), looks)
            self._read[source] = found
        return self._read[source]

    def measure(
        self,
        bench: Bench,
        source: Source,
        cells: Sequence[Architecture],
        seeds: Sequence[int],
        steps: int,
        until: float,
    ) -> None:
        """Train what is not in the cache, until ``time.monotonic()`` exceeds a limit."""
        known = self.curves(source.key)
        missing = [
            (seed, cell)
            for seed in seeds
            for cell in cells
            if (cell.name, seed) not in known or len(known[cell.name, seed].losses) < steps
        ]
        if not missing:
            return
        scorer = bench.bind(source.make(steps), source.reduction)
        assert isinstance(scorer, TaughtScorer)
        points = [look for look in LOOKS if look <= steps]
        for number, (seed, cell) in enumerate(missing):
            if time.monotonic() > until:
                print(f"{source.key}: {len(missing) - number} of {len(missing)} trainings left for another run")
                return
            began, cpu = time.perf_counter(), time.process_time()
            curve = list(scorer.curve(cell, seed, points))
            # Seconds of the CPU, of which a machine with other work takes no more; on a GPU, those of the clock.
            share = (time.process_time() - cpu) / (time.perf_counter() - began) if bench.device == "cpu" else 1.0
            looks: dict[int, tuple[float, float, float]] = {}
            looked = 0.0
            for point in curve:
                looks[point.step] = point.accuracy, point.loss, share * (point.cost.seconds - looked)
                looked += point.evaluation_cost.seconds
            made = Curve(curve[-1].training_losses, looks)
            known[cell.name, seed] = made
            row = {
                "cell": cell.name,
                "seed": seed,
                "losses": [round(loss, 5) if math.isfinite(loss) else loss for loss in made.losses],
                "looks": {step: [float(f"{value:.6g}") for value in look] for step, look in looks.items()},
            }
            append_line(self.folder / f"{source.key}.jsonl", row)
            if number % 16 == 15:
                print(f"{source.key}: {number + 1} of {len(missing)}", flush=True)

    def untrained(self) -> dict[str, tuple[tuple[float, ...], float]]:
        """Return the numbers of `UNTRAINED`'s proxies by proxy and cell, ``name cell``, with their CPU seconds."""
        if self._untrained is None:
            rows = read_lines(self.folder / "untrained.jsonl")
            self._untrained = {f"{row['proxy']} {row['cell']}": (tuple(row["values"]), row["seconds"]) for row in rows}
        return self._untrained

    def measure_untrained(self, bench: Bench, cells: Sequence[Architecture], until: float) -> None:
        """Measure the benchmark's own networks without training, until ``time.monotonic()`` exceeds a limit."""
        known = self.untrained()
        scorers = {proxy.name: bench.bind(proxy, FULL) for proxy in UNTRAINED}
        missing = [(cell, name) for cell in cells for name in scorers if f"{name} {cell.name}" not in known]
        for number, (cell, name) in enumerate(missing):
            if time.monotonic() > until:
                print(f"without training: {len(missing) - number} of {len(missing)} left for another run")
                return
            cpu = time.process_time() if bench.device == "cpu" else time.perf_counter()
            values = scorers[name].features(cell).values
            seconds = (time.process_time() if bench.device == "cpu" else time.perf_counter()) - cpu
            known[f"{name} {cell.name}"] = values, seconds
            row = {"proxy": name, "cell": cell.name, "values": values, "seconds": round(seconds, 4)}
            append_line(self.folder / "untrained.jsonl", row)


UNTRAINED: tuple[Proxy, ...] = (NumParameters(), SynFlow(), NASWOT(32), AZNAS(16))


def read_lines(file: Path) -> Iterator[Any]:
    """Yield the rows of a file of JSON lines; an incomplete last line, of a killed process, is left out."""
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def append_line(file: Path, row: Any) -> None:
    """Add a row to a file of JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")
