"""Files that cannot be written: the run stops or goes on, as its TeacherCheckpoint says."""

from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger as LightningsCSVLogger
from pytorch_lightning.loggers import TensorBoardLogger

from gtn_lightning.callbacks import LearningCurve, SampleGrid, SyntheticData, TeacherCheckpoint
from gtn_lightning.callbacks.writing import unless_unwritable
from gtn_lightning.data import DigitsData
from gtn_lightning.files import UnwritableError
from gtn_lightning.loggers import CSVLogger

WRITTEN = {
    "pictures/samples.png": SampleGrid,
    "pictures/learning_curve.png": LearningCurve,
    "learning_curve.csv": LearningCurve,
    "synthetic.safetensors": SyntheticData,
}
"""Files of a run, and the callbacks that write them."""


def block(folder: Path, name: str) -> None:
    """Put a folder where a file belongs, which nobody can write to, not even root."""
    (folder / name / "in the way").mkdir(parents=True)


@pytest.fixture
def data() -> DigitsData:
    return DigitsData(batch_size=64)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_run_stops(name, make_gtn, make_trainer, data, tmp_path):
    block(tmp_path, name)
    trainer = make_trainer([TeacherCheckpoint(), WRITTEN[name]()])
    run = trainer.predict if WRITTEN[name] is SyntheticData else partial(trainer.fit, datamodule=data)
    with pytest.raises(UnwritableError, match=f"cannot write .*{name}"):
        run(make_gtn())


@pytest.mark.parametrize("name", WRITTEN)
def test_a_run_goes_on_with_one_warning(name, make_gtn, make_trainer, data, tmp_path, recwarn):
    block(tmp_path, name)
    trainer = make_trainer([TeacherCheckpoint(on_write_error="warn"), WRITTEN[name]()])
    trainer.fit(make_gtn(), data)
    trainer.predict(make_gtn())
    assert trainer.global_step == trainer.max_steps
    said = [str(warning.message) for warning in recwarn if "is not written" in str(warning.message)]
    assert len(said) == 1
    assert said[0].startswith(f"{name} is not written: cannot write ")
    assert "\n" not in said[0]
    assert (tmp_path / "teacher.safetensors").is_file()


@pytest.mark.parametrize("name", ["teacher.safetensors", "checkpoints/last.ckpt"])
def test_checkpoints_are_warned_of_once_each(name, make_gtn, make_trainer, data, tmp_path, recwarn):
    block(tmp_path, name)
    trainer = make_trainer([TeacherCheckpoint(on_write_error="warn", save_top_k=-1)], val_check_interval=2)
    trainer.fit(make_gtn(), data)
    said = [str(warning.message) for warning in recwarn if "is not saved" in str(warning.message)]
    assert len(said) == 1
    assert said[0].startswith("meta-step 2 is not saved: cannot write ")
    assert name in said[0]


@pytest.mark.parametrize("make_logger", [CSVLogger, LightningsCSVLogger])
def test_loggers_go_on(make_logger, make_gtn, make_trainer, data, tmp_path, recwarn):
    block(tmp_path, "metrics.csv")
    logger = make_logger(str(tmp_path), name="", version="", flush_logs_every_n_steps=1)
    trainer = make_trainer([TeacherCheckpoint(on_write_error="warn")], logger=logger)
    trainer.fit(make_gtn(), data)
    assert trainer.global_step == trainer.max_steps
    said = [str(warning.message) for warning in recwarn if "is not written" in str(warning.message)]
    assert len(said) == 1
    assert said[0].startswith("the log of CSVLogger is not written")


def test_a_logger_that_wraps_the_systems_error_goes_on(make_gtn, make_trainer, data, tmp_path, recwarn):
    class Full(TensorBoardLogger):
        def log_metrics(self, metrics, step=None) -> None:
            try:
                raise OSError(28, "No space left on device")
            except OSError as error:
                raise ValueError("what was logged is not supported") from error

    trainer = make_trainer([TeacherCheckpoint(on_write_error="warn")], logger=Full(str(tmp_path)))
    trainer.fit(make_gtn(), data)
    assert trainer.global_step == trainer.max_steps
    assert sum("the log of Full is not written: [Errno 28]" in str(warning.message) for warning in recwarn) == 1


def test_loggers_stop(make_gtn, make_trainer, data, tmp_path):
    block(tmp_path, "metrics.csv")
    trainer = make_trainer([TeacherCheckpoint()], logger=CSVLogger(str(tmp_path), name="", version=""))
    with (
        pytest.warns(UserWarning, match=r"the last rows of .*metrics\.csv are lost"),
        pytest.raises(IsADirectoryError, match=r"metrics\.csv"),
    ):
        trainer.fit(make_gtn(), data)


def test_a_bug_is_not_hidden(make_trainer):
    trainer = make_trainer([TeacherCheckpoint(on_write_error="warn")])
    with pytest.raises(ZeroDivisionError), unless_unwritable(trainer, "a quotient"):
        raise ZeroDivisionError


def test_what_works_again_is_warned_of_again(make_trainer, recwarn):
    trainer: pl.Trainer = make_trainer([TeacherCheckpoint(on_write_error="warn")])
    for error in ("full", "full, still", "", "full again"):
        with unless_unwritable(trainer, "a file"):
            if error:
                raise OSError(error)
    assert [str(warning.message) for warning in recwarn if "a file" in str(warning.message)] == [
        "a file is not written: full",
        "a file is not written: full again",
    ]
