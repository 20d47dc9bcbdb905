"""A journal file that survives an incomplete last line."""

import json
import os
from contextlib import suppress
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import rank_zero_warn

BEGINNING = b'{"op_code":'
"""The first characters of every line that Optuna writes."""

BLOCK = 1 << 16
"""Bytes that are read at once to find the last line."""


def open_journal(path: Path) -> JournalStorage:
    """Open a journal, and create it if it does not exist.

    Args:
        path: the file; its folder is created too.

    Raises:
        RecipeError: it is not a journal, or a line other than the last is damaged. The file is not changed.
        OSError: it cannot be read or written.
    """
    _check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("ab").close()
    return JournalStorage(JournalFileBackend(str(path), WholeLines(path)))


class WholeLines(JournalFileSymlinkLock):
    """Optuna's lock for appending to a journal, which repairs an incomplete last line before anything is appended.

    A full disk, a power cut or a kill during a write leaves a last line without a newline. Text appended to it would be
    lost. Nobody else writes while this lock is held, so that a line without a newline is an incomplete one.

    Args:
        path: the journal, which exists.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._identity = _identity(path)
        self._size = 0  # after this worker's last complete write; a journal never gets shorter than that
        self._held = False

    def acquire(self) -> bool:
        """Wait for the lock.

        Raises:
            OSError: the journal was removed or replaced since it was opened: appended text would be lost.
        """
        held = super().acquire()
        try:
            self._repair()
        except BaseException:
            self.release()
            raise
        self._held = True
        return held

    def release(self) -> None:
        """Give the lock back."""
        if self._held:
            self._held = False
            with suppress(OSError), self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if not _torn_line(size, file.fileno())[1]:
                    self._size = size
        super().release()

    def _repair(self) -> None:
        if _identity(self._path) != self._identity or self._path.stat().st_size < self._size:
            raise OSError("the file was replaced or cut while the search was using it")
        with self._path.open("rb+") as file:
            start, tail = _torn_line(file.seek(0, os.SEEK_END), file.fileno())
            if tail:
                if _is_record(tail):  # only the newline is missing
                    file.write(b"\n")
                else:
                    file.truncate(start)
                    rank_zero_warn(
                        f"search: the last line of the journal {self._path} was incomplete (after a full disk, a power "
                        "cut or a kill) and was removed; what it recorded is done again"
                    )
                file.flush()
                os.fsync(file.fileno())


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _torn_line(size: int, descriptor: int) -> tuple[int, bytes]:
    """Return where an incomplete last line begins, and the line; the file's size and nothing if there is none."""
    start, tail = size, b""
    while start > 0:
        begin = max(0, start - BLOCK)
        block = os.pread(descriptor, start - begin, begin)
        end = block.rfind(b"\n")
        if end >= 0:
            return begin + end + 1, block[end + 1 :] + tail
        start, tail = begin, block + tail
    return 0, tail


def _check(path: Path) -> None:
    """Raise ``RecipeError`` unless a file is a journal or does not exist; its last line may be incomplete."""
    if not path.exists():
        return
    advice = "name another file with --storage; this one is not changed"
    if not path.is_file():
        raise RecipeError(f"search: the storage {path} is not a file: {advice}")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if _is_record(line):
                continue
            whole = line.endswith(b"\n")
            if not whole and (number > 1 or line.startswith(BEGINNING) or BEGINNING.startswith(line)):
                continue  # the last one
            if number == 1:
                raise RecipeError(f"search: the storage {path} is not the journal of a search: {advice}")
            raise RecipeError(
                f"search: line {number} of the journal {path} is damaged: take an earlier copy of it, or {advice}"
            )


def _is_record(line: bytes) -> bool:
    """Return whether Optuna can read a line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and type(record.get("op_code")) is int and isinstance(record.get("worker_id"), str)
