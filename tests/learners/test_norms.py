"""Normalizations against their formulas."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from gtn_lightning.learners.norms import (
    FEATURE_NORMS,
    IMAGE_NORMS,
    MeanOnlyBatchNorm,
    conv,
    feature_norm,
    image_norm,
    linear,
    normalized,
)


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 4, 5)])
def test_mean_only_batch_norm_follows_its_formula(shape: tuple[int, ...]) -> None:
    inputs = torch.randn(*shape) * 3 + 2
    norm = MeanOnlyBatchNorm(3)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    outputs = norm(inputs)
    for channel, bias in enumerate([-1.0, 0.0, 2.0]):
        expected = inputs[:, channel] - inputs[:, channel].sum() / inputs[:, channel].numel() + bias
        torch.testing.assert_close(outputs[:, channel], expected)


def test_weight_normalized_layers_start_at_their_weight_and_keep_length_and_direction_apart() -> None:
    images, features = torch.randn(2, 3, 6, 6), torch.randn(2, 5)
    for layer, inputs, plain in (
        (conv(3, 4, "weight", "relu"), images, partial(F.conv2d, padding=1)),
        (linear(5, 4, "weight", "relu"), features, F.linear),
    ):
        weight, scale = layer.weight.detach().clone(), layer.get_parameter("scale")
        assert scale.shape == (4, *[1] * (weight.ndim - 1))
        torch.testing.assert_close(layer(inputs), plain(inputs, weight))
        with torch.no_grad():
            layer.weight.mul_(7)
        torch.testing.assert_close(layer(inputs), plain(inputs, weight))
        with torch.no_grad():
            scale.mul_(3)
        torch.testing.assert_close(layer(inputs), plain(inputs, 3 * weight))


def test_weight_norm_can_be_differentiated_twice() -> None:
    """Torch's own cannot: this is why the package has one."""
    direction = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    scale = torch.rand(4, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(normalized, (direction, scale))
    assert torch.autograd.gradgradcheck(normalized, (direction, scale))


@pytest.mark.parametrize("norm", ["weight", "none"])
def test_layers_start_at_kaimings_scale(norm: str) -> None:
    torch.manual_seed(0)
    for layer, fan_in in ((conv(32, 256, norm, "relu"), 32 * 9), (linear(512, 256, norm, "relu"), 512)):
        assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)


@pytest.mark.parametrize("norm", [name for name in IMAGE_NORMS if name not in ("weight", "none")])
@pytest.mark.parametrize("channels", [1, 6, 7, 32])
def test_norms_standardise_images(norm: str, channels: int) -> None:
    images = torch.randn(16, channels, 6, 6) * 5 + 3
    outputs = image_norm(norm, channels, 36)(images).detach()
    assert float(outputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(outputs.var()) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("norm", FEATURE_NORMS)
def test_group_and_layer_norms_look_at_one_example_and_batch_norms_at_all(norm: str) -> None:
    features = torch.randn(16, 32)
    layer = feature_norm(norm, 32)
    alone = {"group", "layer", "none"}
    unmoved = torch.allclose(layer(features)[:4], layer(features[:4]), atol=1e-6)
    assert unmoved == (norm in alone)
