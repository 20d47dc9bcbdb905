"""Labels that are classes, class probabilities, or neither."""

import pytest
import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError
from gtn_lightning.labels import check_labels, class_numbers

IMAGES = torch.zeros(4, 1, 2, 2)
CLASSES = torch.tensor([0, 2, 1, 2])
ONE_HOT = torch.nn.functional.one_hot(CLASSES)


def test_classes_are_their_own_and_probabilities_their_greatest() -> None:
    assert class_numbers(CLASSES) is CLASSES
    assert class_numbers(0.4 * ONE_HOT + 0.2).equal(CLASSES)


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES,
        ONE_HOT.float(),
        ONE_HOT.half(),
        (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).softmax(1)).bfloat16(),
        torch.full((4, 3), 1 / 3, dtype=torch.float64),
    ],
)
def test_what_is_right_passes(labels: Tensor) -> None:
    check_labels(IMAGES, labels, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (CLASSES.int(), r"int32 \[4\], expected classes, int64 \[4\], or .* float \[4, 3\]: .*\.long\(\)"),
        (CLASSES > 1, r"bool \[4\], .*\.long\(\)"),
        (CLASSES.bfloat16(), r"bfloat16 \[4\], .*\.long\(\)"),
        (CLASSES[:, None], r"int64 \[4, 1\], .*\.squeeze\(1\)$"),
        (CLASSES[:, None].float(), r"float32 \[4, 1\], .*\.squeeze\(1\)\.long\(\)"),
        (ONE_HOT, r"int64 \[4, 3\], .* with \.float\(\), or to classes with \.argmax\(1\)"),
        (ONE_HOT.bool(), r"bool \[4, 3\], .*\.float\(\)"),
        (ONE_HOT[:, :, None].float(), r"float32 \[4, 3, 1\], .*one class per image"),
        (ONE_HOT[:, :2], r"int64 \[4, 2\], .*one class per image"),
        (CLASSES[:3], r"int64 \[3\] for 4 images, .*one per image"),
        (torch.tensor(1), r"int64 \[\] for 4 images"),
        (torch.full((4, 5), 0.2), r"float32 \[4, 5\], probabilities of 5 classes, .* is 3: set classes to 5"),
        (2.0 * ONE_HOT, r"no class probabilities, such as \[2, 0, 0\], .*with sum 1"),
        (ONE_HOT * 2.5 - 0.5, r"no class probabilities, such as \[2, -0.5, -0.5\]"),
        (ONE_HOT * torch.tensor([1, torch.nan, 1]), r"no class probabilities, such as \[1, nan, 0\]"),
        (CLASSES + 1, r"labels from 1 to 3 but task.classes is 3, .*set classes to 4"),
        (CLASSES.where(CLASSES > 0, -100), r"labels from -100 to 2 .*leave out images without a class"),
    ],
)  # fmt: skip
def test_what_is_wrong_gets_one_line_with_what_to_do(labels: Tensor, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^the test data has .*{message}") as caught:
        check_labels(IMAGES, labels, 3, "the test data")
    assert "\n" not in str(caught.value)
