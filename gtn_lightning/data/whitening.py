"""ZCA whitening of images: decorrelated pixels that still look like the image."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2000
"""Images whose covariance is computed at once."""


class Whitening(NamedTuple):
    """ZCA whitening: ``W (z - c)`` for standardized images ``z``.

    Bell and Sejnowski (1997), regularized: ``W = U (S + r)^(-1/2) U^T``, where ``U S U^T`` is the covariance of the
    training images and ``r`` the regularization. With 0.1 it is what implementations of dataset distillation use, such
    as kornia's ``ZCAWhitening(eps=0.1)``.
    """

    center: Tensor
    """c, the mean of every value of a standardized image, float32 ``[C, H, W]``."""
    matrix: Tensor
    """W, symmetric, float16 ``[d, d]`` with ``d = C * H * W``: rounded, so that files of it have half the size and say
    exactly what was done."""

    def apply(self, images: Tensor) -> Tensor:
        """Whiten standardized images, float ``[..., C, H, W]``."""
        center, matrix = (part.to(images) for part in self)
        flat = (images - center).flatten(-center.ndim)
        return (flat @ matrix).view_as(images)

    def invert(self, images: Tensor) -> Tensor:
        """Return whitened images, float ``[..., C, H, W]``, as standardized ones."""
        flat = images.double().flatten(-self.center.ndim)
        rows = torch.linalg.solve(self.matrix.to(flat), flat.reshape(-1, flat.shape[-1]).T).T
        return rows.reshape(images.shape).to(images.dtype) + self.center.to(images)

    def tensors(self) -> dict[str, Tensor]:
        """Return center and matrix by their names in exported files."""
        return {"whiten_center": self.center, "whiten_matrix": self.matrix}


def whitening_of(tensors: Mapping[str, Tensor]) -> Whitening | None:
    """Return the whitening that a file's tensors hold; None if they hold none."""
    if "whiten_matrix" not in tensors:
        return None
    return Whitening(tensors["whiten_center"], tensors["whiten_matrix"])


def fit_whitening(images: Tensor, mean: Tensor, std: Tensor, regularization: float) -> Whitening:
    """Fit the whitening of standardized images.

    Args:
        images: training images, uint8 ``[N, C, H, W]``.
        mean, std: of each channel, float32 ``[C]``.
        regularization: what is added to the eigenvalues of the covariance, above 0.
    """

    def standardized(part: Tensor) -> Tensor:
        return ((part.float() - mean[:, None, None]) / std[:, None, None]).flatten(1)

    count, size = len(images), images[0].numel()
    total = torch.zeros(size, dtype=torch.float64)
    for part in images.split(CHUNK):
        total += standardized(part).sum(0, dtype=torch.float64)
    center = total / count
    covariance = torch.zeros(size, size, dtype=torch.float64)
    for part in images.split(CHUNK):
        rows = standardized(part) - center.float()
        covariance += rows.T @ rows
    values, vectors = torch.linalg.eigh(covariance / count)
    matrix = (vectors * (values.clamp(min=0) + regularization).rsqrt()) @ vectors.T
    matrix = (matrix + matrix.T) / 2
    return Whitening(center.float().view(images.shape[1:]), matrix.half())
