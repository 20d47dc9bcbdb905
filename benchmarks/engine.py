"""Time and peak memory of one meta-gradient for every mode of the inner gradient, each in a process of its own.

The unit of time is plain training of as many steps with ``torch.optim.SGD`` in the same process.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.report import markdown_table, write_report
from gtn_lightning.inner_loop import MODES, SGD, Functional, unroll
from gtn_lightning.learners import ConvNet, GTNMnistNet
from gtn_lightning.tasks import Classification

LEARNERS: dict[str, Callable[[], nn.Module]] = {
    "ConvNet 32, BatchNorm": partial(ConvNet, (1, 28, 28), 10, width=32, depth=2, norm="batch"),
    "ConvNet 32, no norm": partial(ConvNet, (1, 28, 28), 10, width=32, depth=2, norm="none"),
    "GTNMnistNet": GTNMnistNet,
}


def main() -> None:
    """Measure every combination and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 32], help="numbers of inner steps T")
    parser.add_argument("--batch-size", type=int, default=64, help="images per inner step")
    parser.add_argument("--repeats", type=int, default=5, help="timed meta-gradients; the median is reported")
    parser.add_argument("--measure", nargs=3, metavar=("LEARNER", "MODE", "T"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        learner, mode, steps = options.measure
        print(json.dumps(measure(learner, mode, int(steps), options.batch_size, options.repeats)))
        return
    rows = []
    for learner in LEARNERS:
        for steps in options.steps:
            for mode in sorted(MODES):
                command = [sys.executable, "-m", "benchmarks.engine", "--measure", learner, mode, str(steps)]
                command += ["--batch-size", str(options.batch_size), "--repeats", str(options.repeats)]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                times = [f"{found['plain']:.2f} s", f"{found['seconds']:.2f} s", f"{found['ratio']:.1f}"]
                rows.append([learner, str(steps), mode, *times, f"{found['megabytes']:.0f} MB"])
                print(" | ".join(rows[-1]), flush=True)
    header = ["learner", "T", "mode", "plain training", "meta-gradient", "ratio", "peak memory added"]
    write_report(
        "engine",
        "The inner loop: time and memory",
        markdown_table(header, rows),
        f"SGD with momentum, batches of {options.batch_size}, meta-gradient w.r.t. all images; medians of "
        f"{options.repeats}.",
    )


def measure(name: str, mode: str, steps: int, batch_size: int, repeats: int) -> dict[str, float]:
    """Return median seconds of plain training and of a meta-gradient, their ratio's median, and peak memory added."""
    torch.manual_seed(0)
    images = torch.randn(steps, batch_size, 1, 28, 28, requires_grad=True)
    labels = torch.arange(batch_size) % 10
    learner = LEARNERS[name]()
    plain, meta, ratios = [], [], []
    _plain_training(learner, images.detach(), labels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _meta_gradient(learner, mode, images, labels)
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    for _ in range(repeats):
        start = time.perf_counter()
        _plain_training(learner, images.detach(), labels)
        middle = time.perf_counter()
        _meta_gradient(learner, mode, images, labels)
        plain.append(middle - start)
        meta.append(time.perf_counter() - middle)
        ratios.append(meta[-1] / plain[-1])
    median = statistics.median
    return {"plain": median(plain), "seconds": median(meta), "ratio": median(ratios), "megabytes": added / 1024}


def _plain_training(learner: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e-4, momentum=0.5)
    for batch in images:
        optimizer.zero_grad()
        F.cross_entropy(learner(batch), labels).backward()
        optimizer.step()


def _meta_gradient(learner: nn.Module, mode: str, images: torch.Tensor, labels: torch.Tensor) -> None:
    functional, task = Functional(learner), Classification(10)
    params, buffers = functional.init()
    batches = [(batch, labels) for batch in images.unbind()]
    trained = unroll(task.inner_loss(functional), params, buffers, batches, SGD(lr=1e-4), mode=mode)
    loss, _ = task.meta_loss(functional)(trained.params, trained.buffers, images[0].detach(), labels)
    torch.autograd.grad(loss, images)


if __name__ == "__main__":
    main()
