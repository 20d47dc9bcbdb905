"""A program that is told to end does so soon, saved, in one line and with the right exit code."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from gtn_lightning.cli import main
from gtn_lightning.cli.signals import MAIN_PROCESS, NUMBERS, InterruptedBySignal, Signals
from tests.test_loggers import FailingLater

TINY = [
    *("--trainer.max_steps=6", "--trainer.val_check_interval=2", "--trainer.callbacks=[]", "--trainer.logger=false"),
    *(
        "--model.evaluation.learners=1",
        "--model.inner_loop.steps=2",
        "--model.evaluation.real_rates=[0.1]",
        "--model.inner_loop.mode=remat",
    ),
    "--trainer.enable_progress_bar=false",
]
FIT = ["fit", "--config", "digits", *TINY, "--trainer.callbacks+=TeacherCheckpoint"]

CODES = {
    "SIGINT": (130, "interrupted"),
    "SIGTERM": (143, "terminated"),
    "SIGHUP": (129, "ended, its terminal was closed"),
}

PARTS = """
import os, signal, time
import pytorch_lightning as pl
import torch
from gtn_lightning.nas.proxies import Cost, Proxy, Score, Scorer

def send(name):
    os.kill(os.getpid(), getattr(signal, name))

class Sends(pl.Callback):
    # Sends this process signals when a hook is called for the n-th time.
    def __init__(self, hook: str, time: int = 1, signals: list[str] = ["SIGTERM"]):
        self.left, self.signals = time, signals
        setattr(self, hook, self.count)

    def count(self, *_, **__):
        self.left -= 1
        if self.left == 0:
            for name in self.signals:
                send(name)

class Swallows(Sends):
    # As a library might, with an "except" of everything.
    def count(self, *_, **__):
        try:
            super().count()
        except:
            pass

class Drops(Sends):
    # Python drops what is raised where an object is destroyed.
    def count(self, *_, **__):
        outer = super()
        class Object:
            def __del__(self):
                outer.count()
        Object()
        time.sleep(0 if self.left > 0 else 60)

class Stalls(torch.optim.Adam):
    # An outer optimizer that is told to end in its fourth step, twice.
    steps = 0
    def step(self, closure=None):
        loss = super().step(closure)
        self.steps += 1
        if self.steps == 4:
            for _ in range(2):
                send("SIGTERM")
                time.sleep(1.1)
        return loss

class Impatient(Sends):
    # Tells it again while it saves.
    def on_exception(self, *_):
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            send(name)

