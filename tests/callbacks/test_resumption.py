"""A run that is cut anywhere, and resumed, does what was not done yet, once, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

from gtn_lightning import GTN
from gtn_lightning.callbacks import TeacherCheckpoint
from gtn_lightning.data import DigitsData
from tests import tiny
from tests.callbacks.conftest import build_gtn, build_trainer
from tests.tasks import test_autoencoding, test_control

MICRO = 2
"""Batches per meta-step."""


class CutError(BaseException):
    """Something that nobody expects."""


class Cut(pl.Callback):
    """Raises in a hook, when it is called for the n-th time."""

    def __init__(self, hook: str, time: int) -> None:
        self.left = time
        setattr(self, hook, self.count)

    def count(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.left -= 1
            if self.left == 0:
                raise CutError


class Story(pl.Callback):
    """Writes down what happened to the teacher, and what Lightning's loggers are told the meta-step is."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float]] = []
        self.validations: list[tuple[int, int, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        loss = outputs["loss"] * trainer.accumulate_grad_batches
        self.steps.append((trainer.fit_loop.epoch_loop.total_batch_idx, round(float(loss), 6)))

    def on_validation_end(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            scored = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.completed
            score = float(trainer.callback_metrics[leading(pl_module)])
            self.validations.append((trainer.global_step, scored, score))


OPTIONS: dict[str, Any] = {
    "max_steps": 6,
    "accumulate_grad_batches": MICRO,
    "val_check_interval": 2 * MICRO,
    "num_sanity_val_steps": 1,
}


def leading(gtn: Any) -> str:
    """Return the name in logs of the metric that selects the checkpoint."""
    return f"val/{gtn.task.metrics()[0].name}"


def data() -> DigitsData:
    return DigitsData(batch_size=64, eval_batch_size=128)


def classification() -> tuple[GTN, pl.LightningDataModule]:
    return build_gtn(inner_loop={"mode": "remat"}), data()


def agents() -> tuple[GTN, pl.LightningDataModule]:
    return test_control.make_gtn(), test_control.make_data()


def autoencoding() -> tuple[GTN, pl.LightningDataModule]:
    parts = test_autoencoding.parts(classes=10)
    return tiny.make_gtn(**parts, evaluation={"learners": 1, "real_rates": [0.1]}), data()


Made = Callable[[], tuple[GTN, pl.LightningDataModule]]


class Whole(NamedTuple):
    """A run that nothing cuts."""

    make: Made
    story: Story
    state: dict[str, torch.Tensor]
    log: list[tuple[str, str]]


def logged(folder: Path, metric: str) -> list[tuple[str, str]]:
    """Return the meta-steps and the values that the validations were logged with."""
    lines = [line.split(",") for line in (folder / "log" / "metrics.csv").read_text().splitlines()]
    step, value = lines[0].index("step"), lines[0].index(metric)
    return [(line[step], line[value]) for line in lines[1:] if line[value]]


def uncut(make: Made, folder: Path) -> Whole:
    (gtn, data), story = make(), Story()
    logger = CSVLogger(folder, name="", version="log")
    build_trainer(folder, [story, TeacherCheckpoint()], logger=logger, **OPTIONS).fit(gtn, data)
    return Whole(make, story, dict(gtn.state_dict()), logged(folder, leading(gtn)))


def cut_and_go_on(hook: str, time: int, whole: Whole, folder: Path) -> None:
    """Cut a run and resume it; see that the two do together what the whole run did."""
    cut = Story()
    gtn, data = whole.make()
    with pytest.raises(CutError):
        build_trainer(folder, [cut, TeacherCheckpoint(), Cut(hook, time)], **OPTIONS).fit(gtn, data)
    resumed, again = Story(), folder / "again"
    gtn, data = whole.make()
    logger = CSVLogger(again, name="", version="log")
    trainer = build_trainer(again, [resumed, TeacherCheckpoint()], logger=logger, **OPTIONS)
    trainer.fit(gtn, data, ckpt_path=folder / "checkpoints/last.ckpt")
    assert trainer.global_step == trainer.max_steps == 6
    story = whole.story
    # No meta-step is lost: at most the one that was cut is done again.
    assert resumed.steps == story.steps[len(story.steps) - len(resumed.steps) :]
    assert len(cut.steps) + len(resumed.steps) - len(story.steps) in range(MICRO)
    assert resumed.validations == story.validations[len(story.validations) - len(resumed.validations) :]
    assert len(cut.validations) + len(resumed.validations) in (3, 4 if hook == "on_validation_end" else 3)
    assert logged(again, leading(gtn)) == whole.log[len(whole.log) - len(resumed.validations) :]
    assert tiny.same(dict(gtn.state_dict()), whole.state)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return uncut(classification, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module", params=[agents, autoencoding], ids=lambda make: make.__name__)
def other_whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return uncut(request.param, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("hook", "time"),
    [
        ("on_train_batch_start", 4),
        ("on_before_backward", 4),  # with a gradient that waits for another
        ("on_before_backward", 5),
        ("on_train_batch_end", 5),
        ("on_train_batch_end", 6),
        ("on_before_backward", 11),
        ("on_validation_epoch_start", 2),
        ("on_validation_batch_start", 4),
        ("on_validation_batch_end", 5),
        ("on_validation_end", 2),
        ("on_validation_epoch_start", 3),  # the last, after all meta-steps
        ("on_validation_batch_end", 8),
    ],
)
def test_what_is_cut_is_done_again(hook: str, time: int, whole: Whole, tmp_path: Path) -> None:
    assert whole.story.validations[0][1] == 3
    cut_and_go_on(hook, time, whole, tmp_path)


@pytest.mark.parametrize(
    ("hook", "time"),
    [
        ("on_before_backward", 4),  # with a gradient that waits for another
        ("on_train_batch_end", 5),
        ("on_validation_end", 2),
    ],
)
def test_so_it_is_with_agents_and_with_data_without_labels(
    hook: str, time: int, other_whole: Whole, tmp_path: Path
) -> None:
    cut_and_go_on(hook, time, other_whole, tmp_path)


def test_so_it_is_when_it_is_cut_twice(whole, make_gtn, make_trainer, tmp_path):
    folders = [tmp_path / name for name in ("one", "two", "three")]
    cuts = [[Cut("on_before_backward", 6)], [Cut("on_validation_batch_end", 2)], []]
    told, checkpoint = Story(), None
    gtn = make_gtn(inner_loop={"mode": "remat"})
    for folder, cut in zip(folders, cuts, strict=True):
        gtn = make_gtn(inner_loop={"mode": "remat"})
        trainer = make_trainer([told, TeacherCheckpoint(), *cut], default_root_dir=folder, **OPTIONS)
        if cut:
            with pytest.raises(CutError):
                trainer.fit(gtn, data(), ckpt_path=checkpoint)
        else:
            trainer.fit(gtn, data(), ckpt_path=checkpoint)
        checkpoint = folder / "checkpoints/last.ckpt"
    assert told.validations == whole.story.validations
    assert tiny.same(dict(gtn.state_dict()), whole.state)


def test_a_checkpoint_between_accumulated_batches_repeats_them(make_gtn, make_trainer, tmp_path):
    options = OPTIONS | {"val_check_interval": 3}  # meta-steps of two batches
    story, whole = Story(), make_gtn(inner_loop={"mode": "remat"})
    make_trainer([story, TeacherCheckpoint()], default_root_dir=tmp_path / "whole", **options).fit(whole, data())
    with pytest.raises(CutError):
        make_trainer([TeacherCheckpoint(), Cut("on_train_batch_start", 4)], **options).fit(
            make_gtn(inner_loop={"mode": "remat"}), data()
        )
    resumed, gtn = Story(), make_gtn(inner_loop={"mode": "remat"})
    make_trainer([resumed, TeacherCheckpoint()], default_root_dir=tmp_path / "again", **options).fit(
        gtn, data(), ckpt_path=tmp_path / "checkpoints/last.ckpt"
    )
    assert resumed.steps == story.steps[2:]
    assert resumed.validations == story.validations
    for name, tensor in gtn.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_a_half_done_outer_step_is_not_kept(make_gtn, make_trainer, tmp_path):
    class Failing(torch.optim.SGD):
        steps = 0

        def step(self, closure=None):
            loss = super().step(closure)
            self.steps += 1
            if self.steps == 4:
                raise CutError
            return loss

    trainer = make_trainer([TeacherCheckpoint()], max_steps=6, val_check_interval=2)
    gtn = make_gtn(outer_optimizer=lambda parameters: Failing(parameters, lr=0.1))
    with pytest.warns(UserWarning, match="meta-step 4 was interrupted"), pytest.raises(CutError):
        trainer.fit(gtn, data())
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
