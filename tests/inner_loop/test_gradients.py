"""Meta-gradients of every mode against double backward, central differences and an adjoint by hand."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from gtn_lightning.inner_loop import (
    LARS,
    SGD,
    Adam,
    AdamW,
    Buffers,
    Functional,
    InnerOptimizer,
    LossFn,
    NotTwiceDifferentiableError,
    Params,
    RMSprop,
    eager_loss,
    inner_gradient,
    unroll,
)
from tests.inner_loop import adjoint

UNCOMPILED = ("mixed", "remat", "reverse")
OTHER_MODES = ("mixed", "remat")
STEPS, BATCH, CLASSES = 3, 6, 3
INNER_WEIGHT = 0.1

NORMS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "batch": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "batch_running": lambda: nn.BatchNorm2d(4),
    "group": lambda: nn.GroupNorm(2, 4),
    "layer": lambda: nn.LayerNorm([4, 4, 4]),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True),
    "weight": nn.Identity,
}

# Everything is learned, and epsilon is large enough to matter.
OPTIMIZERS: dict[str, Callable[[], InnerOptimizer]] = {
    "sgd": lambda: SGD(
        lr=0.3, momentum=0.8, weight_decay=0.02,
        learned=["weight_decay"], learned_per_step=["lr", "momentum"], steps=3,
    ),
    "nesterov": lambda: SGD(
        lr=0.3, momentum=0.8, weight_decay=0.02, nesterov=True, learned=["lr", "momentum", "weight_decay"]
    ),
    "adam": lambda: Adam(
        lr=0.05, beta1=0.8, beta2=0.95, eps=0.01, weight_decay=0.02,
        learned=["beta2", "eps", "weight_decay"], learned_per_step=["lr", "beta1"], steps=3,
    ),
    "adamw": lambda: AdamW(
        lr=0.05, beta1=0.8, beta2=0.95, eps=0.01, weight_decay=0.2,
        learned=["lr", "beta1", "eps", "weight_decay"], learned_per_step=["beta2"], steps=3,
    ),
    "rmsprop": lambda: RMSprop(
        lr=0.05, alpha=0.9, eps=0.01, momentum=0.6, weight_decay=0.02,
        learned=["alpha", "eps", "momentum", "weight_decay"], learned_per_step=["lr"], steps=3,
    ),
    "lars": lambda: LARS(
        lr=0.1, momentum=0.6, eps=0.01, learned=["momentum", "eps"], learned_per_step=["lr"], steps=3
    ),
}  # fmt: skip


def cross_entropy(learner: Functional) -> LossFn:
    def loss(params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        logits, buffers = learner(params, buffers, inputs)
        return F.cross_entropy(logits, targets), buffers

    return loss


def conv_net(norm: str) -> nn.Module:
    conv, linear = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(16, CLASSES)
    if norm == "weight":
        conv, linear = weight_norm(conv), weight_norm(linear)
    net = nn.Sequential(conv, NORMS[norm](), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), linear)
    with torch.no_grad():  # Scales and shifts of norms start at one and zero, where errors hide.
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


class Experiment:
    """A meta-loss and all that it is a function of, as leaves of the graph."""

    def __init__(self, learner: nn.Module, optimizer: InnerOptimizer, image_shape: tuple[int, ...] = (2, 4, 4)) -> None:
        self.loss = cross_entropy(Functional(learner))
        self.optimizer = optimizer
        self.params, self.buffers = Functional(learner).init()
        self.params = {name: p.clone().requires_grad_() for name, p in self.params.items()}
        self.inputs = [torch.randn(BATCH, *image_shape).requires_grad_() for _ in range(STEPS)]
        self.targets = [torch.randn(BATCH, CLASSES).softmax(1).requires_grad_() for _ in range(STEPS)]
        self.real = torch.randn(BATCH, *image_shape), torch.randint(CLASSES, (BATCH,))

    def variables(self) -> dict[str, list[Tensor]]:
        groups = {"params": list(self.params.values()), "inputs": self.inputs, "targets": self.targets}
        return groups | {name: [log] for name, log in self.optimizer.logs.items()}

    def meta_loss(self, mode: str = "remat") -> Tensor:
        batches = zip(self.inputs, self.targets, strict=True)
        trained = unroll(self.loss, self.params, self.buffers, batches, self.optimizer, mode=mode)
        # The inner losses enter too: their gradient takes a way of its own through the node.
        return self.loss(trained.params, trained.buffers, *self.real)[0] + INNER_WEIGHT * trained.losses.sum()

    def meta_gradient(self, mode: str) -> dict[str, Tensor]:
        """The gradient w.r.t. each group of variables, as one vector."""
        groups = self.variables()
        flat = [tensor for group in groups.values() for tensor in group]
        gradients = iter(torch.autograd.grad(self.meta_loss(mode), flat))
        return {name: concatenated(next(gradients) for _ in group) for name, group in groups.items()}

    def central_difference(self, name: str, direction: Tensor, step: float = 1e-5) -> float:
        """The meta-loss's derivative along a direction in the space of one group of variables."""
        values = []
        with torch.no_grad():
            for shift in (step, -2 * step, step):
                tensors = self.variables()[name]
                parts = direction.split([tensor.numel() for tensor in tensors])
                for tensor, part in zip(tensors, parts, strict=True):
                    tensor += shift * part.view_as(tensor)
                values.append(float(self.meta_loss()))
        return (values[0] - values[1]) / (2 * step)


