"""Signals that ask the program to end, as an exception that is raised when nothing is half done.

This module is imported before anything heavy, so that Ctrl-C works from the first moment.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

MAIN_PROCESS = "GTN_MAIN_PROCESS"
"""Environment variable by which the processes that DDP starts know the one that started them."""

ENDINGS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "ended, its terminal was closed"}
"""The signals that end a run, and what is said of it."""

PATIENCE = 1.0
"""Seconds after which a second Ctrl-C no longer waits for the moment at which nothing is half done."""

GIVE_UP = 10.0
"""Seconds after which a Ctrl-C also ends a program that is saving."""


class InterruptedBySignal(BaseException):
    """The program was told to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        """The signal."""
        self.ending = ENDINGS[signal.Signals(number).name]
        """What is said of the run."""
        self.code = 128 + number
        """The exit code."""
        super().__init__(self.ending)


class Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into `InterruptedBySignal`.

    It is raised at once, or, between `hold` and `release`, at the end of what must not be cut. The processes that
    Lightning starts for DDP tell the main process and go on until that ends them: nobody waits for a process that has
    left. A signal that is ignored when the program starts, as by ``nohup``, stays ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """The first signal that came."""
        self.is_child = os.environ.get(MAIN_PROCESS) == str(os.getppid()) and "LOCAL_RANK" in os.environ
        """Whether Lightning has started this process for DDP."""
        self._process = os.getpid()
        self._held = False
        self._raised_at: float | None = None
        self._received_at = 0.0
        self._before: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> "Signals":
        """Begin to handle signals, in the main thread; elsewhere Python does not allow it."""
        if threading.current_thread() is threading.main_thread():
            for name in ENDINGS:
                number = getattr(signal, name, None)  # there is no SIGHUP on Windows
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
            if not self.is_child:
                os.environ[MAIN_PROCESS] = str(self._process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Handle signals as before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before and not self.is_child:
            os.environ.pop(MAIN_PROCESS, None)

    def hold(self) -> None:
        """Begin something that must not be cut."""
        self._held = True

    def release(self) -> None:
        """End it.

        Raises:
            InterruptedBySignal: if a signal has come in the meantime.
        """
        self._held = False
        if self.received is not None and not self.is_child:
            self._raise()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # forked, for instance to load data
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        first = self.received is None
        if first:
            self.received, self._received_at = number, now
        if self.is_child:
            if first and os.getppid() == int(os.environ[MAIN_PROCESS]):
                os.kill(os.getppid(), number)
            elif os.getppid() != int(os.environ[MAIN_PROCESS]):  # it is gone
                self._raise()
        elif self._raised_at is not None:
            # The run is being saved; all processes of a group and their children report one Ctrl-C.
            if number == signal.SIGINT and now - self._raised_at > GIVE_UP:
                self._raise()
        elif not self._held or (number == signal.SIGINT and not first and now - self._received_at > PATIENCE):
            self._raise()

    def _raise(self) -> None:
        assert self.received is not None
        self._raised_at = time.monotonic()
        raise InterruptedBySignal(self.received)
