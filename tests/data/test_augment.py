"""Crop and flip against one image at a time, done the plain way; the affine map by what it does to a blob."""

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


def blobs(rows: float, columns: float) -> Tensor:
    """Return 500 images of 21 x 15 pixels with one blob, so far from the middle."""
    y, x = torch.arange(21.0)[:, None] - 10, torch.arange(15.0)[None] - 7
    blob = torch.exp(-((y - rows) ** 2 + (x - columns) ** 2) / 3)
    return (255 * blob).to(torch.uint8).expand(500, 1, -1, -1)


def centers(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the blobs are, rows and columns from the middle, each [B]."""
    weight = images.float() / images.float().sum((1, 2, 3), keepdim=True)
    y, x = torch.arange(21.0)[:, None] - 10, torch.arange(15.0)[None] - 7
    return (weight * y).sum((1, 2, 3)), (weight * x).sum((1, 2, 3))


def test_shift_moves_by_fractions_of_a_pixel_up_to_its_size() -> None:
    rows, columns = centers(augment(blobs(1, -2), 3, shift=1.5))
    for moved in (rows - 1, columns + 2):
        assert moved.abs().max() < 1.52
        assert moved.min() < -1.4
        assert moved.max() > 1.4
    assert abs(float(torch.corrcoef(torch.stack([rows, columns]))[0, 1])) < 0.15


def test_rotation_keeps_the_distance_from_the_middle() -> None:
    rows, columns = centers(augment(blobs(0, 4), 3, rotate=30))
    assert torch.allclose(torch.hypot(rows, columns), torch.tensor(4.0), atol=0.1)
    degrees = torch.rad2deg(torch.atan2(rows, columns))
    assert degrees.abs().max() < 30.5
    assert degrees.min() < -28
    assert degrees.max() > 28


def test_scale_stretches_each_axis_on_its_own() -> None:
    rows, columns = centers(augment(blobs(4, 3), 3, scale=0.2))
    for ratio in (rows / 4, columns / 3):
        assert ratio.min() > 1 / 1.2 - 0.02
        assert ratio.max() < 1 / 0.8 + 0.02
        assert ratio.min() < 0.86
        assert ratio.max() > 1.2
    assert abs(float(torch.corrcoef(torch.stack([rows, columns]))[0, 1])) < 0.15


def test_a_distorted_image_is_black_where_nothing_was() -> None:
    moved = augment(torch.full((50, 1, 6, 6), 200, dtype=torch.uint8), 3, shift=2)
    assert moved.dtype == torch.float32
    assert 199 < float(moved.max()) < 201
    assert float(moved.min()) == 0


def test_a_key_repeats_a_distortion() -> None:
    images = blobs(1, 1)
    once = augment(images, 7, rotate=10, scale=0.1, shift=1)
    assert torch.equal(once, augment(images, 7, rotate=10, scale=0.1, shift=1))
    assert not torch.equal(once, augment(images, 8, rotate=10, scale=0.1, shift=1))
