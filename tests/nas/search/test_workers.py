"""Whether a worker still lives."""

import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from gtn_lightning.nas.search import workers
from gtn_lightning.nas.search.workers import Heartbeat, Worker

on_linux = pytest.mark.skipif(not workers.PROC.joinpath("self/stat").exists(), reason="there is no /proc")


def worker_of(pid: int) -> Worker:
    """Return the worker that a process would be."""
    return replace(Worker.this(), pid=pid, started=workers._started(pid), token="theirs")


@pytest.fixture
def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


@on_linux
def test_a_process_is_gone_when_it_has_ended_even_if_nobody_has_noticed(sleeper: "subprocess.Popen[bytes]") -> None:
    this, other = Worker.this(), worker_of(sleeper.pid)
    assert other.is_gone(this) is False
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now: its number is still taken
    assert other.is_gone(this) is True
    sleeper.wait()
    assert other.is_gone(this) is True


@on_linux
def test_another_process_of_the_same_number_is_another_process(sleeper: "subprocess.Popen[bytes]") -> None:
    other = worker_of(sleeper.pid)
    assert other.started is not None
    assert replace(other, started=other.started - 1).is_gone(Worker.this()) is True
    assert replace(Worker.this(), started=1, token="before").is_gone(Worker.this()) is True
    sleeper.communicate()


def test_what_one_process_did_before_is_gone() -> None:
    this = Worker.this()
    assert this.is_gone(this) is False
    assert Worker.this().is_gone(this) is True


@pytest.mark.parametrize(
    "changes", [{"host": "elsewhere"}, {"boot": "another"}, {"namespace": "pid:[1]"}, {"host": "a b", "pid": 10**9}]
)
def test_another_machine_or_container_cannot_be_looked_at(changes: dict[str, object]) -> None:
    this = Worker.this()
    assert replace(this, token="theirs", **changes).is_gone(this) is None  # type: ignore[arg-type]


def test_without_proc_a_living_number_says_nothing_and_a_dead_one_that_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, sleeper: "subprocess.Popen[bytes]", tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(workers, "PROC", tmp_path_factory.mktemp("empty"))
    this, other = Worker.this(), worker_of(sleeper.pid)
    assert (this.boot, this.namespace, this.started) == ("", "", None)
    assert other.is_gone(this) is None
    sleeper.communicate()
    assert other.is_gone(this) is True


def test_a_worker_is_written_and_read() -> None:
    this = Worker.this()
    assert Worker.read(this.written()) == this
    assert str(this) == f"process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.parametrize(
    "written", ["host 1 deadbeef", "", None, 3, [], {}, {"host": "a"}, {"host": "a", "pid": "1", "token": "b"},
                {"host": "a", "pid": 0, "token": "b"}, {"host": "a", "pid": 1, "token": "b", "more": 1}]
)  # fmt: skip
def test_what_says_not_which_process_it_is_is_no_worker(written: object) -> None:
    assert Worker.read(written) is None


def test_signs_of_life_come_until_they_are_stopped_whatever_they_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "BEAT", 0.01)
    third, count = threading.Event(), 0

    def beat() -> None:
        nonlocal count
        count += 1
        if count >= 3:
            third.set()
        raise OSError("the storage is away for a moment")

    heartbeat = Heartbeat(beat)
    assert third.wait(600)
    heartbeat.stop()
    after = count
    assert not threading.Event().wait(0.1)
    assert count == after
