"""Time and peak memory of one meta-gradient, by every engine, each in a separate process.

The unit of time is plain training of the same number of steps with ``torch.optim``, run alternately with the engine in
the same process, so that a drift of the machine's speed does not change the ratio. On CUDA there is a second unit,
plain training whose step is one CUDA graph.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.cases import Case, cases, make_smooth
from benchmarks.clock import Clock
from benchmarks.engines import ENGINES, PEERS, captured, meta_loss, plain
from benchmarks.report import RESULTS, markdown_table, write_sections

PEAKS = 3
"""Number of meta-gradients whose peak memory is measured; the smallest counts, since freed memory that the allocator
keeps adds up to hundreds of megabytes."""

STEP = 1e-6
"""Distance of the central differences."""

NOTE = f"""One meta-gradient of a network that is trained for T steps, w.r.t. its training images (GPT-2: w.r.t. the
weights of its training sequences).
Times are medians, in turn with plain training of as many steps in one process, range in brackets.
Peak memory added is the smallest of {PEAKS} measurements: on a CPU of the process, on CUDA of torch's allocator.
Each gradient is compared in float64 with that of mode `reverse` at a small size (a few steps, few samples): the column
error; `reverse` itself is compared with central differences, without the kinks of ReLU and max pooling and with an
epsilon of 1e-3.
`higher` adds Adam's epsilon outside the square root, we inside, so its gradient is another one.
`TorchOpt` trains the two uses of GPT-2's token embedding as separate parameters."""


def main() -> None:
    """Measure every engine on every case; write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="of the device's cases; by default all")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, help="which engines")
    parser.add_argument(
        "--small", action="store_true", help="a trial: the cases of CUDA in the sizes at which gradients are compared"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed meta-gradients; the median is reported")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/engine"), help="what was measured; all that lies there is reported"
    )
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "ENGINE"), help=argparse.SUPPRESS)
    parser.add_argument("--gradient", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    known = cases(device, options.small)
    if options.measure:
        case, engine = known[options.measure[0]], options.measure[1]
        torch.save(checked_gradient(case, engine, device), options.gradient)
        print(json.dumps(measure(case.small() if options.small else case, engine, device, options.repeats)))
        return
    for name in options.cases or ():
        if name not in known:
            parser.error(f"--cases: {name!r} is not a case of {device.type}: choose from {'; '.join(known)}")
    options.output.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in options.cases or known:
        for engine in options.engines:
            path = options.output / f"{name}, {engine}, {_settings(options)}.json"
            if path.exists():  # an interrupted benchmark goes on where it was
                continue
            cell = in_a_process(known[name], engine, device, options)
            failed |= engine not in PEERS and not _is_right(cell)
            print(name, engine, cell, sep=": ", flush=True)
            if cell.get("failed", "").startswith("ModuleNotFoundError"):  # measured once it is installed
                continue
            about = {"case": name, "engine": engine, "settings": _settings(options)}
            path.write_text(json.dumps({**about, **cell}), encoding="utf-8")
    report(options, known)
    if failed:
        sys.exit("an engine of ours failed, or its gradient is wrong, see above")


def _is_right(cell: dict[str, Any]) -> bool:
    return "failed" not in cell and cell["error"] < 1e-9 and cell["central"] < 1e-5


def _settings(options: argparse.Namespace) -> str:
    where = "a CPU" if options.device == "cpu" else torch.cuda.get_device_name()
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
    return f"{where}, {threads}{', small' if options.small else ''}".replace("/", " ")


def in_a_process(case: Case, engine: str, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one engine in a fresh process; return what it found, or why it failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gradient.pt"
        command = [sys.executable, "-m", "benchmarks.engine", "--measure", case.name, engine, "--gradient", str(path)]
        command += ["--device", options.device, "--repeats", str(options.repeats), "--threads", str(options.threads)]
        command += ["--small"] if options.small else []
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            return {"failed": (result.stderr.strip().splitlines() or ["killed"])[-1]}
        cell: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        gradient = torch.load(path)
    expected = checked_gradient(case, "reverse", device).cpu()
    cell["error"] = float((gradient.cpu() - expected).norm() / expected.norm())
    cell["central"] = central_error(case, device)
    return cell


@cache
def checked_gradient(case: Case, engine: str, device: torch.device) -> Tensor:
    """Return a meta-gradient in float64 of the case's small size, to compare engines."""
    return ENGINES[engine](case.small().work(device, torch.float64))


@cache
def central_error(case: Case, device: torch.device) -> float:
    """Return the relative error of mode ``reverse`` against central differences along a direction, small, float64.

    Kinks of activations make the trained parameters jump, so that no difference is small enough: they are replaced; so
    is a small epsilon of Adam, whose first steps then follow the sign of a gradient. All steps are differentiated, for
    the gradient of a window is biased.
    """
    work = replace(replace(case.small(), window=None).work(device, torch.float64), eps=1e-3)
    make_smooth(work.network)
    direction = torch.randn(work.variable.shape, dtype=torch.float64).to(device)
    slope = float((ENGINES["reverse"](work) * direction).sum())
    with torch.no_grad():
        values = []
        for distance in (STEP, -STEP):
            work.variable.add_(direction, alpha=distance)
            values.append(float(meta_loss(work, "reverse")))
            work.variable.sub_(direction, alpha=distance)
    quotient = (values[0] - values[1]) / (2 * STEP)
    return abs(slope - quotient) / abs(quotient)


