"""The meta-gradient's norm as it is logged and clipped."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from gtn_lightning import GTN
from gtn_lightning.callbacks import GradientNorm
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from tests.tiny import make_gtn, make_trainer


class Scaled(GTN):
    """A GTN whose meta-loss, and so its gradient, is multiplied by a number of one's choice at every meta-step."""

    factors: tuple[float, ...] = ()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * self.factors[self.global_step]


class Watch(pl.Callback):
    """Keeps, per meta-step, the norm that was logged, the clipped one, and the running mean after it."""

    def __init__(self, clip: GradientNorm) -> None:
        self.clip = clip
        self.logged: list[float] = []
        self.clipped: list[float] = []
        self.means: list[float | None] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        grads = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        self.clipped.append(float(torch.nn.utils.get_total_norm(grads)))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.logged.append(float(trainer.callback_metrics["train/gradient_norm"]))
        self.means.append(self.clip.mean)


def scaled(*factors: float) -> Scaled:
    gtn = make_gtn()
    gtn.__class__ = Scaled
    gtn.factors = factors  # type: ignore[assignment]
    return gtn  # type: ignore[return-value]


def test_an_outlier_is_clipped_to_a_multiple_of_the_running_mean(tmp_path: Path) -> None:
    clip = GradientNorm(clip=2.0, decay=0.5)
    watch = Watch(clip)
    make_trainer(tmp_path, max_steps=4, callbacks=[clip, watch]).fit(scaled(1.0, 1.0, 100.0, 1.0), DigitsData(32))
    clipped, means = watch.clipped, watch.means
    first, second, outlier, last = watch.logged
    assert outlier > 20 * max(first, second)
    assert clipped[:2] == pytest.approx([first, second])
    assert means[0] == pytest.approx(first)
    assert means[1] == pytest.approx((first + 2 * second) / 3)
    assert clipped[2] == pytest.approx(2 * means[1], rel=1e-5)
    # The outlier counts as what it was clipped to.
    assert means[2] == pytest.approx((first + 2 * second + 4 * clipped[2]) / 7)
    assert clipped[3] == pytest.approx(min(last, 2 * means[2]))


def test_a_gradient_that_is_not_finite_leaves_the_mean_alone(tmp_path: Path) -> None:
    clip = GradientNorm()
    gtn = scaled(1.0, float("inf"))
    make_trainer(tmp_path, max_steps=2, callbacks=[clip]).fit(gtn, DigitsData(32))
    assert clip.mean is not None
    assert torch.tensor(clip.mean).isfinite()
    assert all(parameter.isfinite().all() for parameter in gtn.parameters())


def test_the_mean_is_kept_in_checkpoints(tmp_path: Path) -> None:
    clip, resumed = GradientNorm(), GradientNorm()
    trainer = make_trainer(tmp_path, max_steps=2, callbacks=[clip])
    trainer.fit(make_gtn(), DigitsData(32))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    make_trainer(tmp_path, max_steps=2, callbacks=[resumed]).fit(
        make_gtn(), DigitsData(32), ckpt_path=tmp_path / "last.ckpt"
    )
    assert resumed.mean == clip.mean is not None


def test_a_norm_of_zero_does_not_count_and_a_huge_one_is_no_infinite_one(tmp_path: Path) -> None:
    clip = GradientNorm(clip=2.0, decay=0.5)
    watch = Watch(clip)
    make_trainer(tmp_path, max_steps=4, callbacks=[clip, watch]).fit(scaled(0.0, 1.0, 1e25, 1.0), DigitsData(32))
    assert watch.means[0] is None
    assert watch.clipped[1] > 0
    assert 1e20 < watch.logged[2] < float("inf")
    assert watch.clipped[2] == pytest.approx(2 * watch.clipped[1], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"clip": 1.0}, "clip must be above 1, .*, got 1.0"), ({"decay": 1.0}, "decay must be .* below 1, got 1.0")],
)
def test_values_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        GradientNorm(**arguments)
