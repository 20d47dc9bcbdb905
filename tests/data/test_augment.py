"""Crop and flip against one image at a time, done the plain way."""

import pytest
import torch
from torch import Tensor

from gtn_lightning.data.augment import augment


def windows(image: Tensor, crop: int) -> list[Tensor]:
    """Return every window of the image's size out of the image with a black border."""
    channels, height, width = image.shape
    canvas = torch.zeros(channels, height + 2 * crop, width + 2 * crop, dtype=image.dtype)
    canvas[:, crop : crop + height, crop : crop + width] = image
    return [
        canvas[:, top : top + height, left : left + width]
        for top in range(2 * crop + 1)
        for left in range(2 * crop + 1)
    ]


@pytest.fixture
def images() -> Tensor:
    # No zeros and no repetitions, so that every window and mirror image can be told apart.
    return (
        torch.randperm(255, generator=torch.Generator().manual_seed(0))[: 2 * 5 * 7]
        .add(1)
        .to(torch.uint8)
        .view(1, 2, 5, 7)
        .repeat(400, 1, 1, 1)
    )


def test_crops_are_windows_and_all_of_them_occur(images: Tensor) -> None:
    expected = torch.stack(windows(images[0], 2))
    matches = (augment(images, 3, crop=2)[:, None] == expected).flatten(2).all(2)
    assert matches.any(1).all(), "an augmented image is no window of the padded one"
    assert matches.any(0).all(), "a window never occurred in 400 draws out of 25"


def test_flip_mirrors_about_half(images: Tensor) -> None:
    flipped = augment(images, 3, flip=True)
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_crop_and_flip_together(images: Tensor) -> None:
    expected = windows(images[0], 1)
    expected += [window.flip(2) for window in expected]
    matches = (augment(images, 3, crop=1, flip=True)[:, None] == torch.stack(expected)).flatten(2).all(2)
    assert matches.any(1).all()
    assert matches.any(0).all()


def test_a_key_repeats_and_another_differs(images: Tensor) -> None:
    torch.manual_seed(1)
    once = augment(images, 2**62 + 1, crop=2, flip=True)
    torch.manual_seed(2)
    assert torch.equal(once, augment(images, 2**62 + 1, crop=2, flip=True))
    assert not torch.equal(once, augment(images, 2**62 + 2, crop=2, flip=True))


def test_off_by_default(images: Tensor) -> None:
    assert augment(images, 3) is images
