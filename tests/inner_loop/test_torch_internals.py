"""Torch's private names still do what is said of them, and torch still needs the workarounds.

A failure means that an entry of `torch_internals` must be corrected, or that it can be removed.
"""

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.fx import GraphModule
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, MultiStepLR, OneCycleLR, SequentialLR
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from gtn_lightning.inner_loop import torch_internals
from gtn_lightning.inner_loop.replaced_kernels import weight_norm as weight_norm_formula


class Recorder(TorchFunctionMode):
    """Records the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.append(func)
        return func(*args, **(kwargs or {}))


class Once(torch.autograd.Function):
    """The cube, whose derivative is marked as differentiable once."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        return 3 * inputs**2 * cotangent


def nodes(tensor: Tensor) -> Iterator[Any]:
    """The nodes of the graph of a tensor."""
    stack: list[Any] = [tensor.grad_fn]
    while stack:
        if (node := stack.pop()) is not None:
            yield node
            stack += [parent for parent, _ in node.next_functions]


def captured(function: Callable[..., Any], *inputs: Tensor) -> list[Any]:
    """What dynamo's graph of a function calls."""
    targets: list[Any] = []

    def backend(graph: GraphModule, _: Any) -> Callable[..., Any]:
        targets.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.compile(function, backend=backend, fullgraph=True)(*inputs)
    return targets


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


# Autograd ------------------------------------------------------------------------------------------------------------


def test_torch_has_no_public_functions_for_nested_containers() -> None:
    assert find_spec("torch.utils.pytree") is None


def test_no_grad_is_seen_as_its_private_function() -> None:
    with Recorder() as recorder, torch.no_grad():
        pass
    assert torch_internals.set_grad_enabled in recorder.called


