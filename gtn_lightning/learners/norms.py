"""Layers with normalization, by the normalization's name.

A normalization has two parts: the layer with weights before it (weight normalization reparametrizes the weights, and a
norm that shifts its output replaces the bias) and the normalization layer. `conv` and `linear` make the first,
`image_norm` and `feature_norm` the second.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.errors import RecipeError
from gtn_lightning.learners.activations import kaiming_gain

IMAGE_NORMS = ("batch", "batch_running", "group", "layer", "instance", "weight", "none")
"""Names for `image_norm`: ``batch`` normalizes by the statistics of the current batch, in evaluation too, since
few inner steps do not fill running statistics; ``batch_running`` is ordinary BatchNorm; ``group`` and ``layer`` are
GroupNorm with several groups and with one; ``weight`` is weight normalization with mean-only batch normalization."""

FEATURE_NORMS = tuple(name for name in IMAGE_NORMS if name != "instance")
"""Names for `feature_norm`: without ``instance``, which would normalize over a single value."""

INITS = ("kaiming", "torch")
"""How layers begin: with Kaiming's normal distribution, or as `torch.nn` makes them, always with a bias."""

_MOST_GROUPS = 8
_LEAST_CHANNELS_PER_GROUP = 4


class MeanOnlyBatchNorm(nn.Module):
    """Subtracts the batch's mean of each channel and adds a learned bias: ``y = x - mean(x) + bias``.

    It is used with weight normalization, which sets the scale (Salimans & Kingma, arXiv 1602.07868, section 4). The
    batch's mean is used in evaluation too, since few inner steps do not fill a running mean.

    Args:
        channels: number of channels C; inputs are ``[B, C]`` or ``[B, C, H, W]``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the shifted inputs, of the same shape."""
        reduced = [dim for dim in range(inputs.ndim) if dim != 1]
        bias = self.bias.view(1, -1, *[1] * (inputs.ndim - 2))
        return inputs - inputs.mean(dim=reduced, keepdim=True) + bias


class WeightNormConv2d(nn.Conv2d):
    """A convolution with ``weight = scale * direction / |direction|``, one scale per output channel.

    Salimans & Kingma, arXiv 1602.07868, equation 2; the direction is the parameter ``weight``. Torch's own
    parametrization has a silently wrong second derivative (torch 2.13: its backward treats the saved norm as a
    constant), and it makes a new class for every layer, for which a compiled program cannot be reused.
    """

    scale: nn.Parameter

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the convolution of images ``[B, C, H, W]`` with the normalized weight."""
        return self._conv_forward(inputs, normalized(self.weight, self.scale), self.bias)


class WeightNormLinear(nn.Linear):
    """A linear layer with a normalized weight; see `WeightNormConv2d`."""

    scale: nn.Parameter

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the linear map of vectors ``[B, features]`` by the normalized weight."""
        return F.linear(inputs, normalized(self.weight, self.scale), self.bias)


def normalized(direction: Tensor, scale: Tensor) -> Tensor:
    """Return ``scale * direction / |direction|``, shaped as `direction`, ``[out, ...]``; `scale`: ``[out, 1, ...]``."""
    return direction * (scale / _channel_norm(direction))


def _channel_norm(weight: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)
    return norm


def conv(
    in_channels: int,
    out_channels: int,
    norm: str,
    activation: str,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    scale: float = 1.0,
    init: str = "kaiming",
) -> nn.Conv2d:
    """Return a convolution for use before `image_norm`, padded to keep the size divided by its stride.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        norm: name of the normalization that follows.
        activation: name of the activation that follows, or ``"linear"``; it decides the Kaiming gain.
        kernel_size: side of the kernel, odd.
        stride: 2 halves the image, rounding up.
        scale: multiplies the initial weights, of ``"kaiming"``.
        init: one of `INITS`.
    """
    # A bias before a layer that subtracts a mean would get no gradient, or duplicate that layer's bias.
    kind = WeightNormConv2d if norm == "weight" else nn.Conv2d
    bias = norm == "none" or init == "torch"
    layer = kind(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=bias)
    _initialise(layer, activation, init, scale)
    return layer


def linear(in_features: int, out_features: int, norm: str, activation: str, init: str = "kaiming") -> nn.Linear:
    """Return a linear layer for use before `feature_norm`; the arguments are those of `conv`."""
    kind = WeightNormLinear if norm == "weight" else nn.Linear
    layer = kind(in_features, out_features, bias=norm == "none" or init == "torch")
    _initialise(layer, activation, init)
    return layer


def classifier(in_features: int, classes: int, norm: str, init: str = "kaiming") -> nn.Linear:
    """Return the last linear layer of a network: with bias, and weight-normalized if the network is.

    Logits are never normalized over the batch, so that no image's logits are shifted by the others of its batch.
    """
    layer = (WeightNormLinear if norm == "weight" else nn.Linear)(in_features, classes)
    _initialise(layer, "linear", init)
    return layer


def _initialise(layer: nn.Conv2d | nn.Linear, activation: str, init: str, scale: float = 1.0) -> None:
    if init not in INITS:
        raise RecipeError(f"init must be one of {', '.join(INITS)}, got {init!r}")
    if init == "kaiming":
        fan_in = layer.weight[0].numel()
        nn.init.normal_(layer.weight, std=scale * kaiming_gain(activation) / fan_in**0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if isinstance(layer, WeightNormConv2d | WeightNormLinear):
        layer.scale = nn.Parameter(_channel_norm(layer.weight.detach()))


def image_norm(norm: str, channels: int, pixels: int) -> nn.Module:
    """Return the normalization layer for images ``[B, C, H, W]``.

    Args:
        norm: one of `IMAGE_NORMS`.
        channels: C.
        pixels: H times W; must be above 1 for ``"instance"``.

    Raises:
        RecipeError: if there is no normalization of that name, or it cannot normalize a single pixel.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels, track_running_stats=False)
    if norm == "batch_running":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(_groups(channels), channels)
    if norm == "layer":
        return nn.GroupNorm(1, channels)
    if norm == "instance":
        if pixels < 2:
            raise RecipeError("norm 'instance' sets images of 1 pixel to zero: use less depth or larger images")
        return nn.InstanceNorm2d(channels, affine=True)
    if norm == "weight":
        return MeanOnlyBatchNorm(channels)
    if norm == "none":
        return nn.Identity()
    raise RecipeError(f"norm must be one of {', '.join(IMAGE_NORMS)}, got {norm!r}")


def feature_norm(norm: str, features: int) -> nn.Module:
    """Return the normalization layer for feature vectors ``[B, features]``.

    Args:
        norm: one of `FEATURE_NORMS`.
        features: length of a vector.

    Raises:
        RecipeError: if there is no normalization of that name for vectors.
    """
    if norm == "batch":
        return nn.BatchNorm1d(features, track_running_stats=False)
    if norm == "batch_running":
        return nn.BatchNorm1d(features)
    if norm == "group":
        return nn.GroupNorm(_groups(features), features)
    if norm == "layer":
        return nn.LayerNorm(features)
    if norm == "weight":
        return MeanOnlyBatchNorm(features)
    if norm == "none":
        return nn.Identity()
    raise RecipeError(f"norm after a linear layer must be one of {', '.join(FEATURE_NORMS)}, got {norm!r}")


def _groups(channels: int) -> int:
    """Return the largest number of equal groups, at most 8, of at least 4 channels each; 1 if there is none."""
    most = min(_MOST_GROUPS, channels // _LEAST_CHANNELS_PER_GROUP)
    return max((groups for groups in range(1, most + 1) if channels % groups == 0), default=1)
