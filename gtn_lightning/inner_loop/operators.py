"""Operators that cannot be differentiated as the inner loop needs it, and errors that name them."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class NotTwiceDifferentiableError(RuntimeError):
    """An operator of the learner has a gradient that cannot be differentiated again; the message names it."""


def reject_captured(loss: Tensor, variables: Iterable[Tensor]) -> None:
    """Raise ``ValueError`` if the loss depends on a tensor that requires grad and was not passed in.

    A custom autograd function would drop the gradient of such a tensor without a word.
    """
    known = {id(variable) for variable in variables}
    for node in _nodes(loss, ()):
        captured = getattr(node, "variable", None)
        if captured is not None and id(captured) not in known:
            raise ValueError(
                f"the inner loss closes over a tensor of shape {tuple(captured.shape)} that requires grad: "
                "its meta-gradient would be lost; pass it in through the parameters or the batch or detach it"
            )


def reject_silently_wrong(loss: Tensor, inputs: Iterable[Tensor]) -> None:
    """Raise if the loss goes through an operator whose second derivative is wrong or missing without an error.

    These are custom autograd functions marked ``once_differentiable`` (the error that torch has for them hangs
    on no input, so that ``torch.autograd.grad`` never meets it and drops the second derivative) and torch's
    fused weight normalisation, where ``Functional`` has not replaced it.

    Raises:
        NotTwiceDifferentiableError: and names the operator.
    """
    for node in _nodes(loss, inputs):
        if node.name() == "WeightNormInterfaceBackward0":
            raise _not_twice_differentiable("torch._weight_norm")
        function: Any = getattr(node, "_forward_cls", None)
        if getattr(getattr(function, "backward", None), "__code__", None) is _ONCE_DIFFERENTIABLE:
            raise _not_twice_differentiable(function.__name__)


@contextmanager
def named_operator() -> Iterator[None]:
    """Turn torch's errors about missing second derivatives into one that names the operator."""
    try:
        yield
    except RuntimeError as error:
        missing = re.search(r"derivative for '?(?:aten::)?_?(\S+?)(?:_backward)?'? is not implemented", str(error))
        if not missing:
            raise
        raise _not_twice_differentiable(missing.group(1)) from error


def first_line(error: Exception) -> str:
    """Return the beginning of what an error says, or its type's name if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:200] if lines else type(error).__name__


_ONCE_DIFFERENTIABLE = torch.autograd.function.once_differentiable(lambda ctx: None).__code__


def _not_twice_differentiable(operator: str) -> NotTwiceDifferentiableError:
    return NotTwiceDifferentiableError(
        f"the learner cannot be taught: the gradient of {operator} cannot be differentiated again; "
        "replace this operator in the learner by one that torch can differentiate twice"
    )


def _nodes(loss: Tensor, inputs: Iterable[Tensor]) -> Iterator[Any]:
    """Walk the autograd graph between a loss and its inputs."""
    stack: list[Any] = [loss.grad_fn]
    seen = {None, *(tensor.grad_fn for tensor in inputs)}
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        stack.extend(parent for parent, _ in node.next_functions)
