"""Files that are either whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gtn_lightning.errors import RecipeError


class UnwritableError(RecipeError):
    """A file cannot be written."""


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
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # network file systems report a full disk no earlier than here
        os.replace(part, path)
    except OSError as error:
        raise UnwritableError(
            f"cannot write {path}: {error.strerror or error}; see that its folder is writable and has space "
            "left, or choose another run folder with trainer.default_root_dir"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()
