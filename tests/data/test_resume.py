"""A run that stops anywhere and is resumed sees exactly the batches that an uninterrupted run sees."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from gtn_lightning.data import Split, Splits, TensorData

Recorded = list[list[int]]


class Numbers(TensorData):
    """Images that are their own number, which is their label too."""

    def load(self) -> Splits:
        labels = torch.arange(26)
        split = Split(labels.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous(), labels)
        return Splits(split, split, split, classes=26)


class Recorder(LightningModule):
    """Remembers the labels of every batch that it finished, and can die in the middle of one."""

    def __init__(self, dies_in: int = -1) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.dies_in = dies_in
        self.seen: Recorded = []
        self.validated: Recorded = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        assert images.dtype == torch.float32
        if len(self.seen) == self.dies_in:
            raise RuntimeError("killed")
        self.seen.append(labels.tolist())
        loss: Tensor = self.layer(images.flatten(1)).square().mean()
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.validated.append(batch[1].tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class SaveAt(Callback):
    """Writes a checkpoint in one of Lightning's hooks, whenever a number of steps is done."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        self.step = step
        self.path = path
        setattr(self, hook, self.save)

    def save(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(folder: Path, module: Recorder, *callbacks: Callback, resume: Path | None = None, **options: Any) -> None:
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **options,
    )
    with warnings.catch_warnings():
        # Lightning must not warn that the loader cannot be resumed.
        warnings.filterwarnings("error", message=".*resum")
        trainer.fit(module, datamodule=Numbers(batch_size=4, eval_batch_size=20), ckpt_path=resume)


STEPS: dict[str, Any] = {"max_steps": 20, "val_check_interval": 4, "check_val_every_n_epoch": None}
EPOCHS: dict[str, Any] = {"max_epochs": 4}


@pytest.fixture(scope="module", params=[STEPS, EPOCHS], ids=["counted in steps", "counted in epochs"])
def recipe(request: pytest.FixtureRequest) -> dict[str, Any]:
    options: dict[str, Any] = request.param
    return options


@pytest.fixture(scope="module")
def straight(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    module = Recorder()
    fit(tmp_path_factory.mktemp("straight"), module, **recipe)
    return module


def test_a_straight_run_reads_the_stream_from_its_start(straight: Recorder, recipe: dict[str, Any]) -> None:
    data = Numbers(batch_size=4, eval_batch_size=20)
    data.setup()
    stream = data.train_dataloader()
    assert straight.seen == [stream.batch(position)[1].tolist() for position in range(recipe.get("max_steps", 24))]
    # Validation ran between, each time over the whole split and in order.
    assert straight.validated == [list(range(20)), list(range(20, 26))] * (5 if "max_steps" in recipe else 4)


# A pass has 6 batches: the numbers stand for mid-pass, the last batch of a pass, the first of the next.
# Validation comes every 4 steps, or after every pass where epochs are counted.
@pytest.mark.parametrize(
    ("hook", "saved_at"),
    [
        ("on_train_batch_end", 3),
        ("on_train_batch_end", 4),
        ("on_train_batch_end", 6),
        ("on_train_batch_end", 7),
        ("on_validation_start", 12),
        ("on_validation_end", 12),
        ("on_exception", 9),
        ("on_exception", 6),
    ],
)
def test_resumed_run_continues_with_the_next_batch(
    tmp_path: Path, recipe: dict[str, Any], straight: Recorder, hook: str, saved_at: int
) -> None:
    path = tmp_path / "saved.ckpt"
    # Where the exception itself writes the checkpoint, one more batch was handed out and not trained on.
    killed = Recorder(dies_in=saved_at if hook == "on_exception" else saved_at + 1)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, killed, SaveAt(hook, saved_at, path), **recipe)
    assert killed.seen == straight.seen[: killed.dies_in]
    resumed = Recorder()
    fit(tmp_path, resumed, resume=path, **recipe)
    assert resumed.seen == straight.seen[saved_at:]


def test_accumulated_gradients(tmp_path: Path) -> None:
    options = STEPS | {"accumulate_grad_batches": 2, "val_check_interval": 8}
    whole, resumed, path = Recorder(), Recorder(), tmp_path / "saved.ckpt"
    fit(tmp_path, whole, **options)
    assert len(whole.seen) == 40
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, Recorder(dies_in=13), SaveAt("on_train_batch_end", 5, path), **options)
    fit(tmp_path, resumed, resume=path, **options)
    # Saved first after batch 10, and once more after batch 11, before the sixth step.
    assert resumed.seen == whole.seen[11:]


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_train_end"])
def test_a_finished_run_can_be_prolonged(tmp_path: Path, hook: str) -> None:
    whole, longer, path = Recorder(), Recorder(), tmp_path / "saved.ckpt"
    fit(tmp_path, whole, **STEPS)
    fit(tmp_path, Recorder(), SaveAt(hook, 12, path), **STEPS | {"max_steps": 12})
    fit(tmp_path, longer, resume=path, **STEPS)
    assert longer.seen == whole.seen[12:]


def test_an_epoch_is_the_run_where_steps_are_counted(tmp_path: Path) -> None:
    found: list[tuple[int, float]] = []

    class Look(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            found.append((trainer.current_epoch, trainer.num_training_batches))

    fit(tmp_path, Recorder(), Look(), **STEPS)
    fit(tmp_path, Recorder(), Look(), **EPOCHS)
    assert found == [(1, 20), (4, 6)]


def test_ranks_are_taken_from_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (_labels_of_rank(monkeypatch, rank) for rank in range(2))
    data = Numbers(batch_size=4, eval_batch_size=20)
    data.setup()
    whole = [data.train_dataloader().batch(position)[1].tolist() for position in range(6)]
    assert [batch for pair in zip(first, second, strict=True) for batch in pair] == whole


def _labels_of_rank(monkeypatch: pytest.MonkeyPatch, rank: int) -> Recorded:
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, max_steps=5, enable_checkpointing=False)
    monkeypatch.setattr(Trainer, "global_rank", rank)
    monkeypatch.setattr(Trainer, "world_size", 2)
    data = Numbers(batch_size=4, eval_batch_size=20)
    data.trainer = trainer
    data.setup()
    assert [len(labels) for _, labels in data.val_dataloader()] == [20, 6]
    return [labels.tolist() for _, (_, labels, _) in zip(range(3), data.train_dataloader(), strict=False)]
