"""Opening the storage of a study, and its errors in one line."""

import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gtn_lightning.errors import RecipeError, first_line
from gtn_lightning.nas.search.journal import open_journal

SQLITE_TIMEOUT = 60
"""Seconds that a worker waits for others that write to the same SQLite file."""

RETRY = 0.5
"""Seconds until a storage that other workers are creating is opened again."""

FAILURES = (OSError, StorageInternalError, SQLAlchemyError, LookupError, ValueError, RuntimeError, AssertionError)
"""What storages raise: Optuna converts some errors of databases, and none of journals."""

_QUERY = re.compile(r"\?((?:\w+=[^&?/]*(?:&|$))*)$")
"""The query at the end of an address."""


def open_storage(address: str) -> BaseStorage:
    """Open the storage of a study, and create it if it does not exist.

    Args:
        address: as for `Candidates`.

    Raises:
        RecipeError: it cannot be opened.
    """
    try:
        if address.endswith(".journal"):
            return open_journal(Path(address).expanduser())
        url, options = _sqlite(address) if address.startswith(("sqlite:", "sqlite+")) else (make_url(address), {})
        # Optuna formats the address as a template.
        text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
        for _ in range(5):
            with suppress(DBAPIError):  # workers that start at the same time create the same tables
                return RDBStorage(text, engine_kwargs=options)
            time.sleep(RETRY)
        return RDBStorage(text, engine_kwargs=options)
    except RecipeError:
        raise
    except (OSError, StorageInternalError, SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        raise _unusable(address, error) from error
    except (LookupError, TypeError, AttributeError, AssertionError) as error:
        if not _is_of_storage(error):
            raise
        raise _unusable(address, error) from error


@contextmanager
def storage_errors(address: str) -> Iterator[None]:
    """Convert the errors of a storage during a search to one line; other errors pass.

    Args:
        address: the storage's, as for `Candidates`.

    Raises:
        RecipeError: the storage failed: it is locked, full, read-only, gone, damaged or cannot be reached.
    """
    try:
        yield
    except (RecipeError, UpdateFinishedTrialError):
        raise
    except FAILURES as error:
        if not _is_of_storage(error):
            raise
        raise RecipeError(
            f"search: the storage {_shown(address)} failed ({_reason(error)}); its scores are kept: see that it is "
            "there, can be written to and has space left, then start the same command again, which continues the search"
        ) from error


def _is_of_storage(error: BaseException) -> bool:
    """Return whether an error was raised by a storage, and not by its caller, such as a search space of the user."""
    if isinstance(error, StorageInternalError | SQLAlchemyError):
        return True
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module.startswith("optuna.storages") for module in modules)


def _sqlite(address: str) -> tuple[URL, dict[str, Any]]:
    """Return the URL of an SQLite file, whose folder is created, and the options of its engine.

    The path between ``sqlite:///`` and a query (``?timeout=5``) is taken literally, per cent signs too, which
    SQLAlchemy decodes since 2.1; a ``~`` at its beginning is the home folder.
    """
    before, _, rest = address.partition(":///")
    query = match[1] if (match := _QUERY.search(rest)) else ""
    path = rest[: match.start()] if match else rest
    url = make_url(f"{before}://?{query}" if rest else address)
    if path.startswith("file:"):  # SQLite's own form of an address, which it decodes itself
        url = url.set(database=path)
    elif path not in ("", ":memory:"):
        file = Path(path).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        url = url.set(database=str(file))
    # A timeout in the address has precedence.
    return url, {} if "timeout" in url.query else {"connect_args": {"timeout": SQLITE_TIMEOUT}}


def _unusable(address: str, error: BaseException) -> RecipeError:
    shown = _shown(address)
    reason = first_line(error).replace(address, shown)
    return RecipeError(
        f"search: the storage {shown} cannot be used ({reason}): give sqlite:///FILE, postgresql://…, or the path of "
        "a journal file that ends with .journal"
    )


def _shown(address: str) -> str:
    """Return an address without its password."""
    with suppress(SQLAlchemyError, ValueError):  # of a path, or of a port that is not a number
        return make_url(address).render_as_string(hide_password=True)
    return re.sub(r"(://[^:@/]*):.*@", r"\1:***@", address)


def _reason(error: BaseException) -> str:
    """Return the cause of an error in one line: Optuna's own message says of every error that data may be invalid."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, LookupError) and isinstance(told := next(iter(error.args), None), str):
        return told  # str(error) would put it into quotation marks
    return first_line(error)
