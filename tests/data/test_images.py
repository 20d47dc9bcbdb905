"""Datasets in the hub's layout, written here with ``datasets``; what can be wrong; the hub out of reach."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from gtn_lightning.data import ImageData
from gtn_lightning.data.decoding import decode
from gtn_lightning.errors import RecipeError

Rows = list[dict[str, Any]]

SHARED = Path(os.environ.get("GTN_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep the user's own cache out of it, and the hub."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield folder
    datasets.enable_progress_bars()


def pixels(number: int, shape: tuple[int, ...] = (6, 5)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return an image that differs from that of any other number below 200."""
    return ((np.arange(np.prod(shape)) * 3 + number) % 251).astype(np.uint8).reshape(shape)


def png(array: np.ndarray[Any, Any], mode: str | None = None) -> dict[str, Any]:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def grey_rows(count: int, start: int = 0) -> Rows:
    return [{"image": png(pixels(start + number)), "label": number % 3} for number in range(count)]


FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=3)})


def write(folder: Path, features: datasets.Features = FEATURES, **splits: Rows) -> str:
    """Write a dataset as the hub keeps it: a folder with a parquet file for every split."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        columns = {column: [row[column] for row in rows] for column in features}
        dataset = datasets.Dataset.from_dict(columns, features=features)
        dataset.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return str(folder)


def ready(path: str, **options: Any) -> ImageData:
    data = ImageData(path, **{"batch_size": 4, "val_size": 9} | options)
    data.prepare_data()
    data.setup()
    return data


def test_grey_images_arrive_pixel_by_pixel_in_disjoint_stratified_splits(tmp_path: Path) -> None:
    data = ready(write(tmp_path, train=grey_rows(60), test=grey_rows(12, start=60)))
    assert data.image_shape == (1, 6, 5)
    assert data.classes == 3
    train, val, test, _ = data.splits
    assert [len(split.labels) for split in (train, val, test)] == [51, 9, 12]
    for split, first in ((train, 0), (val, 0), (test, 60)):
        for image, label in zip(*split, strict=True):
            number = int(image[0, 0, 0])
            assert torch.equal(image[0], torch.from_numpy(pixels(number)))
            assert int(label) == (number - first) % 3
    numbers = [set(split.images[:, 0, 0, 0].tolist()) for split in (train, val, test)]
    assert set.union(*numbers) == set(range(72))
    assert val.labels.bincount().tolist() == [3, 3, 3]


def test_the_validation_split_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path, train=grey_rows(40), test=grey_rows(3))
    assert torch.equal(ready(path).splits.val.images, ready(path, seed=5).splits.val.images)


def test_color_grey_palette_and_transparency(tmp_path: Path) -> None:
    color = pixels(7, (6, 5, 3))
    rows = [
        {"image": png(pixels(3)), "label": 0},
        {"image": png(color), "label": 1},
        {"image": png(color, "RGBA"), "label": 2},
        {"image": png(np.full((6, 5, 3), 51, np.uint8), "P"), "label": 0},
    ]
    data = ready(write(tmp_path, train=rows, test=grey_rows(3)), val_size=1, batch_size=1)
    train, val, test, _ = data.splits
    assert data.image_shape == test.images.shape[1:] == (3, 6, 5)
    images = torch.cat([train.images, val.images])
    found = {int(image.sum(dtype=torch.int64)) for image in images}
    assert found == {3 * int(pixels(3).sum(dtype=int)), int(color.sum(dtype=int)), 51 * 90}
    assert (images == torch.from_numpy(color).permute(2, 0, 1)).flatten(1).all(1).sum() == 2


def test_names_of_the_hub_integers_and_a_validation_split_instead_of_test(tmp_path: Path) -> None:
    features = datasets.Features(
        {"img": datasets.Image(), "id": datasets.Value("int64"), "labels": datasets.Value("int32")}
    )
    rows = [{"img": row["image"], "id": 9, "labels": row["label"]} for row in grey_rows(12)]
    data = ready(write(tmp_path, features, train=rows, validation=rows[:6]), val_size=3)
    assert data.classes == 3
    assert data.splits.test.labels.tolist() == [0, 1, 2, 0, 1, 2]


TWO = {
    "image": datasets.Image(),
    "mask": datasets.Image(),
    "coarse": datasets.ClassLabel(num_classes=2),
    "fine": datasets.ClassLabel(num_classes=6),
}


def two_of_everything(count: int) -> Rows:
    return [{"image": png(pixels(n)), "mask": png(pixels(n) % 2), "coarse": n % 2, "fine": n % 6} for n in range(count)]


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, datasets.Features(TWO), train=two_of_everything(24), test=two_of_everything(6))
    data = ready(path, val_size=6, image_column="mask", label_column="fine")
    assert data.classes == 6
    assert int(data.splits.train.images.max()) == 1


def test_fine_labels_are_meant_where_there_are_coarse_ones(tmp_path: Path) -> None:
    classes = {f"{name}_label": datasets.ClassLabel(num_classes=size) for name, size in (("fine", 6), ("coarse", 2))}
    features = datasets.Features({"img": datasets.Image(), **classes})
    rows = [{"img": row["image"], "fine_label": n % 6, "coarse_label": n % 2} for n, row in enumerate(grey_rows(24))]
    assert ready(write(tmp_path, features, train=rows, test=rows), val_size=6).classes == 6


def test_a_folder_of_image_files(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(pixels(number)).save(tmp_path / split / name / f"{number}.png")
    data = ready(str(tmp_path), val_size=4)
    assert data.classes == 2
    assert data.image_shape == (1, 6, 5)
    assert data.splits.val.labels.bincount().tolist() == [2, 2]
    assert data.splits.test.labels.tolist() == [0, 0, 1, 1]


def test_train_size_takes_every_class_though_the_rows_are_sorted(tmp_path: Path) -> None:
    rows = sorted(grey_rows(60), key=lambda row: int(row["label"]))
    path = write(tmp_path, train=rows, test=grey_rows(3))
    few, all_of_them = ready(path, train_size=12), ready(path)
    assert few.splits.train.labels.bincount().tolist() == [4, 4, 4]
    assert torch.equal(few.splits.val.images, all_of_them.splits.val.images)
    # Only what is trained on decides how images are normalized.
    assert float(few.normalize(few.splits.train.images).mean()) == pytest.approx(0, abs=1e-5)


def test_relative_paths_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "home" / "tiny", train=grey_rows(12), test=grey_rows(3))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path in ("../home/tiny", "~/tiny"):
        assert ready(path, val_size=3).path == path


def test_arguments_are_stored_under_their_names() -> None:
    given: dict[str, Any] = {
        "path": "somewhere",
        "batch_size": 1,
        "eval_batch_size": 2,
        "val_size": 3,
        "train_size": 4,
        "crop": 5,
        "flip": True,
        "seed": 6,
        "config": "a",
        "image_column": "b",
        "label_column": "c",
    }
    data = ImageData(**given)
    assert {name: getattr(data, name) for name in given} == given


def test_shape_is_unknown_before_setup() -> None:
    with pytest.raises(AttributeError, match=r"ImageData has not read its data yet: call prepare_data\(\)"):
        _ = ImageData("somewhere").image_shape


# ------------------------------------------------------------------------------------------- what goes wrong

OTHER_SIZE = {"image": png(pixels(1, (5, 6))), "label": 0}
STRINGS = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
NUMBERS = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
NO_IMAGES = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(num_classes=3)})
WORDS: Rows = [{"text": "a", "label": 0}]


def with_labels(*labels: Any) -> Rows:
    return [{"image": png(pixels(number)), "label": label} for number, label in enumerate(labels)]


BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "no test split": (
        lambda folder: write(folder, train=grey_rows(12)),
        r"has the splits train, expected train and test \(or validation\)",
    ),
    "no training split": (
        lambda folder: write(folder, test=grey_rows(12)),
        "has the splits test, expected train and test",
    ),
    "no images": (
        lambda folder: write(folder, NO_IMAGES, train=WORDS, test=WORDS),
        r"image_column must be the name of an image column, got None: .* text \(string\), label \(Class",
    ),
    "two image columns": (
        lambda folder: write(folder, datasets.Features(TWO), train=two_of_everything(6), test=two_of_everything(6)),
        r"image_column must be .*, got None: .* image \(Image\), mask \(Image\), coarse \(ClassLabel\)",
    ),
    "labels are words": (
        lambda folder: write(folder, STRINGS, train=with_labels("a", "b"), test=with_labels("a")),
        r"label_column must be the name of an integer or class label column, got None: .* label \(string\)",
    ),
    "images of two sizes": (
        lambda folder: write(folder, train=[*grey_rows(12), OTHER_SIZE], test=grey_rows(3)),
        "has images of 6x5 and, in row 12, of 5x6 pixels .*, expected one size",
    ),
    "test images of another size": (
        lambda folder: write(folder, train=grey_rows(12), test=[OTHER_SIZE]),
        "images of 6x5 pixels .* to train and 5x6 to test on, expected one size",
    ),
    "sixteen bits": (
        lambda folder: write(
            folder, train=[{"image": png(np.full((6, 5), 999, np.uint16)), "label": 0}], test=grey_rows(3)
        ),
        "row 0 has an image of mode 'I;16', expected 8 bits",
    ),
    "a broken image": (
        lambda folder: write(
            folder,
            train=[*grey_rows(4), {"image": {"bytes": b"\x89PNG", "path": None}, "label": 0}],
            test=grey_rows(3),
        ),
        "split 'train', row 4 has an image that cannot be decoded: cannot identify image file",
    ),
    "a missing image": (
        lambda folder: write(folder, train=[*grey_rows(4), {"image": None, "label": 0}], test=grey_rows(3)),
        "split 'train', row 4 has no image",
    ),
    "a missing label": (
        lambda folder: write(folder, train=with_labels(0, 1, None), test=grey_rows(3)),
        "split 'train' lacks 1 labels",
    ),
    "labels that are kept secret": (
        lambda folder: write(folder, train=grey_rows(12), test=with_labels(-1, -1)),
        "has the labels -1 to -1 to test on, expected 0 to 2 for 3 classes",
    ),
    "numbers that do not start at zero": (
        lambda folder: write(folder, NUMBERS, train=with_labels(1, 2, 3, 1), test=with_labels(1)),
        "has the labels 1 to 3 to train on, expected 0 to 2 for 3 classes",
    ),
    "a class that only the test split has": (
        lambda folder: write(folder, NUMBERS, train=with_labels(0, 1, 0, 1), test=with_labels(2)),
        "has the labels 2 to 2 to test on, expected 0 to 1 for 2 classes",
    ),
    "no rows": (
        lambda folder: write(folder, train=[], test=grey_rows(3)),
        'cannot read .*"train" .* no data',
    ),
    "columns that differ": (
        lambda folder: write(write_test(folder, NUMBERS), NO_IMAGES, train=WORDS),
        "cannot read",
    ),
    "an empty folder": (lambda folder: write(folder), "cannot read .*contain any data.*CLASS/IMAGE"),
    "a broken file": (lambda folder: broken(folder), "cannot read .*[Pp]arquet"),
    "a file": (lambda folder: str(Path(__file__)), "is a file, expected a folder"),
    "a relative folder that is not there": (
        lambda folder: "../not/there",
        "there is no folder '../not/there'",
    ),
    "a file format": (lambda folder: "imagefolder", "'imagefolder' is a file format"),
}


def write_test(folder: Path, features: datasets.Features) -> Path:
    return Path(write(folder, features, test=with_labels(0)))


def broken(folder: Path) -> str:
    (folder / "train-00000-of-00001.parquet").write_bytes(b"not what it seems")
    return str(folder)


@pytest.mark.parametrize("case", BAD)
def test_bad_datasets_get_one_line(tmp_path: Path, case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(RecipeError, match=rf"^data\..*{message}") as caught:
        ready(make(tmp_path), val_size=1, batch_size=1)
    assert "\n" not in str(caught.value)


def test_a_split_without_rows() -> None:
    with pytest.raises(RecipeError, match=r"data.path: 'somewhere', split 'test' has no rows"):
        decode(
            datasets.Dataset.from_dict({"image": [], "label": []}, features=FEATURES),
            "image",
            "'somewhere', split 'test'",
            (),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_size": 12}, "data.val_size must be below 12, .*, got 12"),
        ({"val_size": 4, "train_size": 9}, "data.train_size must be at most 8, .*, got 9"),
        ({"val_size": 4, "batch_size": 9}, "data.batch_size must be at most 8, .*, got 9"),
        ({"label_column": "image"}, "data.label_column must be the name of an integer or .*, got 'image'"),
        ({"image_column": "picture"}, "data.image_column must be the name of an image column, got 'picture'"),
    ],
)
def test_values_that_do_not_fit_the_dataset(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = write(tmp_path, train=grey_rows(12), test=grey_rows(3))
    with pytest.raises(RecipeError, match=message):
        ready(path, **options)


@pytest.mark.parametrize(("name", "value"), [("val_size", 0), ("train_size", 0), ("crop", -1)])
def test_values_out_of_range(name: str, value: int) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(RecipeError, match=rf"data.{name} must be .*, got {value}"):
        ImageData("somewhere", **options)


def test_several_configurations_ask_for_one(tmp_path: Path) -> None:
    for name, count in (("big", 24), ("small", 12)):
        write(tmp_path / name, train=grey_rows(count), test=grey_rows(3))
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {name}/{split}-*\n" for split in ("train", "test"))
        for name in ("big", "small")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(RecipeError, match=r"choose one with data.config \(.*big.*small.*\)$"):
        ready(str(tmp_path), val_size=3)
    assert len(ready(str(tmp_path), val_size=3, config="small").splits.train.labels) == 9


# ------------------------------------------------------------------------------------------------- real data


@pytest.mark.slow
def test_mnist() -> None:
    if not (SHARED / "mnist").is_dir():
        pytest.skip("no copy of MNIST beside the repository; GTN_DATA can name the folder that holds mnist/")
    data = ready(str(SHARED / "mnist"), val_size=5000)
    assert data.image_shape == (1, 28, 28)
    assert data.classes == 10
    assert [len(split.labels) for split in data.splits[:3]] == [55_000, 5_000, 10_000]
    # Ten thousand test images, by class, as everybody has them.
    counts = data.splits.test.labels.bincount().tolist()
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # The mean and deviation that are quoted everywhere: 0.1307 and 0.3081 of 255.
    assert float(data.mean) / 255 == pytest.approx(0.1307, abs=0.001)
    assert float(data.std) / 255 == pytest.approx(0.3081, abs=0.001)
