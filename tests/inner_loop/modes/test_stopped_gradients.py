"""Losses that stop gradients, or have their own: a constant of the inner gradient is none of its derivative.

Every mode is held against central differences of the inner gradient.
"""

import shutil
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from gtn_lightning.inner_loop import inner_gradient

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


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("mode", ["reverse", "remat", "mixed", "compiled", "linearized"])
@pytest.mark.parametrize(
    "function",
    [under_no_grad, under_enable_grad, detached, detached_under_vmap, no_grad_under_vmap, changed_in_place,
     gradient_inside],
)  # fmt: skip
def test_derivatives_of_the_gradient_are_those_of_central_differences(function: Function, mode: str) -> None:
    def loss(params, buffers, inputs):  # type: ignore[no-untyped-def]
        return function(params["w"], inputs).sum(), buffers

    torch.manual_seed(0)
    weight, inputs, cotangent, along_weight, along_inputs = torch.randn(5, 5, dtype=torch.float64)

    def slope(step: float) -> Tensor:
        """The gradient's product with the cotangent, a step away."""
        w, x = weight + step * along_weight, inputs + step * along_inputs
        with torch.no_grad():
            return inner_gradient(loss, {"w": w}, {}, (x,), "remat").grads["w"] @ cotangent

    expected = (slope(1e-6) - slope(-1e-6)) / 2e-6
    for _ in range(2):  # the second time, it is compiled
        w, x = weight.clone().requires_grad_(), inputs.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the inner gradient cannot be compiled|.* forward")
            found = inner_gradient(loss, {"w": w}, {}, (x,), mode)
            by_weight, by_inputs = torch.autograd.grad(found.grads["w"] @ cotangent, (w, x))
        product = by_weight @ along_weight + by_inputs @ along_inputs
        assert float((product - expected).abs() / expected.abs()) <= 1e-7
