"""What lies between a loss and its inputs in the autograd graph, and errors that name what cannot be differentiated."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from gtn_lightning.inner_loop import torch_internals
from gtn_lightning.inner_loop.errors import InnerLoopError, NotTwiceDifferentiableError
from gtn_lightning.inner_loop.stopped_gradients import STOP
from gtn_lightning.inner_loop.torch_internals import custom_function, is_once_differentiable, leaf_tensor

NO_FIRST_DERIVATIVE = {
    torch_internals.CHECKPOINT_NODE: "checkpoints its activations with use_reentrant=True, which torch.autograd.grad "
    "does not support: use use_reentrant=False, or no checkpoint, since the inner loop recomputes by itself",
    torch_internals.COMPILED_NODE: "calls a function that torch.compile has wrapped, whose gradient cannot be "
    "differentiated: call the function itself; modes compiled and linearized compile the whole learner",
}
"""Nodes without even a first derivative, and what the learner does to have them."""

WRONG_SECOND_DERIVATIVE = {
    torch_internals.MODULE_HOOK_NODE: "has a backward hook on a module (register_full_backward_hook), which would act "
    "on the derivative of its gradient once more: use Tensor.register_hook in forward, which is handled correctly",
}
"""Nodes whose gradient would be differentiated wrongly."""


class GraphSignature(NamedTuple):
    """What distinguishes graphs."""

    edges: int
    variables: int
    """How many of the inputs require grad."""
    names: frozenset[str]
    custom: frozenset[type]


@dataclass
class AutogradGraph:
    """What lies between a loss and its inputs."""

    edges: int = 0
    """Number of edges between nodes other than leaves."""
    variables: int = 0
    """How many of the inputs require grad."""
    captured: list[Tensor] = field(default_factory=list)
    """Leaves that require grad and are not among the inputs."""
    names: set[str] = field(default_factory=set)
    """Names of the nodes."""
    custom: set[type] = field(default_factory=set)
    """Custom autograd functions."""

    @property
    def signature(self) -> GraphSignature:
        """What distinguishes it from other graphs."""
        return GraphSignature(self.edges, self.variables, frozenset(self.names), frozenset(self.custom))


def inspect_graph(loss: Tensor, inputs: Iterable[Tensor]) -> AutogradGraph:
    """Walk the autograd graph between a loss and its inputs."""
    graph, inputs = AutogradGraph(), list(inputs)
    known = {id(tensor) for tensor in inputs}
    graph.variables = len(known)
    for node in _nodes([loss], inputs):
        name = node.name()
        if name == torch_internals.LEAF:
            leaf = leaf_tensor(node)
            if leaf is not None and id(leaf) not in known:
                graph.captured.append(leaf)
            continue  # whether parameters are leaves depends on the step
        graph.names.add(name)
        graph.edges += sum(parent is not None for parent, _ in node.next_functions)
        if name != STOP and (function := custom_function(node)) is not None:
            graph.custom.add(function)
    return graph


def captured_tensors(outputs: Iterable[Tensor], inputs: Iterable[Tensor]) -> list[Tensor]:
    """Return the leaves that require grad, that tensors depend on, and that are not among the inputs."""
    inputs = list(inputs)
    known = {id(tensor) for tensor in inputs}
    leaves = [leaf_tensor(node) for node in _nodes(outputs, inputs) if node.name() == torch_internals.LEAF]
    return [leaf for leaf in leaves if leaf is not None and id(leaf) not in known]


def reject_captured(captured: Iterable[Tensor]) -> None:
    """Raise ``ValueError`` if a loss depends on a tensor that requires grad and was not passed in.

    A custom autograd function would drop the gradient of such a tensor without an error.
    """
    for tensor in captured:
        raise ValueError(
            f"the inner loss closes over a tensor of shape {tuple(tensor.shape)} that requires grad: "
            "its meta-gradient would be lost; pass it in through the parameters or the batch or detach it"
        )


def reject_undifferentiable(graph: AutogradGraph) -> None:
    """Raise ``InnerLoopError`` if a loss has no gradient at all; the message says what to change."""
    for name in sorted(graph.names & NO_FIRST_DERIVATIVE.keys()):
        raise InnerLoopError(f"the learner cannot be taught: it {NO_FIRST_DERIVATIVE[name]}")


def reject_silently_wrong(graph: AutogradGraph) -> None:
    """Raise if the loss uses an operator whose second derivative is wrong or missing without an error of torch.

    These are custom autograd functions marked ``once_differentiable``, torch's fused weight normalization where
    `Functional` has not replaced it, and backward hooks on modules.

    Raises:
        NotTwiceDifferentiableError: if there is such an operator; the message names it.
        InnerLoopError: if there is a backward hook.
    """
    if torch_internals.WEIGHT_NORM_NODE in graph.names:
        raise _not_twice_differentiable("torch._weight_norm")
    for function in graph.custom:
        if is_once_differentiable(function):
            raise _not_twice_differentiable(function.__name__)
    for name in sorted(graph.names & WRONG_SECOND_DERIVATIVE.keys()):
        raise InnerLoopError(f"the learner cannot be taught: it {WRONG_SECOND_DERIVATIVE[name]}")


@contextmanager
def naming_operator() -> Iterator[None]:
    """Replace torch's errors about missing second derivatives by one that names the operator.

    Raises:
        NotTwiceDifferentiableError: if the block raises such an error.
    """
    try:
        yield
    except RuntimeError as error:
        operator = torch_internals.missing_second_derivative(error)
        if operator is None:
            raise
        raise _not_twice_differentiable(operator) from error


def _not_twice_differentiable(operator: str) -> NotTwiceDifferentiableError:
    advice = "replace this operator in the learner by one that torch can differentiate twice"
    if operator.startswith("scaled_dot_product"):
        advice = "run the learner's attention under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
    return NotTwiceDifferentiableError(
        f"the learner cannot be taught: the gradient of {operator} cannot be differentiated again; {advice}"
    )


def _nodes(outputs: Iterable[Tensor], inputs: Iterable[Tensor]) -> Iterator[Any]:
    """Yield the nodes of the autograd graph between outputs and their inputs."""
    stack: list[Any] = [output.grad_fn for output in outputs]
    seen = {None, *(tensor.grad_fn for tensor in inputs)}
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        stack.extend(parent for parent, _ in node.next_functions)
