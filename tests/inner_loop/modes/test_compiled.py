"""The compiled mode against double backward, and what it leaves uncompiled."""

import shutil
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

from gtn_lightning.inner_loop import MODES, SGD, Buffers, Functional, Params, eager_loss, inner_gradient, unroll
from gtn_lightning.inner_loop.compiler import program
from gtn_lightning.inner_loop.modes import compiled
from gtn_lightning.inner_loop.modes.compiled import Compiled
from gtn_lightning.inner_loop.modes.fused import Fused
from gtn_lightning.learners.norms import conv
from tests.inner_loop.test_gradients import (
    Experiment,
    concatenated,
    cross_entropy,
    noisy_net,
    quadratic,
    relative_error,
)

COMPILED = ("compiled", "linearized")

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


def several_norms() -> nn.Module:
    """A network with every norm that needs something done before it can be compiled, and a buffer."""
    return nn.Sequential(
        conv(2, 4, "weight", "tanh"), nn.GroupNorm(2, 4), nn.Tanh(), nn.MaxPool2d(2),
        nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def one_channel() -> nn.Module:
    """A network whose convolution and pooling are compiled by formulas, and then one of each that are not."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.MaxPool2d(2), nn.Tanh(),
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every graph that inductor compiles."""
    counted: list[int] = []
    original = program.compile_graph

    def counting(*args, **kwargs):  # type: ignore[no-untyped-def]
        counted.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(program, "compile_graph", counting)
    return counted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "image_shape", "mode"),
    [
        (one_channel, (1, 9, 8), "linearized"),
        pytest.param(one_channel, (1, 9, 8), "compiled", marks=pytest.mark.long),
        *(pytest.param(several_norms, (2, 4, 4), mode, marks=pytest.mark.long) for mode in COMPILED),
    ],
)
def test_meta_gradient_is_that_of_double_backward(
    network: Callable[[], nn.Module], image_shape: tuple[int, ...], mode: str
) -> None:
    for seed in (0, 1):  # The second learner uses what was compiled for the first.
        torch.manual_seed(seed)
        experiment = Experiment(network(), SGD(0.3, 0.8, learned=["lr", "momentum"]).double(), image_shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="the inner gradient cannot be compiled")
            found = experiment.meta_gradient(mode)
        expected = experiment.meta_gradient("reverse")
        for name, gradient in found.items():
            assert relative_error(gradient, expected[name]) <= 1e-9, name


