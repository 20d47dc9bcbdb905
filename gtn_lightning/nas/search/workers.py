"""The process that scores a candidate, its heartbeat, and whether it still lives."""

import os
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROC = Path("/proc")
"""Linux's directory of processes."""

BEAT = 15.0
"""Seconds between two heartbeats of a worker."""

SILENCE = 120.0
"""Seconds without a heartbeat after which a worker on another machine counts as dead."""


@dataclass(frozen=True)
class Worker:
    """A process that scores candidates.

    A process number alone does not identify a process: numbers are used again after a reboot, in a restarted container,
    and on a machine that runs for long.
    """

    host: str
    pid: int
    token: str
    """Differs for several workers that one process is, one after the other."""
    boot: str = ""
    """Identifies the machine and its last boot; empty where the system does not tell."""
    namespace: str = ""
    """Identifies the container whose process numbers these are; empty where the system does not tell."""
    started: int | None = None
    """When the process was started, in clock ticks since the boot; None where the system does not tell."""

    @classmethod
    def this(cls) -> "Worker":
        """Return this process as a worker, with a new token."""
        boot = namespace = ""
        with suppress(OSError, UnicodeDecodeError):
            boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        with suppress(OSError):
            namespace = os.readlink(PROC / "self/ns/pid")
        pid = os.getpid()
        return cls(socket.gethostname(), pid, uuid.uuid4().hex[:8], boot, namespace, _started(pid))

    @classmethod
    def read(cls, written: Any) -> "Worker | None":
        """Return a worker from plain data, None if it is not one."""
        if not isinstance(written, Mapping):
            return None
        with suppress(TypeError):
            worker = cls(**written)
            texts = (worker.host, worker.token, worker.boot, worker.namespace)
            if all(isinstance(text, str) for text in texts) and isinstance(worker.pid, int) and worker.pid > 0:
                return worker
        return None

    def written(self) -> dict[str, Any]:
        """Return the worker as plain data."""
        return asdict(self)

    def is_gone(self, seen_by: "Worker") -> bool | None:
        """Return whether the process has ended, None if this process cannot know.

        It can know that on the same machine, in the same container, on Linux.

        Args:
            seen_by: the worker that asks.
        """
        if (self.host, self.boot, self.namespace) != (seen_by.host, seen_by.boot, seen_by.namespace):
            return None
        if self.pid == seen_by.pid and self.started == seen_by.started:
            return self.token != seen_by.token
        if self.started is not None and (started := _started(self.pid)) is not None:
            return started != self.started
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass
        # A process has that number, perhaps another one: other users' processes, or all, may be hidden.
        return True if _is_zombie(self.pid) else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the state (field 3) on; none if it cannot be read.

    The field before that, the name of the program, may hold blanks and brackets.
    """
    with suppress(OSError):
        return (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].decode("ascii", "replace").split()
    return []


def _is_zombie(pid: int) -> bool:
    """Return whether a process has ended without its parent having noticed."""
    return _stat(pid)[:1] in (["Z"], ["X"])


def _started(pid: int) -> int | None:
    """Return when a running process was started, in clock ticks since the boot."""
    fields = _stat(pid)
    if len(fields) < 20 or _is_zombie(pid):
        return None
    return int(fields[19])  # field 22


class Heartbeat:
    """Calls a function every `BEAT` seconds in a thread of its own, until it is stopped.

    Args:
        beat: the function; its errors are ignored, and count as a heartbeat missed.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; returns once the last call has ended."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(BEAT):
            with suppress(Exception):
                self._beat()
