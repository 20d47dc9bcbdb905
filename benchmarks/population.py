"""Time of several learners per meta-step: one after the other, and all at once, by mode."""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.report import markdown_table, write_report
from gtn_lightning.inner_loop import SGD, Functional, unroll_population
from gtn_lightning.learners import MLP, ConvNet
from gtn_lightning.tasks import Classification

STEPS, BATCH = 4, 64
LEARNERS: dict[str, Callable[[], nn.Module]] = {
    "MLP 128": partial(MLP, (1, 28, 28), 10, hidden=[128], norm="none"),
    "ConvNet 16, batch norm": partial(ConvNet, (1, 28, 28), 10, width=16, depth=2, norm="batch", pooling="stride"),
    "ConvNet 32, batch norm, 8x8": partial(ConvNet, (1, 8, 8), 10, width=32, depth=1, norm="batch"),
}


def main() -> None:
    """Measure every learner in every mode and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=4, help="learners per meta-step")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name, make in LEARNERS.items():
        for mode in ("remat", "mixed", "compiled"):
            apart, together = (seconds(make, mode, options.members, batched) for batched in (False, True))
            rows.append([name, mode, f"{1000 * apart:.0f} ms", f"{1000 * together:.0f} ms", f"{together / apart:.2f}"])
    write_report(
        "population",
        "Several learners per meta-step",
        markdown_table(["learner", "mode", "one after the other", "batched", "ratio"], rows),
        f"One meta-gradient of {options.members} learners over {STEPS} steps of {BATCH} images, median of 7, "
        f"{options.threads} thread(s). What cannot be compiled runs in mode `mixed`.",
    )


def seconds(make: Callable[[], nn.Module], mode: str, members: int, batched: bool) -> float:
    """Return the median time of one meta-gradient of a population."""
    torch.manual_seed(0)
    learners = [Functional(make()) for _ in range(members)]
    task, optimizer = Classification(10), SGD(0.01, 0.5)
    images = torch.randn(STEPS, BATCH, *learners[0].module.image_shape, requires_grad=True)  # type: ignore[misc]

    def meta_gradient() -> None:
        batches = [(batch, torch.arange(BATCH) % 10) for batch in images.unbind()]
        taught = unroll_population(
            task.inner_loss(learners[0]),
            [learner.init() for learner in learners],
            batches,
            optimizer,
            mode=mode,
            batched=batched,
        )
        sums = [value.sum() for unrolled in taught for value in unrolled.params.values()]
        torch.autograd.grad(torch.stack(sums).sum(), images)

    found = []
    for _ in range(3 + 7):
        start = time.perf_counter()
        meta_gradient()
        found.append(time.perf_counter() - start)
    return statistics.median(found[3:])


if __name__ == "__main__":
    main()
