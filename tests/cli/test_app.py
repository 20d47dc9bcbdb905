"""The command line: what it leaves, what it prints, and one line for everything that a user can get wrong."""

import csv
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from gtn_lightning import GTN
from gtn_lightning.cli import main
from gtn_lightning.learners import Fixed
from gtn_lightning.teacher_file import read_recipe
from tests import processes

TINY = [
    *("--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"),
    *("--model.evaluation.learners=2", "--model.inner_loop.steps=3", "--model.evaluation.real_rates=[0.1]"),
]
FIT = ["fit", "--config", "digits", *TINY]

LOGGED = {
    *("epoch", "step", "time/meta_step", "train/inner_loss", "train/meta_loss", "train/skipped"),
    *("val/accuracy", "val/accuracy_std", "val/accuracy_real", "val/accuracy_real_std", "val/loss"),
}
"""The documented names, on which users' scripts and sweeps rely."""

PARTS = """
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from gtn_lightning.tasks import Classification

class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)

class OnceNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, images):
        return OnceOnly.apply(self.linear(images.flatten(1)))

class ForgetfulTask(Classification):
    def __init__(self, sorts: int, shape: list[int]):
        super().__init__(sorts, shape=shape)

class Plain(pl.LightningDataModule):
    def loader(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(64, 1, 8, 8, generator=generator)
        return DataLoader(TensorDataset(images, torch.arange(64) % 10), batch_size=32)

    train_dataloader = val_dataloader = test_dataloader = loader

class Broken(pl.Callback):
    def on_train_batch_end(self, *arguments):
        raise ValueError("a bug")

class OutOfMemory(pl.Callback):
    def __init__(self, kind: str):
        self.kind = kind

    def on_train_batch_start(self, trainer, *arguments):
        if trainer.global_step == 3:
            if self.kind == "host":
                raise MemoryError
            if self.kind == "device":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a capacity of")
            torch.empty(2**46)

class Precise(pl.Callback):
    def on_train_end(self, *arguments):
        print(f"matrix products: {torch.get_float32_matmul_precision()}")

class InTheWay(pl.Callback):
    def setup(self, trainer, pl_module, stage):
        (Path(trainer.default_root_dir) / "recipe.yaml" / "a folder").mkdir(parents=True, exist_ok=True)

class Clumsy(nn.Module):
    def __init__(self):
        super().__init__()
        {}["missing"]

class Interrupting(pl.Callback):
    def setup(self, trainer, pl_module, stage):
        raise KeyboardInterrupt
"""


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gtn"])
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("GTN_TRACEBACK", raising=False)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "parts.py").write_text(PARTS)
    yield
    sys.modules.pop("parts", None)


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail in one line, without leaving anything behind, and return the line."""

    def run(arguments: list[str]) -> str:
        before = sorted(tmp_path.rglob("*"))
        capfd.readouterr()
        assert main(arguments) == 2
        printed = capfd.readouterr()
        (line,) = printed.err.splitlines()
        assert line.startswith("gtn: error: ")
        assert printed.out == ""
        assert [path for path in sorted(tmp_path.rglob("*")) if "runs/" in str(path)] == [
            path for path in before if "runs/" in str(path)
        ]
        return line.removeprefix("gtn: error: ")

    return run


def recipe(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "recipe.yaml").write_text(text)
    return ["--config", "recipe.yaml"]


# ------------------------------------------------------------------------------------------------ what goes wrong

LEARNER = "--model.learners.init_args.learner.init_args"
WRONG_KEYS = {
    "--nois=3": ["nois: there is no such key", "gtn fit --help"],
    "--trainer.max_step=3": ["trainer.max_step: there is no such key", "did you mean trainer.max_steps?"],
    "--model.inner_step=3": ["model.inner_step: there is no such key", "did you mean model.inner_loop.steps?"],
    "--model.teacher.init_args.nois=3": ["model.teacher.init_args.nois: Generator", "did you mean noise?"],
    f"{LEARNER}.widht=3": [f"{LEARNER[2:]}.widht: ConvNet", "did you mean width?"],
    f"{LEARNER}.color=3": [f"{LEARNER[2:]}.color: ConvNet", "give one of image_shape, classes"],
    "--model.outer_optimizer.init_args.lrr=3": ["model.outer_optimizer.init_args.lrr: Adam", "did you mean lr?"],
    "--data.init_args.batchsize=3": ["data.init_args.batchsize: DigitsData", "did you mean batch_size?"],
}
CALLBACKS = "--trainer.callbacks"
CSV_LOGGER = "--trainer.logger={class_path: gtn_lightning.loggers.CSVLogger"
WRONG_VALUES = {
    "--model.inner_loop.steps=ten": ["model.inner_loop.steps: expected int, got 'ten'"],
    "--model.evaluation.steps=[a]": ["model.evaluation.steps.0: expected int", "got 'a'"],
    "--trainer.max_steps=many": ["trainer.max_steps: expected int, got 'many'"],
    "--matmul_precision=fast": ["matmul_precision: expected", "highest", "high", "medium", "got 'fast'"],
    "--seed_everything=x": ["seed_everything: expected bool or int, got 'x'"],
    "--model.teacher.init_args.noise=lots": ["model.teacher.init_args.noise: expected int, got 'lots'"],
    f"{LEARNER}.width=wide": [f"{LEARNER[2:]}.width: expected int, got 'wide'"],
    "--model.teacher=Genrator": ["model.teacher: there is no class Genrator", "did you mean Generator?"],
    "--model.teacher=my_missing.Foo": ["model.teacher: No module named 'my_missing'", "PYTHONPATH"],
    "--model.teacher=gtn_lightning.tasks.Classification": ["model.teacher:", "Classification is not a Teacher"],
    "--model.curriculum=ShuffledPasses": ["model.curriculum.init_args: ShuffledPasses.images must be given"],
    "--model.task.init_args.classes=1": ["model.task.init_args: Classification: classes must be at least 2"],
    "--model.inner_loop.steps=0": ["model.inner_loop.steps must be at least 1, got 0"],
    "--model.curriculum.init_args.batch_size=4": [
        "model.curriculum.init_args: Full: batch_size must be at least 10",
        "got 4",
    ],
    "--model.teacher.init_args.image_shape=[1,2,2]": ["model.teacher.init_args: Generator: image_shape", "4 x 4"],
    "--model.inner_optimizer.init_args.lr=-1": ["model.inner_optimizer.init_args: SGD: lr must be above 0"],
    "--data.init_args.batch_size=0": ["data.batch_size must be at least 1, got 0"],
    "--data.init_args.rotate=-5": ["data.rotate must be at least 0 and finite, got -5.0"],
    "--model.outer_optimizer.init_args.lr=-1": [
        "model.outer_optimizer.init_args.lr: Adam: Invalid learning rate: -1.0"
    ],
    "--model.outer_optimizer.init_args.betas=[0.9,2]": ["model.outer_optimizer.init_args.betas: Adam: Invalid beta"],
    "--model.outer_optimizer.init_args.betas=2": ["model.outer_optimizer.init_args.betas: expected list, got '2'"],
    "--model.outer_lr_scheduler.init_args.T_max=0": [
        "model.outer_lr_scheduler.init_args.T_max must be at least 1; got 0"
    ],
    "--model.outer_lr_scheduler={class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 0}}": [
        "model.outer_lr_scheduler: StepLR: integer modulo by zero"
    ],
    "--trainer.precision=17": ["trainer.precision: expected 64 or 32 or 16 or ", " or bf16-true or ", "got '17'"],
    "--model.__path__=x": ["model.__path__: there is no such key"],
    "--trainer.callbacks+={class_path: Timer, init_args: {duration: '00:01:00:00'}}": [
        "<Interval.step: 'step'> by default",
        "as text",
    ],
    "--trainer.val_check_interval=0": ["trainer.val_check_interval must be above 0"],
    "--trainer.devices=0": ["trainer.devices must be at least 1, got 0"],
    "--trainer.devices=1000": ["trainer.devices must be at most ", "for every core; got 1000"],
    "--seed_everything=-3": ["seed_everything must lie between 0 and 4294967295; got -3"],
    "--config": ["--config: expected the name or the path of a recipe behind it"],
    "--trainer.accelerator=foo": ["accelerator='foo'", "cpu"],
    "--trainer.max_steps": ["trainer.max_steps: expected one argument"],
    "--model.teacher.init_args.hidden=4611686018427387904": [
        "model.teacher.init_args.hidden: Storage size",
        "overflow",
    ],
    "--model.teacher.init_args.hidden=2000000000": [
        "model.teacher.init_args.hidden: there is not so much memory",
        "byte",
    ],
    f"{LEARNER}.width=4611686018427387904": [f"{LEARNER[2:]}.width: Storage size calculation overflowed"],
    "--model.curriculum.init_args.batch_size=4611686018427387904": ["model.curriculum.init_args.batch_size: TypeError"],
    "--trainer.accumulate_grad_batches=0": ["trainer"],
    "--trainer.devices=[0,0]": ["trainer"],
    "--trainer.val_check_interval={a: 1}": ["trainer.val_check_interval: TypeError: 'a' is an invalid keyword"],
    "--trainer.default_root_dir=a\udcffb": ["command line: expected a text in UTF-8", "default_root_dir=a"],
    f"{CALLBACKS}=[{{class_path: ModelCheckpoint, init_args: {{filename: '{{epoch].nothing[x}}'}}}}]": [
        "trainer.callbacks.0.init_args.filename: expected placeholders such as {epoch} and {val/loss:.3f}, got",
    ],
    f"{CALLBACKS}=[{{class_path: TeacherCheckpoint, init_args: {{filename: '{{epoch:9999999999d}}'}}}}]": ["filename"],
    f"{CALLBACKS}=[{{class_path: TeacherCheckpoint, init_args: {{filename: '{{'}}}}]": ["filename"],
    f"{CSV_LOGGER}, init_args: {{save_dir: s, flush_logs_every_n_steps: 0}}}}": [
        "trainer.logger.init_args.flush_logs_every_n_steps must be at least 1, got 0"
    ],
    "--trainer.strategy={class_path: DDPStrategy, init_args: {process_group_backend: foo}}": [
        "trainer.strategy.init_args.process_group_backend: expected one of undefined, gloo, "
    ],
    "--weights_only=false": ["weights_only: expected true, got false"],
    "--ckpt_path=nul\0": ["command line: expected a text in UTF-8, without null bytes"],
    "--config=nope": ["--config nope: there is no such file", "digits_pixels"],
}


@pytest.mark.parametrize("argument", WRONG_KEYS | WRONG_VALUES)
def test_a_wrong_argument(argument: str, refused: Refused) -> None:
    line = refused([*FIT, argument])
    for text in (WRONG_KEYS | WRONG_VALUES)[argument]:
        assert text in line
    assert "subtypes" not in line  # the parser's own account of a union


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "modell: {inner_loop: {steps: 3}}",
            "modell: there is no such key; did you mean model?",
        ),
        ("trainer: {max_step: 3}", "trainer.max_step: there is no such key; did you mean trainer.max_steps?"),
        ("model: {teacher: {class_path: Generator, init_args: {nois: 3}}}", "model.teacher.init_args.nois: Generator"),
        (
            "trainer: {callbacks: [{class_path: SampleGird}]}",
            "trainer.callbacks.0: there is no class SampleGird; did you",
        ),
        (
            "trainer: {callbacks: [{class_path: SampleGrid, init_args: {column: 3}}]}",
            "trainer.callbacks.0.init_args.column: SampleGrid",
        ),
        ('model: {inner_loop: {steps: "${.nothing}"}}', "Interpolation key '.nothing' not found"),
        ("config: other.yaml", "recipe.yaml: config: a recipe names the one that it changes with extends"),
        ('trainer: {default_root_dir: "a\\0b"}', "expected a text in UTF-8, without null bytes"),
        ('trainer: {default_root_dir: "a\\uDCFFb"}', "UTF-8"),
        ("model: {evaluation: 3}", "model.evaluation: expected mapping, got 3"),
        ("model: {evaluation: []}", "model.evaluation: expected mapping, got []"),
        ("model: [1, 2", "recipe.yaml is not valid YAML"),
        ("just words", "recipe.yaml is no recipe"),
        ("extends: recipe.yaml", "recipe.yaml: extends: the recipe extends itself"),
        ("extends: nothing", "recipe.yaml: extends: nothing: there is no such file"),
    ],
)
def test_a_faulty_recipe(text: str, expected: str, tmp_path: Path, refused: Refused) -> None:
    head = "" if text.startswith(("extends", "model: [", "just")) else "extends: digits\n"
    assert expected in refused(["fit", *recipe(tmp_path, head + text)])


def test_a_recipe_without_a_model(tmp_path: Path, refused: Refused) -> None:
    line = refused(["fit", *recipe(tmp_path, "trainer: {max_steps: 3}")])
    assert line.startswith("data, model.teacher, model.curriculum, ")
    assert line.endswith("required and not given; add it to the recipe")


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_a_learner_that_does_not_match_the_labels(mode: str, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    line = refused([*FIT, f"{LEARNER}.classes=7"])
    assert "ConvNet" in line
    assert "10 classes" in line


def test_images_that_do_not_match_the_data(refused: Refused) -> None:
    assert "[1, 8, 8]" in refused([*FIT, "--model.teacher.init_args.image_shape=[1,12,12]"])


def test_pixels_that_do_not_match_the_inner_steps(refused: Refused) -> None:
    line = refused(["fit", "--config", "digits_pixels", "--model.teacher.init_args.images=160"])
    assert "has 160 samples but model.curriculum requests 320" in line


def test_a_dataset_that_is_not_there(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    line = refused(["fit", "--config", "mnist_cpu", "--data.init_args.path=./no_such_folder"])
    assert "data.path" in line
    assert "no_such_folder" in line


def test_an_operator_that_cannot_be_differentiated_twice(parts: None, tmp_path: Path, refused: Refused) -> None:
    learner = "{class_path: Fixed, init_args: {learner: {class_path: parts.OnceNet}}}"
    line = refused([*FIT, *recipe(tmp_path, f"model: {{learners: {learner}}}")])
    assert "OnceOnly" in line


def test_a_part_that_no_teacher_file_can_describe_is_refused_at_the_start(
    parts: None, tmp_path: Path, refused: Refused
) -> None:
    # Before the learner, which would fail at the first meta-step.
    text = "model: {task: {class_path: parts.ForgetfulTask, init_args: {sorts: 10}}, learners: {class_path: Fixed, "
    text += "init_args: {learner: {class_path: parts.OnceNet}}}}"
    line = refused([*FIT, *recipe(tmp_path, text)])
    assert line.startswith("ForgetfulTask does not store its argument 'sorts' under that name")
    assert "write self.sorts = sorts" in line


def test_a_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GTN_TRACEBACK", "1")
    assert main([*FIT, "--model.inner_loop.steps=0"]) == 2
    assert "Traceback" in capfd.readouterr().err


def test_a_bug_is_not_hidden(parts: None) -> None:
    with pytest.raises(ValueError, match="a bug"):
        main([*FIT, "--trainer.callbacks+=parts.Broken"])


def test_a_bug_in_the_making_of_ones_own_part_is_not_hidden(parts: None) -> None:
    with pytest.raises(KeyError, match="missing"):
        main([*FIT, "--model.learners.init_args.learner=parts.Clumsy"])


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("host", "MemoryError"),
        ("device", "tried to allocate 2.50 GiB"),
        ("cpu", "tried to allocate 281474976710656 bytes"),
    ],
)
def test_out_of_memory_says_what_needs_less_and_how_to_go_on(
    kind: str, wanted: str, parts: None, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--trainer.callbacks+=parts.OutOfMemory", f"--trainer.callbacks.kind={kind}"]
    assert main([*FIT, *options]) == 1
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("gtn: "))
    (last,) = tmp_path.glob("runs/digits/*/checkpoints/last.ckpt")
    assert line.startswith(
        "gtn: error: out of memory; less is needed with fewer model.inner_loop.steps, with model.inner_loop.segment"
    )
    assert f"({wanted}); {last.relative_to(tmp_path)} is kept, go on with: gtn fit" in line
    assert torch.load(last, weights_only=True)["global_step"] == 3


@pytest.mark.parametrize("policy", ["raise", "warn"])
def test_a_recipe_that_cannot_be_saved(
    policy: str, parts: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = f"{{class_path: TeacherCheckpoint, init_args: {{on_write_error: {policy}}}}}"
    text = f"extends: digits\ntrainer: {{callbacks: [{{class_path: parts.InTheWay}}, {kept}]}}\n"
    command = ["fit", *recipe(tmp_path, text), *TINY]
    if policy == "raise":
        assert main(command) == 2
        assert "gtn: error: cannot write runs/digits/" in capfd.readouterr().err
    else:
        with pytest.warns(UserWarning, match=r"recipe\.yaml is not written: cannot write "):
            assert main(command) == 0


@pytest.mark.parametrize("folder", ["/proc/runs", "file/runs"])
@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_a_folder_that_cannot_be_written(
    folder: str, mode: str, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    if folder.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    monkeypatch.setenv("WANDB_MODE", mode)
    (tmp_path / "file").touch()
    line = refused([*FIT, f"--trainer.default_root_dir={folder}"])
    assert folder.split("/")[-2] in line


def gtn_on_a_small_disk(*arguments: str) -> None:
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    processes.gtn(*arguments)


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    assert processes.finished(processes.start(gtn_on_a_small_disk, *FIT, folder=tmp_path)) == 2
    said = processes.said(tmp_path)
    assert "Traceback" not in said
    (line,) = (line for line in said.splitlines() if line.startswith("gtn: error: "))
    assert "cannot write" in line
    assert "space" in line
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_ctrl_c_keeps_the_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    endless = [*FIT, "--trainer.max_steps=100000", "--trainer.val_check_interval=20"]
    process = processes.start_gtn(*endless, folder=tmp_path)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("runs/digits/*/checkpoints/last.ckpt")):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert processes.finished(process) == 130
    said = processes.said(tmp_path)
    assert "Traceback" not in said
    (kept,) = tmp_path.glob("runs/digits/*/checkpoints/last.ckpt")
    assert f"--ckpt_path {kept.relative_to(tmp_path)}" in said.splitlines()[-1]
    done = torch.load(kept, weights_only=True)["global_step"]
    assert done >= 20

    assert main([*FIT, f"--trainer.max_steps={done + 1}", "--ckpt_path", "last"]) == 0
    newest = max(tmp_path.glob("runs/digits/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    assert newest != kept
    assert torch.load(newest, weights_only=True)["global_step"] == done + 1


def test_ctrl_c_before_the_first_meta_step_leaves_nothing(
    parts: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--trainer.callbacks+=parts.Interrupting"]) == 130
    assert capfd.readouterr().err.splitlines()[-1] == "gtn: interrupted; nothing was kept"
    assert not list(tmp_path.glob("runs"))


# --------------------------------------------------------------------------------------------- what a run leaves


@dataclass
class Run:
    """A finished ``gtn fit``."""

    folder: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("fit")
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(root)
        patch.setattr("sys.argv", ["gtn"])
        patch.setenv("WANDB_MODE", "offline")
        assert main([*FIT, "--trainer.logger+=gtn_lightning.loggers.TensorBoardLogger"]) == 0
    return Run(root / out.getvalue().splitlines()[-1].removeprefix("run folder: "), out.getvalue(), err.getvalue())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_run_folder_holds_everything(run: Run) -> None:
    files = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*")}
    assert {"recipe.yaml", "metrics.csv", "teacher.safetensors", "checkpoints/last.ckpt"} <= files
    assert {"pictures/samples.png", "pictures/learning_curve.png"} <= files
    assert any(name.startswith("tensorboard/events") for name in files)
    (wandb,) = (path for path in run.folder.glob("wandb/offline-run-*/*.wandb"))
    written = (b"inner_loop", b"val/accuracy", b"class_path", f"digits {run.folder.name}".encode())
    assert all(name in wandb.read_bytes() for name in written)


def test_the_log_ends_with_the_run_folder_and_holds_no_noise(run: Run) -> None:
    assert run.out.splitlines()[-1].startswith("run folder: runs/digits/")
    assert "wandb leet" in run.out
    assert [line for line in run.err.splitlines() if "val_check_interval=1" not in line] == []


def test_logged_names_are_the_documented_ones(run: Run) -> None:
    logged = rows(run.folder / "metrics.csv")
    assert set(logged[0]) == LOGGED
    assert sum(bool(row["val/accuracy"]) for row in logged) == 2


def test_the_saved_recipe_runs_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    saved = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert saved["model"]["curriculum"]["init_args"]["steps"] == 3
    assert main(["fit", "--config", str(run.folder / "recipe.yaml"), "--trainer.max_steps=1"]) == 0


def test_test_by_teacher_file_and_by_checkpoint_agree(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(run.folder / "teacher.safetensors")
    (best,) = run.folder.glob("checkpoints/best-*.ckpt")
    found = []
    for arguments in (["--teacher", teacher], ["--config", "digits", *TINY, "--ckpt_path", str(best)]):
        assert main(["test", *arguments, "--model.evaluation.real_rates=[0.1]"]) == 0
        folder = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("run folder: "))
        (row,) = rows(folder / "metrics.csv")
        found.append({name: value for name, value in row.items() if name.startswith("test/")})
    assert found[0] == found[1]
    assert {"test/accuracy", "test/accuracy_std", "test/accuracy_real", "test/loss"} <= set(found[0])


def test_an_override_stands_above_the_recipe_in_a_teacher_file(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(run.folder / "teacher.safetensors")
    assert main(["validate", "--teacher", teacher, "--model.evaluation.learners=1"]) == 0
    (folder,) = (run.folder / "validate").iterdir()
    assert rows(folder / "metrics.csv")[0]["val/accuracy_std"] == "0.0"


def test_predict_writes_the_synthetic_data_and_nothing_else(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["predict", "--teacher", str(run.folder / "teacher.safetensors"), "--trainer.enable_progress_bar=false"])
        == 0
    )
    assert capfd.readouterr().err == ""
    (written,) = run.folder.glob("predict/*/synthetic.safetensors")
    with safe_open(written, framework="pt") as file:
        assert file.get_slice("inputs").get_shape() == [3, 32, 1, 8, 8]


def test_predict_with_a_data_module_that_has_no_loader_for_it(parts: None, tmp_path: Path) -> None:
    assert main(["predict", "--config", "digits", *TINY, "--data=parts.Plain"]) == 0
    assert list(tmp_path.glob("runs/digits/*/synthetic.safetensors"))


def test_fit_starts_from_a_teacher_file(run: Run, tmp_path: Path) -> None:
    teacher = run.folder / "teacher.safetensors"
    assert main([*FIT, "--teacher", str(teacher), "--trainer.max_steps=1", "--trainer.val_check_interval=1"]) == 0
    before = GTN.from_teacher(teacher).state_dict()
    (after,) = tmp_path.glob("runs/digits/*/teacher.safetensors")
    moved = [(GTN.from_teacher(after).state_dict()[name] - value).abs().max() for name, value in before.items()]
    assert max(moved) < 0.05  # one step away, not a fresh draw


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_true_precision(precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Without a curriculum, the noise too is drawn anew, in the precision of the teacher.
    option = f"--trainer.precision={precision}"
    assert main(["fit", "--config", "digits_no_curriculum", *TINY, option]) == 0
    (teacher,) = tmp_path.glob("runs/*/*/teacher.safetensors")
    expected = torch.float64 if precision == "64-true" else torch.bfloat16
    with safe_open(teacher, framework="pt") as file:
        assert file.get_tensor("inner_optimizer.logs.lr").dtype == expected
    for command in ("test", "predict"):
        assert main([command, "--teacher", str(teacher), option]) == 0
    (scores,) = teacher.parent.glob("test/*/metrics.csv")
    assert 0 < float(rows(scores)[0]["test/accuracy"]) < 1
    (written,) = teacher.parent.glob("predict/*/synthetic.safetensors")
    with safe_open(written, framework="pt") as file:
        assert file.get_tensor("inputs").dtype == torch.float32


def test_matrix_products_have_the_precision_of_the_recipe_until_the_run_ends(
    parts: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_float32_matmul_precision()
    options = ["--trainer.limit_val_batches=0", "--trainer.callbacks+=parts.Precise"]
    assert main([*FIT, *options, "--matmul_precision=medium"]) == 0
    assert "matrix products: medium" in capsys.readouterr().out
    assert torch.get_float32_matmul_precision() == before != "medium"


KINDS = """
import enum
from collections.abc import Callable
from pathlib import Path
import torch
from torch import nn

