"""ZCA whitening: its covariance, its inverse, and the same inputs from the data module and from an exported file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gtn_lightning.callbacks import SyntheticData
from gtn_lightning.callbacks.samples import pictured
from gtn_lightning.data import DigitsData, Split, Splits, TensorData
from gtn_lightning.distilled import read_distilled, write_distilled
from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import pl
from tests.tiny import make_gtn


class Correlated(TensorData):
    """Images of two channels whose neighboring pixels are alike."""

    def load(self) -> Splits:
        """Make the images."""
        noise = torch.randn(4000, 2, 5, 5, generator=torch.Generator().manual_seed(0))
        smooth = noise[..., :4, :4] + noise[..., 1:, :4] + noise[..., :4, 1:]
        images = (128 + 25 * smooth).clamp(0, 255).to(torch.uint8)
        train, val, test = (Split(part, torch.arange(len(part)) % 2) for part in images.split([3800, 100, 100]))
        return Splits(train, val, test, classes=2)


def whitened(make: Callable[..., TensorData], regularization: float) -> tuple[TensorData, Tensor]:
    """Return a data module and its normalized training images, ``[N, d]``."""
    data = make(whiten="zca", whiten_regularization=regularization)
    data.setup()
    return data, data.normalize(data.splits.train.images).flatten(1).double()


def test_the_covariance_of_whitened_images_is_the_identity() -> None:
    data, rows = whitened(partial(Correlated, 32, 32), 1e-6)
    plain = Correlated(32, 32)
    plain.setup()
    before = plain.normalize(data.splits.train.images).flatten(1).double()
    off_diagonal = ~torch.eye(32, dtype=torch.bool)
    assert before.T.cov()[off_diagonal].abs().max() > 0.2
    torch.testing.assert_close(rows.T.cov(), torch.eye(32).double(), rtol=0, atol=0.01)
    torch.testing.assert_close(rows.mean(0), torch.zeros(32).double(), rtol=0, atol=1e-3)


def test_regularization_keeps_directions_without_variance_small() -> None:
    data, rows = whitened(DigitsData, 0.1)  # of which some pixels are always black
    plain = DigitsData()
    plain.setup()
    values = torch.linalg.eigvalsh(plain.normalize(data.splits.train.images).flatten(1).double().T.cov(correction=0))
    assert values[0] < 1e-6
    found = torch.linalg.eigvalsh(rows.T.cov(correction=0))
    torch.testing.assert_close(found, values / (values + 0.1), rtol=0, atol=2e-3)


def test_pictures_are_not_whitened() -> None:
    data, _ = whitened(DigitsData, 0.1)
    images = data.splits.test.images[:5]
    trainer = pl.Trainer(logger=False, enable_checkpointing=False)
    inputs = data.normalize(images)
    assert pictured(trainer, inputs) is inputs
    trainer.datamodule = data  # type: ignore[attr-defined]
    standardized = (images.float() - data.mean) / data.std
    torch.testing.assert_close(pictured(trainer, inputs), standardized, rtol=1e-4, atol=1e-4)


def test_an_exported_file_says_how_to_whiten(tmp_path: Path) -> None:
    data = DigitsData(32, whiten="zca")
    trainer = pl.Trainer(
        default_root_dir=tmp_path, logger=False, callbacks=[SyntheticData()], enable_progress_bar=False
    )
    trainer.predict(make_gtn(), datamodule=data)
    file = read_distilled(tmp_path / "synthetic.safetensors")
    assert file.tensors["whiten_matrix"].dtype == torch.float16
    raw = data.splits.test.images
    assert torch.equal(file.prepare(raw), data.normalize(raw))
    torch.testing.assert_close(file.raw(file.prepare(raw)), raw.float(), rtol=0, atol=1e-3)
    # As docs/distillation.md says it, in plain PyTorch.
    tensors = file.tensors
    x = (raw - tensors["normalize_center"]) / tensors["normalize_scale"]
    x = ((x - tensors["whiten_center"]).flatten(1) @ tensors["whiten_matrix"].float()).view_as(x)
    torch.testing.assert_close(x, file.prepare(raw))
    file.tensors["whiten_matrix"] = file.tensors["whiten_matrix"][1:]
    write_distilled(tmp_path / "broken.safetensors", file)
    with pytest.raises(RecipeError, match="whiten_center and whiten_matrix must be"):
        read_distilled(tmp_path / "broken.safetensors")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"whiten": "pca"}, "data.whiten must be zca"), ({"whiten_regularization": 0.0}, "must be above 0")],
)
def test_wrong_values_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        DigitsData(**wrong)  # type: ignore[arg-type]
