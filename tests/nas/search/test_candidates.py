"""Claims of architectures that several workers share."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies import Cost, Score
from gtn_lightning.nas.search import Candidates
from tests.nas.search_run import COUNT, Sums, main, score
from tests.tiny import ROOT

SAMPLERS = ("random", "evolution", "tpe")


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.sqlite'}"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_architecture_is_scored_once(sampler: str, tmp_path: Path) -> None:
    main(sqlite(tmp_path), sampler)
    board = Candidates(Sums(), "test", sqlite(tmp_path), COUNT, sampler).leaderboard()
    assert len(board) == COUNT
    assert len({Sums().canonical(candidate.architecture) for candidate in board}) == COUNT
    assert [candidate.value for candidate in board] == sorted((score(c.architecture) for c in board), reverse=True)


@pytest.mark.parametrize("sampler", ["evolution", "tpe"])
def test_samplers_that_learn_find_better_architectures_than_chance(sampler: str, tmp_path: Path) -> None:
    found = {}
    for name in ("random", sampler):
        main(sqlite(tmp_path / name), name, 24)
        board = Candidates(Sums(), "test", sqlite(tmp_path / name), 24, name).leaderboard()
        found[name] = sum(candidate.value for candidate in board) / len(board)
    assert found[sampler] > found["random"]


def test_a_space_smaller_than_the_search_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="57 architectures wanted, 56 found"):
        Candidates(Sums(), "test", sqlite(tmp_path), 57)


def start(storage: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "tests.nas.search_run", storage, "random"]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def database() -> str:
    """Return an empty database's address, or skip: ``GTN_TEST_DATABASE=postgresql://user:password@host/name``."""
    if "GTN_TEST_DATABASE" not in os.environ:
        pytest.skip("GTN_TEST_DATABASE names no empty database")
    return os.environ["GTN_TEST_DATABASE"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal", "database"])
def test_three_workers_killed_five_times_leave_the_undisturbed_leaderboard(kind: str, tmp_path: Path) -> None:
    storages = {"sqlite": sqlite(tmp_path), "journal": str(tmp_path / "study.journal")}
    storage = database() if kind == "database" else storages[kind]
    moments = random.Random(0)
    workers = [start(storage) for _ in range(3)]
    deadline = time.monotonic() + 60
    while kind != "database" and not list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for kill in range(5):
        time.sleep(moments.uniform(0.3, 1.0))
        workers[kill % 3].kill()
        workers[kill % 3].communicate()
        workers[kill % 3] = start(storage)
    for worker in workers:
        assert worker.wait(120) == 0, worker.communicate()[1]

    disturbed = Candidates(Sums(), "test", storage, COUNT)
    main(sqlite(tmp_path / "undisturbed"), "random")
    undisturbed = Candidates(Sums(), "test", sqlite(tmp_path / "undisturbed"), COUNT)
    assert disturbed.leaderboard() == undisturbed.leaderboard()
    assert len(disturbed.scored()) == COUNT
    states = [trial.state for trial in disturbed._study.get_trials()]
    assert states.count(TrialState.COMPLETE) == COUNT
    assert TrialState.RUNNING not in states


def test_a_search_may_be_continued_with_more_candidates(tmp_path: Path) -> None:
    main(sqlite(tmp_path), "random", 5)
    first = Candidates(Sums(), "test", sqlite(tmp_path), 5).scored()
    main(sqlite(tmp_path), "random", 8)
    assert Candidates(Sums(), "test", sqlite(tmp_path), 8).scored()[:5] == first


def test_a_claim_that_is_given_back_is_given_out_again(tmp_path: Path) -> None:
    candidates = Candidates(Sums(), "test", sqlite(tmp_path), 1)
    claimed = candidates.claim()
    assert claimed is not None
    candidates.abandon(claimed[0])
    again = candidates.claim()
    assert again is not None
    assert again[1] == claimed[1]
    candidates.finish(again[0], Score(1.0, Cost()))
    candidates.finish(claimed[0], Score(2.0, Cost()))  # too late: nothing happens
    assert [candidate.value for candidate in candidates.scored()] == [1.0]
    assert candidates.claim() is None


def test_candidates_that_do_worse_than_the_median_are_given_up_and_come_last(tmp_path: Path) -> None:
    candidates = Candidates(Sums(), "test", sqlite(tmp_path), 12, prune=True)
    given_up = set()
    while (claimed := candidates.claim()) is not None:
        trial, architecture = claimed
        pruned = candidates.report(trial, 1, score(architecture))
        if pruned:
            given_up.add(architecture)
        candidates.finish(trial, Score(score(architecture), Cost()), pruned)
    board = candidates.leaderboard()
    assert given_up
    assert {candidate.architecture for candidate in board[-len(given_up) :]} == given_up


def test_other_settings_are_refused(tmp_path: Path) -> None:
    Candidates(Sums(), "test", sqlite(tmp_path), 5, settings={"seed": 0})
    with pytest.raises(RecipeError, match=r"'test' was begun with seed 0, and now it is 1: .*another study"):
        Candidates(Sums(), "test", sqlite(tmp_path), 5, settings={"seed": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "candidates 0 given"),
        ({"storage": "nothing://here"}, "the storage nothing://here cannot be used"),
        ({"storage": "sqlite:////proc/no/study.sqlite"}, "cannot be used"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(options: dict[str, object], message: str, tmp_path: Path) -> None:
    arguments: dict[str, object] = {"space": Sums(), "study": "test", "storage": sqlite(tmp_path), "count": 5} | options
    with pytest.raises(RecipeError, match=message) as caught:
        Candidates(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_password_is_not_told() -> None:
    with pytest.raises(RecipeError, match=r"storage postgresql://me:\*\*\*@127\.0\.0\.1:9/none cannot") as caught:
        Candidates(Sums(), "test", "postgresql://me:secret@127.0.0.1:9/none", 5)
    assert "secret" not in str(caught.value)
