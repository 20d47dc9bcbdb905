"""Checkpoints: which are kept, that none is ever half written, and that a run goes on from them."""

import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging

from gtn_lightning import GTN
from gtn_lightning.callbacks import TeacherCheckpoint
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.meta_training.recovery import Recovery
from gtn_lightning.teacher_file import read_recipe


class Scripted(GTN):
    """A GTN whose validations have the accuracies that a test wants."""

    scores: Iterator[float]

    def on_validation_epoch_start(self) -> None:
        pass

    def validation_step(self, batch, batch_idx) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", next(self.scores))


class Raise(pl.Callback):
    """Raises an error after a meta-step."""

    def __init__(self, step: int, error: type[BaseException]) -> None:
        self.step = step
        self.error = error

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise self.error


@pytest.fixture
def scripted(make_gtn):
    def make(*scores: float) -> GTN:
        gtn = make_gtn(Scripted)
        gtn.scores = iter(scores)
        return gtn

    return make


@pytest.fixture
def data() -> DigitsData:
    return DigitsData(batch_size=64)


@pytest.fixture
def interrupt_handler() -> Iterator[None]:
    """Undo what Lightning does to Ctrl-C for the rest of the process."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def teacher_pixels(folder: Path) -> torch.Tensor:
    return GTN.from_teacher(folder / "teacher.safetensors").teacher.pixels.detach()


def test_the_best_and_the_last_are_kept(scripted, make_trainer, data, tmp_path):
    gtn = scripted(0.3, 0.5, 0.4)
    trainer = make_trainer([TeacherCheckpoint()], max_steps=3, val_check_interval=1)
    trainer.fit(gtn, data)
    assert names(tmp_path) == ["checkpoints", "teacher.safetensors"]
    assert names(tmp_path / "checkpoints") == ["best-2.ckpt", "last.ckpt"]
    best, last = load(tmp_path / "checkpoints/best-2.ckpt"), load(tmp_path / "checkpoints/last.ckpt")
    assert (best["global_step"], last["global_step"]) == (2, 3)
    torch.testing.assert_close(teacher_pixels(tmp_path), best["state_dict"]["teacher.free_inputs"], rtol=0, atol=0)
    assert not torch.equal(teacher_pixels(tmp_path), last["state_dict"]["teacher.free_inputs"])


def test_the_last_meta_steps_are_kept_without_a_validation(scripted, make_trainer, data, tmp_path):
    trainer = make_trainer([TeacherCheckpoint()], max_steps=5, val_check_interval=3)
    trainer.fit(scripted(0.3), data)
    assert load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 5
    assert names(tmp_path / "checkpoints") == ["best-3.ckpt", "last.ckpt"]


def test_less_may_be_better(scripted, make_trainer, data, tmp_path):
    trainer = make_trainer([TeacherCheckpoint(mode="min")], max_steps=2, val_check_interval=1)
    trainer.fit(scripted(0.3, 0.5), data)
    assert names(tmp_path / "checkpoints") == ["best-1.ckpt", "last.ckpt"]


def test_keeping_none_is_refused():
    with pytest.raises(RecipeError, match="save_top_k"):
        TeacherCheckpoint(save_top_k=0)


def test_the_teacher_file_tells_its_data(scripted, make_trainer, data, tmp_path):
    make_trainer([TeacherCheckpoint()], max_steps=1, val_check_interval=1).fit(scripted(0.3), data)
    assert read_recipe(tmp_path / "teacher.safetensors").data["init_args"]["batch_size"] == 64


class FileData(DigitsData):
    def __init__(self, file: str) -> None:
        super().__init__(batch_size=64)


def test_data_that_the_teacher_file_cannot_name_are_spoken_of(scripted, make_trainer, tmp_path):
    trainer = make_trainer([TeacherCheckpoint()], max_steps=1, val_check_interval=1)
    with pytest.warns(UserWarning, match="the teacher file will not name its data.*FileData does not store its arg"):
        trainer.fit(scripted(0.3), FileData("digits.npz"))
    assert read_recipe(tmp_path / "teacher.safetensors").data is None


@pytest.mark.parametrize("move", ["same folder", "renamed folder", "new folder"])
def test_resuming_keeps_the_best_score(scripted, make_trainer, data, tmp_path, move):
    first = tmp_path / "first"
    make_trainer([TeacherCheckpoint()], max_steps=2, val_check_interval=1, default_root_dir=first).fit(
        scripted(0.5, 0.4), data
    )
    best = teacher_pixels(first)
    second = first if move == "same folder" else tmp_path / "second"
    if move == "renamed folder":
        first = first.rename(second)
    # 0.45 is better than the last score but no record; the record comes one meta-step later.
    for until, score, record in ((3, 0.45, False), (4, 0.6, True)):
        folder = first if until == 3 else second
        make_trainer([TeacherCheckpoint()], max_steps=until, val_check_interval=1, default_root_dir=second).fit(
            scripted(score), data, ckpt_path=folder / "checkpoints/last.ckpt"
        )
        assert torch.equal(teacher_pixels(second), best) is not record
    assert names(second / "checkpoints") == ["best-4.ckpt", "last.ckpt"]
    assert load(second / "checkpoints/last.ckpt")["global_step"] == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_loses_no_meta_step(scripted, make_trainer, data, tmp_path, error, interrupt_handler):
    trainer = make_trainer([TeacherCheckpoint(), Raise(5, error)], max_steps=8)
    with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
        trainer.fit(scripted(0.3, 0.2), data)
    assert names(tmp_path / "checkpoints") == ["best-3.ckpt", "last.ckpt"]
    last = load(tmp_path / "checkpoints/last.ckpt")
    assert last["global_step"] == 5


def test_an_interrupted_run_resumes_as_if_nothing_had_happened(make_gtn, make_trainer, data, tmp_path):
    options = {"max_steps": 6, "val_check_interval": 2}
    whole = make_gtn()
    make_trainer([], **options).fit(whole, data)
    with pytest.raises(RuntimeError):
        make_trainer([TeacherCheckpoint(), Raise(3, RuntimeError)], **options).fit(
            make_gtn(), DigitsData(batch_size=64)
        )
    resumed = make_gtn()
    make_trainer([TeacherCheckpoint()], **options).fit(
        resumed, DigitsData(batch_size=64), ckpt_path=tmp_path / "checkpoints/last.ckpt"
    )
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_failed_start_touches_no_checkpoint(make_gtn, make_trainer, data, tmp_path):
    make_trainer([TeacherCheckpoint()], max_steps=2, val_check_interval=1).fit(make_gtn(), data)
    last = tmp_path / "checkpoints/last.ckpt"
    before = last.read_bytes()

    class Other(GTN):
        def configure_optimizers(self):
            return torch.optim.Adam([{"params": [parameter]} for parameter in self.parameters()])

    # The optimizer's state does not fit; by then the meta-step counter has been restored already.
    with pytest.raises(ValueError, match="parameter groups"):
        make_trainer([TeacherCheckpoint()], max_steps=4).fit(make_gtn(Other), data, ckpt_path=last)
    assert last.read_bytes() == before


def test_a_write_that_fails_is_no_record(scripted, make_trainer, data, tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def write_half(self: Path, content) -> int:
        if not self.name.startswith(".best-2"):
            return write_bytes(self, content)
        write_bytes(self, bytes(content)[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    trainer = make_trainer([TeacherCheckpoint()], max_steps=3, val_check_interval=1)
    with pytest.raises(RecipeError, match=r"cannot write .*best-2\.ckpt: No space left on device"):
        trainer.fit(scripted(0.3, 0.5, 0.4), data)
    # There was room for the last state, and it knows that the record stands at 0.3.
    assert names(tmp_path / "checkpoints") == ["best-1.ckpt", "last.ckpt"]
    last = load(tmp_path / "checkpoints/last.ckpt")
    assert last["global_step"] == 2
    (state,) = [state for name, state in last["callbacks"].items() if name.startswith("TeacherCheckpoint")]
    assert float(state["best_model_score"]) == pytest.approx(0.3)
    assert Path(state["best_model_path"]).name == "best-1.ckpt"


class FillDisk(pl.Callback):
    """From the fourth meta-step on, lets no file grow beyond half of what a checkpoint needs."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == 4:
            size = (Path(trainer.default_root_dir) / "checkpoints/last.ckpt").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_earlier_files_whole(make_gtn, make_trainer, data, tmp_path, file_size_limit):
    trainer = make_trainer([TeacherCheckpoint(save_top_k=-1), FillDisk()])
    with (
        pytest.warns(UserWarning, match="meta-step 6 is lost"),
        pytest.raises(RecipeError, match=r"cannot write .*best-6\.ckpt: File too large"),
    ):
        trainer.fit(make_gtn(evaluation={"learners": 1}), data)
    assert names(tmp_path) == ["checkpoints", "teacher.safetensors"]
    assert names(tmp_path / "checkpoints") == ["best-3.ckpt", "last.ckpt"]
    for name in names(tmp_path / "checkpoints"):
        assert load(tmp_path / "checkpoints" / name)["global_step"] == 3
    GTN.from_teacher(tmp_path / "teacher.safetensors")


