"""Time and peak memory of an exact meta-gradient through thousands of inner steps, by levels of segments.

A convolutional network is trained with Adam on batches of a small set of images, and its loss is differentiated with
respect to these images and to Adam's rate. Each measurement is a separate process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.clock import Clock
from benchmarks.report import markdown_table, write_sections
from gtn_lightning.inner_loop import Adam, Batch, Buffers, Functional, Params, RequestedBatches, eager_loss, unroll
from gtn_lightning.learners import ConvNet

CHECKED_STEPS = 60
"""Inner steps after which gradients are compared, in float64, for a network of width 4."""

STEP = 1e-7
"""Distance of the central differences; larger ones cross kinks of the network's ReLUs."""

NOTE = """The exact gradient of a meta-loss through T inner steps of Adam (1e-8 inside the root), w.r.t. the images that
the network is trained on, ten per class, and w.r.t. Adam's rate: ConvNet-3 (three blocks, instance norm, average
pooling).
L levels of segments have lengths T^(L/(L+1)) to T^(1/(L+1)) (`segment`); level 0 keeps the state after every step.
The unit of time is plain training of as many steps in the same process; both are measured once, so that other work on
the machine shows in the times.
Peak memory added is that of one meta-gradient, on a CPU of the process, on CUDA of torch's allocator.
States are those that segments keep at once, by the formula.
The difference is that of the float32 gradient from the gradient without segments."""


@dataclass(frozen=True)
class Setting:
    """What does not change from row to row."""

    device: str
    width: int
    size: int
    batch_size: int
    mode: str
    double: bool = False


def lengths(steps: int, levels: int) -> list[int] | None:
    """Return the lengths of nested segments with which the fewest states are kept at once."""
    return [round(steps ** (level / (levels + 1))) for level in range(levels, 0, -1)] or None


