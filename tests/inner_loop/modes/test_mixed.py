"""Where forward mode has no rule, and that it falls back."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.inner_loop import Buffers, Functional, NotTwiceDifferentiableError, Params, inner_gradient


class Attention(nn.Module):
    """Scaled dot-product attention, whose CPU kernel has no forward-mode rule."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


def test_an_operator_without_a_forward_mode_rule_is_named_once_and_differentiated_in_reverse() -> None:
    learner = Functional(Attention())
    params, buffers = learner.init()

    def loss(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            outputs, buffers = learner(params, buffers, inputs)
        return torch.cdist(outputs[0, 0], outputs[0, 0] + 1).square().sum(), buffers

    def embedding(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        outputs = F.rrelu(learner(params, buffers, inputs)[0].cumprod(0), training=False)
        return torch.nn.functional.gelu(outputs).logcumsumexp(0).sum(), buffers

    params = {name: tensor.requires_grad_() for name, tensor in params.items()}
    images = torch.randn(1, 1, 4, 6)
    found = inner_gradient(loss, params, buffers, (images,), "mixed")
    # cdist has neither a forward-mode rule nor a second derivative: the fallback says the latter.
    with (
        pytest.warns(UserWarning, match="cdist.* has no forward-mode derivative"),
        pytest.raises(NotTwiceDifferentiableError, match="cdist"),
    ):
        sum(grad.sum() for grad in found.grads.values()).backward()


def test_a_custom_function_without_a_forward_mode_rule_falls_back_to_the_same_gradient() -> None:
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
