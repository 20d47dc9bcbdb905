"""The common parts of spaces of cells: checks of arguments, and the layers of an operation."""

from torch import nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.learners.classifier import check_positive
from gtn_lightning.learners.norms import conv, image_norm

_NORMS = ("batch", "batch_running")


def check_cell_space(image_shape: tuple[int, int, int], cells: int, channels: int, norm: str) -> None:
    """Raise a RecipeError unless networks of three stages of cells can be built like this."""
    check_positive("cells", cells)
    check_positive("channels", channels)
    if norm not in _NORMS:
        raise RecipeError(f"norm: {norm!r} is unknown to a space of cells: choose one of {', '.join(_NORMS)}")
    if min(image_shape[1:]) < 3:
        raise RecipeError(
            f"image_shape: got {list(image_shape)}; the three stages halve it twice: give at least 3x3 pixels"
        )


def relu_conv_norm(
    in_channels: int, channels: int, norm: str, pixels: int, kernel_size: int = 3, stride: int = 1
) -> nn.Sequential:
    """Return ReLU, a convolution and a norm.

    Args:
        in_channels: input channels.
        channels: output channels.
        norm: the norm's name.
        pixels: pixels of an output image.
        kernel_size: side of the kernel, odd.
        stride: 2 halves the image, rounding up.
    """
    return nn.Sequential(
        nn.ReLU(),
        conv(in_channels, channels, norm, "relu", kernel_size=kernel_size, stride=stride),
        image_norm(norm, channels, pixels),
    )