def test_forward_mode_ignores_no_grad() -> None:
    def stopped(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return inputs**2

    assert jvp(stopped, (torch.ones(()),), (torch.ones(()),))[1] != 0


def test_leaves_have_a_node_with_their_tensor() -> None:
    weight = leaf(2)
    product, *rest = nodes(2 * weight)
    assert [node.name() for node in rest] == [torch_internals.LEAF]
    assert torch_internals.leaf_tensor(rest[0]) is weight
    assert torch_internals.leaf_tensor(product) is None


def test_custom_functions_are_found() -> None:
    custom, *rest = nodes(Once.apply(2 * leaf(2)))  # type: ignore[no-untyped-call]
    assert torch_internals.custom_function(custom) is Once
    assert all(torch_internals.custom_function(node) is None for node in rest)


def test_a_second_derivative_is_dropped_if_a_function_is_marked_as_once_differentiable() -> None:
    class Twice(Once):
        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Tensor:
            return cotangent

    assert torch_internals.is_once_differentiable(Once)
    assert not torch_internals.is_once_differentiable(Twice)
    weight = leaf()
    (first,) = torch.autograd.grad(Once.apply(weight) + weight**2, weight, create_graph=True)  # type: ignore[no-untyped-call]
    (second,) = torch.autograd.grad(first, weight)
    assert second == 2, "torch no longer drops it"


def test_writes_in_place_are_counted() -> None:
    tensor = torch.zeros(2)
    before = torch_internals.version(tensor)
    tensor.add_(1)
    assert torch_internals.version(tensor) > before


def test_tensors_inside_a_transform_are_recognized() -> None:
    seen = []

    def square(inputs: Tensor) -> Tensor:
        seen.append(torch_internals.is_functorch_wrapped(inputs))
        return inputs**2

    grad(square)(torch.ones(()))
    assert seen == [True]
    assert not torch_internals.is_functorch_wrapped(torch.ones(()))


def test_a_missing_second_derivative_is_named() -> None:
    points = leaf(3, 2)
    (first,) = torch.autograd.grad(torch.cdist(points, points.detach()).sum(), points, create_graph=True)
    with pytest.raises(RuntimeError) as caught:
        torch.autograd.grad(first.sum(), points)
    assert torch_internals.missing_second_derivative(caught.value) == "cdist"
    assert torch_internals.missing_second_derivative(ValueError("another error")) is None


def test_a_missing_forward_derivative_is_named() -> None:
    images, places = torch.randn(1, 1, 3, 3), torch.zeros(1, 3, 3, 2)

    def sampled(images: Tensor) -> Tensor:
        return torch.nn.functional.grid_sample(images, places, align_corners=False)

    for function, inputs, name in (
        (sampled, images, "grid_sampler_2d"),
        (lambda x: Once.apply(x), images, ""),  # type: ignore[no-untyped-call]
    ):
        with pytest.raises((RuntimeError, NotImplementedError)) as caught:
            jvp(function, (inputs,), (inputs,))
        found = torch_internals.missing_forward_derivative(caught.value)
        assert found is not None
        assert found in (name, "Once")
    assert torch_internals.missing_forward_derivative(ValueError("another error")) is None


def test_nodes_without_a_correct_derivative_have_these_names() -> None:
    inputs = leaf(2, 3)
    hooked = nn.Linear(3, 3)
    hooked.register_full_backward_hook(lambda *_: None)
    compiled = torch.compile(lambda x: x.sin(), backend="aot_eager")
    for outputs, name in (
        (checkpoint(torch.sin, inputs, use_reentrant=True), torch_internals.CHECKPOINT_NODE),
        (compiled(inputs), torch_internals.COMPILED_NODE),
        (hooked(inputs), torch_internals.MODULE_HOOK_NODE),
        (weight_norm(nn.Linear(3, 3))(inputs), torch_internals.WEIGHT_NORM_NODE),
    ):
        assert name in {node.name() for node in nodes(outputs)}


def test_a_compiled_function_has_no_second_derivative() -> None:
    inputs = leaf(3)
    outputs = torch.compile(lambda x: x.sin(), backend="aot_eager")(inputs)
    (first,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(first.sum(), inputs)


# Modules -------------------------------------------------------------------------------------------------------------


def second_derivative(function: Callable[..., Tensor], direction: Tensor, scale: Tensor) -> Tensor:
    (first,) = torch.autograd.grad(function(direction, scale, 0).pow(3).sum(), direction, create_graph=True)
    return torch.autograd.grad(first.pow(2).sum(), direction)[0]


def test_the_second_derivative_of_torchs_weight_normalization_is_wrong() -> None:
    direction, scale = leaf(3, 2), torch.rand(3, 1)
    wrong, right = (second_derivative(f, direction, scale) for f in (torch._weight_norm, weight_norm_formula))
    assert not torch.allclose(wrong, right), "torch is correct now"


def test_weight_normalization_is_recognized() -> None:
    layer = weight_norm(nn.Linear(3, 3))
    assert any(torch_internals.has_weight_norm(part) for part in layer.modules())
    with Recorder() as recorder:
        layer(torch.zeros(1, 3))
    assert any(torch_internals.is_weight_norm(func) for func in recorder.called)


def test_all_batch_normalizations_have_one_base_class() -> None:
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm):
        assert issubclass(kind, torch_internals.BatchNormBase)


def test_a_module_can_hold_other_tensors_for_longer_than_a_call() -> None:
    layer = nn.Linear(2, 2, bias=False)
    layer.again = layer.weight
    before, other = layer.weight, torch.zeros(2, 2)
    with torch_internals.with_tensors(layer, {"weight": other}):
        assert layer.weight is other
        assert layer.again is other
    assert layer.weight is before


def test_a_modules_own_tensors_and_hooks() -> None:
    layer = nn.BatchNorm1d(2)
    layer.again = layer.weight
    assert [name for name, _ in torch_internals.own_parameters(layer)] == ["weight", "bias", "again"]
    assert len(list(torch_internals.own_tensors(layer))) == 6
    assert not torch_internals.has_gradient_hook(layer.weight)
    layer.weight.register_hook(lambda gradient: None)
    layer.bias.register_post_accumulate_grad_hook(lambda parameter: None)
    assert torch_internals.has_gradient_hook(layer.weight)
    assert torch_internals.has_gradient_hook(layer.bias)
    layer.register_forward_hook(lambda *_: None, with_kwargs=True, always_call=True)
    hooks = {name for name, value in vars(layer).items() if isinstance(value, dict) and value} - {"_parameters"}
    assert all(name.endswith(torch_internals.HOOK_ATTRIBUTES) for name in hooks - {"_buffers"})


def test_hooks_that_act_when_a_module_is_called() -> None:
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *_: None)
    layer.register_forward_pre_hook(lambda *_: None)
    layer.register_full_backward_hook(lambda *_: None)
    layer.register_full_backward_pre_hook(lambda *_: None)
    assert all(vars(layer)[name] for name in torch_internals.CALL_HOOKS)
    layer = nn.Linear(2, 2)
    layer.register_state_dict_pre_hook(lambda *_: None)
    assert not any(vars(layer)[name] for name in torch_internals.CALL_HOOKS)


def test_attributes_that_hold_tensors() -> None:
    held = [name for name, value in vars(nn.LSTM(2, 2)).items() if "weight" in name or "parameters" in name]
    assert {name for name in held if name not in ("_flat_weights_names", "_all_weights")} == {
        "_parameters", "_flat_weights", "_flat_weight_refs",
    }  # fmt: skip
    assert set(torch_internals.TENSOR_ATTRIBUTES) <= vars(nn.LSTM(2, 2)).keys()


def test_compiled_modules_are_recognized() -> None:
    wrapped, compiled = torch.compile(nn.Linear(2, 2)), nn.Linear(2, 2)
    compiled.compile()
    assert torch_internals.is_compiled_wrapper(wrapped)
    assert not torch_internals.is_compiled_wrapper(compiled)
    assert torch_internals.is_compiled(wrapped)
    assert torch_internals.is_compiled(compiled)
    assert not torch_internals.is_compiled(nn.Linear(2, 2))


