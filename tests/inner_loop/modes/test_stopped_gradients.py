"""Losses that stop gradients, or have their own: every mode must see the same constants as double backward."""

import shutil
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from gtn_lightning.inner_loop import inner_gradient
from tests.inner_loop.test_gradients import relative_error

Function = Callable[[Tensor, Tensor], Tensor]


def under_no_grad(w: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = (w * x).sum()
    return (w * x).sin() * scale


def under_enable_grad(w: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = w * 2
        with torch.enable_grad():
            kept = (w * x).sin()
    return kept * scale


def detached(w: Tensor, x: Tensor) -> Tensor:
    return (w * x).sin() * (w * x).detach()


def detached_under_vmap(w: Tensor, x: Tensor) -> Tensor:
    return vmap(lambda w, x: w.sin() * x * (w * x).detach())(w, x)


def no_grad_under_vmap(w: Tensor, x: Tensor) -> Tensor:
    return vmap(under_no_grad)(w[:, None], x[:, None])


def changed_in_place(w: Tensor, x: Tensor) -> Tensor:
    hidden = F.relu(w * x, inplace=True) * 2
    hidden[1:] += w[1:] ** 2
    return hidden**3


def gradient_inside(w: Tensor, x: Tensor) -> Tensor:
    return grad(lambda x: (w * x**2).sin().sum())(x) ** 2


class Sign(torch.autograd.Function):
    """The straight-through estimator."""

    @staticmethod
    def forward(ctx, inputs):  # type: ignore[no-untyped-def]
        return inputs.sign()

    @staticmethod
    def backward(ctx, cotangent):  # type: ignore[no-untyped-def]
        return cotangent


def straight_through(w: Tensor, x: Tensor) -> Tensor:
    return Sign.apply(w * x) * w**2 * Sign.apply(x)  # type: ignore[no-any-return]


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("mode", ["mixed", "compiled", "linearized"])
@pytest.mark.parametrize(
    "function",
    [under_no_grad, under_enable_grad, detached, detached_under_vmap, no_grad_under_vmap, changed_in_place,
     gradient_inside, straight_through],
)  # fmt: skip
def test_modes_see_the_constants_of_double_backward(function: Function, mode: str) -> None:
    def loss(params, buffers, inputs):  # type: ignore[no-untyped-def]
        return function(params["w"], inputs).sum(), buffers

    torch.manual_seed(0)
    weight, inputs, cotangent = (torch.randn(5, dtype=torch.float64) for _ in range(3))
    products = {}
    for name in ("reverse", mode, mode):  # the second time, it is compiled
        w, x = weight.clone().requires_grad_(), inputs.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the inner gradient cannot be compiled|.* forward")
            found = inner_gradient(loss, {"w": w}, {}, (x,), name)
            products[name] = torch.autograd.grad((found.grads["w"] * cotangent).sum(), (w, x))
    for product, expected in zip(products[mode], products["reverse"], strict=True):
        assert relative_error(product, expected) <= 1e-12