def test_a_run_may_go_on_where_nothing_can_be_written(make_gtn, make_trainer, data, tmp_path, file_size_limit):
    trainer = make_trainer([TeacherCheckpoint(save_top_k=-1, on_write_error="warn"), FillDisk()])
    with pytest.warns(UserWarning, match=r"meta-step 6 is not saved: cannot write .*best-6\.ckpt: File too large"):
        trainer.fit(make_gtn(evaluation={"learners": 1}), data)
    assert trainer.global_step == trainer.max_steps
    assert names(tmp_path / "checkpoints") == ["best-3.ckpt", "last.ckpt"]
    for name in names(tmp_path / "checkpoints"):
        assert load(tmp_path / "checkpoints" / name)["global_step"] == 3


class Swaps(pl.Callback):
    """Averages the weights as a user might, and puts the average in place for the whole of a validation."""

    def setup(self, trainer, pl_module, stage) -> None:
        self.average = [parameter.detach().clone() for parameter in pl_module.parameters()]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        for average, parameter in zip(self.average, pl_module.parameters(), strict=True):
            average.lerp_(parameter.detach(), 0.3)

    def swap(self, trainer, pl_module) -> None:
        for average, parameter in zip(self.average, pl_module.parameters(), strict=True):
            average.data, parameter.data = parameter.data, average.data

    on_validation_start = on_validation_end = swap