# The compiler --------------------------------------------------------------------------------------------------------


def operators(graph: GraphModule) -> set[Any]:
    return {getattr(node.target, "overloadpacket", node.target) for node in graph.graph.nodes}


def test_tangents_of_constants_are_zeros_without_memory() -> None:
    def derivative(inputs: Tensor) -> Tensor:
        return jvp(lambda x: torch.cat([x, torch.ones(2)]) * torch.sgn(x).repeat(2), (inputs,), (inputs,))[1]

    graph = torch_internals.trace(derivative, [torch.ones(2)])
    assert torch_internals.ZERO_TENSOR in operators(graph)
    zeros = torch_internals.ZERO_TENSOR([2])
    assert zeros._is_zerotensor()
    assert zeros.data_ptr() == 0


def test_the_oldest_supported_torch_does_not_compile_such_zeros() -> None:
    (oldest,) = (
        match.groups()
        for line in metadata.requires("gtn-lightning") or ()
        if (match := re.match(r"torch\b.*>=(\d+)\.(\d+)", line))
    )
    assert tuple(map(int, oldest)) < (2, 13), "see ZERO_TENSOR"


def test_reshapes_and_casts_are_traced_to_these_operators() -> None:
    def function(inputs: Tensor) -> Tensor:
        return (inputs @ inputs.transpose(1, 2)).float()

    found = operators(torch_internals.trace(function, [torch.ones(2, 3, 4)]))
    assert found & torch_internals.COPIES
    assert {"_reshape_alias", "_to_copy", "_unsafe_view"} == {str(op).split(".")[-1] for op in torch_internals.COPIES}


def test_vmap_is_told_from_other_transforms() -> None:
    inputs = torch.ones(3, 2)
    mapped = captured(vmap(lambda x: x.sin().sum()), inputs)
    names = [torch_internals.transform_name(target) for target in mapped]
    private = [target for target, name in zip(mapped, names, strict=True) if name is not None]
    assert private
    assert all(torch_internals.is_vmap(target) for target in private)
    differentiated = captured(grad(lambda x: x.sin().sum()), inputs)
    assert any(torch_internals.transform_name(t) and not torch_internals.is_vmap(t) for t in differentiated)


def test_a_custom_gradient_is_seen_in_dynamos_graph() -> None:
    targets = captured(lambda x: Once.apply(x).sum(), leaf(3))  # type: ignore[no-untyped-call]
    assert any(torch_internals.transform_name(target) for target in targets)
    assert not any(torch_internals.transform_name(target) for target in captured(lambda x: x.sin(), leaf(3)))


def test_dynamo_records_no_grad_as_its_private_function() -> None:
    def function(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            gate = inputs.cos()
        return inputs * gate

    assert torch_internals.set_grad_enabled in captured(function, leaf(3))


def test_a_traced_function_may_hold_constants() -> None:
    constant = torch.ones(2)
    graph = torch_internals.trace(lambda x: (x + constant,), [torch.ones(2)])
    assert torch.equal(graph(torch.ones(2))[0], torch.full((2,), 2.0))


def test_dynamo_does_not_guard_on_hooks_by_default() -> None:
    def traced(context: AbstractContextManager[None]) -> int:
        graphs: list[GraphModule] = []
        layer = nn.Identity()
        compiled = torch.compile(lambda x: layer(x) + 1, backend=lambda graph, _: graphs.append(graph) or graph.forward)
        with context:
            compiled(torch.ones(2))
        layer.register_forward_hook(lambda *call: 2 * call[2])
        compiled(torch.ones(2))
        return len(graphs)

    assert traced(nullcontext()) == 1
    assert traced(torch_internals.guards_on_hooks()) == 2


def test_inductors_default_folder_is_in_the_systems_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert torch_internals.inductor_folder().startswith(str(tmp_path))


# Learning-rate schedules ---------------------------------------------------------------------------------------------


def test_schedules_record_what_they_consist_of() -> None:
    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = optimizer()
        parts = [ConstantLR(one), MultiStepLR(one, [3])]
        sequence = SequentialLR(one, parts, milestones=[2])
        chained = ChainedScheduler([ConstantLR(other := optimizer()), MultiStepLR(other, [3])])
        cycle = OneCycleLR(optimizer(), 0.1, total_steps=4)
    assert torch_internals.nested_schedules(sequence) == parts
    assert len(torch_internals.nested_schedules(chained)) == 2
    assert not torch_internals.nested_schedules(cycle)
    known = {name for schedule in (sequence, chained, cycle) for name in schedule.state_dict()}
    assert set(torch_internals.SCHEDULE_STATE) <= known
