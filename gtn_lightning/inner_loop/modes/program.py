"""The derivatives of one architecture's loss, compiled by inductor.

Dynamo captures the loss, and its guards tell whether a captured graph holds for the arguments at hand. The derivatives
are taken of the graph, by ``torch.func``, traced down to tensor operators and compiled apart from one another, each
when it is first asked for.
"""

import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._inductor import compile as inductor_compile
from torch._inductor import list_options
from torch.fx import GraphModule

from gtn_lightning.errors import first_line
from gtn_lightning.inner_loop.modes.cache import headers_are_private, keep_programs_private
from gtn_lightning.inner_loop.modes.captured import Captured, Key
from gtn_lightning.inner_loop.modes.graphs import Halves, gradient_graph, linearised, product_graph
from gtn_lightning.inner_loop.modes.reverse_over_reverse import Products
from gtn_lightning.inner_loop.types import Batch, Buffers, InnerGradient, LossFn, Params, is_continuous

Flat = Callable[..., tuple[Tensor, ...]]
"""A compiled graph."""

_Result = TypeVar("_Result")


class Derivative(NamedTuple):
    """The derivative of an inner gradient at a point, a linear function."""

    kept: tuple[Tensor, ...]
    """The tensors that it consists of."""
    apply: Callable[[Sequence[Tensor], Params], Products | None]
    """``(kept, vector) -> products``, or None if that cannot be compiled."""


class Program:
    """The compiled derivatives of one architecture's loss.

    What cannot be compiled is said once, and None returned from then on.

    Args:
        device: where the learner is; on a CUDA device, compiled graphs are replayed as CUDA graphs.
    """

    def __init__(self, device: torch.device) -> None:
        self._works = True
        self.fresh = False
        """Whether the last result was the first of a newly compiled graph, which nobody has looked at."""
        self._cuda_graphs = device.type == "cuda"
        self._reached: Captured | None = None
        keep_programs_private()
        self._loss = torch.compile(_own(_loss), backend=self._backend, fullgraph=True, dynamic=False)

    def gradient(
        self, loss_fn: LossFn, params: Params, buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient | None:
        """Return the inner gradient."""

        def run() -> InnerGradient:
            loss, inputs = self._capture(loss_fn, params, buffers, batch)
            compiled = self._once(
                loss, ("gradient",), lambda: self._compiled(gradient_graph(loss.graph, loss.places(), inputs), inputs)
            )
            return loss.inner_gradient(compiled(*inputs), params, buffers)

        return self._tried(run)

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
                lambda: self._compiled(product_graph(loss.graph, loss.places(wanted), inputs, with_loss), given),
            )
            return loss.products(compiled(*given), vector, wanted)

        return self._tried(run)

    def linearised(
        self, loss_fn: LossFn, params: Params, buffers: Mapping[str, Tensor], batch: Batch, wanted: Sequence[bool]
    ) -> tuple[InnerGradient, Derivative] | None:
        """Return the inner gradient and its derivative."""

        def run() -> tuple[InnerGradient, Derivative]:
            loss, inputs = self._capture(loss_fn, params, buffers, batch)
            halves: Halves = loss.once(("halves", *wanted), lambda: linearised(loss.graph, loss.places(wanted), inputs))
            compiled = self._once(loss, ("first half", *wanted), lambda: self._compiled(halves.gradient, inputs))
            found, kept = loss.split(compiled(*inputs))

            def apply(kept: Sequence[Tensor], vector: Params) -> Products | None:
                def run() -> Products:
                    given = [*kept, *loss.vector(vector)]
                    compiled = self._once(
                        loss, ("second half", *wanted), lambda: self._compiled(halves.derivative, given)
                    )
                    return loss.products(compiled(*given), vector, wanted)

                return self._tried(run)

            needed = (inputs[index] for index in halves.inputs)
            return loss.inner_gradient(found, params, buffers), Derivative((*needed, *kept), apply)

        return self._tried(run)

    def _tried(self, run: Callable[[], _Result]) -> _Result | None:
        self.fresh = False
        if not self._works:
            return None
        try:
            with torch.no_grad():
                return run()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # dynamo and inductor raise whatever their parts raise
            # If the fault is the learner's own, the uncompiled evaluation that follows says so.
            self.give_up(f"cannot be compiled and runs uncompiled: {type(error).__name__}: {first_line(error)}")
            return None

    def give_up(self, reason: str) -> None:
        """Return nothing from here on, and say once why."""
        self._works = False
        warnings.warn(f"the inner gradient {reason}", stacklevel=3)

    def _once(self, loss: Captured, key: Key, make: Callable[[], Flat]) -> Flat:
        def made() -> Flat:
            self.fresh = True
            return make()

        compiled: Flat = loss.once(key, made)
        return compiled

    def _capture(
        self, loss_fn: LossFn, params: Params, buffers: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Captured, tuple[Tensor, ...]]:
        """Return the captured loss that holds for these arguments, and its flat inputs."""
        # With grad: a learner that turns it off for a while turns on again what it found, and of a function with a
        # gradient of its own dynamo would capture the forward pass alone.
        variables = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        given = tuple(t.detach().requires_grad_() if is_continuous(t) else t.clone() for t in batch)
        with torch.enable_grad():
            loss, new_buffers = self._loss(loss_fn, variables, dict(buffers), given)
        captured, self._reached = self._reached, None
        if captured is None:
            raise RuntimeError("the loss computes nothing")
        if not captured.placed:
            captured.place(variables, given, buffers, loss, new_buffers)
        inputs, captured.inputs = captured.inputs, ()
        return captured, tuple(tensor.detach() for tensor in inputs)

    def _backend(self, graph: GraphModule, _: Sequence[Tensor]) -> Callable[..., Any]:
        captured = Captured(graph)

        def reached(*inputs: Tensor) -> Sequence[Tensor | None]:
            self._reached = captured
            return captured(*inputs)

        return reached

    def _compiled(self, graph: GraphModule, inputs: Sequence[Tensor]) -> Flat:
        options = {"triton.cudagraphs": self._cuda_graphs}
        if (headers := "cpp_cache_precompile_headers") in list_options() and not headers_are_private():
            options[headers] = False
        compiled: Flat = inductor_compile(graph, list(inputs), options=options)
        if not self._cuda_graphs:
            return compiled
        # What a CUDA graph returns lies where its next replay writes.
        return lambda *inputs: tuple(result.clone() for result in compiled(*inputs))


def _loss(loss_fn: LossFn, params: Params, buffers: Buffers, batch: tuple[Tensor, ...]) -> tuple[Tensor, Buffers]:
    return loss_fn(params, buffers, *batch)


def _own(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a function with a code object of its own.

    Dynamo keeps what it captured with the code object and looks through all of it at every call: one code object per
    architecture keeps that short, and its limit on recompilations apart from other architectures.
    """
    assert isinstance(function, types.FunctionType)
    return types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
