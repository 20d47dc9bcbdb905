"""Runs that go on from a checkpoint with something wrong in it: one line and exit code 2, or a run; nothing else."""

import copy
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gtn_lightning.cli import main
from tests.fuzzing import FUZZ, mutate

RESUME = [
    *("fit", "--config", "digits", "--trainer.max_steps=3", "--trainer.val_check_interval=1", "--trainer.logger=false"),
    *("--model.inner_loop.steps=2", "--model.evaluation.learners=1", "--model.evaluation.real_rates=[0.1]"),
    *("--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=1"),
    "--trainer.callbacks=[TeacherCheckpoint, GradientNorm, "
    "{class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 9}}, "
    "{class_path: ModelCheckpoint, "
    "init_args: {monitor: val/loss, save_top_k: 2, save_last: true, dirpath: runs/kept}}]",
]

WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 0.5, math.nan, math.inf, "text", "", [], {}, ["text"], {"a": 1}, 10**30, 2**63, ("a",)),
    *(torch.zeros(3), torch.tensor(math.nan), torch.zeros(2, dtype=torch.complex64), torch.zeros(2).to_sparse()),
    "../../elsewhere/best-1.ckpt",
)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gtn"])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("GTN_TRACEBACK", raising=False)


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run of two meta-steps."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["gtn"])
        patch.setenv("WANDB_MODE", "disabled")
        assert main([*RESUME, "--trainer.max_steps=2"]) == 0
    (path,) = folder.glob("runs/digits/*/checkpoints/last.ckpt")
    return path


@pytest.fixture(scope="module")
def whole(last: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(last, weights_only=True)
    return content


def copied(whole: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a copy of a checkpoint, and in it the state of `TeacherCheckpoint`."""
    content = copy.deepcopy(whole)
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("TeacherCheckpoint"))
    return content, state


Refused = Callable[[], str]


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Go on from ``odd.ckpt``, which must be refused in one line and leave nothing; return the reason."""

    def run() -> str:
        assert main([*RESUME, "--ckpt_path", "odd.ckpt"]) == 2
        err = capfd.readouterr().err
        assert "Traceback" not in err
        (line,) = (line for line in err.splitlines() if line.startswith("gtn: "))
        before, after = "gtn: error: --ckpt_path odd.ckpt: ", "; give another checkpoint, or begin from"
        assert line.startswith(before)
        assert not (tmp_path / "runs").exists()
        return line.removeprefix(before).partition(after)[0]

    return run


def test_weights_alone(whole: dict[str, Any], refused: Refused) -> None:
    kept = ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops")
    torch.save({name: whole[name] for name in kept}, "odd.ckpt")
    assert refused() == (
        "it does not hold callbacks, optimizer_states, lr_schedulers, as if saved with save_weights_only=True"
    )
    assert main(["test", *RESUME[1:], "--ckpt_path", "odd.ckpt"]) == 0


def test_a_module_of_another_kind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict(), "pytorch-lightning_version": "2.6.0"}, "odd.ckpt")
    assert main([*RESUME, "--ckpt_path", "odd.ckpt"]) == 2
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("gtn: "))
    assert line.startswith("gtn: error: odd.ckpt belongs to another architecture: bias is [2] in the file and nothing")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("score", ["best_model_score", "best_k_models", "dirpath"])
def test_the_state_of_a_callback(score: str, whole: dict[str, Any], refused: Refused) -> None:
    content, state = copied(whole)
    state[score] = {"best.ckpt": "high"} if score == "best_k_models" else 3
    torch.save(content, "odd.ckpt")
    assert refused().startswith("callbacks.TeacherCheckpoint.")


ELSEWHERE = (
    "local://{}/kept.ckpt",
    "{}/../other/../kept/kept.ckpt",
    "file::{}/kept.ckpt",
    "ftp://127.0.0.1:9/kept.ckpt",
)


@pytest.mark.parametrize("path", ELSEWHERE)
@pytest.mark.parametrize("name", ["best_model_path", "kth_best_model_path", "last_model_path", "best_k_models"])
def test_files_elsewhere_that_a_callback_would_remove(
    path: str, name: str, whole: dict[str, Any], refused: Refused, tmp_path: Path
) -> None:
    content, state = copied(whole)
    path = path.format(tmp_path)
    state[name] = {path: torch.tensor(0.0)} if name == "best_k_models" else path
    torch.save(content, "odd.ckpt")
    assert "expected the path of a file of the run" in refused()


