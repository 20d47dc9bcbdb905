"""Random crop and flip of a batch that is a tensor already, decided by a key."""

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, key: int, crop: int = 0, flip: bool = False) -> Tensor:
    """Shift every image at random by up to ``crop`` pixels, filled up with black, and mirror half of them.

    The choices are drawn on the CPU, so that a key means the same on every device.

    Args:
        images: ``[B, C, H, W]``, any type.
        key: the same key does the same to a batch of the same size.
        crop: pixels of padding on every side, out of which a window of the old size is cut.
        flip: mirror an image left to right with probability one half.

    Returns:
        images of the same shape and type.
    """
    if not crop and not flip:
        return images
    batch, channels, height, width = images.shape
    generator = torch.Generator().manual_seed(key)
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
