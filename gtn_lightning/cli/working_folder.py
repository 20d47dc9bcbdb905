"""Keeping files and settings in the working folder, which may be a stranger's, from changing what a run does."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gtn_lightning.errors import RecipeError

JOINED = ("default_root_dir", "save_dir", "folder", "dirpath", "name", "study", "version")
"""Arguments that together make the folder that is written to, in their order in its path."""

OPTION = "--trusted-only"
"""The option that says that recipes are a stranger's."""


def check_joined(key: str, arguments: Mapping[str, Any]) -> None:
    """Refuse a component that would write outside the working folder, where several arguments make one path.

    Args:
        key: the component's.
        arguments: its arguments.

    Raises:
        RecipeError: if it lies elsewhere, or a link in a folder that is there leads elsewhere.
    """
    parts = [str(arguments[name]) for name in JOINED if isinstance(arguments.get(name), str | Path)]
    if not parts:
        return
    path = os.path.join(*parts)
    check_inside(key, path)
    if isinstance(arguments.get("filename"), str):
        check_inside(key, os.path.join(path, arguments["filename"]))
    for folder, folders, files in os.walk(path):
        # Nothing is written into virtual environments and repositories, which are full of links.
        folders[:] = [name for name in folders if name[:1] != "." and not Path(folder, name, "pyvenv.cfg").exists()]
        for name in (*folders, *files):
            if os.path.islink(os.path.join(folder, name)):
                check_inside(key, os.path.join(folder, name))


def leave_out_folder_style() -> None:
    """Import matplotlib without the ``matplotlibrc`` in the working folder: it may start LaTeX, or never end.

    A style in the user's own folder, or one that ``MATPLOTLIBRC`` names, stays.
    """
    if "matplotlib" in sys.modules or not os.path.lexists("matplotlibrc"):
        return
    here = os.getcwd()
    os.chdir(os.path.dirname(__file__))
    try:
        import matplotlib  # noqa: F401
    finally:
        os.chdir(here)


@contextmanager
def shielded_programs() -> Iterator[None]:
    """Keep programs that libraries start in a block from importing files of the working folder as Python's modules.

    The parser and torch's compiler start ``python -c``, which looks for modules in the working folder first.

    Raises:
        RecipeError: before Python 3.11, if there is such a file.
    """
    if sys.version_info < (3, 11):
        for name in sorted(sys.stdlib_module_names & {path.stem for path in Path().iterdir()}):
            if Path(f"{name}.py").exists() or Path(name, "__init__.py").exists():
                raise RecipeError(
                    f"{name}: a module in the working folder has the name of one of Python's, and programs that "
                    "libraries start would take it for that: rename it, or use Python 3.11 or later"
                )
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


def check_inside(key: str, value: str) -> None:
    """Refuse a path in a stranger's recipe that lies outside the working folder once links are followed.

    Args:
        key: where the recipe names it; the address of a database ends with ``storage``.
        value: the path, or the address.

    Raises:
        RecipeError: if it lies elsewhere, or is an address of another kind.
    """
    path = value
    is_address = "://" in value or "::" in value
    if key.endswith("storage"):
        path = value.removeprefix("sqlite:///")
        # SQLite decodes addresses of its own, and passes what follows the question mark to its driver.
        is_address = "://" in path or "::" in path or path.startswith("file:") or "?" in path
    try:
        here = os.path.realpath(os.getcwd())
        there = os.path.realpath(os.path.join(here, path))
        is_inside = there == here or there.startswith(os.path.join(here, ""))
    except ValueError:  # no file can have such a name
        is_inside = False
    if not is_inside or is_address or os.path.isabs(path) or path.startswith("~"):
        raise RecipeError(
            f"{OPTION}: {key}: {value!r} lies outside the working folder; give a path inside it, or give this one on "
            "the command line"
        )
