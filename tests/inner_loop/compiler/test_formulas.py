"""The formulas against the kernels of torch whose place they take."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gtn_lightning.inner_loop.compiler import formulas


def values_and_gradients(function, *tensors: Tensor) -> list[Tensor]:  # type: ignore[no-untyped-def]
    variables = [tensor.clone().requires_grad_() for tensor in tensors]
    outputs = function(*variables)
    cotangent = torch.randn(outputs.shape, dtype=outputs.dtype, generator=torch.Generator().manual_seed(1))
    return [outputs.detach(), *torch.autograd.grad(outputs, variables, cotangent)]


@pytest.mark.parametrize("kernel", [2, 3, (1, 2), (3, 2)])
@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (2, 1, 7, 8), (1, 2, 5, 9)])
def test_max_pooling_and_which_of_equal_pixels_receives_the_gradient(kernel, shape) -> None:  # type: ignore[no-untyped-def]
    for images in (torch.randn(shape), torch.randint(3, shape).float(), torch.zeros(shape)):
        found = values_and_gradients(lambda x: formulas.max_pool_tiles(x, kernel), images)
        expected = values_and_gradients(lambda x: F.max_pool2d(x, kernel), images)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


def test_max_pooling_hands_on_what_is_not_a_number() -> None:
    for place in itertools.product(range(2), range(2)):
        images = torch.arange(4.0).view(1, 1, 2, 2)
        images[0, 0][place] = torch.nan
        assert formulas.max_pool_tiles(images, 2).isnan().all()


@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
@pytest.mark.parametrize("padding", [0, 1, (2, 0)])
@pytest.mark.parametrize("size", [(3, 3), (1, 1), (2, 3)])
def test_convolution_of_one_channel(stride, padding, size) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 1, 7, 6), (4, 1, *size), (4,))]
    found = values_and_gradients(lambda *t: formulas.convolve_one_channel(*t, stride, padding), *tensors)
    expected = values_and_gradients(lambda *t: F.conv2d(*t, stride, padding), *tensors)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_group_norm() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in ((3, 6, 4, 5), (6,), (6,))]
    found = values_and_gradients(lambda x, w, b: formulas.group_norm(x, 3, w, b), *tensors)
    expected = values_and_gradients(lambda x, w, b: F.group_norm(x, 3, w, b), *tensors)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_they_take_the_names_of_torchs_arguments() -> None:
    images, thin = torch.randn(2, 4, 6, 6), torch.randn(2, 1, 6, 6)
    weight = torch.randn(3, 1, 3, 3)
    for function, replaced, arguments in (
        (formulas.group_norm, F.group_norm, {"input": images, "num_groups": 2, "eps": 0.1}),
        (formulas.max_pool_tiles, F.max_pool2d, {"input": images, "kernel_size": (2,), "stride": 2}),
        (formulas.convolve_one_channel, F.conv2d, {"input": thin, "weight": weight, "groups": 1, "padding": (1,)}),
    ):
        torch.testing.assert_close(function(**arguments), replaced(**arguments))


def test_group_norm_of_half_precision_is_computed_in_single() -> None:
    images = (300 * torch.randn(2, 4, 6, 6)).half()
    torch.testing.assert_close(formulas.group_norm(images, 2), F.group_norm(images.float(), 2).half())


def test_only_poolings_over_tiles_and_convolutions_of_one_channel_are_replaced() -> None:
    images, thin = torch.randn(1, 2, 6, 6), torch.randn(1, 1, 6, 6)
    assert formulas.is_tiling(images, 2)
    assert formulas.is_tiling(images, (2, 3), (2, 3))
    assert not formulas.is_tiling(images, 3, 2)
    assert not formulas.is_tiling(images, 2, 2, 1)
    assert not formulas.is_tiling(images, 2, ceil_mode=True)
    assert not formulas.is_tiling(images, 2, return_indices=True)
    weight = torch.randn(3, 1, 3, 3)
    assert formulas.has_one_channel(thin, weight)
    assert not formulas.has_one_channel(images, torch.randn(3, 2, 3, 3))
    assert not formulas.has_one_channel(thin, weight, dilation=2)
    assert not formulas.has_one_channel(thin, weight, padding="same")
