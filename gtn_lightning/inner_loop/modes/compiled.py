"""Mode ``compiled``: the two halves of mode ``mixed``, each compiled by inductor.

Both halves are pure functions of tensors without a graph around them, which is what can be compiled; a loss that is
compiled as it stands cannot be differentiated twice. One compilation serves every inner step and every meta-step of
learners of one architecture: a fresh learner is the same code with other tensors, and what differs about it otherwise
is noticed by dynamo's guards.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gtn_lightning.inner_loop.modes.base import first_order
from gtn_lightning.inner_loop.modes.mixed import Mixed, tangents
from gtn_lightning.inner_loop.modes.node import Call, Computed, Recomputing, Saved
from gtn_lightning.inner_loop.modes.program import Program
from gtn_lightning.inner_loop.modes.reverse_over_reverse import Cotangents, Products
from gtn_lightning.inner_loop.modes.signature import Signature, signature
from gtn_lightning.inner_loop.replay import AutocastState, Surroundings, random_state, same_state
from gtn_lightning.inner_loop.traits import traits_of
from gtn_lightning.inner_loop.types import Batch, InnerGradient, LossFn, Params
from gtn_lightning.inner_loop.verification import agree

WRONG = "has another value once it is compiled, which is an error of torch's compiler, and runs uncompiled"

MOST_PROGRAMS = 64
"""How many losses a process compiles, the inner loss and the meta-loss of every architecture; others run uncompiled."""


class Compiled(Recomputing):
    """Compiled forward over reverse; what cannot be compiled runs in mode ``mixed``.

    That is a learner that draws random numbers (which a compiled recomputation would draw anew), one that stops
    gradients on the way to its loss or changes them, one that dynamo cannot trace as a whole, one with a gradient of
    its own or a transform of ``torch.func`` other than ``vmap``, one whose compiled program has another result than the
    uncompiled computation, and whatever comes after ``MOST_PROGRAMS`` programs.
    """

    def __init__(self) -> None:
        self.uncompiled = Mixed()
        """The mode of what cannot be compiled."""
        self._programs: dict[Signature, Program | None] = {}
        self._full = False

    def plain(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient:
        """Compute the gradient without a graph; see the base class."""
        if signature(loss_fn, params, buffers, batch) not in self._programs:
            return self._first(loss_fn, params, buffers, batch, None)
        compiled = self._confirmed(loss_fn, params, buffers, batch)
        return compiled or first_order(loss_fn, params, buffers, batch)

    def gradient(self, call: Call, params: Mapping[str, Tensor], batch: Batch, wanted: Sequence[bool]) -> Computed:
        """Compute the gradient; see the base class."""
        if signature(call.loss_fn, params, call.buffers, batch) not in self._programs:
            return Computed(
                self._first(call.loss_fn, params, call.buffers, batch, call.surroundings), (), self.products
            )
        if not call.traits.uncompilable:
            compiled = self._confirmed(call.loss_fn, params, call.buffers, batch)
            if compiled is not None:
                if self.repeats(call):
                    return Computed(compiled, (), self.products)
                call.surroundings.rewind()
        return self.uncompiled.gradient(call, params, batch, wanted)

    def _confirmed(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient | None:
        """Return the gradient as a compiled program computes it, or None if there is none (yet)."""
        program = self.program(loss_fn, params, buffers, batch)
        if program is None:
            return None
        compiled = program.gradient(loss_fn, laid_out(params), buffers, laid_out_batch(params, batch))
        if compiled is not None and program.fresh:
            return confirmed_gradient(program, compiled, first_order(loss_fn, params, buffers, batch))
        return compiled

    def repeats(self, call: Call) -> bool:
        """Count a compiled evaluation; return whether another one would have the same result, as far as is seen."""
        call.traits.evaluations += 1
        if call.sampled and call.surroundings.changed():
            # Torch's own draws are in the graph that is compiled, and refused with it: these are Python's or NumPy's.
            call.traits.foreign = True
        return not call.traits.foreign

    def _first(
        self,
        loss_fn: LossFn,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Batch,
        surroundings: Surroundings | None,
    ) -> InnerGradient:
        """Evaluate a learner of a new architecture, uncompiled, and see whether it can be compiled."""
        device = next(iter(params.values())).device
        before = random_state(device)
        found = first_order(loss_fn, params, buffers, batch, surroundings)
        drew = not same_state(before, random_state(device))
        key = signature(loss_fn, params, buffers, batch)
        self._programs[key] = None if drew or traits_of(loss_fn).uncompilable else self._new_program(device)
        return found

    def products(self, call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
        """Push the cotangents forward through the gradient; see the base class."""
        params, batch = saved.params, saved.batch
        program = self.program(call.loss_fn, params, call.buffers, batch, call.surroundings.autocast)
        if program is not None and cotangents.vector and not call.traits.uncompilable:
            with call.surroundings.again():
                found = program.products(
                    call.loss_fn,
                    laid_out(params),
                    call.buffers,
                    laid_out_batch(params, batch),
                    laid_out(tangents(params, cotangents)),
                    cotangents.loss,
                    wanted,
                )
            if found is not None:
                if not program.fresh:
                    return found
                return confirmed_products(
                    program, found, self.uncompiled.products(call, saved, cotangents, wanted), call
                )
        return self.uncompiled.products(call, saved, cotangents, wanted)

    def program(
        self,
        loss_fn: LossFn,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Batch,
        autocast: AutocastState | None = None,
    ) -> Program | None:
        """Return the program of learners like this one, or None if there is none (yet)."""
        return self._programs.get(signature(loss_fn, params, buffers, batch, autocast))

    def _new_program(self, device: torch.device) -> Program | None:
        if sum(program is not None for program in self._programs.values()) < MOST_PROGRAMS:
            return Program(device)
        if not self._full:
            self._full = True
            warnings.warn(
                f"{MOST_PROGRAMS} programs are compiled: learners of further architectures are taught uncompiled",
                stacklevel=2,
            )
        return None


def confirmed_gradient(program: Program, found: InnerGradient, expected: InnerGradient) -> InnerGradient:
    """Return the gradient that a newly compiled program computed, or the uncompiled one where they differ."""
    rounding = Surroundings(expected.loss.device, foreign=False).rounding(expected.grads.values())
    # Buffers too: the compiler may leave out what is written to one alone.
    pairs = [(found.loss, expected.loss)]
    pairs += [(grad, expected.grads[name]) for name, grad in found.grads.items()]
    pairs += [(buffer, expected.buffers[name]) for name, buffer in found.buffers.items()]
    if agree([one for one, _ in pairs], [other for _, other in pairs], rounding):
        return found
    program.give_up(WRONG)
    return expected


def confirmed_products(program: Program, found: Products, expected: Products, call: Call) -> Products:
    """Return the products that a newly compiled program computed, or the uncompiled ones where they differ."""
    one = [*(found.params[name] for name in call.names), *found.batch]
    other = [*(expected.params[name] for name in call.names), *expected.batch]
    rounding = call.surroundings.rounding(tensor for tensor in other if tensor is not None)
    if agree(one, other, rounding):
        return found
    program.give_up(WRONG)
    return expected


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