@pytest.mark.slow
def test_a_loss_with_a_constant_of_which_forward_mode_takes_the_tangent() -> None:
    # For mse_loss it makes up a tangent of the targets, zeros without memory: kernels that read it crashed.
    def loss(params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        def of_one(weight: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            return F.mse_loss((inputs @ weight).tanh(), targets)

        return vmap(of_one)(params["w"], inputs, targets).sum(), buffers

    torch.manual_seed(0)
    weight = torch.randn(4, 3, 2).requires_grad_()
    inputs, targets, cotangent = torch.randn(4, 5, 3).requires_grad_(), torch.randn(4, 5, 2), torch.randn(4, 3, 2)
    products = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the inner gradient cannot be compiled")
        for mode in ("reverse", "compiled", "compiled", "linearized"):
            found = inner_gradient(loss, {"w": weight}, {}, (inputs, targets), mode)
            products[mode] = torch.autograd.grad((found.grads["w"] * cotangent).sum(), (weight, inputs))
    for mode in COMPILED:
        for product, expected in zip(products[mode], products["reverse"], strict=True):
            assert relative_error(product, expected) <= 1e-9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_meta_gradient_on_cuda_is_that_of_double_backward() -> None:
    torch.manual_seed(0)
    learner = Functional(several_norms().cuda())
    images = torch.randn(5, 6, 2, 4, 4, device="cuda", requires_grad=True)
    labels = torch.arange(6, device="cuda") % 3
    optimizer = SGD(0.3, 0.8, learned=["lr", "momentum"]).cuda()
    gradients = {}
    for mode in ("reverse", *COMPILED, *COMPILED):  # the second time, graphs are replayed from the first step on
        batches = [(batch, labels) for batch in images.unbind()]
        trained = unroll(cross_entropy(learner), *learner.init(), batches, optimizer, mode=mode)
        outcome = sum(parameter.sin().sum() for parameter in trained.params.values())
        gradients[mode] = concatenated(torch.autograd.grad(outcome, [images, *optimizer.parameters()]))
    for mode in COMPILED:
        assert relative_error(gradients[mode], gradients["reverse"]) <= 1e-9


def test_the_meta_loss_is_compiled_as_well(compiling: list[int]) -> None:
    torch.manual_seed(0)
    learner = Functional(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    params, buffers = learner.init()
    params = {name: parameter.requires_grad_() for name, parameter in params.items()}
    batch = torch.randn(6, 4), torch.arange(6) % 3
    losses = [eager_loss(cross_entropy(learner), params, buffers, batch, mode) for mode in ("remat", *["compiled"] * 3)]
    assert compiling
    (expected, *found) = (torch.autograd.grad(2 * loss, list(params.values())) for loss in losses)
    for gradients in found:
        assert relative_error(concatenated(gradients), concatenated(expected)) <= 1e-9


def test_fresh_learners_of_one_architecture_are_compiled_once(compiling: list[int]) -> None:
    def meta_gradient(width: int) -> Tensor:
        learner = Functional(nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)))

        def loss(params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
            logits, buffers = learner(params, buffers, inputs)
            return F.cross_entropy(logits, targets), buffers

        inputs = torch.randn(5, 4, requires_grad=True)
        batches = [(inputs, torch.arange(5) % 3)] * 3
        trained = unroll(loss, *learner.init(), batches, SGD(0.1), mode="compiled")
        (found,) = torch.autograd.grad(trained.params["0.weight"].sum(), inputs)
        return found

    for _ in range(3):
        assert meta_gradient(width=7).abs().sum() > 0
    assert len(compiling) == 2  # the gradient and its products
    meta_gradient(width=6)
    assert len(compiling) == 4


def test_both_halves_are_compiled_where_only_the_forward_pass_is_under_autocast(compiling: list[int]) -> None:
    learner = Functional(nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.Tanh(), nn.Linear(6, 3)))
    images = torch.randn(3, 5, 2, 4, 4, requires_grad=True)
    gradients = {}
    for mode in ("remat", "compiled"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            batches = [(batch, torch.arange(5) % 3) for batch in images.unbind()]
            trained = unroll(cross_entropy(learner), *learner.init(), batches, SGD(0.1), mode=mode)
            outcome = sum(parameter.square().sum() for parameter in trained.params.values())
        (gradients[mode],) = torch.autograd.grad(outcome, images)
    assert relative_error(gradients["compiled"], gradients["remat"]) <= 0.05  # eight bits of mantissa
    assert len(compiling) == 2


def test_a_learner_that_draws_random_numbers_is_not_compiled(compiling: list[int]) -> None:
    experiment = Experiment(noisy_net(), SGD(0.5, 0.9).double())
    gradients = []
    for mode in ("reverse", "compiled"):
        torch.manual_seed(7)
        flat = [tensor for group in experiment.variables().values() for tensor in group]
        gradients.append(concatenated(torch.autograd.grad(experiment.meta_loss(mode), flat)))
    assert relative_error(gradients[1], gradients[0]) <= 1e-12
    assert not compiling


def test_beyond_a_number_of_architectures_learners_are_taught_uncompiled(
    monkeypatch: pytest.MonkeyPatch, compiling: list[int]
) -> None:
    monkeypatch.setattr(compiled, "MAX_PROGRAMS", 1)
    mode = Compiled()
    for size, programs in ((3, 2), (4, 2), (5, 2)):
        w, inputs = torch.randn(size, requires_grad=True), torch.randn(size)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                found = mode.differentiable(quadratic, {"w": w}, {}, (inputs,))
                (by_w,) = torch.autograd.grad(found.grads["w"].sum(), w)
                torch.testing.assert_close(by_w, inputs)
        said = [str(warning.message) for warning in caught if "architectures" in str(warning.message)]
        assert len(said) == (size == 4)  # once, when the limit is met
        assert len(compiling) == programs


def test_a_loss_that_cannot_be_traced_says_why_and_runs_uncompiled() -> None:
    def loss(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        if float(params["w"].sum()) > 0:  # the way depends on values
            return quadratic(params, buffers, inputs)
        return quadratic({"w": -params["w"]}, buffers, inputs)

    w, inputs = torch.randn(4, requires_grad=True), torch.randn(4)
    with torch.no_grad():
        inner_gradient(loss, {"w": w}, {}, (inputs,), "compiled")
    with pytest.warns(UserWarning, match="cannot be compiled and runs uncompiled"):
        found = inner_gradient(loss, {"w": w}, {}, (inputs,), "compiled")
    (by_w,) = torch.autograd.grad(found.grads["w"].sum(), w)
    torch.testing.assert_close(by_w, inputs)


@pytest.mark.parametrize("mode", ["compiled", "fused"])
def test_hooks_of_a_later_learner_are_not_left_out(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "compile_graph", lambda graph, *_: graph)
    monkeypatch.setitem(MODES, mode, Compiled() if mode == "compiled" else Fused(MODES["remat"]))
    batch = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double(), torch.arange(6) % 3

    def trained(mode: str, hook: Callable[..., Tensor] | None) -> Tensor:
        network = nn.Linear(4, 3).double()
        nn.init.ones_(network.weight)
        nn.init.zeros_(network.bias)
        if hook is not None:
            network.register_forward_hook(hook)
        learner = Functional(network)
        return unroll(cross_entropy(learner), *learner.init(), [batch], SGD(0.1), mode=mode).params["weight"]

    for hook in (None, None, None, lambda *call: 2 * call[2], lambda *call: 3 * call[2], None):
        torch.testing.assert_close(trained(mode, hook), trained("reverse", hook))