def states(steps: int, segment: Sequence[int] | None) -> int:
    """Return how many states are kept at once."""
    all_lengths = [steps, *(segment or ())]
    return sum(-(-outer // inner) for outer, inner in zip(all_lengths, [*all_lengths[1:], 1], strict=True))


class Loop:
    """The inner loop of a setting."""

    def __init__(self, setting: Setting, steps: int) -> None:
        torch.manual_seed(0)
        self._device = torch.device(setting.device)
        dtype = torch.float64 if setting.double else torch.float32
        shape = 3, setting.size, setting.size
        order = ["norm", "activation", "pool"]
        self.network = ConvNet(shape, 10, setting.width, norm="instance", pooling="average", order=order)
        self.network.to(self._device, dtype)
        self._learner = Functional(self.network)
        self._images = torch.randn(100, *shape, dtype=dtype).to(self._device).requires_grad_()
        self._labels = torch.arange(100, device=self._device) % 10
        self._real = torch.randn(100, *shape, dtype=dtype).to(self._device)
        generator = torch.Generator().manual_seed(1)
        indices = [torch.randperm(100, generator=generator)[: setting.batch_size] for _ in range(steps)]
        self._indices = [index.to(self._device) for index in indices]
        self._adam = Adam(1e-3, eps=1e-4, learned=["lr"]).to(self._device, dtype)
        self._mode = setting.mode

    def train(self) -> None:
        """Train as many steps by torch's optimizer, without a meta-gradient."""
        optimizer = torch.optim.Adam(self.network.parameters(), 1e-3)
        for inputs, labels in self._made(self._indices):
            optimizer.zero_grad()
            F.cross_entropy(self.network(inputs.detach()), labels).backward()
            optimizer.step()

    def meta_loss(self, segment: list[int] | None, offload: str | None = None) -> Tensor:
        """Return the meta-loss."""

        def loss_fn(params: Params, buffers: Buffers, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Buffers]:
            logits, buffers = self._learner(params, buffers, inputs)
            return F.cross_entropy(logits, labels), buffers

        batches = RequestedBatches(self._indices, self._made, [self._images])
        trained = unroll(
            loss_fn, *self._learner.init(), batches, self._adam, mode=self._mode, segment=segment, offload=offload
        )
        return eager_loss(loss_fn, trained.params, trained.buffers, (self._real, self._labels))

    def gradient(self, segment: list[int] | None, offload: str | None = None) -> Tensor:
        """Return the meta-gradient as one vector."""
        parts = torch.autograd.grad(self.meta_loss(segment, offload), self._variables)
        return torch.cat([part.flatten() for part in parts])

    def central_difference(self, direction: Tensor, segment: list[int] | None) -> float:
        """Return the slope of the meta-loss along a direction."""
        parts = direction.split([variable.numel() for variable in self._variables])
        values = []
        with torch.no_grad():
            for distance in (STEP, -STEP):
                for variable, part in zip(self._variables, parts, strict=True):
                    variable.add_(part.view_as(variable), alpha=distance)
                values.append(float(self.meta_loss(segment)))
                for variable, part in zip(self._variables, parts, strict=True):
                    variable.sub_(part.view_as(variable), alpha=distance)
        return (values[0] - values[1]) / (2 * STEP)

    @property
    def _variables(self) -> list[Tensor]:
        return [self._images, *self._adam.parameters()]

    def _made(self, requests: Sequence[Tensor]) -> Iterator[Batch]:
        for index in requests:
            yield self._images[index], self._labels[index]


def check(setting: Setting, levels: Sequence[int]) -> tuple[float, float]:
    """Check gradients in float64 after a few steps of a narrow network.

    Returns:
        The greatest relative difference of gradients in segments from that without, and their greatest relative
        difference from central differences along a direction.

    Raises:
        SystemExit: if they are above 1e-9 and 1e-5.
    """
    loop = Loop(replace(setting, width=4, size=16, batch_size=16, mode="remat", double=True), CHECKED_STEPS)
    expected = loop.gradient(None)
    direction = torch.randn(len(expected), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    direction = direction.to(expected.device)
    slope = loop.central_difference(direction, None)
    differences, errors = [], []
    for level in levels:
        found = loop.gradient(lengths(CHECKED_STEPS, level))
        differences.append(float((found - expected).norm() / expected.norm()))
        errors.append(abs(float(found @ direction) - slope) / abs(slope))
    if not (max(differences) < 1e-9 and max(errors) < 1e-5):
        sys.exit(f"the gradient is wrong: {max(differences):.1e} without segments, {max(errors):.1e} central")
    return max(differences), max(errors)


def measure(setting: Setting, steps: int, levels: int, offload: str | None, path: Path) -> dict[str, float]:
    """Measure one meta-gradient, and write it to a file."""
    clock = Clock(torch.device(setting.device))
    Loop(setting, 20).gradient(lengths(20, levels), offload)  # compile, fill caches, check
    loop, seconds, found = Loop(setting, steps), [], []

    def run() -> None:
        found.append(loop.gradient(lengths(steps, levels), offload))

    megabytes = clock.megabytes(lambda: seconds.append(clock.seconds(run)))
    torch.save(found[0].cpu(), path)
    plain = clock.seconds(loop.train)
    return {"seconds": seconds[0], "plain": plain, "megabytes": megabytes, "norm": float(found[0].norm())}


def main() -> None:
    """Measure all numbers of steps and levels; write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 500, 2000], help="numbers of inner steps T")
    parser.add_argument("--levels", type=int, nargs="+", default=[0, 1, 2, 3], help="levels of segments")
    parser.add_argument(
        "--offload",
        nargs="+",
        default=["none"],
        choices=["none", "host", "disk"],
        help="where states go; others than none at the greatest T",
    )
    parser.add_argument("--width", type=int, default=16, help="channels of the network")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--batch-size", type=int, default=16, help="images per inner step, at most 100")
    parser.add_argument("--mode", default="remat", help="of the inner gradient")
    parser.add_argument("--output", type=Path, default=Path("runs/long_loops"), help="what was measured")
    parser.add_argument("--measure", nargs=3, metavar=("T", "LEVELS", "OFFLOAD"), help=argparse.SUPPRESS)
    parser.add_argument("--gradient", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    setting = Setting(options.device, options.width, options.size, options.batch_size, options.mode)
    if options.measure:
        steps, levels, offload = int(options.measure[0]), int(options.measure[1]), options.measure[2]
        given = None if offload == "none" else offload
        print(json.dumps(measure(setting, steps, levels, given, options.gradient)))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    difference, error = check(setting, [level for level in options.levels if level])
    print(f"float64: {difference:.1e} from no segments, {error:.1e} from central differences", flush=True)
    rows = []
    for steps, levels, offload in product(options.steps, options.levels, options.offload):
        if offload == "none" or (levels and steps == max(options.steps)):
            rows.append(_row(_cell(setting, steps, levels, offload, options.output), steps, levels, offload))
            print(*rows[-1], sep=" | ", flush=True)
    where = "a CPU" if setting.device == "cpu" else torch.cuda.get_device_name()
    header = ["T", "levels", "segment", "states", "offload", "time", "in units of plain training"]
    header += ["peak memory added", "difference"]
    write_sections(
        "long_loops",
        "Thousands of inner steps",
        {
            f"Width {setting.width}, images of {setting.size}x{setting.size}, batches of {setting.batch_size}, mode "
            f"{setting.mode}, on {where}": f"{markdown_table(header, rows)}\n\n"
            f"In float64, after {CHECKED_STEPS} steps of a network of width 4: segments differ from no segments by "
            f"{difference:.0e}, and from central differences by {error:.0e} (relative)."
        },
        NOTE,
    )


def _cell(setting: Setting, steps: int, levels: int, offload: str, output: Path) -> dict[str, Any]:
    """Return what was measured, in a separate process unless it has been before."""
    name = ", ".join(map(str, [*asdict(setting).values(), steps, levels, offload]))
    path, gradient = output / f"{name}.json", output / f"{name}.pt"
    if path.exists():  # an interrupted benchmark goes on where it was
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    command = [sys.executable, "-m", "benchmarks.long_loops", "--measure", str(steps), str(levels), offload]
    for key, value in asdict(setting).items():
        if key != "double":
            command += [f"--{key.replace('_', '-')}", str(value)]
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "gradient.pt"
        command += ["--gradient", str(written)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            found = {"failed": (result.stderr.strip().splitlines() or ["killed"])[-1]}
        else:
            found = json.loads(result.stdout.splitlines()[-1])
            own = torch.load(written)
            torch.save(own, gradient)
            reference = output / gradient.name.replace(f", {levels}, {offload}.pt", ", 0, none.pt")
            if reference.exists():
                expected = torch.load(reference)
                found["difference"] = float((own - expected).norm() / expected.norm())
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def _row(cell: dict[str, Any], steps: int, levels: int, offload: str) -> list[str]:
    segment = lengths(steps, levels)
    about = [str(steps), str(levels), str(segment or ""), str(states(steps, segment)), offload.replace("none", "")]
    if "failed" in cell:
        return [*about, f"failed: {cell['failed'][:80]}", "", "", ""]
    return [
        *about,
        f"{cell['seconds']:.3g} s",
        f"{cell['seconds'] / cell['plain']:.1f}",
        f"{cell['megabytes']:.0f} MB",
        f"{cell['difference']:.0e}" if "difference" in cell else "",
    ]


if __name__ == "__main__":
    main()
