"""Atomic writes of files and folders: they are complete or not there."""

import glob
import os
import secrets
import shutil
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
    part = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        yield part
        _sync(part)
        os.replace(part, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to, which is renamed to ``path`` when the block ends without error.

    Args:
        path: path of the folder, which must not exist or be empty; its parent is made if it does not exist.

    Raises:
        UnwritableError: if the file system refuses, or there is something at ``path``.
    """
    path = path.resolve()
    part = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        part.mkdir()
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                _sync(file)
        part.rename(path)  # the system refuses to replace a file or a folder that holds something
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _temporary(path: Path) -> Path:
    # A different name for every writer, since several may write the same path at once.
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


def _sync(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())  # network file systems report a full disk only here


def _unwritable(path: Path, error: OSError) -> UnwritableError:
    return UnwritableError(
        f"cannot write {path}: {error.strerror or error}: check that its folder is writable and has space left, "
        "or choose another folder"
    )


def _remove_abandoned(path: Path) -> None:
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > ABANDONED:
                shutil.rmtree(part) if part.is_dir() else part.unlink()
