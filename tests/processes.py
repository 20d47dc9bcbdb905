"""Processes for tests, forked from one that has everything imported, so that they begin at once."""

import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["gtn_lightning.cli.app", "gtn_lightning.nas.search", "sklearn.datasets"])

OUTPUT = "output.txt"
"""What a process prints, in its folder."""

PATIENCE = 300.0
"""Seconds after which a process hangs."""


def start(
    target: Callable[..., Any], *arguments: Any, folder: Path, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Start a function in a process of one thread, at the head of a process group, and return it.

    Args:
        target: a function of a module; it runs in ``folder`` and prints to a file there.
        arguments: its arguments.
        folder: which is made if there is none.
        environment: variables beside those of this process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})}
    process = CONTEXT.Process(target=_run, args=(target, arguments, str(folder), variables))
    process.start()
    return process


def start_gtn(*arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> BaseProcess:
    """Start the command line in a process."""
    return start(gtn, *arguments, folder=folder, environment={"WANDB_MODE": "disabled", **(environment or {})})


def gtn(*arguments: str) -> None:
    """Run the command line to the end of the process."""
    from gtn_lightning.cli import main

    sys.argv = [str(Path(sys.executable).with_name("gtn")), *arguments]  # Lightning starts further processes by it
    code = main()
    sys.stdout.flush()
    os._exit(code)


def said(folder: Path) -> str:
    """Return what processes printed in a folder."""
    return (folder / OUTPUT).read_text()


def finished(process: BaseProcess, seconds: float = PATIENCE) -> int | None:
    """Wait for a process and return its exit code."""
    process.join(seconds)
    return process.exitcode


def start_several(count: int, target: Callable[..., Any], *arguments: Any, folder: Path) -> list[BaseProcess]:
    """Start a function in several processes that know of each other, as ``torchrun`` starts them.

    Args:
        count: how many processes.
        target: a function of a module; the processes run in folders of their own, ``process0`` and so on.
        arguments: its arguments.
        folder: where their folders are.
    """
    if count == 1:
        return [start(target, *arguments, folder=folder / "process0")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "NODE_RANK": "0"}
    ranks = range(count)
    environments = [common | {"LOCAL_RANK": str(rank)} for rank in ranks]
    return [
        start(target, *arguments, folder=folder / f"process{rank}", environment=environments[rank]) for rank in ranks
    ]


def run(target: Callable[..., Any], *arguments: Any, folder: Path, count: int = 1) -> str:
    """Run a function to the end in several processes, see `start_several`; return what the first of them printed."""
    running = start_several(count, target, *arguments, folder=folder)
    codes = [finished(process) for process in running]
    for process in running:
        process.kill()
    assert codes == [0] * count, "\n".join(said(folder / f"process{rank}") for rank in range(count))
    return said(folder / "process0")


def _run(target: Callable[..., Any], arguments: tuple[Any, ...], folder: str, environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it goes by the environment
    torch.set_num_threads(1)
    with open(OUTPUT, "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    target(*arguments)