def concatenated(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 1e-8  # Or the comparison says nothing.
    return float((found - expected).norm() / expected.norm())


def assert_within(bound: float, errors: Mapping[str, float]) -> None:
    print(f"largest relative error {max(errors.values()):.1e}")
    assert max(errors.values()) <= bound, errors


@pytest.fixture(params=NORMS)
def norm(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=OPTIMIZERS)
def experiment(request: pytest.FixtureRequest, norm: str) -> Experiment:
    return Experiment(conv_net(norm), OPTIMIZERS[request.param]().double())


@pytest.mark.parametrize("mode", OTHER_MODES)
def test_meta_gradient_is_that_of_double_backward(experiment: Experiment, mode: str) -> None:
    expected, found = experiment.meta_gradient("reverse"), experiment.meta_gradient(mode)
    errors = {name: relative_error(found[name], expected[name]) for name in expected}
    assert_within(1e-9, errors)


def test_meta_gradient_is_that_of_central_differences(experiment: Experiment) -> None:
    errors = {}
    for name, gradient in experiment.meta_gradient("remat").items():
        # Half along the gradient, so that there is a slope to measure; half anywhere uphill, so that no error
        # is orthogonal to it.
        noise = torch.randn_like(gradient)
        direction = gradient / gradient.norm() + noise / noise.norm() * (gradient @ noise).sign()
        expected = experiment.central_difference(name, direction)
        errors[name] = abs(float(gradient @ direction) - expected) / abs(expected)
    assert_within(1e-5, errors)


def transposed(parameter: Tensor) -> Tensor:
    """The oracle's weights are [in, out], those of nn.Linear [out, in]."""
    return parameter.mT if parameter.ndim == 2 else parameter


@pytest.mark.parametrize("mode", UNCOMPILED)
def test_meta_gradient_of_momentum_sgd_is_that_of_the_adjoint_written_by_hand(mode: str) -> None:
    learner = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, CLASSES))
    optimizer = SGD(learned=["weight_decay"], learned_per_step=["lr", "momentum"], steps=STEPS, weight_decay=0.1)
    with torch.no_grad():
        optimizer.logs["lr"].copy_(torch.tensor([-1.0, -2.0, -0.5]))
        optimizer.logs["momentum"].copy_(torch.tensor([0.3, 1.5, -0.4]))
    experiment = Experiment(learner, optimizer.double(), image_shape=(5,))
    found = experiment.meta_gradient(mode)

    rates, momenta, decay = (optimizer.schedules(STEPS)[key].numpy() for key in ("lr", "momentum", "weight_decay"))
    real, labels = experiment.real
    by_hand = adjoint.meta_gradient(
        [transposed(parameter.detach()).numpy() for parameter in experiment.params.values()],
        [images.detach().numpy() for images in experiment.inputs],
        [targets.detach().numpy() for targets in experiment.targets],
        rates,
        momenta,
        decay[0],
        (real.numpy(), np.eye(CLASSES)[labels.numpy()]),
        INNER_WEIGHT,
    )
    expected = {
        "params": concatenated(transposed(torch.from_numpy(weight)) for weight in by_hand.weights),
        "inputs": concatenated(map(torch.from_numpy, by_hand.inputs)),
        "targets": concatenated(map(torch.from_numpy, by_hand.targets)),
        # Rates and decay are learned through their logarithms, momenta through their logits.
        "lr": torch.from_numpy(by_hand.rates * rates),
        "momentum": torch.from_numpy(by_hand.momenta * momenta * (1 - momenta)),
        "weight_decay": torch.tensor([by_hand.decay * decay[0]]),
    }
    assert found.keys() == expected.keys()
    errors = {name: relative_error(found[name], expected[name]) for name in expected}
    assert_within(1e-9, errors)


