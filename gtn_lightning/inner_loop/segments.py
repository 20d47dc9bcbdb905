"""A stretch of computation that keeps only what it starts from, and runs again in the backward pass.

``torch.utils.checkpoint`` is not for this: its hooks would meet the inner gradients that are computed inside, and its
reentrant form writes to ``.grad``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from gtn_lightning.inner_loop.operators import look_through, reject_captured
from gtn_lightning.inner_loop.replay import Surroundings
from gtn_lightning.inner_loop.types import is_continuous
from gtn_lightning.inner_loop.verification import check_recomputation

_TENSOR = object()
"""Stands where a tensor belongs."""

Tree = Any
"""Tensors and constants in dicts, lists and tuples."""


def rematerialise(
    function: Callable[[Tree], Tree],
    given: Tree,
    learned: Sequence[Tensor],
    device: torch.device,
    offload: bool,
    checked: bool = True,
) -> Tree:
    """Return ``function(given)`` without its graph; the backward pass computes it again, in the same surroundings.

    Args:
        function: what to compute. It must not draw on tensors that require grad other than those named here.
        given: its argument.
        learned: leaves that require grad on which the function draws besides its argument.
        device: where it computes.
        offload: whether what is kept waits in the host's memory.
        checked: whether the recomputation is compared with the first computation.

    Returns:
        what the function returns, differentiable w.r.t. the tensors of its argument and the learned leaves.

    Raises:
        TypeError: if something else than tensors, numbers and strings in dicts, lists and tuples goes in or comes out:
            a tensor hidden in it would lose its gradient.
        RecomputationError: from the backward pass, if the recomputation has other results.
        ValueError: from the backward pass, if the function draws on another tensor that requires grad.
    """
    leaves, structure = _flat(given)
    stretch = _Stretch(function, leaves, structure, tuple(learned), device, offload, checked)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    outputs = _Rematerialised.apply(stretch, *tensors, *learned)
    return stretch.assembled(outputs)


class _Stretch:
    """What the node keeps besides tensors."""

    def __init__(
        self,
        function: Callable[[Tree], Tree],
        leaves: list[Any],
        structure: TreeSpec,
        learned: tuple[Tensor, ...],
        device: torch.device,
        offload: bool,
        checked: bool,
    ) -> None:
        self.checked = checked
        self._function = function
        self._constants = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._places = [number for number, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self._structure = structure
        self._results: list[Any] = []
        self._numbers: dict[int, Tensor] = {}
        self._rounding = torch.float32
        self._result_structure: TreeSpec | None = None
        self.learned = learned
        self.device = device
        self.offload = offload and device.type != "cpu"  # there, what is kept is in the host's memory
        self.surroundings = Surroundings(device)

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Compute the function's tensors from the tensors of its argument."""
        leaves = list(self._constants)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        results, self._result_structure = _flat(self._function(tree_unflatten(leaves, self._structure)))
        self._results = [_TENSOR if isinstance(result, Tensor) else result for result in results]
        return [result for result in results if isinstance(result, Tensor)]

    def keep_numbers(self, outputs: Sequence[Tensor]) -> None:
        """Keep the numbers among the results, such as losses, which the recomputation has to arrive at."""
        # On a GPU, looking at one waits for all that was launched before.
        if self.checked and self.device.type == "cpu":
            self._numbers = {i: output.detach() for i, output in enumerate(outputs) if _is_number(output)}
            self._rounding = self.surroundings.rounding(outputs)

    def check_numbers(self, outputs: Sequence[Tensor]) -> None:
        """Raise ``RecomputationError`` if the recomputation arrived at other numbers."""
        for i, number in self._numbers.items():
            check_recomputation(outputs[i].detach(), {}, number, {}, self._rounding)

    def assembled(self, tensors: Sequence[Tensor]) -> Tree:
        """Put the tensors that the node returned where the function had them."""
        assert self._result_structure is not None
        rest = iter(tensors)
        results = [next(rest) if result is _TENSOR else result for result in self._results]
        return tree_unflatten(results, self._result_structure)


class _Rematerialised(torch.autograd.Function):
    """``tensors -> tensors``."""

    @staticmethod
    def forward(ctx: Any, stretch: _Stretch, *tensors: Tensor) -> tuple[Tensor, ...]:
        own = tensors[: len(tensors) - len(stretch.learned)]
        with stretch.surroundings.watched():
            outputs = stretch.run(own)
        stretch.keep_numbers(outputs)
        # A tensor that was handed through is an alias to autograd, which a node must not return.
        outputs = [output.view_as(output) if any(output is tensor for tensor in own) else output for output in outputs]
        ctx.stretch = stretch
        ctx.set_materialize_grads(False)
        if stretch.offload:
            ctx.kept = [_on_host(tensor) for tensor in own]
        else:
            ctx.save_for_backward(*own)
        ctx.mark_non_differentiable(*(output for output in outputs if not is_continuous(output)))
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        stretch: _Stretch = ctx.stretch
        kept = (
            [tensor.to(stretch.device, non_blocking=True) for tensor in ctx.kept]
            if stretch.offload
            else ctx.saved_tensors
        )
        needed = ctx.needs_input_grad[1:]
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(kept, needed, strict=False)]
        variables = [*inputs, *stretch.learned]
        with torch.enable_grad(), stretch.surroundings.again():
            outputs = stretch.run(inputs)
        stretch.check_numbers(outputs)
        pairs = [
            (output, cotangent)
            for output, cotangent in zip(outputs, cotangents, strict=True)
            if cotangent is not None and output.requires_grad
        ]
        for output, _ in pairs:
            reject_captured(look_through(output, variables).captured)
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


def _on_host(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor.detach(), non_blocking=True)
