"""Segments of inner steps, which keep only their inputs and are recomputed in the backward pass.

``torch.utils.checkpoint`` does not work here: its hooks would also apply to the inner gradients computed inside, and
its reentrant form writes to ``.grad``.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gtn_lightning.inner_loop.autograd_graph import captured_tensors, reject_captured
from gtn_lightning.inner_loop.capture import is_recorded
from gtn_lightning.inner_loop.offload import Offload
from gtn_lightning.inner_loop.replay import ReplayContext
from gtn_lightning.inner_loop.torch_internals import TreeSpec, tree_flatten, tree_unflatten
from gtn_lightning.inner_loop.types import is_continuous
from gtn_lightning.inner_loop.verification import check_recomputation

_TENSOR = object()
"""Placeholder for a tensor."""

Tree = Any
"""Tensors and constants in dicts, lists and tuples."""


Lengths = int | Sequence[int] | None
"""Numbers of steps of nested segments, the outermost first; one number for one level, None for no segments."""


def segment_lengths(segment: Lengths, key: str) -> tuple[int, ...]:
    """Return the numbers of steps of nested segments, the outermost first.

    Args:
        segment: the setting.
        key: its name, for messages.

    Raises:
        ValueError: if they are no whole numbers of at least 1, or do not fall.
    """
    if segment is None:
        return ()
    lengths = tuple(segment) if isinstance(segment, Sequence) else (segment,)
    for length in lengths:
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ValueError(f"{key} must be at least 1, got {length}")
    if not lengths or any(inner >= outer for outer, inner in pairwise(lengths)):
        raise ValueError(
            f"{key} must be one number of steps, or several with the outermost and largest first, got {list(lengths)}"
        )
    return lengths


def rematerialize(
    function: Callable[[Tree, Tree], Tree],
    state: Tree,
    batches: Tree,
    learned: Sequence[Tensor],
    device: torch.device,
    offload: Offload | None,
    checked: bool = True,
) -> Tree:
    """Return ``function(state, batches)`` without its graph; the backward pass recomputes it in the same random state.

    The function may contain segments itself: the recomputation then keeps the inputs of these only.

    Args:
        function: what to compute. It must not use tensors that require grad other than those passed here.
        state: its first argument.
        batches: its second argument.
        learned: leaves that require grad and that the function uses besides its arguments.
        device: the device of the computation.
        offload: where to keep the state; None for where it is. The batches stay where they are, for they are often
            parts of a tensor that is kept anyway.
        checked: whether the recomputation is compared with the first computation.

    Returns:
        What the function returns, differentiable w.r.t. the tensors of its arguments and the learned leaves.

    Raises:
        TypeError: if arguments or result hold anything but tensors, numbers and strings in dicts, lists and tuples: a
            tensor in another object would lose its gradient.
        RecomputationError: from the backward pass, if the recomputation has a different result.
        ValueError: from the backward pass, if the function uses another tensor that requires grad.
    """
    leaves, structure = _flat((state, batches))
    states = sum(isinstance(leaf, Tensor) for leaf in tree_flatten(state)[0])
    segment = _Segment(function, leaves, structure, states, tuple(learned), device, offload, checked)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    outputs = _Rematerialized.apply(segment, *tensors, *learned)
    return segment.assembled(outputs)


class _Segment:
    """What the node keeps besides tensors."""

    def __init__(
        self,
        function: Callable[[Tree, Tree], Tree],
        leaves: list[Any],
        structure: TreeSpec,
        states: int,
        learned: tuple[Tensor, ...],
        device: torch.device,
        offload: Offload | None,
        checked: bool,
    ) -> None:
        self.checked = checked
        self._function = function
        self._constants = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._indices = [number for number, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self._structure = structure
        self._results: list[Any] = []
        self._numbers: dict[int, Tensor] = {}
        self._rounding = torch.float32
        self._result_structure: TreeSpec | None = None
        self.states = states
        self.learned = learned
        self.device = device
        self.offload = offload
        self.context = ReplayContext(device)

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Compute the function's tensors from the tensors of its arguments."""
        leaves = list(self._constants)
        for index, tensor in zip(self._indices, tensors, strict=True):
            leaves[index] = tensor
        results, self._result_structure = _flat(self._function(*tree_unflatten(leaves, self._structure)))
        self._results = [_TENSOR if isinstance(result, Tensor) else result for result in results]
        return [result for result in results if isinstance(result, Tensor)]

    def keep_numbers(self, outputs: Sequence[Tensor]) -> None:
        """Keep the numbers among the results, such as losses, to compare the recomputation with."""
        # On a GPU, reading a number waits for all kernels launched before.
        if self.checked and self.device.type == "cpu" and not is_recorded():
            self._numbers = {i: output.detach() for i, output in enumerate(outputs) if _is_number(output)}
            self._rounding = self.context.autocast.rounding(outputs)

    def check_numbers(self, outputs: Sequence[Tensor]) -> None:
        """Raise ``RecomputationError`` if the recomputation has different numbers."""
        for i, number in self._numbers.items():
            check_recomputation(outputs[i].detach(), {}, number, {}, self._rounding)

    def assembled(self, tensors: Sequence[Tensor]) -> Tree:
        """Return the function's result, with the tensors that the node returned."""
        assert self._result_structure is not None
        rest = iter(tensors)
        results = [next(rest) if result is _TENSOR else result for result in self._results]
        return tree_unflatten(results, self._result_structure)


