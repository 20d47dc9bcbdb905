"""Autoencoding: no labels in the losses, probes on the codes, the baseline, refusals."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gtn_lightning.callbacks import SampleGrid
from gtn_lightning.curricula import Full
from gtn_lightning.data import DigitsData, TableData
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import SGD, InnerLoop
from gtn_lightning.learners import MLP, Autoencoder, ConvAutoencoder, Fixed
from gtn_lightning.parts import Parts
from gtn_lightning.probe import RIDGE, RidgeProbe
from gtn_lightning.tasks import Autoencoding, Images
from gtn_lightning.teachers import FreeTensors
from tests.tasks.central_differences import check_meta_gradient
from tests.tiny import BATCH, SHAPE, STEPS, make_gtn, make_trainer, same


def parts(**options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    task = Autoencoding(SHAPE, **options)
    return {
        "teacher": FreeTensors(dict(task.fields), STEPS * BATCH),
        "curriculum": Full(STEPS, BATCH),
        "learners": Fixed(partial(Autoencoder, SHAPE, [6], 3, "tanh")),
        "inner_optimizer": SGD(lr=0.1, momentum=0.5, learned_per_step=["lr"], steps=STEPS),
        "task": task,
    }


@pytest.mark.parametrize("mode", ["reverse", "remat", "mixed"])
def test_the_meta_gradient_by_central_differences(mode: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        made = Parts(**parts(meta_every=2), inner_loop=InnerLoop(STEPS, mode), seed=0)
        check_meta_gradient(made, (torch.randn(7, *SHAPE), torch.arange(7)))  # the labels must not matter
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_run_beside_real_data(tmp_path: Path) -> None:
    gtn = make_gtn(**parts(classes=10), evaluation={"steps": [0], "real_rates": [0.1]})
    trainer = make_trainer(tmp_path, max_steps=2, val_check_interval=2)
    trainer.fit(gtn, DigitsData(32))
    logged = trainer.callback_metrics
    for name in ("mse", "probe", "probe_few"):
        assert f"val/{name}" in logged
        assert f"val/{name}_real" in logged
    assert float(logged["val/mse"]) == pytest.approx(float(logged["val/loss"]), rel=1e-4)
    assert 0.1 < float(logged["val/probe"]) <= 1
    shown = gtn.task.shown(gtn.synthetic_batch(0))
    assert isinstance(shown, Images)
    assert shown.labels is None


def test_rows_of_a_table_without_their_targets_are_drawn(tmp_path: Path) -> None:
    data = TableData("wine", batch_size=32)
    data.setup()
    task = Autoencoding(data.shape)
    changes = {
        "task": task,
        "teacher": FreeTensors(dict(task.fields), STEPS * BATCH),
        "learners": Fixed(partial(Autoencoder, data.shape, [6], 3)),
    }
    trainer = make_trainer(tmp_path, val_check_interval=2, callbacks=[SampleGrid()])
    trainer.fit(make_gtn(**parts() | changes), data)
    assert (tmp_path / "pictures" / "samples.png").is_file()


@pytest.mark.parametrize("wrapped", [False, True], ids=["tensors", "lists of one"])
def test_data_without_labels(wrapped: bool, tmp_path: Path) -> None:
    images = torch.randn(40, *SHAPE)
    rows = [[image] for image in images] if wrapped else list(images)
    loader: Any = DataLoader(rows, batch_size=20)  # type: ignore[arg-type]
    gtn = make_gtn(**parts(), evaluation={"real_rates": [0.1]})
    trainer = make_trainer(tmp_path, max_steps=2, val_check_interval=2)
    trainer.fit(gtn, loader, loader)
    assert "val/mse" in trainer.callback_metrics
    assert "val/probe" not in trainer.callback_metrics


def test_the_probe_is_a_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (200,), generator=generator)
    features = torch.randn(200, 5, generator=generator) + labels[:, None] * torch.tensor([1.0, 0, 0.5, 0, 0])
    probe = RidgeProbe(3)
    for rows in (slice(0, 120), slice(120, 200)):
        probe.update(features[rows], labels[rows])
    fitted = features[::2].double()
    center, scale = fitted.mean(0), fitted.std(0, correction=0)
    model = Ridge(alpha=RIDGE * len(fitted)).fit((fitted - center) / scale, torch.eye(3)[labels[::2]])
    guesses = torch.from_numpy(model.predict((features[1::2].double() - center) / scale)).argmax(1)
    assert float(probe.compute()) == pytest.approx(float((guesses == labels[1::2]).double().mean()))
    assert float(probe.compute()) > 0.45  # a third by chance


def test_bare_tensors_train_as_lists_of_one_do(tmp_path: Path) -> None:
    images, teachers = torch.randn(20, *SHAPE), []
    for rows in (list(images), [[image] for image in images]):
        gtn = make_gtn(**parts())
        make_trainer(tmp_path, max_steps=2).fit(gtn, DataLoader(rows, batch_size=20))  # type: ignore[arg-type]
        teachers.append(gtn.teacher.state_dict())
    assert same(*teachers)


def test_the_probe_of_sorted_samples() -> None:
    labels = torch.arange(10).repeat_interleave(100)
    probe = RidgeProbe(10, share=0.02)
    probe.update(torch.eye(10)[labels], labels)
    assert float(probe.compute()) == 1


def test_the_probe_with_few_labels_uses_these_alone() -> None:
    features, labels = torch.randn(100, 4), torch.arange(100) % 2
    few, changed = RidgeProbe(2, share=0.1), RidgeProbe(2, share=0.1)
    few.update(features, labels)
    others = labels.clone()
    used = 2 * torch.linspace(0, 49, 5).round().long()
    spare = torch.ones(100, dtype=torch.bool)
    spare[used] = spare[1::2] = False
    others[spare] = 1 - others[spare]  # labels of the fitted half that are not used
    changed.update(features, others)
    assert float(few.compute()) == float(changed.compute())


@pytest.mark.parametrize(
    "learner",
    [partial(Autoencoder, SHAPE, [12], 4), partial(ConvAutoencoder, SHAPE, 4, 2, 5, "group")],
    ids=["linear", "convolutions"],
)
def test_autoencoders_return_reconstruction_and_code(learner: Any) -> None:
    made = learner()
    outputs, code = made(torch.randn(3, *SHAPE))
    assert outputs.shape == (3, *SHAPE)
    assert code.shape == (3, made.code)


class Half(nn.Module):
    """It reconstructs half of the image."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images[..., :4], images.flatten(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learners": Fixed(partial(MLP, SHAPE, 64))}, r"the learner MLP returns a Tensor, expected a pair"),
        ({"learners": Fixed(Half)}, r"the learner Half returns reconstructions \[2, 1, 8, 4\], expected a pair"),
        ({"learners": Fixed(partial(Autoencoder, (3,)))}, r"the learner Autoencoder cannot take inputs of shape"),
    ],
)
def test_learners_that_are_no_autoencoders(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        make_trainer(tmp_path).fit(make_gtn(**parts() | changes), DigitsData(32))


def test_other_shapes_than_the_data_has(tmp_path: Path) -> None:
    task = Autoencoding((1, 6, 6))
    changes = {"task": task, "teacher": FreeTensors(dict(task.fields), STEPS * BATCH)}
    with pytest.raises(RecipeError, match=r"have shape \[1, 8, 8\] but model.teacher makes \[1, 6, 6\]"):
        make_trainer(tmp_path).fit(make_gtn(**parts() | changes), DigitsData(32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Autoencoding(SHAPE, classes=1), "Autoencoding: classes must be at least 2, got 1"),
        (lambda: Autoencoding(SHAPE, meta_every=-1), "Autoencoding: meta_every must be at least 0, got -1"),
        (lambda: RidgeProbe(1), "RidgeProbe: classes must be at least 2, got 1"),
        (lambda: RidgeProbe(3, share=0.0), "RidgeProbe: share must be above 0 and at most 1, got 0.0"),
        (lambda: ConvAutoencoder((1, 6, 6)), "shape must be channels, height and width, the last two divisible by 4"),
        (lambda: Autoencoder(SHAPE, code=0), "code must be whole and at least 1, got 0"),
    ],
)
def test_arguments_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()
