"""Networks as people write them in plain PyTorch, without this package, for images of one or more channels.

They are what an exported file must teach: the usual order of layers, other orders, running statistics, default
initialization. Those of `NEVER_MET` have no family of the recipes' mixtures.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions whose result is added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second, self.last_norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, images: Tensor) -> Tensor:
        """Return features of the images' shape, ``[B, width, H, W]``."""
        return torch.relu(images + self.last_norm(self.second(torch.relu(self.norm(self.first(images))))))


class LeNet(nn.Module):
    """LeCun et al. (1998) for images of at least 8x8 pixels: two convolutions of 5x5, three linear layers."""

    def __init__(self, channels: int, pixels: int, classes: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2), activation(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5, padding=2), activation(), nn.AvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        side = pixels // 4
        self.head = nn.Sequential(
            nn.Linear(16 * side * side, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` of images ``[B, C, H, W]``."""
        logits: Tensor = self.head(self.features(images))
        return logits


def blocks(
    channels: int, width: int, depth: int, pixels: int, classes: int, *after: Callable[[], nn.Module]
) -> nn.Module:
    """Return convolutions, each followed by new layers of `after`, and a linear layer; every block halves the image."""
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Conv2d(width if number else channels, width, 3, padding=1), *(layer() for layer in after)]
        pixels //= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * pixels**2, classes))


def written_networks(channels: int, pixels: int, classes: int) -> dict[str, Callable[[], nn.Module]]:
    """Return functions that make new networks, by name.

    Args:
        channels: channels of the square images.
        pixels: height and width of the images, at least 8.
        classes: number of classes.
    """
    size = channels * pixels * pixels

    def flat(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Flatten(), *layers)

    def pool() -> nn.Module:
        return nn.MaxPool2d(2)

    def norm(width: int, running: bool = True) -> Callable[[], nn.Module]:
        return lambda: nn.BatchNorm2d(width, track_running_stats=running)

    def convolutions(width: int, depth: int, *after: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        return lambda: blocks(channels, width, depth, pixels, classes, *after)

    return {
        "conv, BatchNorm, ReLU, pool (the usual order)": convolutions(32, 1, norm(32), nn.ReLU, pool),
        "the same, batch statistics": convolutions(32, 1, norm(32, running=False), nn.ReLU, pool),
        "the same, two blocks of 16": convolutions(16, 2, norm(16), nn.ReLU, pool),
        "conv, pool, BatchNorm, ReLU": convolutions(32, 1, pool, norm(32), nn.ReLU),
        "conv, ReLU, pool": convolutions(32, 1, nn.ReLU, pool),
        "MLP 64-128-10": lambda: flat(nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, classes)),
        "MLP with BatchNorm": lambda: flat(
            nn.Linear(size, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, classes)
        ),
        "linear": lambda: flat(nn.Linear(size, classes)),
        "conv, GroupNorm, GELU, average pool": convolutions(
            32, 1, lambda: nn.GroupNorm(1, 32), nn.GELU, lambda: nn.AvgPool2d(2)
        ),
        "LeNet, ReLU": lambda: LeNet(channels, pixels, classes, nn.ReLU),
        "LeNet, tanh": lambda: LeNet(channels, pixels, classes, nn.Tanh),
        "residual": lambda: nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), Residual(16), pool(), nn.Flatten(),
            nn.Linear(16 * (pixels // 2) ** 2, classes),
        ),
        "mean over pixels": lambda: nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), pool(),
            nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes),
        ),
        "the usual order, 128 wide": convolutions(128, 1, norm(128), nn.ReLU, pool),
    }  # fmt: skip


NEVER_MET = ("conv, GroupNorm, GELU, average pool", "LeNet, ReLU", "LeNet, tanh")
"""Names of networks that no family of the recipes' mixtures is like."""
