"""Where compiled programs are kept: in a folder that nobody else can write to, as what lies there is run.

Torch's default lies under the system's temporary folder, and belongs to whoever makes it first.
"""

import atexit
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

# Torch's public names for its folder are environment variables. It sets the first of them itself, when it is imported.
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

PROGRAMS, KERNELS = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"

_looked_at: set[str] = set()


def keep_programs_private() -> None:
    """Have torch keep compiled programs, and take them from, where only this user can write.

    That is the folder that ``TORCHINDUCTOR_CACHE_DIR`` names, or else ``gtn-lightning/compiled`` in the user's own
    cache, ``XDG_CACHE_HOME`` or ``~/.cache``. A folder that others can write to is not used, which a warning says; nor
    is such a one of Triton's, ``TRITON_CACHE_DIR``. To be called before anything is compiled. Only environment
    variables are changed.
    """
    default = default_cache_dir()
    for name in (PROGRAMS, KERNELS):
        chosen = os.environ.get(name)
        if chosen is None or chosen in _looked_at:
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
            _looked_at.add(chosen)
    if PROGRAMS not in os.environ:
        os.environ[PROGRAMS] = _own()
        _looked_at.add(os.environ[PROGRAMS])
    # Torch puts Triton's folder into its own unless the variable is set.


def headers_are_private() -> bool:
    """Return whether only this user can write to where torch keeps precompiled headers.

    They lie in torch's default folder, whichever folder is chosen for programs. They are compiled into each program.
    """
    default = Path(default_cache_dir())
    return not (_made(default, deep=False) or _made(default / "precompiled_headers"))


def _own() -> str:
    """Return a folder of the user's own: in the user's cache, or a temporary one if that cannot be."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    except RuntimeError:  # no home folder is known
        fault, folder = "there is no home folder", Path("~/.cache/gtn-lightning/compiled")
    else:
        folder = cache / "gtn-lightning" / "compiled"
        fault = _made(folder)
        if not fault:
            return str(folder)
    temporary = tempfile.mkdtemp(prefix="gtn-lightning-compiled-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    warnings.warn(
        f"compiled programs in {str(folder)!r} are not used, because {fault}: they are compiled anew in this run; make "
        f"it a folder that is yours alone, or name another in {PROGRAMS}",
        stacklevel=4,
    )
    return temporary


def _made(folder: Path, deep: bool = True) -> str:
    """Make a folder that only this user can enter, unless there is one, and return what is wrong with it, or ""."""
    folder = Path(os.path.abspath(folder))
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        return next(_faults(folder, deep), "")
    except OSError as error:
        return f"it cannot be made or looked at ({error.strerror or error})"


def _faults(folder: Path, deep: bool) -> Iterator[str]:
    """Yield the ways in which somebody else could put a file into a folder."""
    if not hasattr(os, "getuid"):
        return  # a system on which other users have no part of a user's folders
    trusted = {os.getuid(), 0}
    real = Path(os.path.realpath(folder))
    for path in dict.fromkeys((folder, real, folder.parent, real.parent)):
        if path.lstat().st_uid not in trusted:
            yield f"{_called(path, folder)} belongs to another user"
    if stat.S_IMODE(real.stat().st_mode) & 0o022:
        yield "other users can write to it"
    # Whoever can write to a folder can put another in the place of one inside, unless it is one like /tmp.
    for path in dict.fromkeys((*folder.parents, *real.parents)):
        mode = path.stat().st_mode
        if mode & 0o002 and not mode & stat.S_ISVTX:
            yield f"other users can write to {str(path)!r}"
    if deep and stat.S_IMODE(real.stat().st_mode) & 0o077:
        # Others can enter, so each file and folder in it has to be the user's own as well.
        for top, folders, files in os.walk(real):
            for name in (*folders, *files):
                path = Path(top, name)
                found = path.lstat()
                if found.st_uid not in trusted or (not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o022):
                    yield f"other users can write to {str(path)!r} or own it"


def _called(path: Path, folder: Path) -> str:
    return "it" if path == folder else repr(str(path))
