"""Synthetic data in other formats, read by other programs."""

import csv
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from gtn_lightning.distilled import FORMATS, Card, DistilledSet, export, read_distilled
from gtn_lightning.distilled.export import pixel_range
from gtn_lightning.errors import RecipeError
from gtn_lightning.files import whole_folder
from gtn_lightning.inner_loop import LARS, SGD
from tests.distilled.sets import small_set


def rows() -> DistilledSet:
    """Rows of three numbers, each with two target numbers."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "inputs": torch.randn(4, 5, 3, generator=generator),
        "targets": torch.randn(4, 5, 2, generator=generator),
        **SGD(0.1).schedules(4),
    }
    optimizer = {"name": "SGD", "hyperparameters": ["lr", "momentum", "weight_decay"], "nesterov": False}
    return DistilledSet(tensors, Card(["inputs", "targets"], "mse_loss", optimizer))


def named(name: str) -> DistilledSet:
    """The rows, with one more tensor."""
    return replace(rows(), tensors=rows().tensors | {name: torch.arange(3)})


def documented(data: DistilledSet, **real: object) -> DistilledSet:
    """The same set, whose card says what it was made from."""
    return replace(data, card=replace(data.card, real=real))


def clipped(data: DistilledSet) -> Tensor:
    """Raw pixels as pictures can hold them, ``[T, B, C, H, W]``."""
    return data.raw(data.inputs).clamp(0, 255)


def load_pt(path: Path) -> Tensor:
    tensor = torch.load(path, weights_only=True)
    assert isinstance(tensor, Tensor)
    return tensor


def test_dd_ranking_gets_samples_by_class_and_logarithms_of_probabilities(tmp_path: Path) -> None:
    data = small_set(SGD(0.25))
    files = export(data, "dd-ranking", tmp_path / "out")
    assert [file.name for file in files] == ["README.md", "images.pt", "labels.pt", "lr.pt"]
    images, labels, lr = (load_pt(tmp_path / "out" / f"{name}.pt") for name in ("images", "labels", "lr"))
    assert (images.shape, images.dtype) == ((24, 1, 4, 4), torch.float32)
    assert labels.argmax(1).tolist() == [0] * 12 + [1] * 12
    order = torch.cat(
        [data.targets.flatten(0, 1)[:, 0].gt(0.5).nonzero(), data.targets[..., 1].flatten().gt(0.5).nonzero()]
    )
    assert torch.equal(images, data.inputs.flatten(0, 1)[order[:, 0]])
    torch.testing.assert_close(labels.softmax(1), data.targets.flatten(0, 1)[order[:, 0]])
    assert lr.item() == pytest.approx(0.25)
    assert "soft_label_criterion='sce'" in (tmp_path / "out" / "README.md").read_text()


def test_dd_ranking_gets_classes_and_its_own_normalization(tmp_path: Path) -> None:
    data = small_set(SGD(0.1), soft=False)
    images = data.inputs.expand(-1, -1, 3, -1, -1).contiguous()
    data = documented(replace(data, tensors=data.tensors | {"inputs": images}), source="uoft-cs/cifar10")
    export(data, "dd-ranking", tmp_path)
    written, labels = load_pt(tmp_path / "images.pt"), load_pt(tmp_path / "labels.pt")
    assert labels.tolist() == [0] * 12 + [1] * 12
    raw = 255 * (0.2010 * written[0, 2] + 0.4465)
    torch.testing.assert_close(raw, data.raw(data.inputs)[0, 0, 2])


def test_dd_ranking_refuses_soft_labels_of_unequal_classes(tmp_path: Path) -> None:
    data = small_set(SGD(0.1))
    few = replace(data, tensors=data.tensors | {"inputs": data.inputs[:, :5], "targets": data.targets[:, :5]})
    with pytest.raises(RecipeError, match=r"as many samples of every class .* got from 8 to 12"):
        export(few, "dd-ranking", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("soft", [True, False])
def test_pictures_show_raw_pixels(soft: bool, tmp_path: Path) -> None:
    data = documented(small_set(LARS(), soft=soft), class_names=["sky/day", "1"])
    files = export(data, "png", tmp_path / "out")
    assert len(files) == 26
    with (tmp_path / "out" / "labels.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert table[7]["file"] == "1/1-1.png"
    assert table[6]["file"] == "0-sky-day/1-0.png"
    for number, row in enumerate(table):
        step, place = divmod(number, 6)
        with Image.open(tmp_path / "out" / row["file"]) as picture:
            assert picture.size == (4, 4)
            pixels = torch.from_numpy(np.array(picture)).float()
        torch.testing.assert_close(pixels, clipped(data)[step, place, 0], atol=0.51, rtol=0)
        assert (row["step"], row["class"]) == (str(step), str(place % 2))
        if soft:
            assert float(row["probability_sky/day"]) == pytest.approx(float(data.targets[step, place, 0]))


def test_pixels_are_scaled_from_the_range_of_the_real_data() -> None:
    data = small_set(LARS())

    def range_of(mean: float, std: float) -> tuple[float, float]:
        normalization = {"normalize_center": torch.tensor([[[mean]]]), "normalize_scale": torch.tensor([[[std]]])}
        return pixel_range(replace(data, tensors=data.tensors | normalization))

    assert range_of(4.8672, 6.0100) == (0, 16)  # digits
    assert range_of(33.3, 78.6) == (0, 255)  # MNIST
    assert range_of(0.5, 0.5) == (0, 1)
    own = data.inputs * 0.5 - 0.5
    assert range_of(-0.5, 0.5) == (float(own.min()), float(own.max()))
    unknown = {name: tensor for name, tensor in data.tensors.items() if not name.startswith("normalize")}
    assert pixel_range(replace(data, tensors=unknown)) == (float(data.inputs.min()), float(data.inputs.max()))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network for the hub's libraries."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def front_matter(card: str) -> dict[str, object]:
    loaded = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.usefixtures("offline")
def test_hugging_face_reads_images(tmp_path: Path) -> None:
    import datasets

    data = documented(
        small_set(LARS()).with_scores({"metric": "accuracy", "mean": 0.9}),
        source="two kinds\nof images",
        license="CC BY 4.0",
        class_names=["above", "below"],
    )
    export(data, "hugging-face", tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    assert loaded.features["label"].names == ["above", "below"]
    assert loaded["label"][:] == [0, 1] * 12
    assert loaded["step"][:] == [step for step in range(4) for _ in range(6)]
    torch.testing.assert_close(torch.tensor(loaded["probabilities"][:]), data.targets.flatten(0, 1))
    pixels = torch.stack([torch.from_numpy(np.array(picture)) for picture in loaded["image"][:]])
    torch.testing.assert_close(pixels.float(), clipped(data).flatten(0, 2), atol=0.51, rtol=0)
    assert torch.equal(read_distilled(tmp_path / "out" / "synthetic.safetensors").inputs, data.inputs)
    card = (tmp_path / "out" / "README.md").read_text()
    assert front_matter(card)["license"] == "cc-by-4.0"
    assert front_matter(card)["task_categories"] == ["image-classification"]
    assert "mean: 0.9" in card
    # The card's program trains a network where this package is not installed.
    program = card.partition("```python\n")[2].partition("```")[0]
    network = "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))"
    program = f"import torch\n{program.replace('...', network)}\nassert 'gtn_lightning' not in sys.modules"
    command = [sys.executable, "-c", f"import sys\n{program}"]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("offline")
def test_hugging_face_reads_rows(tmp_path: Path) -> None:
    import datasets

    data = documented(rows(), license="my own: ask me")
    export(data, "hugging-face", tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    assert loaded.column_names == ["inputs", "target", "step"]
    loaded = loaded.with_format("torch")
    assert torch.equal(loaded["inputs"][:], data.inputs.flatten(0, 1))
    assert torch.equal(loaded["target"][:], data.targets.flatten(0, 1))
    card = front_matter((tmp_path / "out" / "README.md").read_text())
    assert (card["license"], card["license_details"]) == ("other", "my own: ask me")


@pytest.mark.parametrize("data", [small_set(LARS()), rows(), named("allow_pickle")])
def test_numpy_reads_all_tensors_and_the_card(data: DistilledSet, tmp_path: Path) -> None:
    assert export(data, "npz", tmp_path / "data.npz") == [tmp_path / "data.npz"]
    with np.load(tmp_path / "data.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {*data.tensors, "card"}
        assert json.loads(str(arrays["card"])) == asdict(data.card)
        for name, tensor in data.tensors.items():
            assert torch.equal(torch.from_numpy(arrays[name]), tensor)


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("png", r"needs images \[T, B, C, H, W\] with 1 or 3 channels C, got inputs float32 \[4, 5, 3\]"),
        ("dd-ranking", r"needs images \[T, B, C, H, W\]"),
        ("jpeg", "format must be one of dd-ranking, hugging-face, npz, png, got 'jpeg'"),
    ],
)
def test_rows_are_no_pictures(format: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        export(rows(), format, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_images_without_classes_have_no_class_folders(tmp_path: Path) -> None:
    data = small_set(LARS())
    with pytest.raises(RecipeError, match=r"needs classes .* got targets float32 .* and mse_loss"):
        export(replace(data, card=replace(data.card, loss="mse_loss")), "png", tmp_path / "out")


def test_classes_beyond_the_tasks_are_refused(tmp_path: Path) -> None:
    data = small_set(LARS(), soft=False)
    wrong = replace(data, tensors=data.tensors | {"targets": data.targets + 1})
    with pytest.raises(RecipeError, match=r"classes must be from 0 to 1, got .* from 1 to 2"):
        export(wrong, "png", tmp_path / "out")


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_overwritten(format: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    for taken in (tmp_path / "folder", tmp_path / "folder" / "mine.txt"):
        with pytest.raises(RecipeError, match=r"exists already, and nothing is overwritten: choose another path"):
            export(small_set(LARS()), format, taken)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "mine.txt"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_path_that_cannot_be_written_is_said(format: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RecipeError, match=r"cannot write .*/file/out"):
        export(small_set(LARS()), format, tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    def write(then: Path | None) -> None:
        with whole_folder(tmp_path / "out") as folder:
            (folder / "a.txt").write_text("a")
            if then is None:
                raise KeyboardInterrupt
            then.mkdir()
            (then / "mine.txt").write_text("mine")

    with pytest.raises(KeyboardInterrupt):
        write(None)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RecipeError, match="cannot write"):
        write(tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]
