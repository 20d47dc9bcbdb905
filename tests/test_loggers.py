"""Loggers: W&B offline, switched off and out of reach, and TensorBoard."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import wandb

from gtn_lightning.errors import RecipeError
from gtn_lightning.loggers import TensorBoardLogger, WandbLogger


@pytest.fixture(autouse=True)
def _nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()  # W&B reads the environment once in a process
    yield
    wandb.finish()
    wandb.teardown()


def written(folder: Path) -> bytes:
    """Return what the one offline run in a folder recorded; names stand in it as they are."""
    wandb.teardown()  # waits until everything is on the disk
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return path.read_bytes()


def test_offline_unless_logged_in(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = WandbLogger(save_dir=str(tmp_path / "run"))
    logger.log_hyperparams({"model": {"inner_steps": 3}})
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    assert logger.experiment.offline
    logger.experiment.finish()
    assert b"inner_steps" in written(tmp_path / "run")
    assert b"val/accuracy" in written(tmp_path / "run")
    assert "WARNING" not in capfd.readouterr().err


def test_switched_off_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandbLogger(save_dir=str(tmp_path))
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    assert logger.experiment.disabled
    assert not list(tmp_path.rglob("*run-*"))


@pytest.mark.parametrize("kind", [dict, wandb.Settings])
def test_settings_of_ones_own_stand_above_ours(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = kind(console="wrap", init_timeout=7)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = WandbLogger(save_dir=str(tmp_path), settings=given, tags=["mine"]).experiment
    assert (run.settings.console, run.settings.init_timeout) == ("wrap", 7)
    assert (run.settings.silent, run.settings.finish_timeout) == (True, 300)
    assert run.tags == ("mine",)


def test_a_setting_that_there_is_not_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^WandbLogger.settings: .*consol.*; correct the setting$") as caught:
        WandbLogger(save_dir=str(tmp_path), settings={"consol": "off"})
    assert "\n" not in str(caught.value)


def test_the_environment_stands_above_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONSOLE", "wrap")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    run = WandbLogger(dir=str(tmp_path)).experiment
    assert run.settings.console == "wrap"
    assert run.project == "mine"
    assert Path(run.dir).is_relative_to(tmp_path)


def test_offline_by_the_environment_though_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert WandbLogger(save_dir=str(tmp_path)).experiment.offline


class Failing(BaseHTTPRequestHandler):
    """A server with an error of its own."""

    def do_POST(self) -> None:
        self.send_error(500)

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


class Stalling(Failing):
    """A server that never answers."""

    def do_POST(self) -> None:
        time.sleep(60)

    do_GET = do_POST


class FailingLater(Failing):
    """A server that takes a run's start, and fails once `failing` is set."""

    failing = threading.Event()
    answers: ClassVar = {
        "viewer": {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
        "upsertBucket": {
            "upsertBucket": {
                "bucket": {
                    "id": "aWQ=",
                    "name": "abc",
                    "displayName": "r",
                    "config": "{}",
                    "historyLineCount": 0,
                    "project": {"id": "p", "name": "test", "entity": {"id": "e", "name": "me"}},
                },
                "inserted": True,
            }
        },
    }

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.failing.is_set():
            self.send_error(500)
            return
        query = json.loads(body)["query"] if self.path.endswith("graphql") else ""
        data = next((answer for name, answer in self.answers.items() if name in query), {})
        answer = json.dumps({"data": {"serverInfo": {"features": []}, **data}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a W&B server that refuses connections, or of one that fails otherwise."""
    if request.param is None:
        yield "http://127.0.0.1:9"
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), request.param) as found:
        found.daemon_threads = True
        found.block_on_close = False
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("server", [None, Failing, Stalling], indirect=True, ids=["refusing", "failing", "stalling"])
def test_a_server_that_does_not_serve_makes_the_run_an_offline_one(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    logger = WandbLogger(save_dir=str(tmp_path / "run"), init_timeout=2)
    began = time.monotonic()
    with pytest.warns(UserWarning, match="cannot be reached.*wandb sync"):
        run = logger.experiment
    assert time.monotonic() - began < 45
    assert run.offline
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    run.finish()
    assert b"val/accuracy" in written(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("server", [FailingLater], indirect=True, ids=["failing later"])
def test_a_server_that_fails_in_the_middle_of_a_run_does_not_keep_it(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    FailingLater.failing.clear()
    logger = WandbLogger(save_dir=str(tmp_path), finish_timeout=2)
    run = logger.experiment
    assert not run.offline
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    FailingLater.failing.set()
    for step in range(2, 50):
        logger.log_metrics({"val/loss": 1.0}, step=step)
    began = time.monotonic()
    run.finish()
    wandb.teardown()
    assert time.monotonic() - began < 30
    (path,) = tmp_path.glob("wandb/run-*/*.wandb")  # what `wandb sync` takes
    assert b"val/accuracy" in path.read_bytes()
    assert b"val/loss" in path.read_bytes()


def test_tensorboard_writes_into_the_run_folder(tmp_path: Path) -> None:
    logger = TensorBoardLogger(save_dir=str(tmp_path))
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    logger.finalize("success")
    assert list((tmp_path / "tensorboard").glob("events.*"))
