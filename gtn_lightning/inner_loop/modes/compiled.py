"""Mode ``compiled``: the two halves of mode ``mixed``, each compiled by inductor.

Both halves are pure functions of tensors without a graph around them, which is what ``torch.compile`` can take; a loss
that is compiled as it stands cannot be differentiated twice. One compilation serves every inner step and every
meta-step of learners of one architecture: a fresh learner is the same code with other tensors, and what differs about
it otherwise is noticed by dynamo's guards.
"""

import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.autograd import forward_ad
from torch.func import grad_and_value
from torch.fx import Graph
from torch.utils._pytree import tree_map

from gtn_lightning.inner_loop.modes.base import first_order
from gtn_lightning.inner_loop.modes.mixed import Mixed, forward_over_reverse, tangents
from gtn_lightning.inner_loop.modes.node import Call, Cotangents, NodeMode, Products
from gtn_lightning.inner_loop.modes.signature import Signature, signature
from gtn_lightning.inner_loop.operators import first_line
from gtn_lightning.inner_loop.replay import random_state, same_state
from gtn_lightning.inner_loop.types import Batch, Buffers, InnerGradient, LossFn, Params

MOST_PROGRAMS = 64
"""How many losses a process compiles, the inner loss and the meta-loss of every architecture; others run uncompiled."""


class Compiled(NodeMode):
    """Compiled forward over reverse; what cannot be compiled runs in mode ``mixed``.

    That is a learner that draws random numbers (which a compiled recomputation would draw anew), one that dynamo
    cannot trace as a whole, and whatever comes after ``MOST_PROGRAMS`` programs.
    """

    def __init__(self) -> None:
        self._mixed = Mixed()
        self._programs: dict[Signature, _Program | None] = {}
        self._full = False

    def plain(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient:
        """Compute the gradient without a graph; see the base class."""
        key = signature(loss_fn, params, buffers, batch)
        if key not in self._programs:
            # The first evaluation is an ordinary one: it finds a loss that closes over something learned, or draws.
            device = next(iter(params.values())).device
            before = random_state(device)
            found = first_order(loss_fn, params, buffers, batch)
            drew = not same_state(before, random_state(device))
            self._programs[key] = None if drew else self._program(device)
            return found
        program = self._programs[key]
        if program is not None and program.works:
            result = program.gradient(loss_fn, laid_out(params), dict(buffers), laid_out_batch(params, batch))
            if result is not None:
                return InnerGradient(*result)
        return first_order(loss_fn, params, buffers, batch)

    def products(
        self, call: Call, params: Params, batch: Batch, cotangents: Cotangents, wanted: Sequence[bool]
    ) -> Products:
        """Push the cotangents forward through the gradient; see the base class."""
        program = self._programs.get(signature(call.loss_fn, params, call.buffers, batch, call.surroundings.autocast))
        if program is not None and program.works and cotangents.vector:
            with call.surroundings.again():
                result = program.products(
                    call.loss_fn,
                    laid_out(params),
                    dict(call.buffers),
                    laid_out_batch(params, batch),
                    laid_out(tangents(params, cotangents)),
                    cotangents.loss,
                    tuple(wanted),
                )
            if result is not None:
                return Products(*result)
        return self._mixed.products(call, params, batch, cotangents, wanted)

    def _program(self, device: torch.device) -> "_Program | None":
        if sum(program is not None for program in self._programs.values()) < MOST_PROGRAMS:
            return _Program(device)
        if not self._full:
            self._full = True
            warnings.warn(
                f"{MOST_PROGRAMS} programs are compiled: learners of further architectures are taught uncompiled",
                stacklevel=2,
            )
        return None


class _Program:
    """The two compiled halves for one architecture."""

    def __init__(self, device: torch.device) -> None:
        self.works = True
        self._graphs = device.type == "cuda"
        self._gradient = _compiled(_gradient, self._graphs)
        self._products = _compiled(forward_over_reverse, self._graphs)

    def gradient(self, *args: Any) -> Any:
        """Return what ``_gradient`` returns, or None if that cannot be compiled."""
        return self._run(self._gradient, args)

    def products(self, *args: Any) -> Any:
        """Return what ``forward_over_reverse`` returns, or None if that cannot be compiled."""
        return self._run(self._products, args)

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        level = forward_ad._current_level
        try:
            with torch.no_grad():
                found = function(*args)
                # What a CUDA graph returns lies where its next replay writes.
                return tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, found) if self._graphs else found
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # dynamo and inductor raise whatever their parts raise
            # Tracing that fails within `jvp` stays inside it, and every later one would complain of being nested.
            while forward_ad._current_level > level:
                forward_ad.exit_dual_level()
            # If the fault is the learner's own, the uncompiled evaluation that follows says so.
            self.works = False
            warnings.warn(
                "the inner gradient cannot be compiled and runs uncompiled: "
                f"{type(error).__name__}: {first_line(error)}",
                stacklevel=2,
            )
            return None


