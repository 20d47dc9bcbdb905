"""The derivatives of one architecture's loss, compiled by inductor.

Dynamo captures the loss, and its guards decide whether a captured graph is valid for the given arguments. The graph is
differentiated by ``torch.func``; each derivative is traced to tensor operators and compiled when it is first needed.
"""

import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from gtn_lightning.errors import first_line
from gtn_lightning.inner_loop.capture import is_part_of_a_graph, is_recorded, note_unsettled
from gtn_lightning.inner_loop.compiler.cache import headers_are_private, keep_programs_private
from gtn_lightning.inner_loop.compiler.captured import CapturedLoss, Key
from gtn_lightning.inner_loop.compiler.graphs import gradient_graph, product_graph
from gtn_lightning.inner_loop.compiler.partition import Linearization, linearize
from gtn_lightning.inner_loop.compiler.steps import StepInputs, StepProgram, distinct, step_graphs
from gtn_lightning.inner_loop.optimizers import InnerOptimizer
from gtn_lightning.inner_loop.torch_internals import TreeSpec, compile_graph, guards_on_hooks
from gtn_lightning.inner_loop.types import Batch, Buffers, InnerGradient, LossFn, Params, Products, is_continuous

Flat = Callable[..., tuple[Tensor, ...]]
"""A compiled graph."""

_Result = TypeVar("_Result")


class Derivative(NamedTuple):
    """The derivative of an inner gradient at a point, a linear function."""

    kept: tuple[Tensor, ...]
    """Its coefficients."""
    apply: Callable[[Sequence[Tensor], Params], Products | None]
    """``(kept, vector) -> products``, or None if it cannot be compiled."""