class Kind(enum.Enum):
    A = "a"
    B = "b"

class Typed(nn.Module):
    def __init__(self, kind: Kind, shape: tuple[int, ...], path: Path, dtype: torch.dtype, norm: type[nn.Module],
                 make: Callable[[int], nn.Module], scale: float, text: str, picks: set[int]):
        super().__init__()
        assert (kind, shape, path, dtype, norm) == (Kind.B, (1, 2), Path("a"), torch.float64, nn.GELU), locals()
        assert (scale, text, picks) == (float("inf"), "no", {1, 2}), locals()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), make(16), norm(), nn.Linear(16, 10))

    def forward(self, images):
        return self.layers(images)

class Untyped(nn.Module):
    def __init__(self, path=None):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images):
        return self.layer(images.flatten(1))
"""


def test_arguments_of_many_kinds_come_back_from_a_teacher_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    (tmp_path / "kinds.py").write_text(KINDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = """model: {learners: {class_path: Fixed, init_args: {learner: {class_path: kinds.Typed, init_args: {
        kind: B, shape: [1, 2], path: a, dtype: torch.float64, norm: torch.nn.GELU, scale: .inf, text: "no",
        picks: [1, 2], make: {class_path: torch.nn.BatchNorm1d, init_args: {track_running_stats: false}}}}}}}"""
    assert main([*FIT, *recipe(tmp_path, text), "--trainer.max_steps=1", "--trainer.val_check_interval=1"]) == 0
    (teacher,) = tmp_path.glob("runs/digits/*/teacher.safetensors")
    GTN.from_teacher(teacher).learners.sample(torch.Generator())
    assert main(["test", "--teacher", str(teacher)]) == 0
    # Where no annotation says what the parser has to make of a text, it is not taken for what the file holds.
    gtn = GTN.from_teacher(teacher)
    gtn.learners = Fixed(partial(sys.modules["kinds"].Untyped, path=Path("a")))
    gtn.save_teacher(tmp_path / "untyped.safetensors", read_recipe(teacher).data)
    line = refused(["test", "--teacher", "untyped.safetensors"])
    assert "model.learners.init_args.learner.init_args.path is of another kind in the file" in line
    assert "annotate the argument with its type" in line
    sys.modules.pop("kinds")


def test_a_checkpoint_of_another_outer_optimizer(run: Run, refused: Refused) -> None:
    last = str(run.folder / "checkpoints" / "last.ckpt")
    other = ["--model.outer_optimizer=torch.optim.SGD", "--model.outer_optimizer.init_args.lr=0.5"]
    line = refused([*FIT, *other, "--ckpt_path", last])
    assert line.startswith("model.outer_optimizer must be torch.optim.adam.Adam, whose state the checkpoint holds; got")
    assert "--teacher in place of --ckpt_path" in line
    assert main(["test", "--config", "digits", *TINY, *other, "--ckpt_path", last]) == 0


def test_options_of_a_part_in_a_recipe(tmp_path: Path, refused: Refused) -> None:
    options = ["--model.outer_groups={inner_optimizer: {lr: 1e-3}}", "--trainer.max_steps=1"]
    assert main([*FIT, *options]) == 0
    (last,) = tmp_path.glob("runs/digits/*/checkpoints/last.ckpt")
    (state,) = torch.load(last, weights_only=True)["optimizer_states"]
    rates = {group["name"]: group["initial_lr"] for group in state["param_groups"]}
    assert rates["inner_optimizer"] == 1e-3 < rates["teacher"]
    line = refused([*FIT, "--model.outer_groups={optimizer: {lr: 1e-3}}"])
    assert line.startswith(
        "model.outer_groups.optimizer: there is nothing of that name to meta-learn; name one of teac"
    )


class Bomb:
    """What a pickle may do when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    "kind", ["missing", "truncated", "empty", "foreign", "no checkpoint", "other", "teacher", "bomb"]
)
def test_a_checkpoint_that_cannot_be_used(kind: str, run: Run, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "wrong.ckpt"
    content = (run.folder / "checkpoints" / "last.ckpt").read_bytes()
    match kind:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.touch()
        case "foreign":
            path.write_text("name: not a checkpoint")
        case "no checkpoint":
            torch.save({"weights": torch.zeros(3)}, path)
        case "teacher":
            path = run.folder / "teacher.safetensors"
        case "bomb":
            torch.save(torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True) | {"more": Bomb()}, path)
        case "other":
            path.write_bytes(content)
    more = ["--model.teacher.init_args.hidden=100"] if kind == "other" else []
    line = refused([*FIT, *more, "--ckpt_path", str(path)])
    assert str(path) in line
    if kind == "other":
        assert "another architecture: teacher." in line
    assert not Path("exploded").exists()


