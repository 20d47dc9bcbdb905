"""Random augmentation of a batch of images, reproducible by a key."""

import math

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
    generator = torch.Generator().manual_seed(key)
    if crop or flip:
        images = _crop_and_flip(images, crop, flip, generator)
    if rotate or scale or shift:
        images = _distort(images, rotate, scale, shift, generator)
    return images


def _crop_and_flip(images: Tensor, crop: int, flip: bool, generator: torch.Generator) -> Tensor:
    batch, channels, height, width = images.shape
    top, left = torch.randint(2 * crop + 1, (2, batch, 1), generator=generator)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5 * flip
    rows = top + torch.arange(height)
    columns = left + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
    device = images.device
    return F.pad(images, (crop, crop, crop, crop))[
        torch.arange(batch, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows.to(device)[:, None, :, None],
        columns.to(device)[:, None, None, :],
    ]


def _distort(images: Tensor, rotate: float, scale: float, shift: float, generator: torch.Generator) -> Tensor:
    batch, _, height, width = images.shape
    angle, across, down, right, below = 2 * torch.rand(5, batch, generator=generator) - 1
    angle = angle * math.radians(rotate)
    stretch = torch.stack([1 + scale * across, 1 + scale * down], 1)[:, None]
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(batch, 2, 2)
    # The source of each pixel, in coordinates from -1 to 1 over the image.
    aspect = torch.tensor([[1.0, height / width], [width / height, 1.0]])
    moved = torch.stack([right * 2 * shift / width, below * 2 * shift / height], 1)[:, :, None]
    maps = torch.cat([rotation * aspect * stretch, moved], 2)
    images = images if images.is_floating_point() else images.float()
    grid = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
