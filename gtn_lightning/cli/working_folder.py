"""What the working folder, which may be a stranger's, has to do with a run: the files in it, and settings in it."""

import os

import matplotlib

from gtn_lightning.errors import RecipeError

OPTION = "--trusted-only"
"""The option that says that recipes are a stranger's."""


def leave_out_folder_style() -> None:
    """Take back what matplotlib has read from a ``matplotlibrc`` in the working folder: it may start LaTeX.

    A style in the user's own folder, or one that ``MATPLOTLIBRC`` names, stays.
    """
    if matplotlib.matplotlib_fname() == "matplotlibrc":
        matplotlib.rcdefaults()


def check_inside(key: str, value: str) -> None:
    """See that a path that a stranger's recipe names lies in the working folder, links followed.

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
        # SQLite decodes addresses of its own, and what follows the question mark is said to its driver.
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