class _Rematerialized(torch.autograd.Function):
    """``tensors -> tensors``."""

    @staticmethod
    def forward(ctx: Any, segment: _Segment, *tensors: Tensor) -> tuple[Tensor, ...]:
        own = tensors[: len(tensors) - len(segment.learned)]
        with segment.context.tracked():
            outputs = segment.run(own)
        segment.keep_numbers(outputs)
        # A node must not return one of its inputs.
        outputs = [output.view_as(output) if any(output is tensor for tensor in own) else output for output in outputs]
        ctx.segment = segment
        ctx.set_materialize_grads(False)
        states, batches = own[: segment.states], own[segment.states :]
        ctx.restore = None if segment.offload is None else segment.offload.keep(states, segment.device)
        ctx.save_for_backward(*(own if ctx.restore is None else batches))
        ctx.mark_non_differentiable(*(output for output in outputs if not is_continuous(output)))
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        segment: _Segment = ctx.segment
        kept = [*([] if ctx.restore is None else ctx.restore()), *ctx.saved_tensors]
        needed = ctx.needs_input_grad[1:]
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(kept, needed, strict=False)]
        variables = [*inputs, *segment.learned]
        with torch.enable_grad(), segment.context.restored():
            outputs = segment.run(inputs)
        segment.check_numbers(outputs)
        pairs = [
            (output, cotangent)
            for output, cotangent in zip(outputs, cotangents, strict=True)
            if cotangent is not None and output.requires_grad
        ]
        reject_captured(captured_tensors([output for output, _ in pairs], variables))
        sources = [variable for variable, need in zip(variables, needed, strict=True) if need]
        found = iter(
            torch.autograd.grad([output for output, _ in pairs], sources, [c for _, c in pairs], allow_unused=True)
            if pairs and sources
            else [None] * len(sources)
        )
        return (None, *(next(found) if need else None for need in needed))


def _flat(tree: Tree) -> tuple[list[Any], TreeSpec]:
    leaves, structure = tree_flatten(tree)
    for leaf in leaves:
        if not isinstance(leaf, Tensor | int | float | str | None):
            raise TypeError(
                f"segments cannot keep a {type(leaf).__name__} in the inner optimizer's state: use tensors, numbers "
                "and strings in dicts, lists and (named) tuples"
            )
    return leaves, structure


def _is_number(tensor: Tensor) -> bool:
    return tensor.ndim == 0 and tensor.is_floating_point()
