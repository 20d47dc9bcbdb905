"""A module as a pure function."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from gtn_lightning.inner_loop import SGD, Adam, Buffers, Functional, Params, difference, inner_gradient, unroll


def normalized_net() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(4, 8)), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def squared_outputs(learner: Functional) -> Callable[[Params, Buffers, Tensor], tuple[Tensor, Buffers]]:
    def loss(params: Params, buffers: Buffers, inputs: Tensor) -> tuple[Tensor, Buffers]:
        outputs, buffers = learner(params, buffers, inputs)
        return (outputs - 1).square().mean(), buffers

    return loss


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_buffers_are_the_modules(training: bool) -> None:
    module = normalized_net()
    learner = Functional(module)
    params, buffers = learner.init()
    twin = copy.deepcopy(module).train(training)
    inputs = torch.randn(6, 4)
    outputs, new_buffers = learner(params, buffers, inputs, training=training)
    torch.testing.assert_close(outputs, twin(inputs))
    torch.testing.assert_close(new_buffers, dict(twin.named_buffers()))
    assert torch.equal(new_buffers["1.running_mean"], buffers["1.running_mean"]) != training


def test_the_module_lends_its_code_and_nothing_is_written_to_it() -> None:
    module = normalized_net()
    before = copy.deepcopy(module.state_dict())
    learner = Functional(module)
    params, buffers = learner.init()
    params = {name: p.clone().requires_grad_() for name, p in params.items()}
    batches = [(torch.randn(6, 4),) for _ in range(3)]
    trained = unroll(squared_outputs(learner), params, buffers, batches, Adam(0.1))
    squared_outputs(learner)(trained.params, trained.buffers, torch.randn(6, 4))[0].backward()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(parameter.grad is not None for parameter in params.values())
    assert not torch.equal(trained.buffers["1.running_mean"], buffers["1.running_mean"])
    assert trained.buffers["1.num_batches_tracked"] == 3


def test_init_hangs_on_no_graph() -> None:
    params, buffers = Functional(normalized_net()).init()
    assert not any(tensor.requires_grad for tensor in (*params.values(), *buffers.values()))
    assert set(params) == {
        "0.bias", "0.parametrizations.weight.original0", "0.parametrizations.weight.original1",
        "1.weight", "1.bias", "3.weight", "3.bias",
    }  # fmt: skip


def test_frozen_parameters_are_not_trained() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    module[0].requires_grad_(False)
    learner = Functional(module)
    params, buffers = learner.init()
    assert set(params) == {"2.weight", "2.bias"}
    inputs = torch.randn(6, 4, requires_grad=True)
    trained = unroll(squared_outputs(learner), params, buffers, [(inputs,)], SGD(0.1, 0.0)).params

    twin = copy.deepcopy(module)
    optimizer = torch.optim.SGD(twin[2].parameters(), 0.1)
    (twin(inputs.detach()) - 1).square().mean().backward()
    optimizer.step()
    torch.testing.assert_close(trained["2.weight"].detach(), twin[2].weight.detach())
    # The frozen layer still leads to the images.
    trained["2.weight"].square().sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.any()


def test_tied_parameters_are_one() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    learner = Functional(module)
    params, buffers = learner.init()
    assert set(params) == {"0.weight", "0.bias", "2.bias"}
    inputs = torch.randn(6, 4)
    found = inner_gradient(squared_outputs(learner), params, buffers, (inputs,)).grads["0.weight"]
    (module(inputs) - 1).square().mean().backward()
    torch.testing.assert_close(found, module[0].weight.grad)


class Counter(nn.Module):
    """Layers that keep a running value by assignment instead of in place."""

    running: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("running", torch.zeros(4))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs * self.scale
        self.running = 0.5 * self.running + outputs.mean(0)
        return outputs + self.running


def test_a_buffer_that_a_layer_assigns_anew_is_returned_without_its_graph() -> None:
    module = Counter()
    twin = copy.deepcopy(module)
    learner = Functional(module)
    params, buffers = learner.init()
    batches = [(torch.randn(6, 4),) for _ in range(3)]
    with torch.no_grad():  # with a graph it is refused, because buffers carry no gradient to the next step
        trained = unroll(squared_outputs(learner), params, buffers, batches, SGD(0.1, 0.0))
    assert not trained.buffers["running"].requires_grad

    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    for (inputs,) in batches:
        twin.running = twin.running.detach()
        optimizer.zero_grad()
        (twin(inputs) - 1).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(trained.buffers["running"], twin.running.detach())
    torch.testing.assert_close(trained.params["scale"].detach(), twin.scale.detach())
    assert torch.equal(module.running, torch.zeros(4))


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_is_exact_in_its_second_derivative(dim: int | None) -> None:
    """Torch's own is not, w.r.t. the direction, without an error."""
    module = weight_norm(nn.Linear(4, 3), dim=dim)
    learner = Functional(module)
    params, buffers = learner.init()
    inputs = torch.randn(6, 4)
    params = {name: p.clone().requires_grad_() for name, p in params.items()}

    def outputs(*values: Tensor) -> Tensor:
        result: Tensor = learner(dict(zip(params, values, strict=True)), buffers, inputs)[0]
        return result.sin()

    torch.testing.assert_close(outputs(*params.values()), module(inputs).sin())
    assert torch.autograd.gradgradcheck(outputs, tuple(params.values()))


