"""A residual network for small images."""

from collections.abc import Sequence

from torch import Tensor, nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.learners.classifier import ImageClassifier, check_positive
from gtn_lightning.learners.norms import classifier, conv, image_norm


class ResNet(ImageClassifier):
    """Stages of residual blocks, each with twice the width and half the size of the last; global average pooling.

    The CIFAR form of He et al., "Deep Residual Learning", arXiv 1512.03385: a 3x3 stem, basic blocks, and 1x1
    convolutions as shortcuts if the shape changes.

    Args:
        image_shape: ``(channels, height, width)``.
        classes: number of classes.
        width: channels of the first stage.
        blocks: residual blocks in each stage.
        norm: as in `ConvNet`.

    Raises:
        RecipeError: if the norm is unknown, a size is below 1, or the image is too small for the number of stages.

    Examples:
        >>> import torch
        >>> from gtn_lightning.learners import ResNet
        >>> network = ResNet(image_shape=(3, 8, 8), classes=10, width=4, blocks=[1, 1])
        >>> network(torch.randn(8, 3, 8, 8)).shape
        torch.Size([8, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        classes: int | None = None,
        width: int = 16,
        blocks: Sequence[int] = (2, 2, 2),
        norm: str = "batch",
    ) -> None:
        super().__init__(image_shape, classes)
        check_positive("width", width)
        check_positive("blocks", *blocks)
        self.width = width
        self.blocks = list(blocks)
        self.norm = norm

        channels, rows, columns = self.image_shape
        self.stem = nn.Sequential(
            conv(channels, width, norm, "relu"), image_norm(norm, width, rows * columns), nn.ReLU()
        )
        stages: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(self.blocks):
            stride = 1 if stage == 0 else 2
            if stride == 2:
                if min(rows, columns) < 2:
                    raise RecipeError(
                        f"blocks must have at most {stage} stages for image_shape {list(self.image_shape)}, got "
                        f"{len(self.blocks)}: more stages shrink the image below 1 pixel"
                    )
                rows, columns = (rows + 1) // 2, (columns + 1) // 2
            for block in range(count):
                stages.append(
                    _ResidualBlock(
                        channels,
                        width * 2**stage,
                        stride if block == 0 else 1,
                        norm,
                        rows * columns,
                        sum(self.blocks),
                    )
                )
                channels = width * 2**stage
        self.stages = nn.Sequential(*stages)
        self.classifier = classifier(channels, self.classes, norm)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` of images ``[B, C, H, W]``."""
        logits: Tensor = self.classifier(self.stages(self.stem(images)).mean(dim=(2, 3)))
        return logits


class _ResidualBlock(nn.Module):
    """``relu(shortcut(x) + branch(x))`` with two 3x3 convolutions in the branch."""

    def __init__(self, in_channels: int, channels: int, stride: int, norm: str, pixels: int, depth: int) -> None:
        super().__init__()
        # Without a norm of the variance, every block would double it, so the branches are scaled down.
        scale = depth**-0.5 if norm in ("weight", "none") else 1.0
        self.branch = nn.Sequential(
            conv(in_channels, channels, norm, "relu", stride=stride),
            image_norm(norm, channels, pixels),
            nn.ReLU(),
            conv(channels, channels, norm, "linear", scale=scale),
            image_norm(norm, channels, pixels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                conv(in_channels, channels, norm, "linear", kernel_size=1, stride=stride),
                image_norm(norm, channels, pixels),
            )

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.shortcut(images) + self.branch(images)
        return outputs.relu()
