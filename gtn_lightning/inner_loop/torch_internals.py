"""Every private or undocumented name of torch that this package uses.

Nothing else in `inner_loop` may use one. Each entry says why it is needed, the upstream issue where one is known, and
when it can be removed. ``tests/inner_loop/test_torch_internals.py`` has a test for each entry: it fails when the name
no longer does what is said here, or when torch no longer needs the workaround. Checked with torch 2.13.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import compile as _inductor_compile
from torch._inductor import list_options as _inductor_options
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch._ops import HigherOrderOperator
from torch.autograd.function import BackwardCFunction
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_map_only, tree_unflatten

__all__ = ["BatchNormBase", "TreeSpec", "tree_flatten", "tree_leaves", "tree_map", "tree_map_only", "tree_unflatten"]
# Nested containers: torch has no public functions for them (https://github.com/pytorch/pytorch/issues/65761). To be
# replaced by torch.utils.pytree once the oldest supported torch has it.
# BatchNormBase: the only class that all batch normalizations share, SyncBatchNorm among them.

# Autograd ------------------------------------------------------------------------------------------------------------

set_grad_enabled = torch._C._set_grad_enabled
"""What a ``TorchFunctionMode`` and dynamo's graphs see of ``torch.no_grad``.

Needed because forward mode ignores ``no_grad`` (https://github.com/pytorch/pytorch/issues/78961).
"""

LEAF = "torch::autograd::AccumulateGrad"
"""Name of the graph node of a leaf; torch has no class for it."""

WEIGHT_NORM_NODE = "WeightNormInterfaceBackward0"
"""Name of the graph node of torch's fused weight normalization; see `is_weight_norm`."""

CHECKPOINT_NODE = "CheckpointFunctionBackward"
"""Name of the graph node of ``torch.utils.checkpoint`` with ``use_reentrant=True``."""

COMPILED_NODE = "CompiledFunctionBackward"
"""Name of the graph node of a compiled function, which has no second derivative.

To be removed when it has one: https://github.com/pytorch/pytorch/issues/91469.
"""

MODULE_HOOK_NODE = "BackwardHookFunctionBackward"
"""Name of the graph node of ``register_full_backward_hook``, which also acts on second derivatives."""

_ONCE_DIFFERENTIABLE = torch.autograd.function.once_differentiable(lambda ctx: None).__code__


def leaf_tensor(node: Any) -> Tensor | None:
    """Return the tensor of a leaf's graph node, None for other nodes."""
    found: Tensor | None = getattr(node, "variable", None)
    return found


def custom_function(node: Any) -> type | None:
    """Return the ``autograd.Function`` of a graph node, None for torch's own nodes."""
    return node._forward_cls if isinstance(node, BackwardCFunction) else None  # type: ignore[attr-defined]


def is_once_differentiable(function: type) -> bool:
    """Return whether the backward of an ``autograd.Function`` is decorated by ``once_differentiable``.

    Its error depends on no input, so that ``torch.autograd.grad`` never raises it and drops the second derivative
    without an error; no upstream issue is known. To be removed when ``torch.autograd.grad`` raises.
    """
    return getattr(getattr(function, "backward", None), "__code__", None) is _ONCE_DIFFERENTIABLE


def version(tensor: Tensor) -> int:
    """Return how often a tensor was written in place."""
    return tensor._version


def is_functorch_wrapped(tensor: Tensor) -> bool:
    """Return whether a tensor is a wrapper inside a ``torch.func`` transform; it holds the graph, not the tensor."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def missing_second_derivative(error: Exception) -> str | None:
    """Return the operator whose missing second derivative an error reports, None if it reports something else."""
    found = re.search(r"derivative for '?(?:aten::)?_?(\S+?)(?:_backward)?'? is not implemented", str(error))
    return found and found.group(1)


def missing_forward_derivative(error: Exception) -> str | None:
    """Return the operator whose missing forward-mode derivative an error reports, "" if it names none, or None."""
    patterns = (
        r"forward AD with (?:aten::)?_?(\w+) that does not support it",
        r"jvp.*?(?:autograd\.Function|custom function) (\w+)",
        r"[Tt]rying to use forward AD with (\w+)",
    )
    for pattern in patterns:
        if found := re.search(pattern, str(error)):
            return found.group(1)
    return "" if any(text in str(error) for text in ("jvp", "forward AD", "setup_context")) else None


# Modules -------------------------------------------------------------------------------------------------------------


def is_weight_norm(function: Callable[..., Any]) -> bool:
    """Return whether a function is the kernel of ``torch.nn.utils.parametrizations.weight_norm``.

    Its second derivative is wrong without an error: the backward pass treats the norm, an output of the kernel, as a
    constant. No upstream issue is known. To be removed, with the formula in its place, when that is corrected.
    Dynamo does not show it to a ``TorchFunctionMode``, so learners with it run uncompiled.
    """
    return function is torch._weight_norm


def has_weight_norm(part: nn.Module) -> bool:
    """Return whether a module is torch's parametrization of weight normalization."""
    return isinstance(part, _WeightNorm)


def with_tensors(module: nn.Module, tensors: dict[str, Tensor]) -> AbstractContextManager[None]:
    """Return a context in which a module holds these tensors; ``functional_call`` covers one call alone."""
    return _reparametrize_module(module, tensors, tie_weights=True, stack_weights=True)


def own_parameters(part: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield a module's own parameters, also those that others share: ``named_parameters`` costs several times more."""
    return ((name, parameter) for name, parameter in part._parameters.items() if parameter is not None)


def own_tensors(part: nn.Module) -> Iterator[Tensor]:
    """Yield a module's own parameters and buffers, also those that others share."""
    return (tensor for held in (part._parameters, part._buffers) for tensor in held.values() if tensor is not None)


def has_gradient_hook(parameter: Tensor) -> bool:
    """Return whether a hook is registered on a tensor; torch has no public way to ask."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def is_compiled_wrapper(part: nn.Module) -> bool:
    """Return whether a module is what ``torch.compile`` returns for a module."""
    return "_orig_mod" in part._modules


def is_compiled(part: nn.Module) -> bool:
    """Return whether a module was compiled, by ``torch.compile`` or by ``Module.compile``."""
    return is_compiled_wrapper(part) or getattr(part, "_compiled_call_impl", None) is not None


TENSOR_ATTRIBUTES = ("_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs")
"""Where modules hold their tensors; the last two are the parameters of ``nn.LSTM`` and similar modules again."""

HOOK_ATTRIBUTES = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")
"""Ends of the names of a module's dictionaries of hooks, whose keys are numbers that differ between modules."""

CALL_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""A module's dictionaries of hooks that act when it is called; torch has no public way to ask for them."""

# The compiler --------------------------------------------------------------------------------------------------------

ZERO_TENSOR = torch.ops.aten._efficientzerotensor
"""Zeros without memory, which forward mode uses for tangents of constants.

Inductor read their memory and crashed: https://github.com/pytorch/pytorch/issues/177261. Torch 2.13 allocates them;
once it is the oldest supported torch, `compiler.zeros` need not replace those that remain, and only saves time.
"""

COPIES = {torch.ops.aten._reshape_alias, torch.ops.aten._to_copy, torch.ops.aten._unsafe_view}
"""Operators that ``make_fx`` records for reshapes and casts."""

_VMAP = {
    "_add_batch_dim", "_remove_batch_dim", "_vmap_increment_nesting", "_vmap_decrement_nesting",
    "lazy_load_decompositions",
}  # fmt: skip


def is_vmap(target: Any) -> bool:
    """Return whether a call in dynamo's graph is part of ``torch.func.vmap``."""
    return getattr(target, "__name__", "") in _VMAP


def transform_name(target: Any) -> str | None:
    """Return the name of a call in dynamo's graph that is part of a ``torch.func`` transform or a custom gradient.

    Dynamo records both as they were at the time of tracing, so that the graph cannot be differentiated again. To be
    removed when a graph with them can.
    """
    if isinstance(target, HigherOrderOperator):
        return str(target)
    return str(target.__name__) if "functorch" in getattr(target, "__module__", "") else None


def trace(function: Callable[..., Any], inputs: Sequence[Tensor]) -> GraphModule:
    """Return a function as a graph of ATen operators for inputs like these, without a derivative.

    ``make_fx`` is experimental. Learners may hold constants, which are no fake tensors.
    """
    with torch.no_grad():
        module = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    assert isinstance(module, GraphModule)
    return module


def compile_graph(graph: GraphModule, inputs: Sequence[Tensor], cuda_graphs: bool, headers: bool) -> Any:
    """Return a graph of ATen operators compiled by inductor; ``torch.compile`` would trace and differentiate it again.

    Args:
        graph: the graph.
        inputs: tensors like its inputs.
        cuda_graphs: whether it is replayed as a CUDA graph.
        headers: whether precompiled C++ headers may be used.
    """
    # On a CPU the calls between kernels are compiled as well: they take longer than the kernels of small learners.
    options: dict[str, Any] = {"triton.cudagraphs": cuda_graphs, "cpp_wrapper": inputs[0].device.type == "cpu"}
    if (option := "cpp_cache_precompile_headers") in _inductor_options() and not headers:
        options[option] = False
    return _inductor_compile(graph, list(inputs), options=options)


def guards_on_hooks() -> AbstractContextManager[None]:
    """Return a context in which captures of dynamo also guard on the hooks of modules.

    By default a graph that was captured without hooks is used for a module with hooks as well, without an error. The
    setting is read when the guards are made, after the backend was called.
    """
    context: AbstractContextManager[None] = torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)
    return context


def inductor_folder() -> str:
    """Return the folder in which inductor keeps compiled programs by default, in the system's temporary folder.

    To be removed when torch uses the user's own cache: https://github.com/pytorch/pytorch/issues/121122.
    """
    return default_cache_dir()


# Learning-rate schedules ---------------------------------------------------------------------------------------------

SCHEDULE_STATE = ("_schedulers", "_milestones", "_schedule_phases")
"""Entries of a schedule's ``state_dict`` that say what it was built from; its constructor has no public record."""


def nested_schedules(schedule: Any) -> Sequence[Any]:
    """Return the schedules that a ``SequentialLR`` or ``ChainedScheduler`` consists of."""
    found: Sequence[Any] = getattr(schedule, "_schedulers", ())
    return found
