"""Meta-gradients of learners so small that their dispatch costs more than their arithmetic, on one CPU thread.

A policy of 64-64 units in every mode, in units of plain training with ``torch.optim``, and a meta-step of the recipe
`digits`, in turn with that of another checkout. Times are those of the process's CPU, which other processes of the
machine do not lengthen by interrupting it.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import turns
from benchmarks.report import markdown_table, write_sections
from gtn_lightning.inner_loop import SGD, Batch, Buffers, Functional, Params, unroll

STEPS, BATCH, RATE = 32, 16, 0.1
"""Inner steps of the policy, states per step, and its learning rate."""

POLICY_MODES = ("fused", "linearized", "compiled", "reverse", "remat", "mixed")

WARM_UP = 20
"""Meta-steps of `digits` before those that are measured; the first one compiles."""


def main() -> None:
    """Measure both and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout, with its virtual environment in .venv")
    parser.add_argument("--measured", type=int, default=100, help="meta-steps of digits that are measured")
    parser.add_argument("--repeats", type=int, default=25, help="meta-gradients of the policy, in turn with training")
    parser.add_argument("--only", choices=["policy", "digits"], help="measure one of them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sections = {}
    if options.only != "digits":
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # without the programs of earlier runs
            sections["A policy of 64-64 units"] = policy_table(options.repeats)
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
    if options.only != "policy":
        sections["A meta-step of digits"] = digits_table(options.against, options.measured)
    write_sections(
        "small_learners",
        "Small learners on a CPU",
        sections,
        "One thread. Seconds of the process's CPU; medians, with quartiles in brackets.",
    )


# ------------------------------------------------------------------------------------------------------------- policy


def policy(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a policy of 64-64 units with 4 inputs and 2 actions, the same at every call."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        layers = [nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)]
    return nn.Sequential(*layers).to(dtype)


def plain(network: nn.Module, states: Tensor, actions: Tensor) -> None:
    """Train with ``torch.optim``: the unit of time."""
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    for batch in states.detach():
        optimizer.zero_grad()
        F.cross_entropy(network(batch), actions).backward()
        optimizer.step()


def meta_gradient(network: nn.Module, states: Tensor, actions: Tensor, mode: str) -> Tensor:
    """Return the gradient of the trained policy's loss by all states."""
    functional = Functional(network)

    def loss(params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        outputs, buffers = functional(params, buffers, inputs)
        return F.cross_entropy(outputs, targets), buffers

    batches: list[Batch] = [(batch, actions) for batch in states.unbind()]
    trained = unroll(loss, *functional.init(), batches, SGD(RATE, momentum=0.0), mode=mode)
    value, _ = loss(trained.params, trained.buffers, states[0].detach(), actions)
    (gradient,) = torch.autograd.grad(value, states)
    return gradient


def policy_table(repeats: int) -> str:
    """Measure the policy in every mode; return a table."""
    rows = []
    for mode in POLICY_MODES:
        began = time.process_time(), children()
        differences = []
        for dtype in (torch.float64, torch.float32):
            states, actions = states_and_actions(dtype)
            expected = meta_gradient(policy(dtype), states, actions, "reverse")
            for _ in range(3):  # observed, compiled and confirmed, alone
                found = meta_gradient(policy(dtype), states, actions, mode)
            differences.append(float((found - expected).norm() / expected.norm()))
        compilation = (time.process_time() - began[0] + children() - began[1]) / 2
        unit, ours = [], []
        for _ in range(repeats):
            network = policy()
            unit.append(seconds(partial(plain, network, states, actions)))
            ours.append(seconds(partial(meta_gradient, network, states, actions, mode)))
        ratio = quartiles([own / one for own, one in zip(ours, unit, strict=True)])
        rows.append(
            [mode, f"{1000 * statistics.median(ours):.1f} ms", ratio, f"{compilation:.0f} s"]
            + [f"{difference:.0e}" for difference in differences]
        )
        print(rows[-1], flush=True)
    header = ["mode", "time", "in units of plain training", "first three", "float64 error", "float32 error"]
    return (
        f"{STEPS} steps of SGD on batches of {BATCH}, meta-gradient by all states, in turn with plain training "
        "of as many steps. The first three meta-gradients include compilation. The error is that of the meta-gradient, "
        "relative to mode `reverse`.\n\n" + markdown_table(header, rows)
    )


def states_and_actions(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the synthetic states ``[T, B, 4]`` and actions ``[B]``."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(STEPS, BATCH, 4, generator=generator).to(dtype).requires_grad_(), torch.arange(BATCH) % 2


def seconds(run: Callable[[], object]) -> float:
    """Return the CPU seconds of a function."""
    start = time.process_time()
    run()
    return time.process_time() - start


def children() -> float:
    """Return the CPU seconds of all finished child processes, such as compilers."""
    times = os.times()
    return times.children_user + times.children_system


def quartiles(values: list[float]) -> str:
    """Return the median of values and their quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


# ------------------------------------------------------------------------------------------------------------- digits


def digits_table(against: Path | None, measured: int) -> str:
    """Measure a meta-step of `digits`, and that of another checkout in turn; return a table."""
    programs = {"this checkout": Path(sys.executable).with_name("gtn")}
    if against is not None:
        programs = {"the other checkout": against / ".venv" / "bin" / "gtn", **programs}
    times = in_turn(list(programs.values()), WARM_UP + measured)
    found = dict(zip(programs, times, strict=True))
    unit = next(iter(found.values()))[WARM_UP:]
    rows = []
    for name, own in found.items():
        ratio = quartiles([one / other for one, other in zip(own[WARM_UP:], unit, strict=True)])
        rows.append([name, f"{own[0]:.1f} s", f"{1000 * statistics.median(own[WARM_UP:]):.1f} ms", ratio])
    header = ["", "the first meta-step", "a meta-step", "in units of the first row"]
    return (
        f"One run of `gtn fit --config digits` each, which take their meta-steps in turn; {measured} of them after the "
        f"first {WARM_UP}. The first meta-step compiles the inner loop, or takes it from the cache of an earlier run; "
        "the compiler's own processes are not counted.\n\n" + markdown_table(header, rows)
    )


def in_turn(programs: list[Path], steps: int) -> list[list[float]]:
    """Run `digits` with several ``gtn``, meta-step by meta-step in turn; return the seconds of each meta-step."""
    with tempfile.TemporaryDirectory() as folder:
        # Alone, so that no run imports this checkout's other modules.
        shutil.copy(turns.__file__, folder)
        runs = [started(program, Path(folder), number) for number, program in enumerate(programs)]
        found: list[list[float]] = [[] for _ in runs]
        for _ in range(steps):
            for (_, write, read), times in zip(runs, found, strict=True):
                write.write("\n")
                write.flush()
                line = read.readline()
                if not line:
                    raise SystemExit(f"a run ended early: see {folder}")
                times.append(float(line))
        for process, write, read in runs:
            write.close()
            process.wait()
            read.close()
    return found


def started(program: Path, folder: Path, number: int) -> tuple["subprocess.Popen[str]", IO[str], IO[str]]:
    """Start a run of `digits` that takes its meta-steps in turn; return it with its turns and its times."""
    turn_read, turn_write = os.pipe()
    times_read, times_write = os.pipe()
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
        turns.TURN: str(turn_read),
        turns.TIMES: str(times_write),
    }
    command = [
        str(program),
        "fit",
        "--config",
        "digits",
        "--model.evaluation.learners=1",
    ]
    command += ["--trainer.val_check_interval=600", f"--trainer.default_root_dir={folder / str(number)}"]
    command += ["--trainer.callbacks+=turns.Turns"]
    with (folder / f"{number}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, env=environment, pass_fds=(turn_read, times_write), stdout=log, stderr=log, text=True
        )
    os.close(turn_read)
    os.close(times_write)
    write, read = os.fdopen(turn_write, "w", encoding="utf-8"), os.fdopen(times_read, "r", encoding="utf-8")
    return process, write, read


if __name__ == "__main__":
    main()