@pytest.mark.parametrize("kind", ["missing", "truncated", "other"])
def test_a_teacher_file_that_cannot_be_used(kind: str, run: Run, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "wrong.safetensors"
    content = (run.folder / "teacher.safetensors").read_bytes()
    if kind != "missing":
        path.write_bytes(content[: len(content) // (2 if kind == "truncated" else 1)])
    more = ["--model.teacher.init_args.hidden=100"] if kind == "other" else []
    assert str(path) in refused(["test", "--teacher", str(path), *more])


def test_last_without_a_checkpoint(refused: Refused) -> None:
    assert "--ckpt_path last: there is no checkpoint under runs/digits" in refused([*FIT, "--ckpt_path", "last"])


# ------------------------------------------------------------------------------------------- recipes and overrides


def printed_config(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--print_config"])
    assert stop.value.code in (0, None)
    content: dict[str, dict[str, object]] = yaml.safe_load(capsys.readouterr().out)
    return content


def test_a_requeued_slurm_job_finds_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert main(FIT) == 0
    (folder,) = tmp_path.glob("runs/digits/*")
    assert folder.name.startswith("slurm-17-")
    # As Lightning saves when the job is told that it will be requeued.
    (folder / "checkpoints" / "last.ckpt").rename(folder / "hpc_ckpt_1.ckpt")
    for name, value in {
        "RESTART_COUNT": "1",
        "JOB_NAME": "fit",
        "NTASKS": "1",
        "NNODES": "1",
        "PROCID": "0",
        "LOCALID": "0",
        "NODEID": "0",
        "NODELIST": "localhost",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert main([*FIT, "--trainer.max_steps=6"]) == 0
    assert list(tmp_path.glob("runs/digits/*")) == [folder]
    steps = [int(row["step"]) for row in rows(folder / "metrics.csv") if row["time/meta_step"]]
    assert steps == [0, 1, 2, 3, 4, 5]  # it went on where it had been
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_several_configs_stand_above_each_other_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "more.yaml").write_text("model: {evaluation: {learners: 3}}\ntrainer: {max_steps: 7}\n")
    found = printed_config(capsys, "fit", "--config=digits", "-c", "more.yaml", "--trainer.max_steps=9")
    assert found["model"]["evaluation"]["learners"] == 3
    assert found["trainer"]["max_steps"] == 9


def test_an_override_wins_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed_config(capsys, "fit", "--trainer.max_steps=9", "--config", "digits", "--model.inner_loop.steps=3")
    assert (found["trainer"]["max_steps"], found["model"]["inner_loop"]["steps"]) == (9, 3)


def test_a_recipe_extends_another_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "first.yaml").write_text(
        "extends: digits\nmodel: {evaluation: {learners: 3}, inner_loop: {steps: 6}}\n"
    )
    (tmp_path / "second.yaml").write_text("extends: first.yaml\nmodel: {evaluation: {learners: 4}}\n")
    found = printed_config(capsys, "fit", "--config", "second.yaml")
    assert (found["model"]["evaluation"]["learners"], found["model"]["inner_loop"]["steps"]) == (4, 6)


@pytest.mark.parametrize(
    ("option", "environment", "expected"),
    [([], None, 1), ([], "2", 3), (["--threads=2"], None, 2), (["--threads", "2"], "1", 2)],
)
def test_one_thread_unless_told_otherwise(
    option: list[str], environment: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # what torch itself has made of the environment
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    try:
        assert main(["fit", "--config", "digits", *option, "--model.seed=-1"]) == 2
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_a_metric_that_nobody_logs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stopping = "--trainer.callbacks+={class_path: EarlyStopping, init_args: {monitor: val/acuracy}}"
    assert main([*FIT, stopping]) == 2
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("gtn: "))
    assert line.startswith("gtn: error: trainer.callbacks: Early stopping conditioned on metric `val/acuracy`")
