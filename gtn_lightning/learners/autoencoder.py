"""Autoencoders: networks that return a reconstruction of their input, and its code."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import given
from gtn_lightning.learners.activations import activation_layer
from gtn_lightning.learners.classifier import check_positive
from gtn_lightning.learners.norms import conv, image_norm, linear


class Autoencoder(nn.Module):
    """Linear layers to a code, and the same widths back.

    Args:
        shape: shape of one input; a recipe may omit it, its task then sets it.
        hidden: widths of the hidden layers from the input to the code.
        code: size of the code.
        activation: as for `MLP`.

    Raises:
        RecipeError: if a name is unknown or a size is below 1.

    Examples:
        >>> import torch
        >>> from gtn_lightning.learners import Autoencoder
        >>> reconstruction, code = Autoencoder(shape=(13,), hidden=[16], code=4)(torch.randn(8, 13))
        >>> reconstruction.shape, code.shape
        (torch.Size([8, 13]), torch.Size([8, 4]))
    """

    def __init__(
        self,
        shape: tuple[int, ...] | None = None,
        hidden: Sequence[int] = (128,),
        code: int = 16,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.shape = tuple(given(shape, "Autoencoder.shape"))
        check_positive("shape", *self.shape)
        check_positive("code", code)
        if hidden:
            check_positive("hidden", *hidden)
        self.hidden = list(hidden)
        self.code = code
        self.activation = activation
        size = math.prod(self.shape)
        self.encoder = _layers([size, *self.hidden, code], activation)
        self.decoder = _layers([code, *reversed(self.hidden), size], activation)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstructions ``[B, *shape]`` and codes ``[B, code]`` of inputs ``[B, *shape]``."""
        code = self.encoder(inputs.flatten(1))
        return self.decoder(code).view_as(inputs), code


class ConvAutoencoder(nn.Module):
    """Convolutions of stride 2 to a code, and upsampling with convolutions back.

    Args:
        shape: ``(channels, height, width)``, height and width divisible by 2 to the power of ``depth``; a recipe may
            omit it, its task then sets it.
        width: channels of every convolution.
        depth: number of halvings.
        code: size of the code.
        norm: normalization after the convolutions, as for `ConvNet`.
        activation: as for `ConvNet`.

    Raises:
        RecipeError: if a name is unknown, a size is below 1, or the image cannot be halved so often.

    Examples:
        >>> import torch
        >>> from gtn_lightning.learners import ConvAutoencoder
        >>> reconstruction, code = ConvAutoencoder(shape=(1, 8, 8), width=4, code=4)(torch.randn(8, 1, 8, 8))
        >>> reconstruction.shape, code.shape
        (torch.Size([8, 1, 8, 8]), torch.Size([8, 4]))
    """

    def __init__(
        self,
        shape: tuple[int, ...] | None = None,
        width: int = 16,
        depth: int = 2,
        code: int = 16,
        norm: str = "none",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.shape = tuple(given(shape, "ConvAutoencoder.shape"))
        for name, size in (("width", width), ("depth", depth), ("code", code)):
            check_positive(name, size)
        check_positive("shape", *self.shape)
        if len(self.shape) != 3 or any(size % 2**depth for size in self.shape[1:]):
            raise RecipeError(
                f"ConvAutoencoder: shape must be channels, height and width, the last two divisible by {2**depth} for "
                f"depth {depth}, got {list(self.shape)}"
            )
        self.width = width
        self.depth = depth
        self.code = code
        self.norm = norm
        self.activation = activation
        channels, rows, columns = self.shape
        small = rows // 2**depth, columns // 2**depth
        encoder: list[nn.Module] = []
        for block in range(depth):
            act = activation_layer(activation)
            encoder += [conv(width if block else channels, width, norm, activation, stride=2)]
            encoder += [image_norm(norm, width, rows * columns // 4 ** (block + 1)), act]
        self.encoder = nn.Sequential(*encoder, nn.Flatten(), linear(width * math.prod(small), code, "none", "linear"))
        decoder: list[nn.Module] = [
            linear(code, width * math.prod(small), "none", activation),
            activation_layer(activation),
            nn.Unflatten(1, (width, *small)),
        ]
        for block in range(depth):
            last = block == depth - 1
            decoder.append(nn.Upsample(scale_factor=2))
            if last:
                decoder.append(conv(width, channels, "none", "linear"))
            else:
                act = activation_layer(activation)
                decoder += [conv(width, width, norm, activation)]
                decoder += [image_norm(norm, width, math.prod(small) * 4 ** (block + 1)), act]
        self.decoder = nn.Sequential(*decoder)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstructions ``[B, C, H, W]`` and codes ``[B, code]`` of images ``[B, C, H, W]``."""
        code = self.encoder(images)
        return self.decoder(code), code


def _layers(sizes: Sequence[int], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(pairwise(sizes)):
        last = place == len(sizes) - 2
        layers.append(linear(before, after, "none", "linear" if last else activation))
        if not last:
            layers.append(activation_layer(activation))
    return nn.Sequential(*layers)
