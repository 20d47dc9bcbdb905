"""Where forward mode has no rule, and that it falls back."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.inner_loop import MODES, Buffers, Functional, NotTwiceDifferentiableError, Params, inner_gradient
from gtn_lightning.inner_loop.modes.mixed import Mixed


def test_an_operator_without_either_rule_is_named() -> None:
    def loss(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        return torch.cdist(params["w"], inputs).square().sum(), buffers

    found = inner_gradient(loss, {"w": torch.randn(3, 2, requires_grad=True)}, {}, (torch.randn(4, 2),), "mixed")
    with pytest.raises(NotTwiceDifferentiableError, match="cdist"):
        found.grads["w"].sum().backward()


def test_an_operator_without_a_forward_mode_rule_is_named_once_and_differentiated_in_reverse() -> None:
    def loss(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        sampled = F.grid_sample(params["w"], inputs, align_corners=False)
        return sampled.pow(3).sum(), buffers

    weight, cotangent = torch.randn(1, 1, 4, 4, requires_grad=True), torch.randn(1, 1, 4, 4)
    grid = torch.rand(1, 3, 3, 2)

    def product(mode: str) -> Tensor:
        found = inner_gradient(loss, {"w": weight}, {}, (grid,), mode)
        return torch.autograd.grad((found.grads["w"] * cotangent).sum(), weight)[0]

    expected = product("reverse")
    with pytest.warns(UserWarning, match="the learner's grid_sampler_2d has no forward-mode derivative"):
        torch.testing.assert_close(product("mixed"), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(product("mixed"), expected)


def test_convolutions_under_autocast_fall_back_to_the_same_gradient() -> None:
    torch.manual_seed(0)
    learner = Functional(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 3)).float()
    )
    params, buffers = learner.init()
    params = {name: parameter.requires_grad_() for name, parameter in params.items()}
    batch = torch.randn(5, 1, 6, 6, dtype=torch.float32), torch.arange(5) % 3

    def loss(params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        logits, buffers = learner(params, buffers, inputs)
        return F.cross_entropy(logits, targets), buffers

    def product(mode: str) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = inner_gradient(loss, params, buffers, batch, mode)
        outputs = sum(gradient.square().sum() for gradient in found.grads.values())
        return torch.cat([g.flatten() for g in torch.autograd.grad(outputs, list(params.values()))])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a torch that can do it has nothing to warn of
        found = product("mixed")
    expected = product("remat")
    assert float((found - expected).norm() / expected.norm()) < 0.05  # eight bits of mantissa


def test_a_custom_function_without_a_forward_mode_rule_falls_back_to_the_same_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MODES, "mixed", Mixed())  # one that has not warned of anything yet

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(inputs)
            return inputs**3

        @staticmethod
        def backward(ctx, cotangent):  # type: ignore[no-untyped-def]
            (inputs,) = ctx.saved_tensors
            return 3 * inputs**2 * cotangent

    def loss(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        return (Cube.apply(params["w"]) * inputs).sum(), buffers

    w, inputs, cotangent = (torch.randn(4).requires_grad_() for _ in range(3))
    found = inner_gradient(loss, {"w": w}, {}, (inputs,), "mixed")
    with pytest.warns(UserWarning, match="no forward-mode derivative"):
        by_w, by_inputs = torch.autograd.grad((found.grads["w"] * cotangent).sum(), (w, inputs))
    torch.testing.assert_close(by_w, (6 * w * inputs * cotangent).detach())
    torch.testing.assert_close(by_inputs, (3 * w**2 * cotangent).detach())
    again = inner_gradient(loss, {"w": w}, {}, (inputs,), "mixed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.grads["w"].sum().backward()
