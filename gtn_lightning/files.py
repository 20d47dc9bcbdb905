"""Files that are either whole or not there."""

import glob
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gtn_lightning.errors import RecipeError


class UnwritableError(RecipeError):
    """A file cannot be written."""


ABANDONED = 3600.0
"""Seconds after which what a killed process has left half written is removed."""


def is_file(path: Path) -> bool:
    """Return whether there is such a file; False for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a name to write to, which takes the place of ``path`` once the block has ended without error.

    The name lies in the same folder, so that the last move is atomic; whatever goes wrong before it, a full
    disk or a kill, leaves an earlier file of that path as it was.

    Args:
        path: where the file belongs; its folder is made if there is none.

    Raises:
        UnwritableError: if the file system refuses, for instance because the disk is full.
    """
    # A name of its own for every writer: several may write the same file at once.
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # network file systems report a full disk no earlier than here
        os.replace(part, path)
    except OSError as error:
        raise UnwritableError(
            f"cannot write {path}: {error.strerror or error}; see that its folder is writable and has space "
            "left, or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def _remove_abandoned(path: Path) -> None:
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()