def measure(case: Case, engine: str, device: torch.device, repeats: int) -> dict[str, float]:
    """Return median seconds of plain training and of a meta-gradient, their ratio's spread, and peak memory added."""
    clock, work = Clock(device), case.work(device)
    run = partial(ENGINES[engine], work)
    clock.seconds(plain(work))
    for _ in range(2):  # compile, and fill caches
        clock.seconds(run)
    megabytes = min(clock.megabytes(run) for _ in range(PEAKS))
    plain_seconds, seconds = [], []
    for _ in range(repeats):
        plain_seconds.append(clock.seconds(plain(work)))
        seconds.append(clock.seconds(run))
    ratios = [one / unit for one, unit in zip(seconds, plain_seconds, strict=True)]
    found = {
        "plain": statistics.median(plain_seconds),
        "seconds": statistics.median(seconds),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "megabytes": megabytes,
        "kernels": clock.kernel_share(run),
    }
    if device.type == "cuda":
        try:
            graphed = captured(work)
            found["graph"] = statistics.median(clock.seconds(graphed) for _ in range(repeats))
        except RuntimeError as error:  # the last measurement, for nothing works on a device after a failed capture
            print(f"{case.name}: plain training cannot be captured: {error}", file=sys.stderr)
    return found


def report(options: argparse.Namespace, known: dict[str, Case]) -> None:
    """Write the table and the picture of all measurements on the device."""
    settings = _settings(options)
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in options.output.glob("*.json")]
    cells = [cell for cell in cells if cell["settings"] == settings and cell["case"] in known]
    cells.sort(key=lambda cell: (list(known).index(cell["case"]), list(ENGINES).index(cell["engine"])))
    on_cuda = options.device == "cuda"
    rows = [_row(cell, cells, on_cuda) for cell in cells]
    header = [
        *("case", "engine", "time", "in units of plain training"),
        *(["of plain training as a CUDA graph"] if on_cuda else []),
        "against the faster peer",
        "in kernels" if on_cuda else "in convolutions and products",
        *("peak memory added", "against the leaner peer", "error"),
    ]
    picture = "engine_cuda.png" if on_cuda else "engine.png"
    measured = {cell["case"]: cell["central"] for cell in cells if "central" in cell}
    checks = "; ".join(f"{name}: {error:.0e}" for name, error in measured.items())
    write_sections(
        "engine",
        "The inner loop: time and memory",
        {
            f"On {settings}": f"{markdown_table(header, rows)}\n\n![time and memory]({picture})\n\n"
            f"Medians of {options.repeats}.\n"
            f"Relative error of mode `reverse` against central differences, float64: {checks}."
        },
        NOTE,
    )
    _draw([cell for cell in cells if "failed" not in cell], known, picture)


def _row(cell: dict[str, Any], cells: list[dict[str, Any]], on_cuda: bool) -> list[str]:
    name, engine = cell["case"], cell["engine"]
    if "failed" in cell:
        return [name, engine, f"failed: {cell['failed'][:80]}", *[""] * (7 if on_cuda else 6)]
    peers = [c for c in cells if c["case"] == name and c["engine"] in PEERS and "failed" not in c]
    against = "", ""
    if peers and engine not in PEERS:
        faster, leaner = (min(peer[key] for peer in peers) for key in ("ratio", "megabytes"))
        against = f"{cell['ratio'] / faster:.2f}", f"1/{leaner / max(cell['megabytes'], 0.1):.2g}"
    return [
        name,
        engine,
        f"{cell['seconds']:.3g} s",
        f"{cell['ratio']:.1f} ({cell['lowest']:.1f} to {cell['highest']:.1f})",
        *([f"{cell['seconds'] / cell['graph']:.1f}" if "graph" in cell else ""] if on_cuda else []),
        against[0],
        f"{100 * cell['kernels']:.0f} %",
        f"{cell['megabytes']:.0f} MB",
        against[1],
        f"{cell['error']:.0e}",
    ]


def _draw(cells: list[dict[str, Any]], known: dict[str, Case], picture: str) -> None:
    """Draw time and memory against the number of steps, for the first learner that was measured."""
    if not cells:
        return
    first = known[cells[0]["case"]]
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for engine in ENGINES:
        drawn = {
            case.steps: cell
            for cell in cells
            if (case := known[cell["case"]]).learner == first.learner
            and case.optimizer == first.optimizer
            and cell["engine"] == engine
        }
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
    figure.suptitle(f"{first.learner}, {first.optimizer}")
    figure.savefig(RESULTS / picture)


if __name__ == "__main__":
    main()
