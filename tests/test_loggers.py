"""Loggers: W&B offline, switched off and out of reach, and TensorBoard."""

import base64
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import wandb

from gtn_lightning.errors import RecipeError
from gtn_lightning.loggers import TensorBoardLogger, WandbLogger, forget_folder_settings


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


class Asked(BaseHTTPRequestHandler):
    """A server that refuses everything, and remembers the keys that it was sent."""

    keys: ClassVar[list[str]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind, _, key = self.headers.get("Authorization", "").partition(" ")
        self.keys.append(base64.b64decode(key).decode() if kind == "Basic" else "no key")
        self.send_response(400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_CONNECT = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def asked() -> Iterator[Any]:
    """Start servers, each of which knows its `address` and the `keys` that it was sent."""
    servers: list[ThreadingHTTPServer] = []

    def start() -> type[Asked]:
        handler = type("Handler", (Asked,), {"keys": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        handler.address = f"http://127.0.0.1:{server.server_address[1]}"
        servers.append(server)
        return handler

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def say(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["[default]", *lines]), encoding="utf-8")


LOGGING = """
from gtn_lightning.loggers import WandbLogger
logger = WandbLogger(save_dir="run", init_timeout=5, finish_timeout=2)
logger.log_metrics({"val/accuracy": 0.5}, step=1)
assert logger.experiment.offline
logger.experiment.finish()
"""


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["wandb", ".wandb"])
@pytest.mark.parametrize("own", ["environment", "user's file"])
def test_a_file_in_the_working_folder_does_not_get_the_key(own: str, folder: str, tmp_path: Path, asked: Any) -> None:
    good, bad = asked(), asked()
    environment = os.environ | {"WANDB_API_KEY": "0" * 40}
    if own == "environment":
        environment["WANDB_BASE_URL"] = good.address
    else:
        say(tmp_path / "config" / "settings", f"base_url = {good.address}")
    lines = [f"{name} = {bad.address}" for name in ("base_url", "http_proxy", "https_proxy", "app_url_override")]
    say(tmp_path / "work" / folder / "settings", *lines)
    done = subprocess.run(
        [sys.executable, "-c", LOGGING], cwd=tmp_path / "work", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert bad.keys == []
    assert f"api:{'0' * 40}" in good.keys
    assert f"{folder}/settings: not used (" in done.stderr


def taken(*said: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[wandb.Settings, str]:
    """Return W&B's settings in a folder whose file says this, and what is warned of."""
    say(folder / "wandb" / "settings", *said)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_SILENT", "true")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forget_folder_settings()
    return wandb.setup().settings, " ".join(str(each.message) for each in caught)


LEADING = {
    "base_url": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "api_key": "1" * 40,
    "entity": "stranger",
    "project": "theirs",
    "identity_token_file": "/etc/passwd",
    "credentials_file": "/etc/passwd",
    "insecure_disable_ssl": "true",
    "code_dir": "/",
    "save_code": "true",
    "sweep_param_path": "/etc/passwd",
    "x_extra_http_headers": '{"X-Key": "1"}',
    "x_stats_open_metrics_endpoints": '{"inside": "http://127.0.0.1:9"}',
    "x_stats_dcgm_exporter": "http://127.0.0.1:9",
    "x_stats_coreweave_metadata_base_url": "http://127.0.0.1:9",
    "x_files_dir": "/tmp/elsewhere",
    "launch_config_path": "/etc/passwd",
    "console": "off",
    "host": "another",
}


@pytest.mark.parametrize("name", LEADING)
def test_no_setting_is_taken_from_the_working_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")  # keeps its service from starting, and changes nothing else
    plain = wandb.setup().settings.model_copy()
    wandb.teardown()
    settings, warning = taken(f"{name} = {LEADING[name]}", folder=tmp_path / "work", monkeypatch=monkeypatch)
    assert getattr(settings, name) == getattr(plain, name)
    assert f"wandb/settings: not used ({name}), because" in warning


def test_the_users_own_settings_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_ENTITY", "my-team")
    say(tmp_path / "config" / "settings", "base_url = https://wandb.example.org", "project = mine")
    said = ["base_url = http://127.0.0.1:9", "entity = stranger", "project = theirs"]
    settings, warning = taken(*said, folder=tmp_path / "work", monkeypatch=monkeypatch)
    assert (settings.base_url, settings.entity, settings.project) == ("https://wandb.example.org", "my-team", "mine")
    assert "not used (base_url, project), " in warning  # what is in the environment stands above it anyway
    assert str(tmp_path / "config" / "settings") in warning


def test_a_folder_that_says_what_is_so_anyway_is_not_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    say(tmp_path / "config" / "settings", "base_url = https://wandb.example.org")
    said = ["base_url = https://wandb.example.org"]
    assert taken(*said, folder=tmp_path / "work", monkeypatch=monkeypatch)[1] == ""


def test_a_value_that_cannot_be_does_not_hide_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    say(tmp_path / "config" / "settings", "base_url = https://wandb.example.org")
    settings, _ = taken("nonsense = 1", "entity = me", folder=tmp_path / "work", monkeypatch=monkeypatch)
    assert (settings.base_url, settings.entity) == ("https://wandb.example.org", None)


def test_what_a_program_has_set_up_itself_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb.setup(wandb.Settings(base_url="https://wandb.example.org", entity="me"))
    said = ["base_url = http://127.0.0.1:9", "entity = stranger"]
    settings, _ = taken(*said, folder=tmp_path / "work", monkeypatch=monkeypatch)
    assert (settings.base_url, settings.entity) == ("https://wandb.example.org", "me")


def test_a_folder_can_switch_wandb_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    server = asked()
    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    say(tmp_path / "wandb" / "settings", "mode = offline")  # what the command `wandb offline` writes
    monkeypatch.chdir(tmp_path)
    assert WandbLogger(save_dir=str(tmp_path / "run")).experiment.offline
    assert f"api:{'0' * 40}" not in server.keys


@pytest.mark.parametrize(
    "content", ["no section", "[default]\na = %(b)s", "[default]\na\n= 1\n=", "[default]\na = \xe9"]
)
def test_a_file_that_cannot_be_read_gets_one_line(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_bytes(content.encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RecipeError, match=r"wandb/settings: cannot be read as W&B's settings .*; correct or rem"
    ) as caught:
        WandbLogger(save_dir=str(tmp_path / "run")).experiment  # noqa: B018  starts the run
    assert "\n" not in str(caught.value)


def test_tensorboard_writes_into_the_run_folder(tmp_path: Path) -> None:
    logger = TensorBoardLogger(save_dir=str(tmp_path))
    logger.log_metrics({"val/accuracy": 0.5}, step=1)
    logger.finalize("success")
    assert list((tmp_path / "tensorboard").glob("events.*"))
