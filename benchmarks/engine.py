"""Time and peak memory of one meta-gradient, by every engine, each in a separate process.

The unit of time is plain training of the same number of steps with ``torch.optim``, run alternately with the engine in
the same process, so that a drift of the machine's speed does not change the ratio.
"""

import argparse
import ctypes
import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.engines import ENGINES, PEERS, plain
from benchmarks.report import RESULTS, markdown_table, write_report
from gtn_lightning.learners import ConvNet, GTNMnistNet

LEARNERS: dict[str, Callable[[], nn.Module]] = {
    "ConvNet 32, batch norm": partial(ConvNet, (1, 28, 28), 10, width=32, depth=2, norm="batch"),
    "ConvNet 32, no norm": partial(ConvNet, (1, 28, 28), 10, width=32, depth=2, norm="none"),
    "GTNMnistNet": GTNMnistNet,
}

CHECKED_STEPS = 4
"""Inner steps after which the engines' gradients are compared, in float64."""

PRODUCTS = ("convolution", "addmm", "::mm", "bmm", "linear")
"""Parts of the names of torch's kernels for convolutions and matrix products."""

PEAKS = 3
"""Number of meta-gradients whose peak memory is measured; the smallest counts, since freed memory that the allocator
keeps adds up to hundreds of megabytes."""


def main() -> None:
    """Measure every combination; write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 32, 128], help="numbers of inner steps T")
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=LEARNERS, help="which learners")
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "adam"], choices=["sgd", "adam"])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, help="which engines")
    parser.add_argument("--batch-size", type=int, default=64, help="images per inner step")
    parser.add_argument("--repeats", type=int, default=5, help="timed meta-gradients; the median is reported")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/engine"), help="what was measured; all that lies there is reported"
    )
    parser.add_argument("--measure", nargs=4, metavar=("LEARNER", "OPTIMIZER", "ENGINE", "T"), help=argparse.SUPPRESS)
    parser.add_argument("--gradient", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        learner, optimizer, engine, steps = options.measure
        torch.save(checked_gradient(learner, optimizer, engine), options.gradient)
        print(json.dumps(measure(learner, optimizer, engine, int(steps), options.batch_size, options.repeats)))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    for case in product(options.learners, options.optimizers, options.steps, options.engines):
        learner, optimizer, steps, engine = case
        path = (
            options.output / f"{learner}, {optimizer}, {steps}, {engine}, {options.batch_size}, {options.threads}.json"
        )
        if path.exists():  # an interrupted benchmark goes on where it was
            continue
        cell = in_a_process(learner, optimizer, engine, steps, options)
        if cell is not None:
            print(*case, cell, flush=True)
            settings = {"batch_size": options.batch_size, "threads": options.threads}
            path.write_text(json.dumps({"case": case, **settings, **cell}), encoding="utf-8")
    report(options)


def in_a_process(
    learner: str, optimizer: str, engine: str, steps: int, options: argparse.Namespace
) -> dict[str, float] | None:
    """Measure one engine in a fresh process, or return None for a peer that cannot run the case."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gradient.pt"
        command = [sys.executable, "-m", "benchmarks.engine", "--measure", learner, optimizer, engine, str(steps)]
        command += ["--batch-size", str(options.batch_size), "--repeats", str(options.repeats)]
        command += ["--threads", str(options.threads), "--gradient", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["killed"])[-1]
            if engine in PEERS:
                print(f"{engine} cannot run {learner}, {optimizer}, T = {steps}: {reason}", flush=True)
                return None
            raise SystemExit(f"{engine} failed: {reason}")
        cell: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
        expected, gradient = checked_gradient(learner, optimizer, "reverse"), torch.load(path)
        cell["error"] = float((gradient - expected).norm() / expected.norm())
    return cell