# ---------------------------------------------------------------------------------------- the node by itself


def quadratic(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
    """A loss that is easy to differentiate on paper: ``sum(x w^2) / 2``, with gradient ``x w``."""
    return (inputs * params["w"] ** 2).sum() / 2, buffers


@pytest.mark.parametrize("mode", UNCOMPILED)
def test_inner_gradient_and_its_derivatives(mode: str) -> None:
    w, x, v = (torch.randn(4).requires_grad_() for _ in range(3))
    found = inner_gradient(quadratic, {"w": w}, {}, (x,), mode)
    torch.testing.assert_close(found.grads["w"], x * w)
    torch.testing.assert_close(found.loss, (x * w**2).sum() / 2)
    # Through the gradient and through the loss, together and alone.
    by_w, by_x = torch.autograd.grad((v * found.grads["w"]).sum() + 3 * found.loss, (w, x), retain_graph=True)
    torch.testing.assert_close(by_w, v * x + 3 * x * w)
    torch.testing.assert_close(by_x, v * w + 1.5 * w**2)
    (by_x,) = torch.autograd.grad(found.loss, x)
    torch.testing.assert_close(by_x, w**2 / 2)


@pytest.mark.parametrize("mode", UNCOMPILED)
def test_a_parameter_that_the_loss_does_not_use_has_gradient_zero(mode: str) -> None:
    params = {"w": torch.randn(4).requires_grad_(), "idle": torch.randn(2).requires_grad_()}
    found = inner_gradient(quadratic, params, {}, (torch.randn(4),), mode)
    torch.testing.assert_close(found.grads["idle"], torch.zeros(2))
    found.grads["w"].sum().backward()
    assert params["w"].grad is not None


@pytest.mark.parametrize("mode", UNCOMPILED)
def test_parameters_that_share_one_gradient_tensor(mode: str) -> None:
    def loss(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        return quadratic({"w": params["a"] + params["b"]}, buffers, inputs)

    a, b, x, v, u = (torch.randn(4).requires_grad_() for _ in range(5))
    grads = inner_gradient(loss, {"a": a, "b": b}, {}, (x,), mode).grads
    by_a, by_x = torch.autograd.grad((v * grads["a"] + u * grads["b"]).sum(), (a, x))
    torch.testing.assert_close(by_a, (u + v) * x)
    torch.testing.assert_close(by_x, (u + v) * (a + b))


@pytest.mark.parametrize("mode", UNCOMPILED)
def test_no_graph_without_grad_mode(mode: str) -> None:
    w = torch.randn(4, requires_grad=True)
    x = torch.randn(4, requires_grad=True)
    with torch.no_grad():
        found = inner_gradient(quadratic, {"w": w}, {}, (x,), mode)
    assert not found.grads["w"].requires_grad
    assert not found.loss.requires_grad
    torch.testing.assert_close(found.grads["w"], (x * w).detach())


def test_only_the_learner_is_differentiated_where_nobody_asks_for_more() -> None:
    w = torch.randn(4, requires_grad=True)
    labels = torch.tensor([1, 0, 2, 1])  # An integer tensor in the batch has no gradient to give.
    found = inner_gradient(quadratic, {"w": w}, {}, (labels,))
    found.grads["w"].sum().backward()
    torch.testing.assert_close(w.grad, labels.double())


def test_eager_loss_is_the_loss_with_its_gradient() -> None:
    learner = Functional(conv_net("batch"))
    loss = cross_entropy(learner)
    params, buffers = learner.init()
    params = {name: p.clone().requires_grad_() for name, p in params.items()}
    batch = torch.randn(BATCH, 2, 4, 4), torch.randint(CLASSES, (BATCH,))
    expected = loss(params, buffers, *batch)[0]
    found = eager_loss(loss, params, buffers, batch)
    assert found.item() == expected.item()
    # Behind other operations, as among the losses of several steps.
    wanted = torch.autograd.grad(3 * expected, list(params.values()))
    given = torch.autograd.grad(3 * found, list(params.values()))
    assert relative_error(concatenated(given), concatenated(wanted)) <= 1e-12


def test_eager_losses_of_snapshots_give_the_meta_gradient_of_ordinary_ones() -> None:
    experiment = Experiment(conv_net("group"), OPTIMIZERS["sgd"]().double())
    gradients = []
    for meta_loss in (eager_loss, lambda loss, params, buffers, batch: loss(params, buffers, *batch)[0]):
        batches = zip(experiment.inputs, experiment.targets, strict=True)
        unrolled = unroll(
            experiment.loss,
            experiment.params,
            experiment.buffers,
            batches,
            experiment.optimizer,
            snapshots=[1, 3],
        )
        losses = [meta_loss(experiment.loss, *unrolled.snapshots[step], experiment.real) for step in (1, 3)]
        gradients.append(concatenated(torch.autograd.grad(torch.stack(losses).mean(), experiment.inputs)))
    assert relative_error(*gradients) <= 1e-12


# ------------------------------------------------------------------------------------------- what cannot be done


def test_a_loss_that_closes_over_a_learned_tensor_is_refused() -> None:
    temperature = torch.ones((), requires_grad=True)

    def loss(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        return quadratic({"w": params["w"] / temperature}, buffers, inputs)

    params, batch = {"w": torch.randn(4, requires_grad=True)}, (torch.randn(4),)
    with pytest.raises(ValueError, match=r"closes over a tensor of shape \(\) that requires grad"):
        inner_gradient(loss, params, {}, batch)
    with pytest.raises(ValueError, match="closes over"):
        eager_loss(loss, params, {}, batch)
    temperature.requires_grad_(False)
    inner_gradient(loss, params, {}, batch).grads["w"].sum().backward()


def test_a_loss_that_closes_over_the_output_of_a_learned_module_is_refused() -> None:
    teacher = nn.Linear(3, 4)
    image = teacher(torch.randn(3))
    with pytest.raises(ValueError, match="closes over"):
        inner_gradient(lambda params, buffers: quadratic(params, buffers, image), {"w": torch.randn(4)}, {}, ())


def test_unknown_mode_and_missing_parameters() -> None:
    with pytest.raises(ValueError, match=r"mode 'forward' is unknown: use one of .*remat, reverse"):
        inner_gradient(quadratic, {"w": torch.ones(4)}, {}, (torch.ones(4),), "forward")
    with pytest.raises(ValueError, match="the learner has no parameters"):
        inner_gradient(quadratic, {}, {}, (torch.ones(4),))


class Once(torch.autograd.Function):
    """A square root whose author did not think of second derivatives."""

    @staticmethod
    def forward(ctx, inputs):  # type: ignore[no-untyped-def]
        outputs = inputs.sqrt()
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent):  # type: ignore[no-untyped-def]
        return cotangent / (2 * ctx.saved_tensors[0])


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "cdist": lambda w: torch.cdist(w, w.flip(0) + 1),
    "embedding_bag": lambda w: F.embedding_bag(torch.tensor([[0, 1]]), w),
    "ctc_loss": lambda w: F.ctc_loss(
        w.log_softmax(1).unsqueeze(1),
        torch.ones(1, 2, dtype=torch.long),
        torch.tensor([4]),
        torch.tensor([2]),
    ),
    "torch._weight_norm": lambda w: torch._weight_norm(w, torch.ones(4, 1), 0),
    "Once": lambda w: Once.apply(w**2 + 1),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_that_cannot_be_differentiated_twice_is_named(operator: str) -> None:
    def loss(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        # There is a way around the operator too, on which an error must not be lost.
        return OPERATORS[operator](params["w"]).square().sum() + (params["w"] ** 3 * inputs).sum(), buffers

    w, x = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    found = inner_gradient(loss, {"w": w}, {}, (x,))  # Its value can be had,
    with pytest.raises(NotTwiceDifferentiableError, match=f"gradient of {operator} cannot be differentiated again"):
        found.grads["w"].square().sum().backward()  # its derivative cannot.
    # Training without a meta-gradient, and a meta-loss, need one derivative only.
    eager_loss(loss, {"w": w}, {}, (x,)).backward()
    with torch.no_grad():
        inner_gradient(loss, {"w": w}, {}, (x,))


@pytest.mark.parametrize("mode", UNCOMPILED)
def test_the_teacher_may_use_an_operator_that_cannot_be_differentiated_twice(mode: str) -> None:
    noise, w = torch.rand(4, requires_grad=True), torch.randn(4, requires_grad=True)
    found = inner_gradient(quadratic, {"w": w}, {}, (Once.apply(noise),), mode)
    (by_noise,) = torch.autograd.grad(found.grads["w"].sum(), noise)
    torch.testing.assert_close(by_noise, w / (2 * noise.sqrt()))


def test_reverse_mode_refuses_a_custom_function_too() -> None:
    with pytest.raises(NotTwiceDifferentiableError, match="Once"):
        inner_gradient(
            lambda params, buffers: (Once.apply(params["w"]).sum(), buffers),
            {"w": torch.rand(3)},
            {},
            (),
            "reverse",
        )


def test_a_third_derivative_is_an_error_of_torch() -> None:
    w, x = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    found = inner_gradient(quadratic, {"w": w}, {}, (x,))
    (by_x,) = torch.autograd.grad((found.grads["w"] ** 2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="trying to differentiate twice a function that was marked"):
        by_x.sum().backward()


# --------------------------------------------------------------------------------- random state and autocast state


def noisy_net() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(32, 24), nn.Dropout(0.4), nn.RReLU(), nn.Linear(24, CLASSES), nn.Dropout(0.2)
    )


def test_dropout_repeats_in_the_recomputation_and_leaves_the_random_state_alone() -> None:
    experiment = Experiment(noisy_net(), SGD(0.5, 0.9, learned=["lr"]).double())

    def run(mode: str) -> tuple[Tensor, Tensor]:
        torch.manual_seed(7)
        flat = [tensor for group in experiment.variables().values() for tensor in group]
        loss = experiment.meta_loss(mode)
        after_forward = torch.get_rng_state()
        torch.randn(5)  # Somebody draws between the two passes.
        state = torch.get_rng_state()
        gradient = concatenated(torch.autograd.grad(loss, flat))
        assert torch.equal(torch.get_rng_state(), state)
        return gradient, after_forward

    expected, expected_state = run("reverse")
    for mode in OTHER_MODES:
        found, state = run(mode)
        assert relative_error(found, expected) <= 1e-12
        assert torch.equal(state, expected_state)


def test_dropout_differs_from_step_to_step() -> None:
    experiment = Experiment(noisy_net(), SGD(lr=1e-9))
    batches = [(experiment.inputs[0], experiment.targets[0])] * STEPS
    losses = unroll(experiment.loss, experiment.params, {}, batches, experiment.optimizer).losses
    assert len(set(losses.tolist())) == STEPS


class Island(nn.Module):
    """Layers that ask to be left out of mixed precision."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            outputs: Tensor = self.layers(inputs.float())
        return outputs


def mixed_precision_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), Island(nn.Linear(16, 8), nn.Tanh()),
        nn.Dropout(0.2), nn.Linear(8, CLASSES),
    ).float()  # fmt: skip


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("mode", OTHER_MODES)
def test_autocast_repeats_in_the_recomputation(mode: str, forward: bool, backward: bool) -> None:
    torch.set_default_dtype(torch.float32)
    experiment = Experiment(mixed_precision_net(), SGD(0.5, 0.9, learned=["lr", "momentum"]))
    flat = [tensor for group in experiment.variables().values() for tensor in group]

    def run(mode: str, forward: bool, backward: bool) -> Tensor:
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16, enabled=forward):
            loss = experiment.meta_loss(mode)
        # The outer backward pass belongs outside, where Lightning has it; a user may have it inside.
        with torch.autocast("cpu", torch.bfloat16, enabled=backward):
            gradient = concatenated(torch.autograd.grad(loss, flat))
            assert torch.is_autocast_enabled("cpu") == backward
        return gradient

    found = run(mode, forward, backward)
    if mode == "mixed":
        # Rounded at other places than in reverse mode, since tangents are bfloat16 where cotangents were: as good as
        # that one's, not the same.
        exact = run("reverse", False, False)
        bound = max(1e-6, 2 * relative_error(run("reverse", forward, backward), exact))
        assert relative_error(found, exact) <= bound
        return
    expected = run("reverse", forward, backward)
    assert relative_error(found, expected) <= 1e-6
    # That is less than what bfloat16 loses: another state in the recomputation would show.
    assert relative_error(run("reverse", not forward, backward), expected) > 1e-4
