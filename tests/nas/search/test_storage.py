"""Where a study lives, and what becomes of errors in reaching it."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.study import StudyDirection

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies import Cost, Score
from gtn_lightning.nas.search import Candidates, open_storage
from tests.nas.search_run import Sums


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.sqlite'}"


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("sqlite:///~/x/s.db", "home/x/s.db"),
        ("sqlite+pysqlite:///~/x/s.db", "home/x/s.db"),
        ("~/x/s.journal", "home/x/s.journal"),
        ("sqlite:///a%20b/s.db", "here/a%20b/s.db"),
        ("sqlite:///a b/s.db?timeout=3", "here/a b/s.db"),
        ("sqlite:////{root}/c%2Fd/s.db", "c%2Fd/s.db"),
        ("sqlite:///e?x=1/s.db?", "here/e?x=1/s.db"),
        ("sqlite:///e{1}/[f]/g@h:8/s#.db", "here/e{1}/[f]/g@h:8/s#.db"),
        ("sqlite:///file:s.db?uri=true", "here/s.db"),
    ],
)
def test_the_file_of_a_storage_is_the_one_that_is_written(
    address: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    open_storage(address.replace("{root}", str(tmp_path).lstrip("/"))).create_new_study([StudyDirection.MAXIMIZE], "s")
    files = [path for path in tmp_path.rglob("*") if path.is_file() and ".cache" not in path.parts]
    assert files == [tmp_path / file]
    # Nor is there a folder that nothing lies in.
    assert all(
        any(path.iterdir()) for path in tmp_path.rglob("*") if path.is_dir() and path.name not in ("home", "here")
    )


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:"])
def test_a_storage_in_memory_leaves_nothing(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_storage(address)
    assert not list(tmp_path.iterdir())


def test_an_addresss_own_timeout_stands(tmp_path: Path) -> None:
    for query, seconds in (("", 60), ("?timeout=3", 3)):
        storage: Any = open_storage(sqlite(tmp_path) + query)
        with storage.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1000 * seconds


def a_lock(folder: Path) -> None:
    database = sqlite3.connect(folder / "study.sqlite", isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    LOCKS.append(database)


LOCKS: list[sqlite3.Connection] = []


def no_tables(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "study.sqlite")) as database, database:
        database.execute("DROP TABLE trials")


def no_study(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "study.sqlite")) as database, database:
        database.execute("DELETE FROM studies")


def a_removed_file(folder: Path) -> None:
    (folder / "study.sqlite").unlink()


ALL = ("claim", "report", "finish", "abandon", "scored")


@pytest.mark.parametrize(
    ("harm", "reason", "moment"),
    [
        *((a_lock, "database is locked", moment) for moment in ALL),
        *((no_tables, "no such table", moment) for moment in ALL),
        *((no_study, "does not exist", moment) for moment in ("claim", "finish", "scored")),
        *((a_removed_file, "readonly database", moment) for moment in ("claim", "report", "finish", "abandon")),
    ],
)
def test_a_storage_that_fails_in_the_middle_is_one_line(
    harm: Callable[[Path], None], reason: str, moment: str, tmp_path: Path
) -> None:
    candidates = Candidates(Sums(), "test", sqlite(tmp_path) + "?timeout=0", 5)
    claimed = candidates.claim()
    assert claimed is not None
    trial = claimed[0]
    what: dict[str, Callable[[], object]] = {
        "claim": candidates.claim,
        "report": lambda: candidates.report(trial, 1, 0.5),
        "finish": lambda: candidates.finish(trial, Score(0.5, Cost())),
        "abandon": lambda: candidates.abandon(trial),
        "scored": candidates.scored,
    }
    harm(tmp_path)
    try:
        with pytest.raises(
            RecipeError, match=rf"the storage .*study.sqlite.* failed \(.*{reason}.*\); .*kept"
        ) as caught:
            what[moment]()
    finally:
        while LOCKS:
            LOCKS.pop().close()
    assert "\n" not in str(caught.value)


def test_a_search_goes_on_after_its_storage_was_locked(tmp_path: Path) -> None:
    candidates = Candidates(Sums(), "test", sqlite(tmp_path) + "?timeout=0", 2)
    claimed = candidates.claim()
    assert claimed is not None
    candidates.finish(claimed[0], Score(1.0, Cost()))
    a_lock(tmp_path)
    with pytest.raises(RecipeError):
        candidates.claim()
    LOCKS.pop().close()
    again = candidates.claim()
    assert again is not None
    candidates.finish(again[0], Score(2.0, Cost()))
    assert [candidate.value for candidate in candidates.leaderboard()] == [2.0, 1.0]


def test_a_database_that_can_be_read_and_not_written_is_one_line(tmp_path: Path) -> None:
    Candidates(Sums(), "test", sqlite(tmp_path), 5)
    address = f"sqlite:///file:{tmp_path}/study.sqlite?mode=ro&uri=true"
    with pytest.raises(RecipeError, match=r"the storage .* failed \(attempt to write a readonly database\)") as caught:
        Candidates(Sums(), "test", address, 5).claim()
    assert "\n" not in str(caught.value)


class Broken(Sums):
    """A user's own space with a fault."""

    def canonical(self, architecture: str) -> str:
        raise KeyError(architecture)


@pytest.mark.parametrize("sampler", ["evolution", "tpe"])
def test_a_fault_of_the_users_own_is_not_the_storages(sampler: str, tmp_path: Path) -> None:
    candidates = Candidates(Broken(), "test", sqlite(tmp_path), 5, sampler)
    with pytest.raises(KeyError):
        candidates.claim()
    # Nor is the claim kept that came to nothing.
    whole = Candidates(Sums(), "test", sqlite(tmp_path), 1, sampler)
    claimed = whole.claim()
    assert claimed is not None
    whole.finish(claimed[0], Score(1.0, Cost()))
    assert whole.claim() is None


def test_a_journals_folder_that_is_removed_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    candidates = Candidates(Sums(), "test", str(folder / "s.journal"), 5)
    shutil.rmtree(folder)
    with pytest.raises(RecipeError, match=r"s.journal failed \(.*\); .*start the same command again"):
        candidates.claim()
    assert not folder.exists()
