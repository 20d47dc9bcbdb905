"""Who scores a candidate, and whether that process still lives."""

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
"""Where Linux says what processes there are."""

BEAT = 15.0
"""Seconds between two signs of life of a worker."""

SILENCE = 120.0
"""Seconds without a sign of life after which a worker on another machine counts as dead."""


@dataclass(frozen=True)
class Worker:
    """A process that scores candidates.

    A process number alone does not say which process it is: numbers are given out again after a reboot, in a restarted
    container, and on a machine that runs for long.
    """

    host: str
    pid: int
    token: str
    """Tells apart what one process does one after the other."""
    boot: str = ""
    """Which start of which machine this is; empty where the system does not say."""
    namespace: str = ""
    """Which container's process numbers these are; empty where the system does not say."""
    started: int | None = None
    """When the process was started, in clock ticks since the machine's start; None where the system does not say."""

    @classmethod
    def this(cls) -> "Worker":
        """Return the worker that this process is, with a token of its own."""
        boot = namespace = ""
        with suppress(OSError, UnicodeDecodeError):
            boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        with suppress(OSError):
            namespace = os.readlink(PROC / "self/ns/pid")
        pid = os.getpid()
        return cls(socket.gethostname(), pid, uuid.uuid4().hex[:8], boot, namespace, _started(pid))

    @classmethod
    def read(cls, written: Any) -> "Worker | None":
        """Return the worker that plain data stands for, None if it stands for none."""
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
        """Return whether the process has ended, None if that cannot be found out from here.

        It can be on the same machine, in the same container, on Linux.

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
        # There is a process of that number, but who knows which: other users' processes may be hidden, or all of them.
        return True if _is_zombie(self.pid) else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _stat(pid: int) -> list[str]:
    """Return what Linux says of a process, from its state on (field 3 of ``/proc/PID/stat``); nothing if it does not.

    The name of the program, which stands before that, may hold blanks and brackets.
    """
    with suppress(OSError):
        return (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].decode("ascii", "replace").split()
    return []


def _is_zombie(pid: int) -> bool:
    """Return whether a process has ended, and only its parent has not noticed yet."""
    return _stat(pid)[:1] in (["Z"], ["X"])


def _started(pid: int) -> int | None:
    """Return when a running process was started, in clock ticks since the machine's start."""
    fields = _stat(pid)
    if len(fields) < 20 or _is_zombie(pid):
        return None
    return int(fields[19])  # field 22


class Heartbeat:
    """Gives signs of life in a thread of its own, from the beginning until it is stopped.

    Args:
        beat: gives one; what it raises is a sign that fails to come, and nothing else.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give no more signs; returns once the last one is written."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(BEAT):
            with suppress(Exception):
                self._beat()
