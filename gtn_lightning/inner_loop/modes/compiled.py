"""Mode ``compiled``: the two halves of mode ``mixed``, each compiled by inductor.

Both halves are pure functions of tensors without a graph, which can be compiled; a compiled loss cannot be
differentiated twice. One compilation serves every inner step and every meta-step of learners of one architecture: a
fresh learner is the same code with other tensors, and dynamo's guards detect other differences.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gtn_lightning.inner_loop.capture import note_unsettled
from gtn_lightning.inner_loop.compiler.layout import channels_last, channels_last_batch
from gtn_lightning.inner_loop.compiler.program import Program
from gtn_lightning.inner_loop.modes.base import first_order
from gtn_lightning.inner_loop.modes.mixed import Mixed, tangents
from gtn_lightning.inner_loop.modes.node import Call, Computed, Recomputing, Saved
from gtn_lightning.inner_loop.modes.signature import Signature, signature
from gtn_lightning.inner_loop.replay import AutocastState, ReplayContext, random_state, same_state
from gtn_lightning.inner_loop.traits import traits_of
from gtn_lightning.inner_loop.types import Batch, Cotangents, InnerGradient, LossFn, Products
from gtn_lightning.inner_loop.verification import agree

WRONG = "has a different value when compiled, which is an error of torch's compiler, and runs uncompiled"

MAX_PROGRAMS = 64
"""Maximum number of losses that a process compiles: inner loss and meta-loss of each architecture."""


class Compiled(Recomputing):
    """Compiled forward over reverse; learners that cannot be compiled run in mode ``mixed``.

    These are learners that

    * draw random numbers, which a compiled recomputation would draw again,
    * stop or change gradients between the parameters and the loss,
    * cannot be traced as a whole by dynamo,
    * have a custom gradient or use a transform of ``torch.func`` other than ``vmap``,
    * have another result when compiled,
    * come after ``MAX_PROGRAMS`` programs.
    """

    def __init__(self) -> None:
        self.uncompiled = Mixed()
        """The mode of learners that cannot be compiled."""
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
            return Computed(self._first(call.loss_fn, params, call.buffers, batch, call.context), (), self.products)
        if not call.traits.uncompilable:
            compiled = self._confirmed(call.loss_fn, params, call.buffers, batch)
            if compiled is not None:
                if self.repeats(call):
                    return Computed(compiled, (), self.products)
                call.context.rewind()
        return self.uncompiled.gradient(call, params, batch, wanted)

    def _confirmed(
        self, loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
    ) -> InnerGradient | None:
        """Return the gradient as a compiled program computes it, or None without a program."""
        program = self.program(loss_fn, params, buffers, batch)
        if program is None:
            return None
        compiled = program.gradient(loss_fn, channels_last(params), buffers, channels_last_batch(params, batch))
        if compiled is not None and program.fresh:
            return confirmed_gradient(program, compiled, first_order(loss_fn, params, buffers, batch))
        return compiled

    def repeats(self, call: Call) -> bool:
        """Count a compiled evaluation; return False if it was seen to draw from Python's or NumPy's generators."""
        call.traits.evaluations += 1
        if call.sampled and call.context.drew():
            # Draws from torch's generators are in the captured graph, which is then rejected.
            call.traits.foreign = True
        return not call.traits.foreign

    def _first(
        self,
        loss_fn: LossFn,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Batch,
        context: ReplayContext | None,
    ) -> InnerGradient:
        """Evaluate a learner of a new architecture uncompiled, and decide whether to compile it."""
        note_unsettled()
        device = next(iter(params.values())).device
        before = random_state(device)
        found = first_order(loss_fn, params, buffers, batch, context)
        drew = not same_state(before, random_state(device))
        key = signature(loss_fn, params, buffers, batch)
        self._programs[key] = None if drew or traits_of(loss_fn).uncompilable else self._new_program(device)
        return found

    def products(self, call: Call, saved: Saved, cotangents: Cotangents, wanted: Sequence[bool]) -> Products:
        """Push the cotangents forward through the gradient; see the base class."""
        params, batch = saved.params, saved.batch
        program = self.program(call.loss_fn, params, call.buffers, batch, call.context.autocast)
        if program is not None and cotangents.has_vector and not call.traits.uncompilable:
            with call.context.restored():
                found = program.products(
                    call.loss_fn,
                    channels_last(params),
                    call.buffers,
                    channels_last_batch(params, batch),
                    channels_last(tangents(params, cotangents)),
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
        """Return the program of learners of this architecture, or None if there is none."""
        return self._programs.get(signature(loss_fn, params, buffers, batch, autocast))

    def _new_program(self, device: torch.device) -> Program | None:
        if sum(program is not None for program in self._programs.values()) < MAX_PROGRAMS:
            return Program(device)
        if not self._full:
            self._full = True
            warnings.warn(
                f"{MAX_PROGRAMS} programs are compiled: learners of more architectures run uncompiled",
                stacklevel=2,
            )
        return None


def confirmed_gradient(program: Program, found: InnerGradient, expected: InnerGradient) -> InnerGradient:
    """Return the gradient that a newly compiled program computed, or the uncompiled one if they differ."""
    rounding = AutocastState.current(expected.loss.device).rounding(expected.grads.values())
    # Buffers as well: the compiler may drop writes to them.
    pairs = [(found.loss, expected.loss)]
    pairs += [(grad, expected.grads[name]) for name, grad in found.grads.items()]
    pairs += [(buffer, expected.buffers[name]) for name, buffer in found.buffers.items()]
    if agree([one for one, _ in pairs], [other for _, other in pairs], rounding):
        return found
    program.give_up(WRONG)
    return expected


def confirmed_products(program: Program, found: Products, expected: Products, call: Call) -> Products:
    """Return the products that a newly compiled program computed, or the uncompiled ones if they differ."""
    one = [*(found.params[name] for name in call.names), *found.batch]
    other = [*(expected.params[name] for name in call.names), *expected.batch]
    rounding = call.context.autocast.rounding(tensor for tensor in other if tensor is not None)
    if agree(one, other, rounding):
        return found
    program.give_up(WRONG)
    return expected
