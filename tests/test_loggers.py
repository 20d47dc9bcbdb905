"""Loggers: W&B offline, switched off and out of reach, and TensorBoard."""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import wandb

from gtn_lightning.errors import RecipeError
from gtn_lightning.loggers import TensorBoardLogger, WandbLogger
from tests import processes


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


# ------------------------------------------------------------------- a settings file in the working folder


def settle(folder: Path, text: str) -> None:
    """Write a settings file of W&B into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings").write_text(f"[default]\n{text}\n", encoding="utf-8")


@pytest.mark.parametrize(
    "line",
    [
        "base_url = https://somebody-17.example",
        "app_url_override = https://somebody-17.example",
        "http_proxy = http://somebody-17.example",
        "https_proxy = http://somebody-17.example",
        "insecure_disable_ssl = true",
        f"api_key = {'f' * 40}",
        "identity_token_file = /home/user-17/secret",
        "credentials_file = /home/user-17/secret",
        "entity = somebody-17",
        "mode = disabled",
        "x_executable = /home/user-17/program",
        "launch_config_path = /home/user-17/secret",
        "x_stats_coreweave_metadata_base_url = http://somebody-17.example",
        "no_such_setting = 1",  # for which W&B would leave out the user's own settings too
    ],
)
def test_settings_in_the_working_folder_are_not_used(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settle(tmp_path / "config", "base_url = https://own.example\ninit_timeout = 17")
    # W&B's folder has two names.
    settle(tmp_path / (".wandb" if "base_url" in line else "wandb"), line)
    usual = wandb.Settings()
    with pytest.warns(
        UserWarning, match=r"wandb/settings may come from another person and is not used; it would change"
    ):
        run = WandbLogger(save_dir=str(tmp_path / "run")).experiment
    assert run.offline
    in_force = wandb.setup().settings
    assert (in_force.base_url, in_force.init_timeout) == ("https://own.example", 17)
    setting = line.split(" = ")[0]
    if setting not in ("base_url", "x_executable", "no_such_setting"):
        assert getattr(in_force, setting) == getattr(usual, setting)
    for text in ("somebody-17", "/home/user-17"):
        assert text not in f"{in_force} {run.settings}"


def test_a_folder_may_keep_its_runs_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    heard: list[str] = []
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.chdir(tmp_path)
    settle(tmp_path / "wandb", "mode = offline")  # what the command `wandb offline` writes
    with listening(heard) as own:
        monkeypatch.setenv("WANDB_BASE_URL", own)
        run = WandbLogger(save_dir=str(tmp_path / "run")).experiment
        assert run.offline
        run.finish()
    assert not any(heard)  # no key, that is
    assert not [each for each in recwarn if "may come from another person" in str(each.message)]


@pytest.mark.parametrize("text", [b"[default]\na = %(b)s", b"[default]\na = \xe9"])
def test_settings_that_wandb_cannot_read_get_one_line(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_bytes(text)
    with pytest.raises(RecipeError, match=r"wandb/settings: W&B cannot read it .*; correct or remove it$") as caught:
        WandbLogger(save_dir=str(tmp_path / "run")).experiment  # noqa: B018  starts the run
    assert "\n" not in str(caught.value)


def test_settings_of_ones_own_and_of_the_program_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(tmp_path)
    settle(tmp_path / "config", "base_url = https://own.example")
    settle(tmp_path / "wandb", "base_url = https://own.example")  # says the same, changes nothing
    wandb.setup(wandb.Settings(entity="team"))
    WandbLogger(save_dir=str(tmp_path / "run")).experiment.finish()
    in_force = wandb.setup().settings
    assert (in_force.base_url, in_force.entity) == ("https://own.example", "team")
    assert not [each for each in recwarn if "may come from another person" in str(each.message)]


def begin_and_end(settings: list[str]) -> None:
    """Begin and end a run with the settings named and no others of the environment."""
    for name in [name for name in os.environ if name.startswith("WANDB") and name not in settings]:
        del os.environ[name]
    WandbLogger(save_dir="run", init_timeout=5).experiment.finish()


@pytest.mark.slow
@pytest.mark.parametrize("line", ["base_url = {}", "http_proxy = {}", "no_such_setting = {}"])
def test_the_key_goes_to_the_users_own_server_whatever_the_folder_says(line: str, tmp_path: Path) -> None:
    heard: dict[str, list[str]] = {"own": [], "stranger": []}
    with listening(heard["own"]) as own, listening(heard["stranger"]) as stranger:
        settle(tmp_path / "config", f"base_url = {own}")
        settle(tmp_path / "wandb", line.format(stranger))
        own_settings = {"WANDB_CONFIG_DIR": str(tmp_path / "config"), "WANDB_API_KEY": "k" * 40}
        run = processes.start(begin_and_end, list(own_settings), folder=tmp_path, environment=own_settings)
        assert processes.finished(run) == 0, processes.said(tmp_path)
    key = base64.b64encode(b"api:" + b"k" * 40).decode()
    assert any(key in header for header in heard["own"])
    assert not heard["stranger"]


@contextmanager
def listening(heard: list[str]) -> Iterator[str]:
    """Serve on an address of this machine, refuse everything, and note the credentials that came."""

    class Noting(Failing):
        def do_POST(self) -> None:
            heard.append(self.headers.get("Authorization", ""))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_error(400)

        do_GET = do_HEAD = do_CONNECT = do_POST

    with ThreadingHTTPServer(("127.0.0.1", 0), Noting) as found:
        found.daemon_threads = True
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


def test_tensorboard_writes_into_the_run_folder(tmp_path: Path) -> None:
    logger = TensorBoardLogger(save_dir=str(tmp_path))
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    logger.finalize("success")
    assert list((tmp_path / "tensorboard").glob("events.*"))
