"""Random augmentation of a batch of images, reproducible by a key."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gtn_lightning.errors import RecipeError


def check_changes(
    where: str, crop: int = 0, rotate: float = 0.0, scale: float = 0.0, shift: float = 0.0, **others: float
) -> None:
    """Check the arguments of `augment`, and other amounts.

    Args:
        where: what the arguments belong to, the beginning of messages, such as ``data.``.
        crop, rotate, scale, shift: see `augment`.
        others: further amounts by name, at least 0 and finite too.

    Raises:
        RecipeError: if a value is out of range.
    """
    for name, value in {"crop": crop, "rotate": rotate, "scale": scale, "shift": shift, **others}.items():
        if not 0 <= value < math.inf:
            raise RecipeError(f"{where}{name} must be at least 0 and finite, got {value}")
    if scale >= 1:
        raise RecipeError(f"{where}scale must be below 1, got {scale}")


def augment(
    images: Tensor,
    key: int,
    crop: int = 0,
    flip: bool = False,
    rotate: float = 0.0,
    scale: float = 0.0,
    shift: float = 0.0,
) -> Tensor:
    """Crop, flip, rotate, scale and shift every image at random, with padding of zeros, which is black in raw images.

    It is differentiable with respect to the images.

    Crop and flip move whole pixels. Rotation, scale and shift are one affine map with bilinear interpolation, which
    suits images of few pixels. Random numbers are drawn on the CPU, so a key gives the same result on every device.

    Args:
        images: ``[B, C, H, W]``, any type.
        key: seed; the same key changes a batch of the same size in the same way.
        crop: pixels of padding on every side, from which a window of the original size is cut.
        flip: mirror an image left to right with probability one half.
        rotate: maximum rotation in degrees, in either direction.
        scale: maximum fraction by which each axis is stretched or shrunk.
        shift: maximum shift along each axis, in pixels; may be a fraction.

    Returns:
        images of the same shape and type, but float32 if whole numbers were interpolated.
    """
    changes = draw_changes(tuple(images.shape), key, crop, flip, rotate, scale, shift)
    return change(images, changes.to(images.device), crop)


class Changes(NamedTuple):
    """Random changes of a batch of images, as tensors."""

    rows: Tensor | None = None
    """The source of each row, int64 ``[B, H]``, in the padded image; None without crop and flip."""
    columns: Tensor | None = None
    """The source of each column, int64 ``[B, W]``."""
    maps: Tensor | None = None
    """The affine map of each image, ``[B, 2, 3]``; None if no image is rotated, scaled or shifted."""

    def to(self, device: torch.device) -> "Changes":
        """Return the changes on a device."""
        return Changes(*(None if part is None else part.to(device) for part in self))


def draw_changes(
    shape: Sequence[int], key: int, crop: int, flip: bool, rotate: float, scale: float, shift: float
) -> Changes:
    """Draw the random changes of a batch of images, on the CPU; see `augment`.

    Args:
        shape: ``[B, C, H, W]``.
        key, crop, flip, rotate, scale, shift: see `augment`.
    """
    generator = torch.Generator().manual_seed(key)
    rows = columns = maps = None
    if crop or flip:
        rows, columns = _draw_sources(shape, crop, flip, generator)
    if rotate or scale or shift:
        maps = _draw_maps(shape, rotate, scale, shift, generator)
    return Changes(rows, columns, maps)


def change(images: Tensor, changes: Changes, crop: int) -> Tensor:
    """Return images with changes that `draw_changes` has drawn for this crop.

    Args:
        images: ``[B, C, H, W]``.
        changes: the changes, on the same device.
        crop: pixels of padding.
    """
    if changes.rows is not None and changes.columns is not None:
        batch, channels = (torch.arange(size, device=images.device) for size in images.shape[:2])
        images = F.pad(images, (crop, crop, crop, crop))[
            batch[:, None, None, None],
            channels[None, :, None, None],
            changes.rows[:, None, :, None],
            changes.columns[:, None, None, :],
        ]
    if changes.maps is not None:
        images = images if images.is_floating_point() else images.float()
        grid = F.affine_grid(changes.maps.to(images), list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, align_corners=False)
    return images


def _draw_sources(shape: Sequence[int], crop: int, flip: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    batch, _, height, width = shape
    top, left = torch.randint(2 * crop + 1, (2, batch, 1), generator=generator)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5 * flip
    columns = left + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
    return top + torch.arange(height), columns


def _draw_maps(shape: Sequence[int], rotate: float, scale: float, shift: float, generator: torch.Generator) -> Tensor:
    batch, _, height, width = shape
    angle, across, down, right, below = 2 * torch.rand(5, batch, generator=generator) - 1
    angle = angle * math.radians(rotate)
    stretch = torch.stack([1 + scale * across, 1 + scale * down], 1)[:, None]
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(batch, 2, 2)
    # The source of each pixel, in coordinates from -1 to 1 over the image.
    aspect = torch.tensor([[1.0, height / width], [width / height, 1.0]])
    moved = torch.stack([right * 2 * shift / width, below * 2 * shift / height], 1)[:, :, None]
    return torch.cat([rotation * aspect * stretch, moved], 2)