def _gradient(
    loss_fn: LossFn, params: Params, buffers: Buffers, batch: tuple[Tensor, ...]
) -> tuple[Params, Tensor, Buffers]:
    grads, (loss, new_buffers) = grad_and_value(lambda params: loss_fn(params, buffers, *batch), has_aux=True)(params)
    return grads, loss, new_buffers


def _compiled(function: types.FunctionType | Callable[..., Any], graphs: bool) -> Callable[..., Any]:
    """Return the function compiled, as a copy of its own, and replayed as a CUDA graph if asked for.

    Dynamo keeps what it compiled with the code object and looks through all of it at every call: one code object per
    architecture keeps that short, and its limit on recompilations apart from other architectures.
    """
    assert isinstance(function, types.FunctionType)
    own = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    options: dict[str, str | int | bool | Callable[..., Any]] = {
        "post_grad_custom_pre_pass": _RealZeros(),
        "triton.cudagraphs": graphs,
    }
    compiled: Callable[..., Any] = torch.compile(own, fullgraph=True, dynamic=False, options=options)
    return compiled


class _RealZeros(CustomGraphPass):
    """Gives memory to zeros that forward mode puts in place of the tangents of constants.

    Inductor (torch 2.13) takes these from torch as they are: tensors without memory, which a kernel cannot read.
    """

    def __call__(self, graph: Graph) -> None:
        aten = torch.ops.aten
        for node in graph.find_nodes(op="call_function", target=aten._efficientzerotensor.default):
            with graph.inserting_before(node):
                zeros = graph.call_function(aten.full.default, (node.args[0], 0), dict(node.kwargs))
            zeros.meta.update(node.meta)
            node.replace_all_uses_with(zeros)
            graph.erase_node(node)

    def uuid(self) -> str:
        return "gtn_lightning: real zeros, 1"


def laid_out(tensors: Mapping[str, Tensor]) -> Params:
    """Return tensors in the one memory layout that a program is compiled for.

    Images and filters are laid out channels last, in which a CPU's convolutions, poolings and norms are up to nine
    times as fast (max pooling in the default layout is not vectorised).
    """
    return {name: _laid_out(tensor.detach()) for name, tensor in tensors.items()}


def laid_out_batch(params: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, ...]:
    """Return a batch in that layout; images stay as they are for a learner without filters, which flattens them."""
    filters = any(tensor.ndim == 4 for tensor in params.values())
    return tuple(_laid_out(tensor.detach()) if filters else tensor.detach().contiguous() for tensor in batch)


def _laid_out(tensor: Tensor) -> Tensor:
    if tensor.ndim != 4:
        return tensor.contiguous()
    if tensor.shape[1] == 1:
        # Of one channel, both layouts are the same in memory, and torch takes the strides for the default one.
        count, _, height, width = tensor.shape
        return tensor.reshape(count, height, width, 1).permute(0, 3, 1, 2)
    return tensor.contiguous(memory_format=torch.channels_last)
