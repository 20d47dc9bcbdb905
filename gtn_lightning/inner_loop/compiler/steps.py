"""Several inner steps, and their derivative, as graphs of tensor operators.

Where an inner step costs less than its dispatch, one program for several steps takes most of the dispatch away: the
inner gradients, the optimizer's arithmetic and the reverse pass through both are one flat function of tensors.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vjp
from torch.fx import GraphModule

from gtn_lightning.inner_loop.compiler.captured import CapturedLoss
from gtn_lightning.inner_loop.compiler.graphs import simplified
from gtn_lightning.inner_loop.compiler.packing import packed
from gtn_lightning.inner_loop.compiler.partition import Linearization, divided
from gtn_lightning.inner_loop.optimizers import InnerOptimizer
from gtn_lightning.inner_loop.torch_internals import TreeSpec, tree_leaves, tree_unflatten
from gtn_lightning.inner_loop.types import Batch, Buffers, Params, detached


class StepInputs(NamedTuple):
    """The arguments of some inner steps."""

    params: Params
    """Parameters by name."""
    state: Sequence[Tensor]
    """The tensors of the optimizer's state."""
    values: Mapping[str, Sequence[Tensor]]
    """The learned hyperparameters' values, a scalar for each step."""
    batches: Sequence[Batch]
    """A batch for each step."""
    buffers: Mapping[str, Tensor]
    """Buffers by name."""
    constants: Mapping[int, Tensor]
    """The loss's other flat inputs by their positions."""

    def flat(self) -> list[Tensor]:
        """Return all tensors in the order in which programs take them; the differentiable ones come first."""
        found = [*self.params.values(), *self.state]
        for values in self.values.values():
            found += values
        for batch in self.batches:
            found += batch
        return [*found, *self.buffers.values(), *self.constants.values()]

    def like(self, flat: Sequence[Any]) -> "StepInputs":
        """Return the arguments that these flat tensors are."""
        rest = iter(flat)
        return StepInputs(
            {name: next(rest) for name in self.params},
            [next(rest) for _ in self.state],
            {key: [next(rest) for _ in values] for key, values in self.values.items()},
            [[next(rest) for _ in batch] for batch in self.batches],
            {name: next(rest) for name in self.buffers},
            {index: next(rest) for index in self.constants},
        )

    def sources(self, wanted: Sequence[bool]) -> list[Tensor]:
        """Return the tensors by which the steps are differentiated, in flat order.

        Args:
            wanted: for each tensor of a batch, whether it is one of them.
        """
        found = [*self.params.values(), *self.state]
        for values in self.values.values():
            found += values
        return [*found, *(t for batch in self.batches for t, want in zip(batch, wanted, strict=True) if want)]

    def replaced(self, sources: Sequence[Tensor], wanted: Sequence[bool]) -> "StepInputs":
        """Return these arguments with other sources."""
        rest = iter(sources)
        return self._replace(
            params={name: next(rest) for name in self.params},
            state=[next(rest) for _ in self.state],
            values={key: [next(rest) for _ in values] for key, values in self.values.items()},
            batches=[
                [next(rest) if want else tensor for tensor, want in zip(batch, wanted, strict=True)]
                for batch in self.batches
            ],
        )


