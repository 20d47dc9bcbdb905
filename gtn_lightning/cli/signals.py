"""Signals that ask the program to end, as an exception that is raised when nothing is half done.

This module is imported before anything heavy, so that Ctrl-C works from the first moment.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

MAIN_PROCESS = "GTN_MAIN_PROCESS"
"""Environment variable by which the processes that DDP starts know the one that started them."""

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Environment variables that say which of a run's processes this is; the first that is set counts."""

ENDINGS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "ended, its terminal was closed"}
"""The signals that end a run, and how the run then ended, for the user."""

NUMBERS = tuple(getattr(signal, name) for name in ENDINGS if hasattr(signal, name))
"""Their numbers; there is no SIGHUP on Windows."""

PATIENCE = 1.0
"""Seconds after which a second signal ends the program, also while signals are held back."""

GIVE_UP = 10.0
"""Seconds after which a further signal ends a program that is still saving."""

SERVER_TIMEOUT = 17.0
"""Seconds that a server may take once a signal has come and the run is saved: W&B sends its log every 15 seconds."""

ORPHANED = 10.0
"""Seconds that a process that DDP has started may go on after its main process has ended."""

AGAIN = 0.05
"""Seconds after which an exception that Python has dropped is raised again."""

Handler = signal.Handlers | Callable[[int, FrameType | None], object] | int | None


class InterruptedBySignal(BaseException):
    """A signal has asked the program to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        """The signal."""
        self.ending = ENDINGS[signal.Signals(number).name]
        """How the run ended, for the user."""
        self.code = 128 + number
        """The exit code."""
        super().__init__(self.ending)


class Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into `InterruptedBySignal`.

    It is raised at once, or, between `hold` and `release`, at the call of `release`. A second signal is raised at once
    if it comes more than `PATIENCE` seconds after the first. While the run is saved, further signals are ignored for
    `GIVE_UP` seconds.

    The processes that Lightning starts for DDP pass the signal to the main process and go on until it ends them:
    otherwise the others would wait for a process that has left. If the main process is killed, they end too.

    A signal that is ignored when the program starts, as by ``nohup``, stays ignored.

    Args:
        until_exit: whether the process ends after this. Later signals then end it without a message.
    """

    def __init__(self, until_exit: bool = False) -> None:
        self.received: int | None = None
        """The first signal that came."""
        self.is_child = "LOCAL_RANK" in os.environ and (self._has_main_process() or _is_orphaned())
        """Whether Lightning has started this process for DDP."""
        self.speaks = next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"
        """Whether this process prints how the run ended: only rank zero does."""
        self._until_exit = until_exit
        self._process = os.getpid()
        self._held = False
        self._postponed: list[Callable[[], None]] = []
        self._raised_at: float | None = None
        self._is_late = False
        self._received_at = 0.0
        self._before: dict[int, Handler] = {}
        self._hook_before = sys.unraisablehook

    def __enter__(self) -> "Signals":
        """Begin to handle signals, in the main thread; elsewhere Python does not allow it."""
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
            self._hook_before, sys.unraisablehook = sys.unraisablehook, self._raise_what_is_dropped
            if self.is_child:
                self.unblock()  # see `block`
                threading.Thread(target=self._end_with_main_process, daemon=True).start()
            else:
                os.environ[MAIN_PROCESS] = str(self._process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Handle signals as before."""
        if not self._before:
            return
        for number, handler in self._before.items():
            # Python's own handler of Ctrl-C would print a traceback out of the interpreter's last moments.
            signal.signal(number, signal.SIG_DFL if self._until_exit else handler)
        sys.unraisablehook = self._hook_before
        if not self.is_child:
            os.environ.pop(MAIN_PROCESS, None)

    def hold(self) -> None:
        """Hold signals back until `release`."""
        self._held = True

    def release(self) -> None:
        """Stop holding signals back.

        Raises:
            InterruptedBySignal: if a signal has come, since `hold` or earlier.
        """
        self._held = False
        while self._postponed:
            self._postponed.pop(0)()
        if self.received is not None and not self.is_child:
            self._raise()

    def whole(self, handler: Callable[[int, FrameType | None], object]) -> Callable[[int, FrameType | None], None]:
        """Wrap the handler of another signal so that it waits for `release` and is not interrupted itself."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self._held:
                self._postponed.append(lambda: handle(number, None))
                return
            self.hold()
            try:
                handler(number, frame)
            finally:
                self._held = False

        return handle

    def block(self) -> None:
        """Block the signals, so that processes which are started now do not get them before they can handle them.

        A child process inherits the blocked signals and unblocks them itself. Signals to this process arrive after
        `unblock`.
        """
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)

    def unblock(self) -> None:
        """Unblock the signals that `block` has blocked."""
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)

    @contextmanager
    def soon(self) -> Iterator[None]:
        """Limit a block to `SERVER_TIMEOUT` seconds once a signal has come; signals are held back after it.

        Raises:
            InterruptedBySignal: if a signal comes in the block, or the time is over.
        """
        self._held = False
        late = threading.Timer(SERVER_TIMEOUT, self._be_late)
        late.daemon = True
        if self.received is not None:
            late.start()
        try:
            yield
        finally:
            self._held = True
            late.cancel()

    def _be_late(self) -> None:
        assert self.received is not None
        self._is_late = True
        os.kill(self._process, self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # Forked, for instance to load data: the main process gets the signal too, and needs nothing from this one.
            os._exit(0)
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = number, now
            if self.is_child and self._has_main_process():
                with suppress(ProcessLookupError):
                    os.kill(os.getppid(), number)
        if self.is_child:
            if not self._has_main_process():
                self._raise()
        elif self._raised_at is not None:
            # One signal may arrive several times: as a member of a process group, and from children that pass it on.
            if self._is_late or now - self._raised_at > GIVE_UP:
                self._raise()
        elif not self._held or now - self._received_at > PATIENCE:
            self._raise()

    def _has_main_process(self) -> bool:
        return os.environ.get(MAIN_PROCESS) == str(os.getppid())

    def _end_with_main_process(self) -> None:
        """End this process after the main one, for which it could wait half an hour to form a process group."""
        while self._has_main_process():
            time.sleep(1)
        time.sleep(ORPHANED)
        os.write(2, b"gtn: error: the process that started this one has ended\n")
        os._exit(1)

    def _raise(self) -> None:
        assert self.received is not None
        self._raised_at = time.monotonic()
        raise InterruptedBySignal(self.received)

    def _raise_what_is_dropped(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Raise again an exception from a place where Python drops exceptions, such as a ``__del__``."""
        if not isinstance(unraisable.exc_value, InterruptedBySignal):
            self._hook_before(unraisable)
            return
        self._raised_at = None
        # Not from here, where it would be dropped too.
        again = threading.Timer(AGAIN, os.kill, (self._process, unraisable.exc_value.number))
        again.daemon = True
        again.start()


def _is_orphaned() -> bool:
    """Return whether the main process has ended before this process has looked for it."""
    main = os.environ.get(MAIN_PROCESS, "")
    if not main.isdecimal() or os.name != "posix":  # on Windows, os.kill would send Ctrl-C
        return False
    if os.getppid() == 1:
        return main != "1"
    try:
        os.kill(int(main), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
