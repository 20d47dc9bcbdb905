"""What results depend on of a data module."""

import json
from pathlib import Path

import pytest
from PIL import Image

from gtn_lightning.data import DigitsData, ImageData, Splits
from gtn_lightning.nas.data_settings import data_settings


def settings(data: DigitsData | ImageData, **options: tuple[str, ...]) -> dict[str, object]:
    data.setup()
    found = data_settings(data, **options)
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


class Negative(DigitsData):
    """The digits in negative."""

    def load(self) -> Splits:
        splits = super().load()
        return splits._replace(train=splits.train._replace(images=16 - splits.train.images))


class Hidden(DigitsData):
    """Keeps its argument to itself, which nobody can describe."""

    def __init__(self, invert: bool) -> None:
        super().__init__(64)
        self._invert = invert

    def load(self) -> Splits:
        splits = super().load()
        images = 16 - splits.test.images if self._invert else splits.test.images
        return splits._replace(test=splits.test._replace(images=images))


@pytest.mark.parametrize(
    "other", [DigitsData(32), DigitsData(64, 100), DigitsData(64, seed=1), DigitsData(64, rotate=1.0), Negative(64)]
)
def test_arguments_and_contents_count(other: DigitsData) -> None:
    assert settings(DigitsData(64)) == settings(DigitsData(64))
    assert settings(other) != settings(DigitsData(64))


def test_what_results_do_not_depend_on_may_be_left_out() -> None:
    without = ("batch_size", "eval_batch_size", "seed")
    assert settings(DigitsData(32, 100, 7), without=without) == settings(DigitsData(64), without=without)


def test_what_cannot_be_described_is_known_by_its_contents() -> None:
    assert settings(Hidden(False)) == settings(Hidden(False))
    assert settings(Hidden(True)) != settings(Hidden(False))


def folder(path: Path, brightness: int) -> ImageData:
    for split, count in (("train", 4), ("test", 2)):
        for label in ("cat", "dog"):
            (path / split / label).mkdir(parents=True)
            for number in range(count):
                gray = brightness + 20 * number + (label == "dog")
                Image.new("L", (4, 4), gray).save(path / split / label / f"{number}.png")
    return ImageData(str(path), batch_size=2, val_size=2)


def test_the_same_images_in_another_place_are_the_same_data(tmp_path: Path) -> None:
    here = settings(folder(tmp_path / "here" / "pictures", 0))
    assert settings(folder(tmp_path / "there" / "pictures", 0)) == here
    assert settings(folder(tmp_path / "elsewhere" / "pictures", 1)) != here