def test_a_file_of_another_run_is_not_removed(whole: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    other = tmp_path / "kept" / "other.ckpt"
    other.write_bytes(b"kept")
    content, state = copied(whole)
    state |= {"best_model_path": str(other), "kth_best_model_path": str(other), "last_model_path": str(other)}
    state["best_k_models"] = {str(other): torch.tensor(-1.0)}
    torch.save(content, "odd.ckpt")
    assert main([*RESUME, "--ckpt_path", "odd.ckpt"]) == 0
    assert other.read_bytes() == b"kept"


def test_a_path_that_looks_like_an_address(last: Path) -> None:
    Path("http_runs").mkdir()
    shutil.copy(last, "http_runs/last.ckpt")
    assert main([*RESUME, "--ckpt_path", "http_runs/last.ckpt"]) == 0


def test_what_no_check_knows_of(whole: dict[str, Any], refused: Refused) -> None:
    content = copy.deepcopy(whole)
    content["callbacks"] = {
        name: state | {"sum": 1e400, "weight": 0.0} if name == "GradientNorm" else state
        for name, state in content["callbacks"].items()
    }
    del content["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    content["loops"]["fit_loop"]["state_dict"]["combined_loader"] = ["odd"] * 5
    torch.save(content, "odd.ckpt")
    assert "RuntimeError" in refused()


def test_bytes_that_are_other_than_written(last: Path, refused: Refused) -> None:
    content = bytearray(last.read_bytes())
    weights = torch.load(last, weights_only=True)["state_dict"]["teacher.network.0.weight"]
    content[content.find(weights.numpy().tobytes()[:64]) + 100] ^= 1
    Path("odd.ckpt").write_bytes(content)
    assert refused().startswith("it is damaged, in archive/data/")


@pytest.mark.parametrize("name", ["folder", "fifo", "a" * 5000])
def test_what_is_no_file(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    if name == "folder":
        Path(name).mkdir()
    elif name == "fifo":
        os.mkfifo(name)
    assert main([*RESUME, "--ckpt_path", name]) == 2
    assert "there is no such file; give the path of a checkpoint, or last" in capfd.readouterr().err


# ----------------------------------------------------------------------------------------------------- anything at all


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to everything in a checkpoint."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


def mutate_somewhere(content: dict[str, Any], way: str, share: float, value: Any) -> None:
    """Replace, leave out or rename one thing."""
    # By depth, or most of what is tried would be the optimizer's state.
    everything = list(places(content))
    depths = sorted({len(path) for path in everything})
    depth = depths[int(share * len(depths))]
    candidates = [path for path in everything if len(path) == depth]
    path = candidates[int(share * len(depths) % 1 * len(candidates))]
    mutate(content, path, way, value)


@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_hyperparameters_in_a_checkpoint_are_no_recipe(
    command: str, whole: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Lightning's command line would import and call what they name, and take values over the user's own.
    Path("stranger.py").write_text("import pathlib\npathlib.Path('imported').touch()\n")
    evil = {"teacher": {"class_path": "stranger.Evil"}, "seed": 77}
    for hyperparameters in (evil, 5):
        torch.save({**whole, "hyper_parameters": hyperparameters}, "odd.ckpt")
        assert main([command, *RESUME[1:], "--ckpt_path", "odd.ckpt"]) == 0
    assert not Path("imported").exists()
    assert not any("seed: 77" in path.read_text() for path in tmp_path.rglob("recipe*.yaml"))


def model_checkpoint(content: dict[str, Any]) -> dict[str, Any]:
    """The state of Lightning's own callback, as it is in a folder of the user's choice."""
    (name,) = (name for name in content["callbacks"] if name.startswith("ModelCheckpoint"))
    state: dict[str, Any] = content["callbacks"][name]
    state["dirpath"] = os.path.abspath("runs/kept")
    return state


@pytest.mark.parametrize("kind", ["file", "folder", "link", "linked folder"])
@pytest.mark.parametrize("name", ["best_k_models", "kth_best_model_path", "last_model_path"])
def test_files_in_the_folder_that_are_none_of_the_run(
    kind: str, name: str, whole: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere" / "a.ckpt"
    elsewhere.parent.mkdir()
    elsewhere.write_text("precious")
    Path("runs/kept").mkdir(parents=True)
    path = tmp_path / "runs" / "kept" / "a.ckpt"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(elsewhere)
    else:
        Path("runs/kept/linked").symlink_to(elsewhere.parent)
        path = tmp_path / "runs" / "kept" / "linked" / "a.ckpt"
    content = copy.deepcopy(whole)
    state = model_checkpoint(content)
    state[name] = {str(path): torch.tensor(9.0)} if name == "best_k_models" else str(path)
    torch.save(content, "odd.ckpt")
    assert main([*RESUME, "--ckpt_path", "odd.ckpt"]) == 2
    assert "is no file of the checkpoint's run" in capfd.readouterr().err
    assert path.exists()
    assert elsewhere.read_text() == "precious"


@pytest.mark.parametrize(
    ("callback", "name", "value"),
    [
        ("EarlyStopping", "best_score", "high"),
        ("EarlyStopping", "best_score", torch.zeros(1).expand(10**12)),
        ("EarlyStopping", "wait_count", []),
        ("ModelCheckpoint", "best_k_models", 3),
        ("ModelCheckpoint", "last_model_path", 3),
        ("ModelCheckpoint", "last_model_path", "notes.txt"),
    ],
)
def test_the_state_of_lightnings_callbacks(
    callback: str, name: str, value: Any, whole: dict[str, Any], refused: Refused
) -> None:
    content = copy.deepcopy(whole)
    (state,) = (state for key, state in content["callbacks"].items() if key.startswith(callback))
    state[name] = value
    torch.save(content, "odd.ckpt")
    assert refused().startswith(f"callbacks.{callback}")


@pytest.mark.parametrize(("name", "value"), [("maximize", True), ("eps", 1.0), ("zzz", 1)])
def test_options_of_the_outer_optimizer_that_the_run_did_not_have(
    name: str, value: Any, whole: dict[str, Any], refused: Refused
) -> None:
    content = copy.deepcopy(whole)
    content["optimizer_states"][0]["param_groups"][0][name] = value
    torch.save(content, "odd.ckpt")
    assert refused().startswith(f"optimizer_states.0.param_groups.0.{name}: expected")


class Watch:
    """Notes what is written outside of a folder, what is started and what is connected to, while it is switched on."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"):
            self.seen.append(f"{event} {arguments}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            flags = arguments[2] or 0
            path = Path(os.path.abspath(os.fsdecode(arguments[0])))
            # Lightning's own checkpoints are written as temporary files first.
            is_allowed = path.is_relative_to(self.folder / "runs") or path.parent == Path(tempfile.gettempdir())
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not is_allowed:
                self.seen.append(f"open {path}")


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.mark.slow
@FUZZ
@given(
    st.sampled_from(["replace", "replace", "leave out", "rename", "two", "flip", "cut"]),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(range(len(WRONG))),
)
def test_a_mutated_checkpoint_is_gone_on_from_or_refused_in_one_line(
    whole: dict[str, Any],
    last: Path,
    watch: Watch,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    way: str,
    share: float,
    second: float,
    number: int,
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    monkeypatch.chdir(folder)
    odd = folder / "odd.ckpt"
    if way in ("flip", "cut"):
        content = bytearray(last.read_bytes())
        place = int(share * len(content))
        content[place] ^= 1 << int(8 * second)
        odd.write_bytes(content if way == "flip" else content[:place])
    else:
        mutated = copy.deepcopy(whole) | {"hyper_parameters": {"teacher": {"class_path": "odd.Evil"}}}
        mutate_somewhere(mutated, "replace" if way == "two" else way, share, WRONG[number])
        if way == "two":
            mutate_somewhere(mutated, "leave out", second, None)
        torch.save(mutated, odd)
    before, modules = odd.read_bytes(), set(sys.modules)
    capfd.readouterr()
    watch.seen, watch.folder = [], folder
    try:
        code = main([*RESUME, "--ckpt_path", "odd.ckpt"])
    finally:
        watch.folder = None
    err = capfd.readouterr().err
    assert [event for event in watch.seen if "gtn-lightning" not in event and os.devnull not in event] == []
    assert not {name for name in set(sys.modules) - modules if name.partition(".")[0] == "odd"}
    assert odd.read_bytes() == before
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("gtn: ")]
    if code == 0:
        assert lines == []
    else:
        assert code == 2
        assert len(lines) == 1
        assert lines[0].startswith("gtn: error: ")
        assert not (folder / "runs").exists()
    shutil.rmtree(folder)