def test_positional_inputs_of_a_module_are_passed_on() -> None:
    module = nn.Bilinear(2, 3, 4)
    learner = Functional(module)
    one, other = torch.randn(5, 2), torch.randn(5, 3)
    outputs, _ = learner(*learner.init(), one, other)
    torch.testing.assert_close(outputs, F.bilinear(one, other, module.weight, module.bias))


def test_every_layer_keeps_the_mode_that_it_was_built_in() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    module[1].eval()
    learner = Functional(module)
    params, buffers = learner.init()
    inputs = 1 + 3 * torch.randn(6, 4)
    torch.manual_seed(1)
    first, after = learner(params, buffers, inputs)
    learner(params, buffers, inputs, training=False)
    torch.manual_seed(1)
    assert torch.equal(learner(params, buffers, inputs)[0], first)
    assert torch.equal(after["1.running_mean"], buffers["1.running_mean"])
    assert [part.training for part in module] == [True, False, True, True]


def test_layers_keep_their_modes_when_a_call_fails() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
    learner = Functional(module)
    with pytest.raises(RuntimeError):
        learner(*learner.init(), torch.randn(6, 5), training=False)
    assert all(part.training for part in module.modules())


class RandomFeatures(nn.Module):
    """A layer with a constant that is not registered as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies = torch.randn(4, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head((inputs @ self.frequencies).cos())
        return outputs


def test_a_tensor_kept_as_a_plain_attribute_is_a_buffer() -> None:
    one, other, inputs = RandomFeatures(), RandomFeatures(), torch.randn(6, 4)
    _, buffers = Functional(other).init()
    params, _ = Functional(one).init()
    outputs, _ = Functional(one)(params, buffers, inputs)
    torch.testing.assert_close(outputs, one.head((inputs @ other.frequencies).cos()))


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (lambda: nn.Linear(4, 3), lambda: nn.Linear(4, 3), None),
        (lambda: weight_norm(nn.Linear(4, 3)), lambda: weight_norm(nn.Linear(4, 3)), None),
        (lambda: nn.LSTM(4, 3), lambda: nn.LSTM(4, 3), None),
        (RandomFeatures, RandomFeatures, None),
        (lambda: nn.Sequential(nn.Dropout(0.1)), lambda: nn.Sequential(nn.Dropout(0.2)), r"0.p"),
        (lambda: nn.Sequential(nn.ReLU()), lambda: nn.Sequential(nn.Tanh()), "0"),
        (lambda: nn.BatchNorm1d(4), lambda: nn.BatchNorm1d(4).eval(), "training"),
        (lambda: nn.Linear(4, 3).requires_grad_(False), lambda: nn.Linear(4, 3).requires_grad_(False), "frozen"),
    ],
)
def test_what_learners_differ_in(
    one: Callable[[], nn.Module], other: Callable[[], nn.Module], name: str | None
) -> None:
    found = difference(one(), other())
    assert found is None if name is None else (found is not None and found.startswith(name))


def test_a_hook_closure_and_a_generator_count_as_differences() -> None:
    def scaled(factor: float) -> nn.Module:
        module = nn.Linear(4, 3)
        module.register_forward_hook(lambda part, inputs, outputs: outputs * factor)
        return module

    assert difference(scaled(2.0), scaled(2.0)) is None
    assert difference(scaled(2.0), scaled(3.0)) == "_forward_hooks"
    drawing = [nn.Linear(4, 3), nn.Linear(4, 3)]
    for module in drawing:
        module.generator = torch.Generator().manual_seed(0)  # the members of a population would draw from one
    assert difference(*drawing) == "generator"


def test_a_meta_loss_by_running_statistics_is_warned_of() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    learner = Functional(module)
    params, buffers = learner.init()
    params = {name: p.clone().requires_grad_() for name, p in params.items()}
    learner(params, buffers, torch.randn(6, 4), training=False)  # pretrained statistics are constants
    trained = unroll(squared_outputs(learner), params, buffers, [(torch.randn(6, 4),)], SGD(0.1))
    with pytest.warns(UserWarning, match="batch normalization '1' uses running statistics"):
        learner(trained.params, trained.buffers, torch.randn(6, 4), training=False)
    with torch.no_grad():
        learner(trained.params, trained.buffers, torch.randn(6, 4), training=False)  # a score
