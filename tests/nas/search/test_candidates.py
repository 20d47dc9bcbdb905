"""Claims of architectures that several workers share."""

import math
import os
import random
import re
import socket
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies import Cost, Score
from gtn_lightning.nas.search import Candidates, open_storage, workers
from gtn_lightning.nas.search import candidates as module
from gtn_lightning.nas.search.workers import Worker
from tests import processes
from tests.nas.search_run import COUNT, Sums, main, score

SAMPLERS = ("random", "evolution", "tpe")


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.sqlite'}"


def journal(folder: Path) -> str:
    """The faster storage, for what any storage shows."""
    return str(folder / "study.journal")


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
        main(journal(tmp_path / name), name, 24)
        board = Candidates(Sums(), "test", journal(tmp_path / name), 24, name).leaderboard()
        found[name] = sum(candidate.value for candidate in board) / len(board)
    assert found[sampler] > found["random"]


def test_a_space_smaller_than_the_search_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="57 architectures wanted, 56 found"):
        Candidates(Sums(), "test", sqlite(tmp_path), 57)


def database() -> str:
    """Return an empty database's address, or skip: ``GTN_TEST_DATABASE=postgresql://user:password@host/name``."""
    if "GTN_TEST_DATABASE" not in os.environ:
        pytest.skip("GTN_TEST_DATABASE names no empty database")
    return os.environ["GTN_TEST_DATABASE"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal", "database"])
def test_three_workers_killed_five_times_leave_the_undisturbed_leaderboard(kind: str, tmp_path: Path) -> None:
    storages = {"sqlite": sqlite(tmp_path), "journal": journal(tmp_path)}
    storage = database() if kind == "database" else storages[kind]
    moments = random.Random(0)

    def start() -> BaseProcess:
        return processes.start(main, storage, "random", folder=tmp_path / "workers")

    workers = [start() for _ in range(3)]
    deadline = time.monotonic() + 600
    while kind != "database" and not list(tmp_path.glob("*.*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for kill in range(5):
        time.sleep(moments.uniform(0.3, 1.0))
        workers[kill % 3].kill()
        workers[kill % 3].join()
        workers[kill % 3] = start()
    for worker in workers:
        assert processes.finished(worker) == 0, processes.said(tmp_path / "workers")

    disturbed = Candidates(Sums(), "test", storage, COUNT)
    main(sqlite(tmp_path / "undisturbed"), "random")
    undisturbed = Candidates(Sums(), "test", sqlite(tmp_path / "undisturbed"), COUNT)
    assert disturbed.leaderboard() == undisturbed.leaderboard()
    assert len(disturbed.scored()) == COUNT
    states = [trial.state for trial in disturbed._study.get_trials()]
    assert states.count(TrialState.COMPLETE) == COUNT
    assert TrialState.RUNNING not in states


def test_workers_that_propose_at_the_same_moment_claim_different_architectures(tmp_path: Path) -> None:
    earlier, later = (Candidates(Sums(), "test", sqlite(tmp_path), 2, "tpe") for _ in range(2))
    trial = earlier._study.ask()  # and no proposal yet
    trial.set_user_attr("worker", replace(Worker.this(), host="elsewhere").written())
    with ThreadPoolExecutor() as pool:
        claim = pool.submit(later.claim)
        with pytest.raises(TimeoutError):
            claim.result(1)
        proposed = later._study.get_trials()[1].params  # the same, a moment later
        for key, options in Sums().decisions.items():
            trial.suggest_categorical(key, list(options))
        trial.set_user_attr("canonical", Sums().canonical(Sums().architecture(proposed)))
        claimed = claim.result(60)
    assert claimed is not None
    assert claimed[1].name != Sums().name(proposed)


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


@pytest.mark.parametrize(
    ("known", "now", "message"),
    [
        (
            {"seed": 0},
            {"seed": 1},
            r"started with seed 0, and now it is 1: .*another study with --study, or the old seed",
        ),
        (
            {"data": {"path": ["a", 1], "contents": "12"}},
            {"data": {"path": ["a", 1], "contents": "34"}},
            r'started with other data \(data.contents was "12", and now it is "34"\): .* or the old data',
        ),
        ({"data": {"a": None}}, {"data": {}}, r"started with other data \(data.a was null, and now it is not given\)"),
        (
            {"data": [1, {"a": 2}]},
            {"data": [1, {"a": 3}]},
            r"started with other data \(data\[1\].a was 2, and now it is 3\)",
        ),
        ({"data": "x" * 999}, {"data": ["x" * 999]}, r"started with data .{40}…, and now it is .{40}…:"),
        ({"seed": 0}, {"seed": 0, "data": {"contents": "12"}}, r"started by a version that did not store its data"),
    ],
)
def test_other_settings_are_refused(
    known: dict[str, object], now: dict[str, object], message: str, tmp_path: Path
) -> None:
    for storage in (sqlite(tmp_path), journal(tmp_path)):
        Candidates(Sums(), "test", storage, 5, settings=known)
        Candidates(Sums(), "test", storage, 5, settings=known)
        with pytest.raises(RecipeError, match=f"'test' was {message}") as caught:
            Candidates(Sums(), "test", storage, 5, settings=now)
        assert "\n" not in str(caught.value)


def test_workers_that_begin_at_the_same_moment_with_other_settings_mix_no_scores(tmp_path: Path) -> None:
    first = Candidates(Sums(), "test", sqlite(tmp_path), 2, settings={"seed": 0})
    claimed = first.claim()
    assert claimed is not None
    # What the first did not see when it looked: a second that was a moment later.
    study = optuna.load_study(study_name="test", storage=sqlite(tmp_path))
    study.set_user_attr("settings", {"seed": 1})
    for late in (lambda: first.finish(claimed[0], Score(1.0, Cost())), first.claim):
        with pytest.raises(RecipeError, match="started with seed 1, and now it is 0"):
            late()
    assert not [trial for trial in study.get_trials() if trial.state == TrialState.COMPLETE]


def test_the_study_of_another_program_is_refused_and_left(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="test", storage=sqlite(tmp_path))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(RecipeError, match=r"'test' holds no settings, .* another study"):
        Candidates(Sums(), "test", sqlite(tmp_path), 5)
    assert len(study.get_trials()) == 1
    assert not study.user_attrs


NO_NUMBERS = (math.nan, math.inf, None, "high", torch.zeros(2), 1j, 10**400)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_score_that_is_no_number_counts_as_the_worst_and_is_not_asked_for_again(
    sampler: str, kind: str, tmp_path: Path
) -> None:
    storage = sqlite(tmp_path) if kind == "sqlite" else journal(tmp_path)
    candidates = Candidates(Sums(), "test", storage, 12, sampler)
    given: list[Any] = [*NO_NUMBERS, 3.0, -1.0, -math.inf, np.float32(2.0), torch.tensor(1.0)]
    said = {}
    for value in given:
        claimed = candidates.claim()
        assert claimed is not None
        said[claimed[1]] = value
        candidates.finish(claimed[0], Score(value, Cost()))
    assert len(said) == 12
    assert candidates.claim() is None
    board = Candidates(Sums(), "test", storage, 12, sampler).leaderboard()
    assert [candidate.value for candidate in board[:4]] == [3.0, 2.0, 1.0, -1.0]
    for candidate in board[4:]:
        value = said[candidate.architecture]
        expected = value if isinstance(value, float) else math.nan
        assert candidate.value == pytest.approx(expected, nan_ok=True)
        assert candidate.rank_value == -math.inf


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_in_which_nothing_is_a_number_ends(sampler: str, tmp_path: Path) -> None:
    candidates = Candidates(Sums(), "test", journal(tmp_path), 16, sampler)
    while (claimed := candidates.claim()) is not None:
        candidates.finish(claimed[0], Score(math.nan, Cost()))
    assert [math.isnan(candidate.value) for candidate in candidates.leaderboard()] == [True] * 16


def test_a_report_that_is_no_number_is_worse_than_any_and_spoils_no_median(tmp_path: Path) -> None:
    candidates = Candidates(Sums(), "test", sqlite(tmp_path), 14, prune=True)
    given_up = []
    for reported in (1.0, 2.0, 3.0, 4.0, 5.0, math.nan, None, -math.inf, math.inf, "high", 2.0, 4.0):
        claimed = candidates.claim()
        assert claimed is not None
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            pruned = candidates.report(claimed[0], 1, reported)  # type: ignore[arg-type]
        given_up.append(pruned)
        candidates.finish(claimed[0], Score(reported, Cost()), pruned)  # type: ignore[arg-type]
    assert given_up == [False] * 5 + [True] * 5 + [True, False]
    assert [candidate.value for candidate in candidates.leaderboard()[:6]] == [5.0, 4.0, 4.0, 3.0, 2.0, 1.0]


def left_behind(storage: str, worker: object, count: int = 1) -> None:
    """Leave a claim behind as a worker would that was killed."""
    Candidates(Sums(), "test", storage, count)
    trial = optuna.load_study(study_name="test", storage=storage).ask()
    if worker is not None:
        trial.set_user_attr("worker", worker)


@pytest.mark.parametrize(
    "worker",
    [
        f"{socket.gethostname()} 1 deadbeef",  # as it was written before; process 1 always lives
        f"{socket.gethostname()} x",
        {"host": socket.gethostname(), "pid": 1},
        replace(Worker.this(), pid=1, started=1).written(),
        replace(Worker.this(), token="earlier").written(),
    ],
)
def test_a_claim_does_not_hold_because_its_process_number_lives_again(worker: object, tmp_path: Path) -> None:
    left_behind(sqlite(tmp_path), worker)
    candidates = Candidates(Sums(), "test", sqlite(tmp_path), 1)
    claimed = candidates.claim()
    assert claimed is not None
    candidates.finish(claimed[0], Score(1.0, Cost()))
    assert candidates.claim() is None


@pytest.mark.parametrize("worker", [replace(Worker.this(), host="elsewhere").written(), None])
def test_a_worker_that_cannot_be_looked_at_is_waited_for_as_long_as_it_gives_signs_of_life(
    worker: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("SILENCE", 0.6), ("NAMELESS", 0.6), ("SAY_AFTER", 0.0), ("POLL", 0.05)):
        monkeypatch.setattr(module, name, seconds)
    left_behind(sqlite(tmp_path), worker)
    said: list[str] = []
    candidates = Candidates(Sums(), "test", sqlite(tmp_path), 1, say=said.append)
    assert candidates.claim() is not None
    who = "process [0-9]+ on elsewhere" if worker else "a worker that has not given its name"
    (line,) = said  # once, however often it was looked
    assert re.fullmatch(f"search: waiting for candidate .*, claimed by {who}; it counts as lost after .*", line), line


def test_signs_of_life_hold_a_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(sqlite(tmp_path), replace(Worker.this(), host="elsewhere").written())
    candidates = Candidates(Sums(), "test", sqlite(tmp_path), 1)
    study = optuna.load_study(study_name="test", storage=sqlite(tmp_path))
    storage, (trial,) = study._storage, study.get_trials()
    monkeypatch.setattr(module, "SILENCE", 0.0)  # whatever is seen unchanged a second time is too old
    for sign in range(3):
        storage.set_trial_user_attr(trial._trial_id, "sign of life", sign)
        candidates._fail_lost()
        assert study.get_trials()[0].state == TrialState.RUNNING
    candidates._fail_lost()
    assert study.get_trials()[0].state == TrialState.FAIL


def test_a_worker_gives_signs_of_life_while_it_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "BEAT", 0.02)
    for storage in (sqlite(tmp_path), journal(tmp_path)):
        candidates = Candidates(Sums(), "test", storage, 1)
        claimed = candidates.claim()
        assert claimed is not None
        study = optuna.load_study(study_name="test", storage=open_storage(storage))
        seen: set[object] = set()
        deadline = time.monotonic() + 600
        while len(seen) < 4:
            assert time.monotonic() < deadline
            seen.add(study.get_trials()[0].user_attrs.get("sign of life"))
        candidates.finish(claimed[0], Score(1.0, Cost()))
        assert [candidate.value for candidate in candidates.scored()] == [1.0]


def test_a_claim_that_was_taken_away_in_the_meantime_is_given_up_quietly(tmp_path: Path) -> None:
    candidates = Candidates(Sums(), "test", sqlite(tmp_path), 1, prune=True)
    claimed = candidates.claim()
    assert claimed is not None
    study = optuna.load_study(study_name="test", storage=sqlite(tmp_path))
    study.tell(claimed[0].number, state=TrialState.FAIL)
    assert candidates.report(claimed[0], 1, 0.5)
    candidates.finish(claimed[0], Score(0.5, Cost()))
    candidates.abandon(claimed[0])
    assert candidates.scored() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "candidates must be at least 1, got 0"),
        ({"storage": "nothing://here"}, "the storage nothing://here cannot be used"),
        ({"storage": "sqlite:////proc/no/study.sqlite"}, "cannot be used"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(options: dict[str, object], message: str, tmp_path: Path) -> None:
    arguments: dict[str, object] = {"space": Sums(), "study": "test", "storage": sqlite(tmp_path), "count": 5} | options
    with pytest.raises(RecipeError, match=message) as caught:
        Candidates(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("server", ["127.0.0.1:9/none", "127.0.0.1:no-port/none", "[::1/none", "a b"])
def test_a_password_is_not_told(server: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"storage postgresql://me:***@{server}") + ".* cannot") as caught:
        Candidates(Sums(), "test", f"postgresql://me:secret@{server}", 5)
    assert "secret" not in str(caught.value)