class Program:
    """The compiled derivatives of one architecture's loss.

    If the loss cannot be compiled, one warning says why, and all methods return None from then on.

    Args:
        device: the learner's device; on a CUDA device, compiled graphs are replayed as CUDA graphs, unless they are
            part of a larger one.
    """

    def __init__(self, device: torch.device) -> None:
        self.works = True
        """Whether the loss can be compiled, as far as is known."""
        self.fresh = False
        """Whether the last result was the first of a newly compiled graph, to be compared with the uncompiled one."""
        self._cuda_graphs = device.type == "cuda"
        self._reached: CapturedLoss | None = None
        self._while_captured = ExitStack()
        keep_programs_private()
        self._loss = torch.compile(_with_own_code(_loss), backend=self._backend, fullgraph=True, dynamic=False)

    def gradient(
        self, loss_fn: LossFn, params: Params, buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient | None:
        """Return the inner gradient."""

        def run() -> InnerGradient:
            loss, inputs = self._capture(loss_fn, params, buffers, batch)
            compiled = self._once(
                loss, ("gradient",), lambda: self._compiled(gradient_graph(loss.graph, loss.indices(), inputs), inputs)
            )
            return loss.inner_gradient(compiled(*inputs), params, buffers)

        return self.tried(run)

    def products(
        self,
        loss_fn: LossFn,
        params: Params,
        buffers: Mapping[str, Tensor],
        batch: Batch,
        vector: Params,
        loss_cotangent: Tensor | None,
        wanted: Sequence[bool],
    ) -> Products | None:
        """Return the products of the gradient's derivatives with a vector, as ``forward_over_reverse`` does."""
        with_loss = loss_cotangent is not None

        def run() -> Products:
            loss, inputs = self._capture(loss_fn, params, buffers, batch)
            given = [*inputs, *loss.vector(vector)] + ([] if loss_cotangent is None else [loss_cotangent])
            compiled = self._once(
                loss,
                ("products", *wanted, with_loss),
                lambda: self._compiled(product_graph(loss.graph, loss.indices(wanted), inputs, with_loss), given),
            )
            return loss.products(compiled(*given), vector, wanted)

        return self.tried(run)

    def linearized(
        self, loss_fn: LossFn, params: Params, buffers: Mapping[str, Tensor], batch: Batch, wanted: Sequence[bool]
    ) -> tuple[InnerGradient, Derivative] | None:
        """Return the inner gradient and its derivative."""

        def run() -> tuple[InnerGradient, Derivative]:
            loss, inputs = self._capture(loss_fn, params, buffers, batch)
            graphs: Linearization = loss.once(
                ("linearization", *wanted), lambda: linearize(loss.graph, loss.indices(wanted), inputs)
            )
            compiled = self._once(loss, ("first half", *wanted), lambda: self._compiled(graphs.gradient, inputs))
            found, kept = loss.split(compiled(*inputs))

            def apply(kept: Sequence[Tensor], vector: Params) -> Products | None:
                def run() -> Products:
                    given = [*kept, *loss.vector(vector)]
                    compiled = self._once(
                        loss, ("second half", *wanted), lambda: self._compiled(graphs.derivative, given)
                    )
                    return loss.products(compiled(*given), vector, wanted)

                return self.tried(run)

            needed = (inputs[index] for index in graphs.inputs)
            return loss.inner_gradient(found, params, buffers), Derivative((*needed, *kept), apply)

        return self.tried(run)

    def captured(
        self, loss_fn: LossFn, params: Params, buffers: Mapping[str, Tensor], batch: Batch
    ) -> tuple[CapturedLoss, dict[int, Tensor]] | None:
        """Return the captured loss that holds for these arguments, and its constants, for `steps`."""

        def run() -> tuple[CapturedLoss, dict[int, Tensor]]:
            loss, inputs = self._capture(loss_fn, params, buffers, batch)
            if not loss.repeatable(len(inputs)):
                raise RuntimeError("the loss returns other buffers than it takes")
            return loss, {index: inputs[index] for index in loss.constants(len(inputs))}

        return self.tried(run)

    def steps(
        self,
        loss: CapturedLoss,
        optimizer: InnerOptimizer,
        structure: TreeSpec,
        given: StepInputs,
        wanted: tuple[bool, ...],
        key: Key,
    ) -> StepProgram:
        """Return the program of some inner steps; to be called within `tried`.

        Args:
            loss: what `captured` returned.
            optimizer: the inner optimizer.
            structure: of its state.
            given: arguments like these.
            wanted: for each tensor of a batch, whether its product is needed.
            key: identifies optimizer, structure and number of steps.
        """

        def made() -> StepProgram:
            graphs = step_graphs(loss, optimizer, structure, given, wanted)
            compiled = self._compiled(graphs.gradient, distinct(given.flat()))
            results = len(given.params) + len(given.state) + 1 + len(given.buffers)
            return StepProgram(graphs, compiled, results, self._compiled)

        found: StepProgram = loss.once(("steps", *key, *wanted), made)
        return found

    def tried(self, run: Callable[[], _Result]) -> _Result | None:
        """Return what a function of compiled programs returns, or None, with one warning, if it raises."""
        self.fresh = False
        if not self.works:
            return None
        try:
            with torch.no_grad():
                return run()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # dynamo and inductor raise whatever their parts raise
            if is_recorded():  # an error of the capture
                raise
            # If the error is the learner's own, the uncompiled evaluation that follows raises it.
            self.give_up(f"cannot be compiled and runs uncompiled: {type(error).__name__}: {first_line(error)}")
            return None

    def give_up(self, reason: str) -> None:
        """Return None from here on, and warn once of the reason."""
        self.works = False
        note_unsettled()
        warnings.warn(f"the inner gradient {reason}", stacklevel=3)

    def _once(self, loss: CapturedLoss, key: Key, make: Callable[[], Flat]) -> Flat:
        def made() -> Flat:
            self.fresh = True
            note_unsettled()
            return make()

        compiled: Flat = loss.once((*key, self._replayed), made)
        return compiled

    def _capture(
        self, loss_fn: LossFn, params: Params, buffers: Mapping[str, Tensor], batch: Batch
    ) -> tuple[CapturedLoss, tuple[Tensor, ...]]:
        """Return the captured loss that holds for these arguments, and its flat inputs."""
        # With grad: a learner that disables it for a while restores what it found, and dynamo would capture only the
        # forward pass of a custom autograd function.
        variables = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        given = tuple(t.detach().requires_grad_() if is_continuous(t) else t.clone() for t in batch)
        with torch.enable_grad(), self._while_captured:
            loss, new_buffers = self._loss(loss_fn, variables, dict(buffers), given)
        captured, self._reached = self._reached, None
        if captured is None:
            raise RuntimeError("the loss computes nothing")
        if not captured.is_bound:
            captured.bind(variables, given, buffers, loss, new_buffers)
        inputs, captured.inputs = captured.inputs, ()
        return captured, tuple(tensor.detach() for tensor in inputs)

    def _backend(self, graph: GraphModule, _: Sequence[Tensor]) -> Callable[..., Any]:
        captured = CapturedLoss(graph)
        # Entered here, because entering takes a tenth of an inner step, and most calls capture nothing.
        self._while_captured.enter_context(guards_on_hooks())

        def reached(*inputs: Tensor) -> Sequence[Tensor | None]:
            self._reached = captured
            return captured(*inputs)

        return reached

    @property
    def _replayed(self) -> bool:
        """Whether compiled graphs are now CUDA graphs of their own; one must not be replayed inside of another."""
        return self._cuda_graphs and not is_part_of_a_graph()

    def _compiled(self, graph: GraphModule, inputs: Sequence[Tensor]) -> Flat:
        compiled: Flat = compile_graph(graph, inputs, self._replayed, headers_are_private())
        if not self._replayed:
            return compiled
        # The next replay of a CUDA graph overwrites its results.
        return lambda *inputs: tuple(result.clone() for result in compiled(*inputs))


def _loss(loss_fn: LossFn, params: Params, buffers: Buffers, batch: tuple[Tensor, ...]) -> tuple[Tensor, Buffers]:
    return loss_fn(params, buffers, *batch)


def _with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a function with its own code object.

    Dynamo stores captured graphs with the code object and searches all of them at every call. One code object per
    architecture keeps that search short, and limits recompilations per architecture.
    """
    assert isinstance(function, types.FunctionType)
    return types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
