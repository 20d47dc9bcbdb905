"""A journal file, whatever happened to it."""

import json
import os
import warnings
from pathlib import Path

import pytest

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies import Cost, Score
from gtn_lightning.nas.search import Candidate, Candidates
from gtn_lightning.nas.search.journal import WholeLines
from tests.nas.search_run import Sums, main, score


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal in which three candidates are scored."""
    path = tmp_path_factory.mktemp("scored") / "s.journal"
    main(str(path), "random", 3)
    return path.read_bytes()


def board(path: Path, count: int = 3) -> list[Candidate]:
    return Candidates(Sums(), "test", str(path), count).leaderboard()


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("lost", range(0, 200, 23))
def test_a_journal_that_ends_anywhere_is_gone_on_with(kept: float, lost: int, scored: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    path.write_bytes(scored[: int(len(scored) * kept) - lost])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main(str(path), "random", 3)
    assert {(c.architecture, c.value) for c in board(path)} == {
        (c.architecture, score(c.architecture)) for c in board(path)
    }
    assert len(board(path)) == 3
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


@pytest.mark.parametrize("tail", [b"{", b'{"op_code":6,"wor', b"\0" * 4096, b"\xff\xfe{", b'{"op_code":6}'])
def test_a_torn_last_line_is_cut_off_with_a_line_that_says_so(tail: bytes, scored: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    path.write_bytes(scored)
    before = board(path)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    with pytest.warns(UserWarning, match=r"the last line of the journal .*s\.journal was incomplete") as said:
        assert board(path) == before
    assert len(said) == 1
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line)["op_code"] is not None for line in path.read_bytes().splitlines())


def test_a_last_line_that_lacks_its_end_alone_is_kept(scored: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    path.write_bytes(scored[:-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(board(path)) == 3
    assert path.read_bytes().startswith(scored)


def test_a_long_torn_line_is_found_whole(scored: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    path.write_bytes(scored + b"x" * 200_000)
    with pytest.warns(UserWarning, match="incomplete"):
        assert len(board(path)) == 3
    assert path.stat().st_size < len(scored) + 1000


def test_what_another_worker_tears_in_the_middle_of_a_search_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    candidates = Candidates(Sums(), "test", str(path), 2)
    for value in (1.0, 2.0):
        with path.open("ab") as file:
            file.write(b'{"op_code":8,"worker_id":"killed')
        with pytest.warns(UserWarning, match="incomplete"):
            claimed = candidates.claim()
        assert claimed is not None
        candidates.finish(claimed[0], Score(value, Cost()))
    assert [candidate.value for candidate in board(path, 2)] == [2.0, 1.0]


def damaged(scored: bytes, line: bytes) -> bytes:
    lines = scored.splitlines(keepends=True)
    return b"".join([*lines[:5], line, *lines[6:]])


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b"\n",
        b"\0\0\0\n",
        b"[1, 2]\n",
        b'{"a": 1}\n',
        b'{"op_code": "six", "worker_id": "a"}\n',
        b"[" * 99999 + b"\n",
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_damaged_line_is_refused_and_left(line: bytes, last: bool, scored: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    content = scored + line if last else damaged(scored, line)
    path.write_bytes(content)
    number = len(content.splitlines()) if last else 6
    with pytest.raises(
        RecipeError, match=rf"line {number} of the journal .*s\.journal is damaged: .*--storage"
    ) as caught:
        board(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["s.journal"]


def test_a_record_that_optuna_cannot_apply_is_refused_and_left(scored: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    for record in (b'{"op_code":4,"worker_id":"a"}\n', b'{"op_code":99,"worker_id":"a"}\n'):
        path.write_bytes(damaged(scored, record))
        with pytest.raises(RecipeError, match=r"s\.journal cannot be used") as caught:
            board(path)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == damaged(scored, record)


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"Dear diary", b"one\ntwo\n", b"\n", b'{"a": 1}', b"SQLite format 3\0"],
)
def test_another_file_is_refused_and_left(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"s\.journal is not the journal of a search: .*not changed") as caught:
        board(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["s.journal"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused(make: object, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    make(path)  # type: ignore[operator]
    with pytest.raises(RecipeError, match=r"s\.journal is not a file"):
        board(path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"op_code":0,"wor'])
def test_a_journal_that_is_empty_or_has_hardly_begun_is_a_new_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main(str(path), "random", 2)
    assert len(board(path, 2)) == 2


@pytest.mark.parametrize("harm", ["removed", "replaced", "cut", "emptied"])
def test_a_journal_that_goes_away_in_the_middle_is_one_line(harm: str, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    candidates = Candidates(Sums(), "test", str(path), 2)
    content = path.read_bytes()
    if harm == "removed":
        path.unlink()
    elif harm == "replaced":
        (tmp_path / "other").write_bytes(content)
        (tmp_path / "other").replace(path)
    else:
        os.truncate(path, 0 if harm == "emptied" else content.index(b"\n") + 1)
    with pytest.raises(RecipeError, match=r"s\.journal failed \(.*\); .*start the same command again"):
        candidates.claim()
    assert path.exists() == (harm != "removed")


def test_the_lock_is_free_after_a_journal_was_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    path.touch()
    lock = WholeLines(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        lock.acquire()
    assert not list(tmp_path.iterdir())
