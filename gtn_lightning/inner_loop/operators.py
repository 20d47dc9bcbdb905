"""What an autograd graph holds that the inner loop has to know of, and errors that name it."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from gtn_lightning.inner_loop.errors import InnerLoopError, NotTwiceDifferentiableError
from gtn_lightning.inner_loop.following import STOP

LEAF = "torch::autograd::AccumulateGrad"
"""The name of a leaf's node."""

REFUSED_ONCE = {
    "CheckpointFunctionBackward": "checkpoints its activations with use_reentrant=True, which torch.autograd.grad does "
    "not support: use use_reentrant=False, or no checkpoint, since the inner loop computes again by itself",
    "CompiledFunctionBackward": "calls a function that torch.compile has wrapped, whose gradient cannot be "
    "differentiated: call the function itself; modes compiled and linearized compile the whole learner",
}
"""Nodes of which not even a first derivative can be had."""

REFUSED_TWICE = {
    "BackwardHookFunctionBackward": "has a backward hook on a module (register_full_backward_hook), which would act on "
    "the derivative of its gradient once more: use Tensor.register_hook in forward, which is followed rightly",
}
"""Nodes whose gradient would be differentiated wrongly."""


class Look(NamedTuple):
    """What tells graphs apart."""

    edges: int
    variables: int
    """How many of the inputs require grad."""
    names: frozenset[str]
    custom: frozenset[type]


@dataclass
class Graph:
    """What lies between a loss and its inputs."""

    edges: int = 0
    """How many edges there are between nodes other than leaves."""
    variables: int = 0
    """How many of the inputs require grad."""

    captured: list[Tensor] = field(default_factory=list)
    """Leaves that require grad and are no input."""
    names: set[str] = field(default_factory=set)
    """Names of the nodes."""
    custom: set[type] = field(default_factory=set)
    """Custom autograd functions."""

    @property
    def look(self) -> Look:
        """What tells it from other graphs."""
        return Look(self.edges, self.variables, frozenset(self.names), frozenset(self.custom))


def look_through(loss: Tensor, inputs: Iterable[Tensor]) -> Graph:
    """Walk the autograd graph between a loss and its inputs."""
    found, inputs = Graph(), list(inputs)
    known = {id(tensor) for tensor in inputs}
    found.variables = len(known)
    for node in _nodes(loss, inputs):
        name = node.name()
        if name == LEAF:
            if id(node.variable) not in known:
                found.captured.append(node.variable)
            continue  # whether parameters are leaves depends on the step
        found.names.add(name)
        found.edges += sum(parent is not None for parent, _ in node.next_functions)
        if isinstance(node, BackwardCFunction) and name != STOP:
            found.custom.add(node._forward_cls)  # type: ignore[attr-defined]
    return found


def reject_captured(captured: Iterable[Tensor]) -> None:
    """Raise ``ValueError`` if a loss depends on a tensor that requires grad and was not passed in.

    A custom autograd function would drop the gradient of such a tensor without a word.
    """
    for tensor in captured:
        raise ValueError(
            f"the inner loss closes over a tensor of shape {tuple(tensor.shape)} that requires grad: "
            "its meta-gradient would be lost; pass it in through the parameters or the batch or detach it"
        )


def reject_undifferentiable(graph: Graph) -> None:
    """Raise if the gradient of a loss cannot be had at all.

    Raises:
        InnerLoopError: and says what to change.
    """
    for name in sorted(graph.names & REFUSED_ONCE.keys()):
        raise InnerLoopError(f"the learner cannot be taught: it {REFUSED_ONCE[name]}")


def reject_silently_wrong(graph: Graph) -> None:
    """Raise if the loss goes through an operator whose second derivative is wrong or missing without an error.

    These are custom autograd functions marked ``once_differentiable`` (the error that torch has for them depends on no
    input, so that ``torch.autograd.grad`` never meets it and drops the second derivative), torch's fused weight
    normalisation, where ``Functional`` has not replaced it, and backward hooks on modules.

    Raises:
        NotTwiceDifferentiableError: and names the operator.
        InnerLoopError: for a backward hook.
    """
    if "WeightNormInterfaceBackward0" in graph.names:
        raise _not_twice_differentiable("torch._weight_norm")
    for function in graph.custom:
        if getattr(getattr(function, "backward", None), "__code__", None) is _ONCE_DIFFERENTIABLE:
            raise _not_twice_differentiable(function.__name__)
    for name in sorted(graph.names & REFUSED_TWICE.keys()):
        raise InnerLoopError(f"the learner cannot be taught: it {REFUSED_TWICE[name]}")


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


_ONCE_DIFFERENTIABLE = torch.autograd.function.once_differentiable(lambda ctx: None).__code__


def _not_twice_differentiable(operator: str) -> NotTwiceDifferentiableError:
    advice = "replace this operator in the learner by one that torch can differentiate twice"
    if operator.startswith("scaled_dot_product"):
        advice = "run the learner's attention under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
    return NotTwiceDifferentiableError(
        f"the learner cannot be taught: the gradient of {operator} cannot be differentiated again; {advice}"
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
