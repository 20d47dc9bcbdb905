"""Scores of the real-data baseline, kept between runs: the baseline does not depend on the teacher.

A file holds the scores of one split, and its name is a digest of everything that they depend on. Only the components of
this package and its data in memory are kept, since the code of others may change without a trace.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError, one_line
from gtn_lightning.files import is_file, whole_file
from gtn_lightning.inner_loop.compiler.cache import user_cache
from gtn_lightning.lightning import rank_zero_info, rank_zero_warn

FOLDER = "GTN_BASELINES"
"""The environment variable that names the folder; empty for none. By default, it is in the user's cache."""

MOST_BYTES = 2**24
"""Largest file that is read."""


class KeptBaseline:
    """The kept scores of a baseline on a split.

    Args:
        split: ``val`` or ``test``.
        settings: everything that they depend on, as plain data.
    """

    def __init__(self, split: str, settings: Mapping[str, Any]) -> None:
        everything = {"split": split, "torch": torch.__version__, "code": _code(), **settings}
        text = json.dumps(everything, sort_keys=True, default=str)
        self._split = split
        self._key = hashlib.sha256(text.encode()).hexdigest()
        self._folder = _folder()

    @property
    def _path(self) -> Path | None:
        return None if self._folder is None else self._folder / f"{self._key}.json"

    def read(self, shape: tuple[int, int]) -> Tensor | None:
        """Return the kept table of scores, float64 of a shape, or None if there is none.

        Args:
            shape: the expected shape.
        """
        path = self._path
        if path is None or not is_file(path):
            return None
        fault, table = _read(path, self._key, shape)
        if table is None:
            rank_zero_warn(f"the kept baseline {path} is not used: {fault}; it is computed again")
            return None
        rank_zero_info(
            f"The real-data baseline on the {self._split} split was computed by an earlier run: {path} "
            "(remove the file to compute it again)"
        )
        return table

    def write(self, table: Tensor) -> None:
        """Keep a table of scores, if all are finite; a file that cannot be written is said."""
        path = self._path
        if path is None or not table.isfinite().all():
            return
        try:
            # A folder that is there already keeps its permissions: it may hold other things, and be of others.
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with whole_file(path) as part:
                part.write_text(json.dumps({"key": self._key, "scores": table.tolist()}), encoding="utf-8")
                part.chmod(0o600)
        except (OSError, RecipeError) as error:
            rank_zero_warn(f"the real-data baseline is not kept for later runs: {one_line(error)}")


def _read(path: Path, key: str, shape: tuple[int, int]) -> tuple[str, Tensor | None]:
    """Return what is wrong with a file, or its scores."""
    try:
        status = path.stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            return "others can write to it", None
        if status.st_size > MOST_BYTES:
            return "it is too large", None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return one_line(error), None
    rows = content.get("scores") if isinstance(content, dict) and content.get("key") == key else None
    if not isinstance(rows, list) or len(rows) != shape[0] or not all(_is_row(row, shape[1]) for row in rows):
        return "it is damaged", None
    return "", torch.tensor(rows, dtype=torch.float64).view(shape)


def _is_row(row: Any, length: int) -> bool:
    return isinstance(row, list) and len(row) == length and all(type(x) is float and math.isfinite(x) for x in row)


def _folder() -> Path | None:
    named = os.environ.get(FOLDER)
    if named is not None:
        return Path(named) if named else None
    return user_cache("baselines")


@cache
def _code() -> str:
    """Return a digest of this package's code, which decides the scores as much as the settings do."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