class SwapsLater(Swaps):
    """The same, as Lightning's callbacks do."""

    def on_validation_start(self, trainer, pl_module) -> None:
        pass

    on_validation_end = on_validation_start
    on_validation_epoch_start = on_validation_epoch_end = Swaps.swap


class Scored(pl.Callback):
    """Keeps the pixels that every validation scored."""

    def __init__(self, fails: int | None = None) -> None:
        self.pixels: list[torch.Tensor] = []
        self.fails = fails

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx == 0:
            self.pixels.append(pl_module.teacher.pixels.detach().clone())
        if trainer.global_step == self.fails:
            raise RuntimeError("in the middle of a validation")


def averaging() -> pl.Callback:
    return EMAWeightAveraging(decay=0.7)


@pytest.mark.parametrize(
    "callbacks",
    [
        lambda: [averaging(), TeacherCheckpoint()],
        lambda: [TeacherCheckpoint(), averaging()],
        lambda: [WeightAveraging(), TeacherCheckpoint()],
        lambda: [Swaps(), TeacherCheckpoint()],
        lambda: [TeacherCheckpoint(), Swaps()],
        lambda: [StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=1), TeacherCheckpoint()],
    ],
    ids=["EMA first", "EMA last", "SWA", "own first", "own last", "SWA of epochs"],
)
def test_the_teacher_file_is_the_teacher_that_was_scored(callbacks, make_gtn, make_trainer, data, tmp_path):
    scored = Scored()
    trainer = make_trainer([*callbacks(), scored], max_steps=5, val_check_interval=2)
    trainer.fit(make_gtn(), data)
    best = int(Path(trainer.checkpoint_callback.best_model_path).stem.removeprefix("best-"))
    assert len(scored.pixels) == 3  # the last after the last meta-step
    assert torch.equal(teacher_pixels(tmp_path), scored.pixels[best // 2 - 1])
    again = make_trainer([]).validate(GTN.from_teacher(tmp_path / "teacher.safetensors"), data, verbose=False)[0]
    assert again["val/accuracy"] == float(trainer.checkpoint_callback.best_model_score)


@pytest.mark.parametrize("ended", [True, False], ids=["between two validations", "in the middle of one"])
def test_a_run_that_averages_goes_on_from_its_own_weights(ended, make_gtn, make_trainer, tmp_path):
    last = tmp_path / "checkpoints/last.ckpt"

    def run(*callbacks: pl.Callback, steps: int, resume: Path | None = None) -> None:
        trainer = make_trainer([TeacherCheckpoint(), *callbacks], max_steps=steps, val_check_interval=2)
        trainer.fit(make_gtn(inner_loop={"mode": "remat"}), DigitsData(batch_size=64), ckpt_path=resume)

    run(averaging(), steps=7)
    whole = load(last)
    if ended:
        run(averaging(), steps=5)
    else:
        with pytest.raises(RuntimeError, match="in the middle"):
            run(averaging(), Scored(fails=4), steps=7)
    assert load(last)["global_step"] == 5 if ended else 4
    run(averaging(), steps=7, resume=last)
    resumed = load(last)
    for state in ("state_dict", "current_model_state"):
        assert all(torch.equal(tensor, resumed[state][name]) for name, tensor in whole[state].items()), state
    assert not torch.equal(
        whole["state_dict"]["teacher.free_inputs"], whole["current_model_state"]["teacher.free_inputs"]
    )


class Trained(pl.Callback):
    """Keeps the pixels after the last meta-step."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.pixels = pl_module.teacher.pixels.detach().clone()


def test_a_run_that_breaks_off_in_a_validation_keeps_its_own_weights(make_gtn, make_trainer, data, tmp_path):
    trained = Trained()
    trainer = make_trainer([trained, SwapsLater(), Scored(fails=4), TeacherCheckpoint()], val_check_interval=2)
    with pytest.raises(RuntimeError, match="in the middle"):
        trainer.fit(make_gtn(), data)
    state = load(tmp_path / "checkpoints/last.ckpt")
    assert state["global_step"] == 4
    assert torch.equal(state["state_dict"]["teacher.free_inputs"], trained.pixels)


class Spoils(pl.Callback):
    """Makes the gradient of two meta-steps infinite, and keeps the pixels before each."""

    def __init__(self) -> None:
        self.before: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.before.append(pl_module.teacher.pixels.detach().clone())

    def on_after_backward(self, trainer, pl_module) -> None:
        if trainer.global_step in (3, 4):
            pl_module.teacher.pixels.grad[0] = float("inf")


def test_a_return_leads_to_trained_weights_and_not_to_their_average(make_gtn, make_trainer, data):
    spoils = Spoils()
    trainer = make_trainer([averaging(), spoils, TeacherCheckpoint()], max_steps=6, val_check_interval=2)
    with pytest.warns(UserWarning, match="back to meta-step 2"):
        trainer.fit(make_gtn(recovery=Recovery(max_consecutive_skips=2)), data)
    assert torch.equal(spoils.before[5], spoils.before[2])