class StepProgram:
    """The compiled program of some inner steps, and that of their derivative, which is compiled when it is needed.

    Args:
        graphs: the graphs of both.
        compiled: the first one.
        results: number of its results.
        compile_graph: compiles a graph for inputs like these.
    """

    def __init__(
        self,
        graphs: Linearization,
        compiled: Callable[..., tuple[Tensor, ...]],
        results: int,
        compile_graph: Callable[[GraphModule, Sequence[Tensor]], Callable[..., tuple[Tensor, ...]]],
    ) -> None:
        self.confirmed = self.confirmed_back = False
        """Whether their first results were compared with uncompiled steps."""
        self._inputs = graphs.inputs
        self._results = results
        self._compiled = compiled
        self._graph: GraphModule | None = graphs.derivative
        self._compile_graph = compile_graph
        self._back: Callable[..., tuple[Tensor, ...]] | None = None

    def __call__(self, flat: Sequence[Tensor]) -> tuple[Sequence[Tensor], list[Tensor]]:
        """Return parameters, state, losses (as one tensor) and buffers, and what `back` needs of them.

        Args:
            flat: the arguments, see `StepInputs.flat`.
        """
        found = self._compiled(*flat)
        return found[: self._results], [*(flat[index] for index in self._inputs), *found[self._results :]]

    def back(self, kept: Sequence[Tensor], cotangents: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the products by `StepInputs.sources`.

        Args:
            kept: what the call returned.
            cotangents: of parameters and state.
        """
        flat = [*kept, *cotangents]
        if self._back is None:
            assert self._graph is not None
            self._back, self._graph = self._compile_graph(self._graph, distinct(flat)), None
        return self._back(*flat)


class StepResults(NamedTuple):
    """The results of some inner steps."""

    params: Params
    """Parameters by name."""
    state: Sequence[Tensor]
    """The tensors of the optimizer's state."""
    losses: Tensor
    """The loss before each step, ``[steps]``."""
    buffers: Buffers
    """Buffers by name."""


def optimizer_step(
    optimizer: InnerOptimizer, structure: TreeSpec, at: StepInputs, step: int, grads: Params
) -> tuple[Params, list[Tensor]]:
    """Return parameters and state after one update of an optimizer with the given values of hyperparameters.

    Args:
        optimizer: the inner optimizer.
        structure: of its state.
        at: the arguments before the step.
        step: which of its steps this is.
        grads: the gradient.
    """
    twin = optimizer.with_values({key: values[step] for key, values in at.values.items()})
    params, state = twin.update(grads, tree_unflatten(list(at.state), structure), at.params, step)
    return params, tree_leaves(state)


def distinct(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors like these, to trace a function with: one that is passed twice would be traced as one input."""
    return [torch.empty_like(tensor) for tensor in tensors]


def step_graphs(
    loss: CapturedLoss,
    optimizer: InnerOptimizer,
    structure: TreeSpec,
    given: StepInputs,
    wanted: Sequence[bool],
) -> Linearization:
    """Return the graphs of some inner steps and of their derivative in reverse mode.

    Args:
        loss: the captured loss.
        optimizer: the inner optimizer.
        structure: of its state.
        given: arguments like these.
        wanted: for each tensor of a batch, whether its product is needed.

    Returns:
        The first graph takes `StepInputs.flat` and returns parameters, state, losses and buffers. The cotangents of
        the second one are those of parameters and state; its products are by `StepInputs.sources`.
    """
    flat = distinct(given.flat())
    count = len(flat)
    outputs = [*given.params.values(), *given.state]

    def both(*tensors: Tensor) -> tuple[Tensor, ...]:
        at, cotangents = given.like(tensors[:count]), tensors[count:]

        def taken(*sources: Tensor) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
            now, losses, states = at.replaced(sources, wanted), [], []
            for step in range(len(now.batches)):
                grads, value, after = _gradient(loss, now, step)
                params, state = optimizer_step(optimizer, structure, now, step, grads)
                now = now._replace(params=params, state=state, buffers=detached(after))
                losses.append(value)
                states += [*params.values(), *state]
            results = *now.params.values(), *now.state
            return results, (torch.stack(losses), tuple(now.buffers.values()), tuple(states[: -len(results)]))

        found: tuple[Any, ...] = vjp(taken, *at.sources(wanted), has_aux=True)
        results, back, (losses, buffers, states) = found
        return *results, losses, *buffers, *states, *back(cotangents)

    whole = simplified(both, [*flat, *(torch.zeros_like(tensor) for tensor in outputs)])
    states = len(outputs) * (len(given.batches) - 1)
    graphs = divided(whole, count, len(given.sources(wanted)), states)
    return packed(graphs, len(outputs) + 1 + len(given.buffers))


def _gradient(loss: CapturedLoss, at: StepInputs, step: int) -> tuple[Params, Tensor, Buffers]:
    def of(params: Params) -> tuple[Tensor, tuple[Tensor, Buffers]]:
        value, after = loss.evaluated(at.constants, params, at.buffers, at.batches[step])
        return value, (value, after)

    grads, (value, after) = grad(of, has_aux=True)(at.params)
    return grads, value, after