def checked_gradient(learner: str, optimizer: str, engine: str) -> Tensor:
    """Return a meta-gradient in float64 after a few steps, to compare engines."""
    torch.manual_seed(0)
    network = LEARNERS[learner]().double()
    images = torch.randn(CHECKED_STEPS, 16, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    gradient = ENGINES[engine](network, optimizer, images, torch.arange(16) % 10)
    assert gradient is not None
    return gradient


def measure(name: str, optimizer: str, engine: str, steps: int, batch_size: int, repeats: int) -> dict[str, float]:
    """Return median seconds of plain training and of a meta-gradient, their ratio's spread, and peak memory added."""
    torch.manual_seed(0)
    images = torch.randn(steps, batch_size, 1, 28, 28, requires_grad=True)
    labels = torch.arange(batch_size) % 10
    network = LEARNERS[name]()
    run = ENGINES[engine]
    plain(LEARNERS[name](), optimizer, images, labels)
    for _ in range(2):  # compile, and fill caches
        run(network, optimizer, images, labels)
    peaks = []
    for _ in range(PEAKS):
        before = reset_peak()
        run(network, optimizer, images, labels)
        peaks.append(peak() - before)
    plain_seconds, seconds, ratios = [], [], []
    for _ in range(repeats):
        unit = LEARNERS[name]()
        start = time.perf_counter()
        plain(unit, optimizer, images, labels)
        middle = time.perf_counter()
        run(network, optimizer, images, labels)
        plain_seconds.append(middle - start)
        seconds.append(time.perf_counter() - middle)
        ratios.append(seconds[-1] / plain_seconds[-1])
    return {
        "plain": statistics.median(plain_seconds),
        "seconds": statistics.median(seconds),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "megabytes": min(peaks),
        "products": share_of_products(partial(run, network, optimizer, images, labels)),
    }


def share_of_products(run: Callable[[], object]) -> float:
    """Return the share of a run's time in convolutions and matrix products, which every engine needs."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
    kernels = [event for event in profiled.key_averages() if any(name in event.key for name in PRODUCTS)]
    return sum(event.self_cpu_time_total for event in kernels) / 1e6 / seconds


def reset_peak() -> float:
    """Reset the peak of this process's memory, if the kernel supports it; return the present peak in MB."""
    gc.collect()
    # Without it, the peak includes memory that the allocator keeps from earlier evaluations.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """Return the peak of this process's memory since ``reset_peak`` in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(options: argparse.Namespace) -> None:
    """Write the table and the picture of all measurements."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in options.output.glob("*.json")]
    settings = options.batch_size, options.threads
    cells = [cell for cell in cells if (cell["batch_size"], cell["threads"]) == settings]
    cells.sort(key=lambda cell: _order(*cell["case"]))
    found: dict[tuple[str, str, int, str], dict[str, float]] = {tuple(cell["case"]): cell for cell in cells}
    rows = []
    for (learner, optimizer, steps, engine), cell in found.items():
        peers = [found[key] for name in PEERS if (key := (learner, optimizer, steps, name)) in found]
        against = "", ""
        if peers and engine not in PEERS:
            faster, leaner = min(peer["ratio"] for peer in peers), min(peer["megabytes"] for peer in peers)
            against = f"{cell['ratio'] / faster:.2f}", f"1/{leaner / max(cell['megabytes'], 0.1):.2g}"
        times = [
            f"{cell['seconds']:.2f} s",
            f"{cell['ratio']:.1f} ({cell['lowest']:.1f} to {cell['highest']:.1f})",
            against[0],
            f"{100 * cell['products']:.0f} %",
        ]
        memory = [f"{cell['megabytes']:.0f} MB", against[1]]
        rows.append([learner, optimizer, str(steps), engine, *times, *memory, f"{cell['error']:.0e}"])
    header = [
        *("learner", "optimizer", "T", "engine", "time", "in units of plain training", "against the faster peer"),
        *("in convolutions and products", "peak memory added", "against the leaner peer", "error"),
    ]
    write_report(
        "engine",
        "The inner loop: time and memory",
        markdown_table(header, rows) + "\n\n![time and memory](engine.png)",
        f"One meta-gradient w.r.t. all images, batches of {options.batch_size}; medians of {options.repeats} in one "
        f"process, plain training of as many steps in turn with the engine, range in brackets; {options.threads} "
        f"threads. Peak memory is the smallest of {PEAKS}. The error is that of the gradient after {CHECKED_STEPS} "
        "float64 steps, relative to mode `reverse`; "
        "`higher` and `TorchOpt` add Adam's epsilon outside the square root, we inside.",
    )
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    learner, optimizer, _, _ = next(iter(found))
    for engine in ENGINES:
        drawn = {case[2]: cell for case, cell in found.items() if (*case[:2], case[3]) == (learner, optimizer, engine)}
        if drawn:
            time_axes.plot(list(drawn), [cell["ratio"] for cell in drawn.values()], marker="o", label=engine)
            memory_axes.plot(list(drawn), [cell["megabytes"] for cell in drawn.values()], marker="o", label=engine)
    for axes, label in ((time_axes, "time / plain training"), (memory_axes, "peak memory added in MB")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("inner steps T")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    memory_axes.set_yscale("log")
    figure.legend(*time_axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(f"{learner}, {optimizer}")
    figure.savefig(RESULTS / "engine.png")


def _order(learner: str, optimizer: str, steps: int, engine: str) -> tuple[int, bool, int, int]:
    return list(LEARNERS).index(learner), optimizer != "sgd", steps, list(ENGINES).index(engine)


if __name__ == "__main__":
    main()
