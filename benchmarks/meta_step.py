"""A whole meta-step in the paper's MNIST and CIFAR-10 settings: launched kernel by kernel, and as one CUDA graph.

It needs torch and Lightning alone: the recipes ``mnist`` and ``cifar10`` are built in code, on random images. Both ways
compute the same meta-steps; the table shows by how much their gradients differ. On a CPU, for a trial of the script, a
replay is a call of the captured function.
"""

import argparse
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.report import markdown_table
from gtn_lightning.curricula import Full
from gtn_lightning.inner_loop import SGD, InnerLoop
from gtn_lightning.inner_loop.cuda_graphs import CudaGraphs
from gtn_lightning.learners import Fixed, GTNCifarNet, GTNMnistNet
from gtn_lightning.meta_training.ahead import Ahead
from gtn_lightning.meta_training.step import meta_step
from gtn_lightning.parts import Parts
from gtn_lightning.tasks import Classification
from gtn_lightning.teachers import Generator

CASES: dict[str, tuple[Any, tuple[int, int, int], int, int, int]] = {
    "mnist": (GTNMnistNet, (1, 28, 28), 32, 1, 128),
    "cifar10": (GTNCifarNet, (3, 32, 32), 128, 16, 256),
}
"""Learner, image shape, inner steps, inner steps between meta-losses, real images."""


class Case:
    """The parts of a recipe on a device, and its meta-steps."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        learner, shape, steps, every, self._real = CASES[name]
        steps = options.steps or steps
        torch.manual_seed(0)
        self.device = torch.device(options.device)
        teacher = Generator(shape, 10, noise=128)
        curriculum = Full(steps, options.batch_size, 10, noise=128)
        optimizer = SGD(lr=0.02, momentum=0.5, learned_per_step=["lr", "momentum"], steps=steps)
        for part in (teacher, curriculum, optimizer):
            part.to(self.device)
        loop = InnerLoop(steps, options.mode)
        task = Classification(10, every, shape)
        self.parts = Parts(teacher, curriculum, Fixed(learner), optimizer, task, loop, seed=0)
        self.parameters = [*teacher.parameters(), *curriculum.parameters(), *optimizer.parameters()]
        self._shape = shape

    def gradient(self, step: int, graphs: CudaGraphs | None, ahead: Ahead | None) -> list[Tensor]:
        """Return the loss and the gradient of a meta-step."""
        generator = torch.Generator().manual_seed(step)
        labels = torch.arange(self._real) % 10
        batch = [torch.randn(self._real, *self._shape, generator=generator).to(self.device), labels.to(self.device)]
        following = (0, step + 1, 0)
        loss, _ = meta_step(
            self.parts, 1, batch, (0, step, 0), self.device, graphs=graphs, ahead=ahead, following=following
        )
        return [loss.detach(), *torch.autograd.grad(loss, self.parameters)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["mnist"])
    parser.add_argument("--mode", default="compiled", help="of the inner gradient")
    parser.add_argument("--steps", type=int, help="inner steps (the recipe's)")
    parser.add_argument("--batch-size", type=int, default=128, help="of the inner batches")
    parser.add_argument("--repeats", type=int, default=10, help="measured meta-steps")
    parser.add_argument("--precision", default="high", choices=["highest", "high", "medium"], help="of matrix products")
    options = parser.parse_args()
    torch.set_float32_matmul_precision(options.precision)
    rows = []
    for name in options.cases:
        case = Case(name, options)
        graphs, ahead = CudaGraphs(case.device), Ahead(case.device)
        took = {}
        for way, given in (("kernel by kernel", (None, None)), ("one CUDA graph", (graphs, ahead))):
            step = _settled(case, given, options.repeats)
            took[way] = _measured(case, given, step, options)
            seconds, share, megabytes = took[way]
            rows.append([name, way, f"{1000 * seconds:.0f} ms", f"{100 * share:.0f} %", f"{megabytes:,.0f} MB"])
        usual, replayed = (case.gradient(10**6, *given) for given in ((None, None), (graphs, None)))
        print(
            f"{name}: {graphs.captures} captured, {graphs.replays} replays; relative difference of the loss "
            f"{_difference(replayed[:1], usual[:1]):.1e}, of the gradient {_difference(replayed[1:], usual[1:]):.1e}; "
            f"{took['kernel by kernel'][0] / took['one CUDA graph'][0]:.1f} times as fast"
        )
    print(markdown_table(["recipe", "a meta-step", "time", "in kernels", "peak memory"], rows))


def _settled(case: Case, given: tuple[CudaGraphs | None, Ahead | None], repeats: int) -> int:
    """Run meta-steps until a graph has been replayed, or as many as are measured; return the number of the next."""
    graphs, _ = given
    for step in range(60):
        case.gradient(step, *given)
        if step >= 3 and (graphs is None or graphs.replays > 2):
            break
    # The replays that are compared with ordinary meta-steps must not fall among the measured ones.
    while graphs is not None and graphs.captures and not _is_free(graphs.replays, 2 * repeats + 2):
        step += 1
        case.gradient(step, *given)
    return step + 1


def _is_free(replays: int, count: int) -> bool:
    return not any((number & (number - 1)) == 0 for number in range(replays + 1, replays + count + 1))


def _measured(
    case: Case, given: tuple[CudaGraphs | None, Ahead | None], step: int, options: argparse.Namespace
) -> tuple[float, float, float]:
    """Return the median seconds of meta-steps, the share of their time in kernels, and the peak memory in MB."""
    on_cuda = case.device.type == "cuda"

    def timed(number: int) -> float:
        start = time.perf_counter()
        float(case.gradient(number, *given)[0])  # as Lightning waits for a meta-step
        if on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = [timed(step + number) for number in range(options.repeats)]
    memory = torch.cuda.max_memory_reserved() / 2**20 if on_cuda else float("nan")
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_cuda]) as profiled:
        whole = sum(timed(step + options.repeats + number) for number in range(2))
    kernels = [event for event in profiled.events() or () if event.device_type == DeviceType.CUDA]
    return median(seconds), sum(event.time_range.elapsed_us() for event in kernels) / 1e6 / whole, memory


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    distance = sum(float((one - other).double().square().sum()) for one, other in zip(found, expected, strict=True))
    return (distance / sum(float(other.double().square().sum()) for other in expected)) ** 0.5


if __name__ == "__main__":
    main()
