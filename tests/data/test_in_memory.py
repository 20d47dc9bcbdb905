"""Data of one's own that is neither images nor a table."""

from pathlib import Path

import torch
from torch import Tensor

from gtn_lightning.curricula import Full
from gtn_lightning.data import InMemoryData
from gtn_lightning.fields import Field
from gtn_lightning.inner_loop import Functional
from gtn_lightning.learners import MLP, Fixed
from gtn_lightning.tasks import Classification
from gtn_lightning.teachers import FreeTensors
from tests.tiny import BATCH, STEPS, make_gtn, make_trainer


class Series(InMemoryData):
    """Series of eight numbers around 100; the last is about as high as the class."""

    def __init__(self) -> None:
        super().__init__(batch_size=16, eval_batch_size=32, seed=0)

    def load(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor], int]:
        generator = torch.Generator().manual_seed(0)
        targets = torch.arange(60) % 2
        inputs = 100 + 5 * torch.randn(180, 8, generator=generator)
        inputs[:, -1] += 20 * targets.repeat(3)
        train, val, test = ((part, targets) for part in inputs.split(60))
        return train, val, test, 2

    def measure(self, splits: tuple[tuple[Tensor, Tensor], ...]) -> None:
        self.mean, self.std = splits[0][0].mean(0), splits[0][0].std(0)

    def normalize(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) / self.std


def test_every_batch_is_normalized_once(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watching(Classification):
        def meta_loss(self, learner: Functional):  # type: ignore[no-untyped-def]
            loss = super().meta_loss(learner)

            def watched(params, buffers, inputs, targets):  # type: ignore[no-untyped-def]
                seen.append(float(inputs.mean()))
                return loss(params, buffers, inputs, targets)

            return watched

        def score(self, learner, params, buffers, batch, metrics):  # type: ignore[no-untyped-def]
            seen.append(float(batch[0].mean()))
            return super().score(learner, params, buffers, batch, metrics)

    fields = {"inputs": Field("real", (8,)), "targets": Field("classes", classes=2)}
    gtn = make_gtn(
        teacher=FreeTensors(fields, STEPS * BATCH),
        curriculum=Full(STEPS, BATCH, 2),
        learners=Fixed(lambda: MLP((8,), 2, hidden=[4])),
        task=Watching(2, shape=(8,)),
    )
    data, trainer = Series(), make_trainer(tmp_path, val_check_interval=1)
    trainer.fit(gtn, data)
    trainer.test(gtn, data, verbose=False)
    assert len(seen) > 6
    assert max(map(abs, seen)) < 1
    assert "test/accuracy_real" in trainer.callback_metrics
