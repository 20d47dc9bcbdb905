"""Images with a self-supervised representation as targets: the targets, the cached network, its cost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gtn_lightning.data import DigitsData, RepresentationData, TableData, VICReg
from gtn_lightning.errors import RecipeError
from tests import processes
from tests.data import representation_run
from tests.tiny import same

SMALL: dict[str, Any] = {"dimension": 5, "width": 2, "steps": 3, "batch_size": 16, "shift": 1.0}


class Counting(VICReg):
    """VICReg that counts its trainings."""

    trainings = 0

    def train(self, *arguments: Any) -> int:
        Counting.trainings += 1
        return super().train(*arguments)


def made(folder: Path, data: DigitsData | None = None, **options: Any) -> RepresentationData:
    """Data that are set up, and how many trainings that took as `trainings`."""
    Counting.trainings = 0
    module = RepresentationData(data or DigitsData(32, seed=1), Counting(**SMALL | options), str(folder))
    module.prepare_data()
    module.setup()
    return module


def test_targets_are_standardized_features_of_the_images(tmp_path: Path) -> None:
    data = made(tmp_path)
    images, targets, labels = data.split("train")
    assert data.classes == 10
    assert targets.shape == (1197, 5)
    torch.testing.assert_close(targets.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.std(0, correction=0), torch.ones(5), atol=1e-4, rtol=0)
    assert data.network is not None
    features = data.network(data.normalize(images))
    center, scale = features.mean(0), features.std(0, correction=0)
    others, their_targets, _ = data.split("test")
    expected = (data.network(data.normalize(others)) - center) / scale
    torch.testing.assert_close(their_targets, expected, atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in data.network.parameters())
    inner = DigitsData()
    inner.setup()
    assert torch.equal(labels, inner.split("train")[1])


def test_batches_are_inputs_targets_and_labels(tmp_path: Path) -> None:
    data = made(tmp_path, DigitsData(32, rotate=5.0))
    images, targets, labels, key = next(iter(data.train_dataloader()))
    inputs, *others = data.on_after_batch_transfer((images, targets, labels, key))
    assert inputs.shape == (32, 1, 8, 8)
    assert not torch.equal(inputs, data.normalize(images)), "the images' own augmentation is used"
    assert others[0] is targets
    assert others[1] is labels
    scored = data.on_after_batch_transfer(next(iter(data.val_dataloader())))
    assert torch.equal(scored[0], data.normalize(data.split("val")[0]))
    assert torch.equal(scored[1], data.split("val")[1])
    assert data.normalization().keys() == {"normalize_center", "normalize_scale"}


def test_the_network_is_trained_once_and_then_read(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert Counting.trainings == 1
    again = made(tmp_path)
    assert Counting.trainings == 0
    assert torch.equal(first.split("test")[1], again.split("test")[1])
    assert first.counts() == again.counts()
    assert first.counts()["target_images"] == 48
    (file,) = tmp_path.iterdir()
    with safe_open(file, "pt") as opened:
        assert float(opened.metadata()["seconds"]) > 0


@pytest.mark.slow
def test_one_process_trains_the_network_for_all(tmp_path: Path) -> None:
    processes.run(representation_run.main, tmp_path, 2, folder=tmp_path, count=2)
    assert (tmp_path / "process0" / "trainings").read_text() == "trained\n"
    assert not (tmp_path / "process1" / "trainings").exists()
    assert len(list((tmp_path / "targets").iterdir())) == 1
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert same(first["network"], second["network"])
    assert torch.equal(first["targets"], second["targets"])
    assert same(first["weights"], second["weights"])
    assert not torch.equal(first["weights"]["teacher.free_targets"], first["targets"][:30]), "the teacher was trained"
    assert first["counts"]["target_images"] == first["logged"] == second["logged"] == 48
    assert second["counts"]["target_images"] == 0, "the network's cost is counted once"


def test_the_network_does_not_depend_on_labels(tmp_path: Path) -> None:
    class Relabelled(DigitsData):
        def load(self) -> Any:
            splits = super().load()
            return splits._replace(train=splits.train._replace(labels=9 - splits.train.labels))

    made(tmp_path)
    made(tmp_path, Relabelled(32, seed=1))
    assert Counting.trainings == 0


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (DigitsData(32, seed=1), {"steps": 4}),
        (DigitsData(32, seed=1), {"noise": 0.1}),
        (DigitsData(32, seed=2), {}),
    ],
    ids=["a setting", "another setting", "the seed"],
)
def test_anything_else_is_trained_anew(data: DigitsData, options: dict[str, Any], tmp_path: Path) -> None:
    made(tmp_path)
    made(tmp_path, data, **options)
    assert Counting.trainings == 1
    assert len(list(tmp_path.iterdir())) == 2


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def foreign(file: Path) -> None:
    save_file(load_file(file), file, {"format": "another"})


def reshaped(file: Path) -> None:
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({name: tensor.flatten() for name, tensor in load_file(file).items()}, file, metadata)


def not_finite(file: Path) -> None:
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({name: tensor.float() / 0 for name, tensor in load_file(file).items()}, file, metadata)


@pytest.mark.parametrize("damage", [truncated, foreign, reshaped, not_finite])
def test_a_damaged_file_is_replaced(damage: Any, tmp_path: Path) -> None:
    first = made(tmp_path)
    (file,) = tmp_path.iterdir()
    damage(file)
    with pytest.warns(UserWarning, match=r"is damaged \(.*\): the target network is trained again"):
        again = made(tmp_path)
    assert torch.equal(first.split("test")[1], again.split("test")[1])
    made(tmp_path)
    assert Counting.trainings == 0


def test_what_are_no_images(tmp_path: Path) -> None:
    table = TableData("none.csv", target="y")
    with pytest.raises(RecipeError, match=r"data\.data must be a TensorData, such as ImageData, got a TableData"):
        RepresentationData(table, VICReg(**SMALL))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"data\.target must be a SelfSupervision, such as VICReg, got a str"):
        RepresentationData(DigitsData(), "vicreg")  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r"cannot write .*: check that its folder is writable"):
        made(tmp_path / "file")
