"""Atomic writes of files: a file is complete or not there."""

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
"""Seconds after which an incomplete file of a killed process is removed."""


def is_file(path: Path) -> bool:
    """Return whether a file exists; False for a name that is not valid for a file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces ``path`` when the block ends without error.

    The temporary path is in the same folder, so that the replacement is atomic. After any failure before it, such as a
    full disk or a kill, an earlier file at ``path`` is unchanged.

    Args:
        path: path of the file; its folder is made if it does not exist.

    Raises:
        UnwritableError: if the file system refuses, for instance because the disk is full.
    """
    # A different name for every writer, since several may write the same file at once.
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # network file systems report a full disk only here
        os.replace(part, path)
    except OSError as error:
        raise UnwritableError(
            f"cannot write {path}: {error.strerror or error}: check that its folder is writable and has space left, "
            "or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def _remove_abandoned(path: Path) -> None:
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()
