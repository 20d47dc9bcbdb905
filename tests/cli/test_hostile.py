"""Recipes and teacher files made of hostile pieces: nothing foreign is imported, started, asked or written to."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gtn_lightning.cli import main
from tests.fuzzing import FUZZ, mutate
from tests.tiny import make_gtn, with_generator

SHORT = [
    *(
        "--trainer.max_steps=1",
        "--model.inner_loop.steps=2",
        "--model.evaluation.learners=1",
        "--model.evaluation.real_rates=[0.1]",
    ),
    *("--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=1", "--trainer.logger=false"),
    "--trainer.devices=1",
]


class Watch:
    """Records what an audit hook sees while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self._see)  # cannot be removed

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "import" and str(arguments[0]).partition(".")[0] in ("evil_parts", "lightning", "mpi4py"):
            self.events.append(f"import {arguments[0]}")
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pty.spawn"):
            self.events.append(f"{event} {arguments[:1]}")
        elif event == "open" and isinstance(arguments[0], str | bytes) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            own = (os.path.realpath(os.getcwd()), "/dev/", "/proc/self", os.path.realpath(os.environ["XDG_STATE_HOME"]))
            if not path.startswith(own) and "__pycache__" not in path:
                self.events.append(f"write {path}")
        elif event == "open" and str(arguments[0]).endswith("elsewhere.yaml"):
            self.events.append(f"read {arguments[0]}")


WATCH = Watch()


@contextmanager
def watched() -> Iterator[list[str]]:
    WATCH.events, WATCH.on = [], True
    try:
        yield WATCH.events
    finally:
        WATCH.on = False


NAMES = st.sampled_from(
    [
        *("evil_parts.Evil", "évil.Evil", "lightning.Evil", "mpi4py.Evil", "evil_parts", "Evil"),
        *("subprocess.Popen", "os.system", "torch.hub.load", "torch.nn.Linear", "builtins.eval", "jsonargparse.CLI"),
        "gtn_lightning.description.kinds.nn.Linear",
        "gtn_lightning.cli.app.os.system",
        "pytorch_lightning.strategies.launchers.subprocess_script.subprocess.Popen",
        "pytorch_lightning.loggers.WandbLogger",
        "gtn_lightning.teachers.Pixels.load_state_dict",
        *("TeacherCheckpoint", "gtn_lightning.loggers.CSVLogger", "pytorch_lightning.callbacks.ModelCheckpoint"),
        *("Pixels", "Generator", "MLP", "gtn_lightning.teachers.Pixels", "torch.optim.SGD"),
    ]
)
TEXTS = st.sampled_from(
    [
        *("other.yaml", "../other.yaml", "lines.txt", "/etc/passwd", "~/x", "/tmp/elsewhere", "../elsewhere", "-", ""),
        *("file:///etc/passwd", "local://other.yaml", "http://127.0.0.1:9/x", "s3://bucket/x", "zip://x::http://y"),
        *("../elsewhere.yaml", "link/elsewhere.yaml", '{path: "\\x24{oc.env:GTN_SECRET}"}', "./digits", "digits"),
        *("{epoch].__class__.__init__.__globals__[x}", "{epoch:9999999999d}", "link", "folder/link", "local:///x.ckpt"),
        *("${oc.env:HOME}", "${model.seed}", "${.}", "!!python/name:os.system", "{class_path: evil_parts.Evil}"),
        *("[evil_parts.Evil]", "\t", "\ufeff", "\u202e", "null", "1e400", "0x10"),
    ]
)
PLAIN = st.one_of(NAMES, TEXTS, st.integers(), st.floats(), st.booleans(), st.none())


def component(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(
        [
            *("classes", "args", "path", "save_dir", "dirpath", "learner", "settings", "device", "lr", "filename"),
            *("name", "version", "cache", "init", "weights", "process_group_backend", "flush_logs_every_n_steps"),
        ]
    )
    arguments = st.dictionaries(keys, inner, max_size=3)
    return st.fixed_dictionaries({"class_path": NAMES}, optional={"init_args": arguments, "dict_kwargs": arguments})


VALUES = st.recursive(PLAIN, lambda inner: st.one_of(component(inner), st.lists(inner, max_size=3)), max_leaves=6)
PLACES = st.sampled_from(
    [
        *("model.teacher", "model.curriculum", "model.learners", "model.inner_optimizer", "model.task", "model.seed"),
        *("model.outer_optimizer", "model.outer_lr_scheduler", "model.recovery", "model.learners.init_args.learner"),
        *("data", "data.init_args.seed", "trainer.callbacks", "trainer.logger", "trainer.strategy", "trainer.plugins"),
        *("trainer.profiler", "trainer.default_root_dir", "trainer.accelerator", "ckpt_path", "teacher", "extends"),
        *("weights_only", "config", "seed_everything", "optimizer", "model.outer_groups"),
    ]
)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a stranger's."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.argv", ["gtn"])
    for name in ("evil_parts", "évil", "lightning", "mpi4py"):
        Path(f"{name}.py").write_text("class Evil: pass\n")
    monkeypatch.setenv("GTN_SECRET", "a secret")
    Path("link").symlink_to("..")
    Path("folder").mkdir()
    Path("folder/link").symlink_to("../..")
    for file in ("other.yaml", "../other.yaml", "../elsewhere.yaml"):
        Path(file).write_text("class_path:\tevil_parts.Evil\n")
    Path("lines.txt").write_text("evil_parts.Evil\n")
    return folder


def ended_well(code: int, err: str, events: list[str]) -> None:
    assert events == []
    assert "a secret" not in err
    assert "Traceback" not in err
    assert code in (0, 2)
    if code == 2:
        assert len([line for line in err.splitlines() if line.startswith("gtn: error: ")]) == 1


@pytest.mark.slow
@FUZZ
@given(st.dictionaries(PLACES, VALUES, min_size=1, max_size=3), st.booleans())
def test_a_strangers_recipe(
    hostile: Path, capfd: pytest.CaptureFixture[str], pieces: dict[str, Any], flow: bool
) -> None:
    content: dict[str, Any] = {"extends": "digits"}
    for place, value in pieces.items():
        inner = content
        *above, last = place.split(".")
        for key in above:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                return
        inner[last] = value
    text = yaml.safe_dump(content, default_flow_style=flow, allow_unicode=True)
    (hostile / "r.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    capfd.readouterr()
    with watched() as events:
        code = main(["fit", "--config", "r.yaml", "--trusted-only", *SHORT])
    ended_well(code, capfd.readouterr().err, events)


@pytest.mark.slow
@FUZZ
@given(st.data())
def test_a_strangers_teacher_file(hostile: Path, capfd: pytest.CaptureFixture[str], data: st.DataObject) -> None:
    file = hostile / "teacher.safetensors"
    make_gtn(**with_generator()).save_teacher(file, {"class_path": "gtn_lightning.data.DigitsData", "init_args": {}})
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    recipe = json.loads(metadata["recipe"])
    parent, key = data.draw(st.sampled_from(list(places(recipe))))
    mutate(parent, [key], data.draw(st.sampled_from(["replace", "replace", "leave out", "rename"])), data.draw(VALUES))
    try:
        metadata["recipe"] = json.dumps(recipe, ensure_ascii=data.draw(st.booleans()))
        save_file(load_file(file), file, metadata)
    except (UnicodeEncodeError, ValueError):
        return  # no file can hold it
    capfd.readouterr()
    with watched() as events:
        code = main(["predict", "--teacher", "teacher.safetensors"])
    ended_well(code, capfd.readouterr().err, events)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield everything in plain data, as what holds it and its key there."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from places(item)
