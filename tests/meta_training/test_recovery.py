"""Meta-training that leaves the realm of finite numbers."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from gtn_lightning import GTN
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.meta_training.recovery import DivergedError, Recovery
from tests.tiny import make_gtn, make_trainer, same

RATE = 0.1


class Spoils(pl.Callback):
    """Makes the gradient of some meta-steps infinite, and keeps the weights before each."""

    def __init__(self, steps: set[int]) -> None:
        self.steps = steps
        self.before: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int) -> None:
        self.before.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step in self.steps:
            assert pl_module.teacher.pixels.grad is not None
            pl_module.teacher.pixels.grad[0] = float("inf")


def run(recovery: Recovery, steps: set[int], folder: Path, **options: Any) -> tuple[GTN, Spoils, pl.Trainer]:
    spoils = Spoils(steps)
    gtn = make_gtn(
        outer_optimizer=partial(torch.optim.SGD, lr=RATE, momentum=0.9),
        outer_lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=100),
        recovery=recovery,
    )
    trainer = make_trainer(folder, callbacks=[spoils], **{"max_steps": 8, "val_check_interval": 2} | options)
    trainer.fit(gtn, DigitsData(32))
    return gtn, spoils, trainer


def test_consecutive_skips_roll_back_to_the_last_good_validation_with_a_smaller_rate(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="back to meta-step 2 with 0.5 times the outer rate"):
        gtn, spoils, trainer = run(Recovery(max_consecutive_skips=2), {3, 4}, tmp_path)
    assert same(spoils.before[4], spoils.before[3])  # the first was only skipped
    assert same(spoils.before[5], spoils.before[2])
    assert spoils.rates == [RATE] * 5 + [RATE / 2] * 3  # also after the schedule has been stepped
    assert not same(gtn.state_dict(), spoils.before[5])
    assert trainer.callback_metrics["train/skipped"] == 2


def test_no_schedule_raises_the_smaller_rate_again(tmp_path: Path) -> None:
    rates = []
    for steps in (set[int](), {3, 4}):
        spoils = Spoils(steps)
        gtn = make_gtn(
            outer_optimizer=partial(torch.optim.SGD, lr=RATE, momentum=0.9),
            outer_lr_scheduler=partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=10),
            recovery=Recovery(max_consecutive_skips=2),
        )
        make_trainer(tmp_path, callbacks=[spoils], max_steps=8, val_check_interval=2).fit(gtn, DigitsData(32))
        rates.append(spoils.rates)
    assert rates[1] == pytest.approx(rates[0][:5] + [rate / 2 for rate in rates[0][5:]])


def test_a_resumed_run_keeps_the_smaller_rate_where_its_recipe_names_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.warns(UserWarning, match="rollback 1 of 2"):
        _, _, trainer = run(Recovery(max_consecutive_skips=2), {1, 2}, tmp_path, max_steps=4)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    spoils = Spoils(set())
    gtn = make_gtn(
        outer_optimizer=partial(torch.optim.SGD, lr=3 * RATE, momentum=0.9),
        outer_lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=100),
        recovery=Recovery(max_consecutive_skips=2, lr_factor=0.1),
    )
    with caplog.at_level("INFO"):
        make_trainer(tmp_path, max_steps=6, callbacks=[spoils]).fit(
            gtn, DigitsData(32), ckpt_path=tmp_path / "last.ckpt"
        )
    assert spoils.rates == pytest.approx([3 * RATE / 2] * 2)
    assert f"lr {3 * RATE} instead of {RATE}, times the 0.5 that Recovery has reduced" in caplog.text


def test_single_ones_lead_nowhere(tmp_path: Path) -> None:
    _, spoils, trainer = run(Recovery(max_consecutive_skips=2), {1, 3, 5, 7}, tmp_path)
    assert set(spoils.rates) == {RATE}
    assert trainer.callback_metrics["train/skipped"] == 4


def test_in_the_end_it_stops_and_names_the_cause(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="rollback 1 of 1"), pytest.raises(DivergedError) as stopped:
        run(Recovery(max_consecutive_skips=2, max_rollbacks=1), set(range(1, 100)), tmp_path, max_steps=100)
    message = str(stopped.value)
    assert message.startswith("meta-step 5: ")
    assert "the meta-gradient of teacher.free_inputs is not" in message
    assert "lower model.inner_optimizer's lr" in message
    assert "\n" not in message


def test_without_rollbacks_it_only_counts(tmp_path: Path) -> None:
    _, spoils, trainer = run(Recovery(max_consecutive_skips=None), set(range(1, 8)), tmp_path)
    assert set(spoils.rates) == {RATE}
    assert trainer.callback_metrics["train/skipped"] == 7


def test_a_resumed_run_has_no_more_rollbacks_than_the_first(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="rollback 1 of 1"):
        _, _, trainer = run(Recovery(max_consecutive_skips=2, max_rollbacks=1), {1, 2}, tmp_path, max_steps=4)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    spoils = Spoils(set(range(100)))
    gtn = make_gtn(
        outer_optimizer=partial(torch.optim.SGD, lr=RATE, momentum=0.9),
        outer_lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=100),
        recovery=Recovery(max_consecutive_skips=2, max_rollbacks=1),
    )
    resumed = make_trainer(tmp_path, max_steps=20, callbacks=[spoils])
    with pytest.raises(DivergedError, match="meta-step 6: "):
        resumed.fit(gtn, DigitsData(32), ckpt_path=tmp_path / "last.ckpt")
    assert set(spoils.rates) == {RATE / 2}


def test_a_reduction_that_is_an_integer_is_a_number_as_any() -> None:
    recovery = Recovery()
    recovery.load_state_dict(recovery.state_dict() | {"reduction": 1})
    assert type(recovery.reduction) is float


@pytest.mark.parametrize(
    "wrong", [{"max_consecutive_skips": 0}, {"max_rollbacks": -1}, {"lr_factor": 0.0}, {"lr_factor": 2.0}]
)
def test_values_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"Recovery: {next(iter(wrong))} must be"):
        Recovery(**wrong)
