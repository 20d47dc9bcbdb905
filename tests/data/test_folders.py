"""Folders of image files: which split and class each file is read into. Its gray value says where it lies."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from gtn_lightning.data import ImageData
from gtn_lightning.data.sources import open_dataset
from gtn_lightning.errors import RecipeError


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the user's own cache out of it, and the hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def draw(folder: Path, grays: Sequence[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, gray in enumerate(grays):
        Image.fromarray(np.full((4, 4), gray, np.uint8)).save(folder / f"{number}.png")


def draw_all(root: Path, classes: Sequence[str], splits: Sequence[str] = ("train", "test"), count: int = 5) -> Path:
    """Draw images whose gray value is 100 times the split's number plus ten times the class's plus their own."""
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            draw(root / split / name, [100 * s + 10 * c + number for number in range(count)])
    return root


def ready(root: Path, val_size: int = 2) -> ImageData:
    data = ImageData(str(root), batch_size=2, val_size=val_size)
    data.prepare_data()
    data.setup()
    return data


def read(root: Path) -> tuple[dict[int, int], dict[int, int]]:
    """Return the class of every gray value among the images to train and validate on, and to test on."""
    splits = ready(root).splits
    tables = []
    for parts in ((splits.train, splits.val), (splits.test,)):
        pairs = [(int(image[0, 0, 0]), int(label)) for part in parts for image, label in zip(*part, strict=True)]
        assert len(dict(pairs)) == len(pairs), "no image twice"
        tables.append(dict(pairs))
    return tables[0], tables[1]


def expected(classes: int, split: int, count: int = 5) -> dict[int, int]:
    return {100 * split + 10 * c + number: c for c in range(classes) for number in range(count)}


@pytest.mark.parametrize(
    "name", ["train", "test", "valid", "bullet_train", "test tube", "dev", "eval-2", "my.test.train", "training"]
)
def test_a_class_may_be_called_like_a_split(name: str, tmp_path: Path) -> None:
    train, test = read(draw_all(tmp_path, sorted(["cat", name])))
    assert train == expected(2, 0)
    assert test == expected(2, 1)


@pytest.mark.parametrize(
    "splits", [("train", "test"), ("training", "testing"), ("seg_train", "seg_test"), ("train", "val")]
)
def test_the_names_that_splits_have(splits: tuple[str, str], tmp_path: Path) -> None:
    train, test = read(draw_all(tmp_path, ["a", "train"], splits))
    assert (train, test) == (expected(2, 0), expected(2, 1))


def test_a_folder_around_the_splits_and_folders_around_the_classes(tmp_path: Path) -> None:
    draw_all(tmp_path / "my_train_data", ["animals/test", "plants/train"])
    assert read(tmp_path) == (expected(2, 0), expected(2, 1))


def test_classes_have_one_number_in_all_splits(tmp_path: Path) -> None:
    draw_all(tmp_path, ["Zebra", "a", "a-b", "train"], ["train"])
    draw(tmp_path / "test" / "a-b", [200])
    draw(tmp_path / "test" / "only here", [201])
    data = ready(tmp_path)
    assert data.classes == 5
    train, test = read(tmp_path)
    # In the order of their names: Zebra, a, a-b, only here, train.
    assert train == {10 * c + number: label for c, label in enumerate([0, 1, 2, 4]) for number in range(5)}
    assert test == {200: 2, 201: 3}


def test_rows_classes_and_splits_are_those_of_datasets(tmp_path: Path) -> None:
    draw_all(tmp_path, ["cat", "cat-2", "dog", "Zebra"], ["train", "valid", "test"], count=12)
    ours, theirs = open_dataset(str(tmp_path)).splits, datasets.load_dataset(str(tmp_path))
    assert list(ours) == list(theirs)
    for name in theirs:
        assert ours[name].features == theirs[name].features
        assert ours[name]["label"][:] == theirs[name]["label"][:]
        for one, other in zip(ours[name]["image"], theirs[name]["image"], strict=True):
            assert one.getpixel((0, 0)) == other.getpixel((0, 0))


def test_links_are_followed_and_what_is_hidden_is_not_read(tmp_path: Path) -> None:
    root = draw_all(tmp_path / "pictures", ["a"])
    for split, gray in (("train", 10), ("test", 110)):
        draw(tmp_path / "elsewhere" / split, range(gray, gray + 5))
        os.symlink(tmp_path / "elsewhere" / split, root / split / "b", target_is_directory=True)
        draw(root / split / ".ipynb_checkpoints", [250])
        draw(root / split / "__MACOSX", [251])
        (root / split / "a" / "Thumbs.db").write_text("")
    os.symlink(root / "train", root / "train" / "a" / "loop", target_is_directory=True)
    assert read(root) == (expected(2, 0), expected(2, 1))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("name", ["pictures", "pictures [v1]"])
def test_metadata_says_what_the_classes_are(name: str, kind: str, tmp_path: Path) -> None:
    root = draw_all(tmp_path / name, ["test_pictures"], count=6)
    for split in ("train", "test"):
        rows = [(f"test_pictures/{number}.png", number % 2) for number in range(6)]
        lines = ["file_name,label", *(f"{file},{label}" for file, label in rows)]
        if kind == "jsonl":
            lines = [f'{{"file_name": "{file}", "label": {label}}}' for file, label in rows]
        (root / split / f"metadata.{kind}").write_text("\n".join(lines) + "\n")
    assert read(root) == ({n: n % 2 for n in range(6)}, {100 + n: n % 2 for n in range(6)})


@pytest.mark.parametrize("name", ["set [v1]", "what?", "all*", "{a,b}", "[]", "a::b", "100%20~"])
def test_any_path(name: str, tmp_path: Path) -> None:
    assert read(draw_all(tmp_path / name, ["a", "b [x]"])) == (expected(2, 0), expected(2, 1))


@pytest.mark.parametrize("readme", [False, True])
@pytest.mark.parametrize("name", ["set [v1]", "what?", "all*"])
def test_the_layout_of_the_hub_in_any_path(name: str, readme: bool, tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    draw(tmp_path / "drawn", range(12))
    root = tmp_path / name
    (root / "data").mkdir(parents=True)
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        images = [{"bytes": (tmp_path / "drawn" / f"{n}.png").read_bytes(), "path": None} for n in numbers]
        rows = {"image": images, "label": [n % 2 for n in numbers]}
        file = root / "data" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    if readme:
        files = "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in ("train", "test"))
        (root / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
    for _ in range(2):  # the second time the links are there
        assert read(root) == ({n: n % 2 for n in range(8)}, {n: n % 2 for n in range(8, 12)})


def flat(root: Path) -> None:
    for split in ("train", "test"):
        draw(root / split, range(5))


def uneven(root: Path) -> None:
    draw_all(root, ["a", "b/c"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: draw_all(root, ["a"]), r"expected at least two classes, found one class 'a'"),
        (flat, r"has an image outside of a class folder, 'train/0.png', expected .*train/CLASS/IMAGE"),
        (uneven, r"images at different depths, such as 'train/a/0.png' and 'train/b/c/0.png', .*train/CLASS/IMAGE"),
        (lambda root: draw_all(root, ["a", "b"], ["train"]), r"has the splits train, expected train and test"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_read_get_one_line(make, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path)
    with pytest.raises(RecipeError, match=rf"^data.path: .*{message}") as caught:
        ready(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_class_with_one_image_is_trained_on(tmp_path: Path) -> None:
    draw_all(tmp_path, ["a", "b"], count=9)
    draw(tmp_path / "train" / "rare", [77])
    splits = ready(tmp_path, val_size=10).splits
    assert 77 in splits.train.images
    assert len(splits.val.labels) == 10
    with pytest.raises(RecipeError, match=r"^data.val_size must be at most 16, so that each of 3 classes .*, got 17$"):
        ready(tmp_path, val_size=17)
