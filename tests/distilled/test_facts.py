"""What ``gtn distil`` sees of data."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtn_lightning.distilled.facts import facts_of
from gtn_lightning.errors import RecipeError


def folder(path: Path, classes: int, images: int, side: int = 6) -> str:
    """Write gray images, ``CLASS/IMAGE``."""
    for label in range(classes):
        (path / f"class {label}").mkdir(parents=True)
        for number in range(images):
            pixels = np.random.default_rng(number).integers(0, 255, (side, side)).astype(np.uint8)
            Image.fromarray(pixels).save(path / f"class {label}" / f"{number}.png")
    return str(path)


def test_every_class_keeps_an_image_to_train_on(tmp_path: Path) -> None:
    facts = facts_of(folder(tmp_path / "få", 3, 2))
    assert (facts.name, facts.shape, facts.outputs, facts.train) == ("få", (1, 6, 6), 3, 4)
    assert facts.data["init_args"]["val_size"] == facts.data["init_args"]["test_size"] == 1


def test_a_color_image_among_gray_ones_is_seen(tmp_path: Path) -> None:
    path = folder(tmp_path / "mixed", 2, 40)
    Image.new("RGB", (6, 6), (255, 0, 0)).save(tmp_path / "mixed" / "class 1" / "17.png")
    assert facts_of(path).shape == (3, 6, 6)


def test_images_that_are_too_few_or_too_small_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has 3 images of 3 classes to train on, too few to hold some back"):
        facts_of(folder(tmp_path / "single", 3, 1))
    with pytest.raises(RecipeError, match="images of 2x2 pixels, expected at least 4x4: set --size=8"):
        facts_of(folder(tmp_path / "tiny", 2, 10, side=2))
    with pytest.raises(RecipeError, match="has images without classes"):
        facts_of(folder(tmp_path / "one", 1, 10))


def test_options_are_named_as_they_are_typed(tmp_path: Path) -> None:
    for given, message in (
        ({"target": "x"}, "--target is for tables, and digits is none: leave it out"),
        ({"size": 8}, "--size is for images of your own"),
    ):
        with pytest.raises(RecipeError, match=message):
            facts_of("digits", **given)
    table = tmp_path / "prices.csv"
    table.write_text("a,price\n" + "".join(f"{number % 7},{number * 3}\n" for number in range(40)))
    with pytest.raises(RecipeError, match=r"^--target: .* for amounts, set --predicts=numbers"):
        facts_of(str(table), target="price")
    assert facts_of(str(table), target="price", predicts="numbers").predicts == "numbers"
