"""The folder of compiled programs: only this user can write to it, since its contents are executed.

Torch's default is below the system's temporary folder and belongs to the user who creates it first.
"""

import atexit
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from gtn_lightning.inner_loop.torch_internals import inductor_folder

PROGRAMS, KERNELS = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
"""Torch's public settings of its folders. It sets the first of them itself when it is imported."""

_checked: set[str] = set()


def user_cache(name: str) -> Path | None:
    """Return a folder of this package in the user's cache, ``XDG_CACHE_HOME`` or ``~/.cache``; it may not exist yet.

    Args:
        name: the folder's name.

    Returns:
        The folder, None if the user has no home folder.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "gtn-lightning" / name


def keep_programs_private() -> None:
    """Make torch store and read compiled programs in a folder that only this user can write to.

    It is the folder named by ``TORCHINDUCTOR_CACHE_DIR``, or ``gtn-lightning/compiled`` in the user's cache,
    ``XDG_CACHE_HOME`` or ``~/.cache``. A folder that others can write to is not used, with a warning; the same holds
    for Triton's, ``TRITON_CACHE_DIR``. To be called before anything is compiled. Only environment variables change.
    """
    default = inductor_folder()
    for name in (PROGRAMS, KERNELS):
        chosen = os.environ.get(name)
        if chosen is None or chosen in _checked:
            continue
        if Path(os.path.abspath(chosen)).is_relative_to(default):
            del os.environ[name]  # set by torch, not by the user
        elif fault := _made(Path(chosen)):
            warnings.warn(
                f"{name}: compiled programs in {chosen!r} are not used, because {fault}: run 'chmod -R go-w {chosen}' "
                "if all in it is yours, or name another folder",
                stacklevel=3,
            )
            del os.environ[name]
        else:
            _checked.add(chosen)
    if PROGRAMS not in os.environ:
        os.environ[PROGRAMS] = _own()
        _checked.add(os.environ[PROGRAMS])
    # Torch puts Triton's folder into its own unless the variable is set.


def headers_are_private() -> bool:
    """Return whether only this user can write to the folder of torch's precompiled headers.

    It is in torch's default folder, whichever folder is chosen for programs; each program is compiled with the headers.
    """
    default = Path(inductor_folder())
    return not (_made(default, deep=False) or _made(default / "precompiled_headers"))


def _own() -> str:
    """Return a folder in the user's cache, or a temporary one if that is impossible."""
    folder = user_cache("compiled")
    if folder is None:
        fault, folder = "there is no home folder", Path("~/.cache/gtn-lightning/compiled")
    else:
        fault = _made(folder)
        if not fault:
            return str(folder)
    temporary = tempfile.mkdtemp(prefix="gtn-lightning-compiled-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    warnings.warn(
        f"compiled programs in {str(folder)!r} are not used, because {fault}: they are compiled again in this run; "
        f"make it a folder that only you can write to, or set another in {PROGRAMS}",
        stacklevel=4,
    )
    return temporary


def _made(folder: Path, deep: bool = True) -> str:
    """Create a folder that only this user can enter, unless it exists, and return what is wrong with it, or ""."""
    folder = Path(os.path.abspath(folder))
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        return next(_faults(folder, deep), "")
    except OSError as error:
        return f"it cannot be created or read ({error.strerror or error})"


def _faults(folder: Path, deep: bool) -> Iterator[str]:
    """Yield the ways in which another user could put a file into a folder."""
    if not hasattr(os, "getuid"):
        return  # a system without Unix permissions
    trusted = {os.getuid(), 0}
    real = Path(os.path.realpath(folder))
    for path in dict.fromkeys((folder, real, folder.parent, real.parent)):
        if path.lstat().st_uid not in trusted:
            yield f"{_called(path, folder)} belongs to another user"
    if stat.S_IMODE(real.stat().st_mode) & 0o022:
        yield "other users can write to it"
    # Users who can write to a parent folder can replace this one, unless the sticky bit is set, as of /tmp.
    for path in dict.fromkeys((*folder.parents, *real.parents)):
        mode = path.stat().st_mode
        if mode & 0o002 and not mode & stat.S_ISVTX:
            yield f"other users can write to {str(path)!r}"
    if deep and stat.S_IMODE(real.stat().st_mode) & 0o077:
        # Others can enter, so each file and folder in it must belong to the user as well.
        for top, folders, files in os.walk(real):
            for name in (*folders, *files):
                path = Path(top, name)
                found = path.lstat()
                if found.st_uid not in trusted or (not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o022):
                    yield f"other users can write to {str(path)!r} or own it"


def _called(path: Path, folder: Path) -> str:
    return "it" if path == folder else repr(str(path))