class Handlers(pl.Callback):
    def on_train_batch_end(self, *_):
        handlers = {signal.getsignal(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP")}
        assert len(handlers) == 1, handlers

class Scoring(Scorer):
    scored = 0
    def settings(self):
        return {}
    def evaluate(self, architecture, seed, report=None):
        self.scored += 1
        if self.proxy.sends and self.scored == 3:
            send("SIGTERM")
        return Score(float(len(architecture.name)), Cost(steps=1))

class Scores(Proxy):
    name, scorer = "scores", Scoring
    def __init__(self, sends: bool):
        self.sends = sends
"""


@pytest.fixture(autouse=True)
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gtn"])
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield
    sys.modules.pop("parts", None)


def sends(hook: str, time: int = 1, kind: str = "Sends", **arguments: Any) -> str:
    given = {"hook": hook, "time": time, **arguments}
    return "--trainer.callbacks+=" + str({"class_path": f"parts.{kind}", "init_args": given})


def kept(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("runs/digits/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["gtn"])
        patch.setenv("WANDB_MODE", "disabled")
        assert main(FIT) == 0
    return load(kept(folder)[-1])


@pytest.mark.parametrize(
    ("hook", "time", "name", "step"),
    [
        ("on_before_backward", 4, "SIGTERM", 3),  # the meta-step is given up
        ("on_before_backward", 5, "SIGINT", 4),
        ("on_before_zero_grad", 4, "SIGHUP", 3),
        ("on_train_batch_end", 3, "SIGTERM", 3),  # it is done: what follows it is done too
        ("on_train_batch_end", 4, "SIGINT", 4),
        ("on_validation_epoch_start", 3, "SIGTERM", 4),
        ("on_validation_batch_start", 3, "SIGINT", 4),
        ("on_validation_epoch_end", 3, "SIGTERM", 4),
        ("on_validation_end", 3, "SIGHUP", 4),
        ("on_validation_epoch_start", 4, "SIGTERM", 6),
    ],
)
def test_a_run_that_is_told_to_end_is_saved_and_goes_on_as_if_it_had_not_been(
    hook: str,
    time: int,
    name: str,
    step: int,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, ending = CODES[name]
    assert main([*FIT, "--trainer.num_sanity_val_steps=1", sends(hook, time, signals=[name])]) == code
    (last,) = kept(tmp_path)
    said = capfd.readouterr().err
    assert said.splitlines()[-1].startswith(f"gtn: {ending}; {last.relative_to(tmp_path)} is kept, go on with: gtn fit")
    assert "Traceback" not in said
    assert load(last)["global_step"] == step

    assert main([*FIT, "--ckpt_path", "last"]) == 0
    resumed = load(kept(tmp_path)[-1])
    assert resumed["global_step"] == 6
    for key, tensor in undisturbed["state_dict"].items():
        assert torch.equal(resumed["state_dict"][key], tensor), key
    (scores, expected) = (
        [state["best_model_score"] for key, state in run["callbacks"].items() if key.startswith("TeacherCheckpoint")]
        for run in (resumed, undisturbed)
    )
    assert scores == expected


def test_a_run_that_is_told_to_end_when_all_is_done_is_finished(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, sends("on_train_end", signals=["SIGTERM"])]) == 143
    (last,) = kept(tmp_path)
    folders = sorted(tmp_path.glob("runs/digits/*"))
    capfd.readouterr()
    assert main([*FIT, "--ckpt_path", "last"]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line == (
        f"gtn: error: --ckpt_path {last.relative_to(tmp_path)}: the run is finished, it has made 6 of "
        "trainer.max_steps=6 meta-steps; to go on, give a larger --trainer.max_steps"
    )
    assert sorted(tmp_path.glob("runs/digits/*")) == folders
    assert main([*FIT, "--ckpt_path", "last", "--trainer.max_steps=7"]) == 0


@pytest.mark.parametrize("hook", ["setup", "on_sanity_check_start", "on_validation_batch_start", "on_before_backward"])
def test_nothing_is_left_of_a_run_that_took_no_meta_step(
    hook: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--trainer.num_sanity_val_steps=1", sends(hook)]) == 143
    assert capfd.readouterr().err.splitlines()[-1] == "gtn: terminated; nothing was kept"
    assert not list(tmp_path.glob("runs"))


@pytest.mark.parametrize(
    ("command", "hook"),
    [
        ("validate", "on_validation_epoch_start"),
        ("validate", "on_validation_batch_end"),
        ("test", "on_test_epoch_start"),
        ("test", "on_test_batch_start"),
        ("predict", "on_predict_batch_start"),
    ],
)
def test_a_command_that_has_nothing_to_save_ends_at_once(
    command: str, hook: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main([command, "--config", "digits", *TINY, sends(hook), sends("on_exception", kind="Impatient")])
    assert code == 143
    said = capfd.readouterr().err.splitlines()
    assert said[-1].startswith(f"gtn: terminated; run it again: gtn {command} --config digits")


def test_a_second_signal_does_not_cut_what_is_saved(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, sends("on_before_backward", 4, "Impatient", signals=["SIGINT", "SIGINT"])]) == 130
    assert load(kept(tmp_path)[0])["global_step"] == 3


def test_a_second_signal_is_not_kept_waiting(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stalls = {"class_path": "parts.Stalls", "init_args": {"lr": 0.01}}
    assert main([*FIT, f"--model.outer_optimizer={stalls}"]) == 143
    # The fourth meta-step is half done: the checkpoint before it stays.
    assert load(kept(tmp_path)[0])["global_step"] == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("gtn: terminated; ")


@pytest.mark.parametrize(("kind", "step"), [("Swallows", 4), ("Drops", 3)])
def test_it_ends_although_something_swallows_the_exception(
    kind: str, step: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, sends("on_before_backward", 4, kind)]) == 143
    assert "Exception ignored" not in capfd.readouterr().err
    assert load(kept(tmp_path)[0])["global_step"] == step


class TakesNoLog(FailingLater):
    """A W&B server that takes a run's start, and fails when the first line of the log comes."""

    failing = threading.Event()

    def do_POST(self) -> None:
        if self.path.endswith("file_stream"):
            self.failing.set()
        super().do_POST()

    do_GET = do_POST


@pytest.mark.long
def test_a_wandb_server_that_stalls_keeps_no_run_that_is_told_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    TakesNoLog.failing.clear()
    logger = {
        "class_path": "gtn_lightning.loggers.WandbLogger",
        "init_args": {"finish_timeout": 3000, "save_dir": str(tmp_path)},
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), TakesNoLog) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
        # Whoever waits for the server is found out by the time limit.
        done = program("", *FIT, f"--trainer.logger={logger}", sends("on_before_backward", 4))
        server.shutdown()
    assert done.returncode == 143, done.stderr
    assert "gtn: terminated; runs/digits/" in done.stderr
    assert load(kept(tmp_path)[0])["global_step"] == 3
    (log,) = tmp_path.glob("wandb/run-*/*.wandb")  # what `wandb sync` takes
    assert b"val/accuracy" in log.read_bytes()


def test_lightning_handles_none_of_the_signals(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    assert main([*FIT, "--trainer.callbacks+=parts.Handlers"]) == 0
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_a_requeue_signal_waits_for_the_end_of_the_meta_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = {"JOB_ID": "17", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho $@ >> requeued\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    # SLURM ends the job as soon as it is requeued.
    assert main([*FIT, sends("on_train_batch_end", 3, signals=["SIGUSR1", "SIGTERM"])]) == 143
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    (saved,) = tmp_path.glob("runs/digits/slurm-17-*/hpc_ckpt_1.ckpt")
    assert load(saved)["global_step"] == 3
    assert load(saved)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 3
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert main(FIT) == 0
    assert load(kept(tmp_path)[-1])["global_step"] == 6


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main([*FIT, sends("on_before_backward", 4, signals=["SIGHUP"])]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_a_thread_there_are_no_handlers(capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["recipes"])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_a_search_gives_its_claim_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    search = [
        *("--trusted-only", "--trust=parts", "search", "--config", "search_digits"),
        *("--candidates=6", "--best=0", "--rival=null"),
        "--space.init_args.widths=[4,8]",
    ]
    sending = {"class_path": "parts.Scores", "init_args": {"sends": True}}
    assert main([*search, f"--proxy={sending}"]) == 143
    said = capfd.readouterr().err.splitlines()
    assert said[-1].startswith("gtn: terminated; what is scored is kept, go on with: gtn --trusted-only")

    import optuna

    (storage,) = tmp_path.glob("runs/search/*/study.sqlite")
    address = f"sqlite:///{storage}"
    (name,) = optuna.get_all_study_names(address)
    states = [trial.state.name for trial in optuna.load_study(study_name=name, storage=address).get_trials()]
    assert states == ["COMPLETE", "COMPLETE", "FAIL"]
    calm = {"class_path": "parts.Scores", "init_args": {"sends": False}}
    assert main([*search, f"--proxy={calm}"]) == 0


# ------------------------------------------------------------------------------------------------- before the run


def program(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``gtn`` after some code, in a process of its own."""
    code = f"{textwrap.dedent(code)}\nimport sys\nfrom gtn_lightning.cli import main\nsys.exit(main())"
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


ON_IMPORT = """
    import os, signal, sys

    class Finder:
        # Sends a signal when something heavy begins to be imported.
        def find_spec(name, *_):
            if name == "{name}":
                os.kill(os.getpid(), signal.{signal})

    sys.meta_path.insert(0, Finder)
"""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(("torch", name) for name in CODES),
        *(pytest.param(module, "SIGINT", marks=pytest.mark.slow) for module in ("omegaconf", "wandb")),
    ],
)
def test_a_signal_while_it_still_imports(module: str, name: str, tmp_path: Path) -> None:
    done = program(ON_IMPORT.format(name=module, signal=name), *FIT)
    code, ending = CODES[name]
    assert done.stderr == f"gtn: {ending} before the run began; nothing was kept\n"
    assert done.returncode == code
    assert not list(tmp_path.glob("runs"))


def test_nothing_heavy_is_imported_before_signals_are_handled() -> None:
    code = "import gtn_lightning.cli, sys; print(sorted({'torch', 'numpy', 'jsonargparse'} & set(sys.modules)))"
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.slow
def test_a_signal_after_the_run_ends_the_process_without_a_word() -> None:
    code = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT)"
    done = program(code, "recipes")
    assert done.stderr == ""
    assert done.returncode in (0, -signal.SIGINT)


# ------------------------------------------------------------------------------------------------- other processes


def test_a_forked_process_that_gets_the_signal_too_ends_without_a_word() -> None:
    with Signals():
        process = os.fork()
        if process == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_processes_that_cannot_be_told_to_end_are_refused(
    strategy: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--trainer.devices=2", f"--trainer.strategy={strategy}"]) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("gtn: error: trainer.strategy: ")
    assert said.endswith("use ddp")
    assert not list(tmp_path.glob("runs"))


def test_a_process_that_is_started_lives_until_it_can_handle_the_signal() -> None:
    code = "import signal; print('ready', flush=True); input(); print(len(signal.sigpending()))"
    with Signals() as signals:
        signals.block()
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        finally:
            signals.unblock()
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        said, _ = child.communicate("\n", timeout=60)
    assert (said, child.returncode) == ("1\n", 0)


def test_a_process_whose_main_process_ended_before_it_began_knows_that(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setenv(MAIN_PROCESS, str(ended.pid))
    assert not Signals().is_child
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Signals().is_child
    monkeypatch.setenv(MAIN_PROCESS, str(os.getpid()))  # a command that such a process runs is none of them
    assert not Signals().is_child


def test_a_signal_waits_until_it_may_be_raised() -> None:
    with Signals() as signals:
        signals.hold()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(InterruptedBySignal) as raised:
            signals.release()
    assert raised.value.code == 130


def test_another_handler_waits_too_and_is_not_cut() -> None:
    told: list[str] = []
    with Signals() as signals:

        def save(number: int, frame: object) -> None:
            told.append("began")
            signal.raise_signal(signal.SIGTERM)
            told.append("ended")

        handle = signals.whole(save)
        signals.hold()
        handle(signal.SIGUSR1, None)
        assert told == []
        with pytest.raises(InterruptedBySignal):
            signals.release()
    assert told == ["began", "ended"]
