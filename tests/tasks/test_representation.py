"""Representation: the meta-gradient, a run beside real data with the same targets, refusals."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gtn_lightning.curricula import Full
from gtn_lightning.data import DigitsData, RepresentationData, VICReg
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import SGD, InnerLoop
from gtn_lightning.learners import MLP, Fixed
from gtn_lightning.parts import Parts
from gtn_lightning.tasks import Representation
from gtn_lightning.teachers import FreeTensors, Generator
from tests.tasks.central_differences import check_meta_gradient
from tests.tiny import BATCH, NOISE, SHAPE, STEPS, make_gtn, make_trainer

FEATURES = 6


def parts(**options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    task = Representation(FEATURES, shape=SHAPE, **options)
    return {
        "teacher": FreeTensors(dict(task.fields), STEPS * BATCH),
        "curriculum": Full(STEPS, BATCH),
        "learners": Fixed(partial(MLP, SHAPE, FEATURES, [8], "none", "tanh")),
        "inner_optimizer": SGD(lr=0.1, momentum=0.5, learned_per_step=["lr"], steps=STEPS),
        "task": task,
    }


def with_generator() -> dict[str, Any]:
    made = parts(meta_every=2)
    teacher = Generator(SHAPE, noise=NOISE, hidden=12, channels=(4, 4), targets=FEATURES)
    return made | {"teacher": teacher, "curriculum": Full(STEPS, BATCH, noise=NOISE)}


@pytest.mark.parametrize("mode", ["reverse", "remat", "mixed"])
@pytest.mark.parametrize("make", [partial(parts, meta_every=2), with_generator], ids=["free tensors", "a generator"])
def test_the_meta_gradient_by_central_differences(mode: str, make: Any) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        made = Parts(**make(), inner_loop=InnerLoop(STEPS, mode), seed=0)
        # The labels must not matter.
        check_meta_gradient(made, (torch.randn(7, *SHAPE), torch.randn(7, FEATURES), torch.arange(7)))
    finally:
        torch.set_default_dtype(torch.float32)


def digits(folder: Path) -> RepresentationData:
    target = VICReg(dimension=FEATURES, width=2, steps=5, batch_size=32, shift=1.0)
    return RepresentationData(DigitsData(32), target, str(folder / "targets"))


def test_a_run_beside_real_data_with_the_same_targets(tmp_path: Path) -> None:
    changes = parts(classes=10)
    changes["teacher"] = FreeTensors(dict(changes["task"].fields), STEPS * BATCH, init="real")
    gtn = make_gtn(**changes, evaluation={"steps": [0], "real_rates": [0.1]})
    trainer = make_trainer(tmp_path, max_steps=2, val_check_interval=2)
    data = digits(tmp_path)
    trainer.fit(gtn, data)
    logged = trainer.callback_metrics
    for name in ("mse", "probe", "probe_few"):
        assert f"val/{name}" in logged
        assert f"val/{name}_real" in logged
    assert float(logged["val/mse"]) == pytest.approx(float(logged["val/loss"]), rel=1e-4)
    assert 0.1 < float(logged["val/probe"]) <= 1
    assert int(logged["train/target_images"]) == 160
    # The teacher began with real images and their own targets.
    torch.manual_seed(0)
    changes["teacher"].started.fill_(0)
    changes["teacher"].attach(dict(zip(changes["task"].real_fields, data.some("train", 50, 0), strict=True)))
    start = changes["teacher"].tensors
    assert data.network is not None
    features = data.network(data.normalize(data.split("train")[0]))
    expected = (data.network(start["inputs"]) - features.mean(0)) / features.std(0, correction=0)
    torch.testing.assert_close(start["targets"], expected, atol=1e-4, rtol=1e-4)
    trainer.test(gtn, data, verbose=False)
    assert "test/probe_real" in trainer.callback_metrics


def test_ones_own_features_in_a_loader(tmp_path: Path) -> None:
    rows = TensorDataset(torch.randn(40, *SHAPE), torch.randn(40, FEATURES))
    loader = DataLoader(rows, batch_size=20)
    gtn = make_gtn(**parts(), evaluation={"real_rates": [0.1]})
    trainer = make_trainer(tmp_path, max_steps=2, val_check_interval=2)
    trainer.fit(gtn, loader, loader)
    assert "val/mse_real" in trainer.callback_metrics
    assert "val/probe" not in trainer.callback_metrics


class Half(nn.Module):
    """It returns half of the features."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : FEATURES // 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learners": Fixed(Half)}, r"the learner Half returns a tensor of shape \[2, 3\] .* expected \[2, 6\]"),
        (
            {"task": Representation(FEATURES, shape=SHAPE)},
            r"the data has batches that are a tuple of 3, expected a pair of tensors",
        ),
        (
            {"task": Representation(FEATURES, classes=5, shape=SHAPE)},
            r"the data has labels from 0 to 9 but task.classes is 5",
        ),
    ],
    ids=["a learner", "labels without classes", "too few classes"],
)
def test_parts_that_do_not_fit(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        make_trainer(tmp_path).fit(make_gtn(**parts(classes=10) | changes), digits(tmp_path))


def test_features_of_another_size(tmp_path: Path) -> None:
    task = Representation(4, classes=10, shape=SHAPE)
    changes = {"task": task, "teacher": FreeTensors(dict(task.fields), STEPS * BATCH)}
    with pytest.raises(RecipeError, match=r"targets that are float32 \[1197, 6\] for 1197 inputs, .* \[1197, 4\]"):
        make_trainer(tmp_path).fit(make_gtn(**parts(classes=10) | changes), digits(tmp_path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Representation(0), "Representation: outputs must be at least 1, got 0"),
        (lambda: Representation(3, classes=1), "Representation: classes must be at least 2, got 1"),
        (lambda: Representation(3, meta_every=-1), "Representation: meta_every must be at least 0, got -1"),
    ],
)
def test_arguments_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()
