"""Mode ``fused``: several inner steps of a small learner as one compiled program, for a CPU.

Where an inner step costs less than its dispatch, the time goes into guards, autograd nodes and the optimizer's
arithmetic, one small operator at a time. Here one program takes several steps, update included, and another one is
their derivative in reverse mode. Guards are checked once per inner loop, and the whole loop is one autograd node.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from gtn_lightning.inner_loop.compiler.captured import CapturedLoss
from gtn_lightning.inner_loop.compiler.layout import channels_last, laid_out
from gtn_lightning.inner_loop.compiler.program import Program
from gtn_lightning.inner_loop.compiler.steps import StepInputs, StepProgram, StepResults, optimizer_step
from gtn_lightning.inner_loop.modes.base import Mode, Together
from gtn_lightning.inner_loop.modes.compiled import MAX_PROGRAMS, WRONG
from gtn_lightning.inner_loop.modes.signature import Signature, signature
from gtn_lightning.inner_loop.optimizers import InnerOptimizer
from gtn_lightning.inner_loop.replay import AutocastState, ReplayContext
from gtn_lightning.inner_loop.torch_internals import TreeSpec, tree_flatten, tree_unflatten
from gtn_lightning.inner_loop.traits import OBSERVE_EVERY, traits_of
from gtn_lightning.inner_loop.types import Batch, Buffers, InnerGradient, LossFn, Params
from gtn_lightning.inner_loop.verification import agree, check_recomputation

MAX_STEPS = 2
"""Maximum number of inner steps in a program: four save little more time, and take twice as long to compile."""

MAX_OPERATORS = 60
"""Maximum number of the loss's operators in all steps of a program, which bounds the time of compilation."""


_CPU = torch.device("cpu")


@dataclass
class _Architecture:
    """What is known of learners of one architecture."""

    program: Program | None = None
    """None before the first learner, and if learners of the architecture are not compiled."""
    unrolls: int = 0
    """Number of inner loops that were begun."""


class Fused(Mode):
    """Several inner steps at once; what does not allow it runs in mode ``remat``, step by step.

    That is all on a GPU or under autocast, learners that mode ``compiled`` does not compile, segments, and inner
    optimizers of other packages, see `InnerOptimizer.compilable`.

    Args:
        uncompiled: the mode of all other steps.
    """

    def __init__(self, uncompiled: Mode) -> None:
        self.uncompiled = uncompiled
        self.architectures: dict[Signature, _Architecture] = {}
        """What is known of learners, by architecture."""

    def differentiable(
        self,
        loss_fn: LossFn,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: Batch,
        checked: bool = True,
    ) -> InnerGradient:
        """Compute a single gradient; see the base class."""
        return self.uncompiled.differentiable(loss_fn, params, buffers, batch, checked)

    def together(
        self, loss_fn: LossFn, optimizer: InnerOptimizer, device: torch.device, checked: bool = True
    ) -> Together | None:
        """Return how to take several inner steps at once; see the base class."""
        # Of the class itself: a subclass may override anything, and so may an object.
        own = vars(type(optimizer)).get("compilable") and not vars(optimizer).keys() & {"hyperparameters", "update"}
        if device.type != "cpu" or not own or torch.is_autocast_enabled("cpu"):
            return None
        return _Unroll(self, loss_fn, optimizer, checked)

    @property
    def is_full(self) -> bool:
        """Whether no more architectures are compiled."""
        return sum(found.program is not None for found in self.architectures.values()) >= MAX_PROGRAMS


class _Unroll(Together):
    """Takes the steps of one inner loop."""

    def __init__(self, mode: Fused, loss_fn: LossFn, optimizer: InnerOptimizer, checked: bool) -> None:
        self.mode = mode
        self.loss_fn = loss_fn
        self.optimizer = optimizer
        self.checked = checked
        self._filters = False
        self._key: Signature | None = None
        self._captured: tuple[Program, CapturedLoss, Mapping[int, Tensor]] | None = None

    def take(
        self, params: Params, buffers: Buffers, state: Any, batches: Sequence[Batch], first: int
    ) -> tuple[Params, Buffers, Any, Tensor] | None:
        """Take one step for every batch; see the base class."""
        leaves, structure = tree_flatten(state)
        if not all(isinstance(leaf, Tensor | float) for leaf in leaves) or not _alike(batches):
            return None
        if any(tensor.is_complex() for tensor in params.values()) or self._is_uncompilable():
            return None
        # Numbers, such as Adam's powers, become tensors: as constants they would need a program for each inner step.
        state_tensors = [
            leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, dtype=torch.float64) for leaf in leaves
        ]
        values = self.optimizer.learned_values(first, len(batches))
        given = StepInputs(params, state_tensors, {key: [value] for key, value in values.items()}, batches, {}, {})
        captured = self._capture(given, buffers, structure)
        if captured is None:
            return None
        program, loss, constants = captured
        wanted = tuple(any(tensor.requires_grad for tensor in field) for field in zip(*batches, strict=True))
        steps = _Steps(self, program, loss, structure, wanted, buffers, constants)
        flat = given.flat()
        try:
            with record_function("inner gradient"):
                outputs = _Node.apply(steps, given.like([None] * len(flat)), *flat)
        except _UncompiledError:
            return None
        rest = iter(outputs)
        new_params = {name: next(rest) for name in params}
        new_state = tree_unflatten([next(rest) for _ in leaves], structure)
        losses = next(rest)
        return new_params, {name: next(rest) for name in buffers}, new_state, losses

    def laid_out(self, batch: Batch) -> list[Tensor]:
        """Return a batch in the layout that programs are compiled for."""
        if self._filters:
            return laid_out(batch)
        return [tensor if tensor.is_contiguous() else tensor.contiguous() for tensor in batch]

    def one_by_one(self, given: StepInputs, structure: TreeSpec, checked: bool = False) -> StepResults:
        """Take steps uncompiled; with a graph if that is enabled."""
        at, losses = given, []
        for step, batch in enumerate(given.batches):
            if torch.is_grad_enabled():
                found = self.mode.uncompiled.differentiable(self.loss_fn, at.params, at.buffers, batch, checked)
            else:
                found = self.mode.plain(self.loss_fn, at.params, at.buffers, batch)
            params, state = optimizer_step(self.optimizer, structure, at, step, found.grads)
            at = at._replace(params=params, state=state, buffers=found.buffers)
            losses.append(found.loss)
        return StepResults(at.params, at.state, torch.stack(losses), dict(at.buffers))

    def _capture(
        self, given: StepInputs, buffers: Buffers, structure: TreeSpec
    ) -> tuple[Program, CapturedLoss, Mapping[int, Tensor]] | None:
        """Return the program and the captured loss, or None; guards are checked once per inner loop."""
        params, batches = given.params, given.batches
        key = signature(self.loss_fn, params, buffers, batches[0])
        if self._captured is not None:
            return self._captured if key == self._key else None
        self._filters = any(tensor.ndim == 4 for tensor in params.values())
        known = self.mode.architectures.get(key)
        if known is None:
            if self.mode.is_full:
                return None
            compilable = self._observed(given._replace(buffers=buffers), structure)
            known = self.mode.architectures[key] = _Architecture(Program(_CPU) if compilable else None)
        program = known.program
        if program is None or not program.works:
            return None
        sampled = known.unrolls % OBSERVE_EVERY == 0
        known.unrolls += 1
        context = ReplayContext(_CPU) if sampled else None
        found = None
        for batch in batches:
            one = program.captured(self.loss_fn, channels_last(params), buffers, tuple(self.laid_out(batch)))
            if one is None:
                return None
            if found is not None and one[0] is not found[0]:
                program.give_up("differs from step to step and runs uncompiled")
                return None
            found = one
            # A new one, and now and then a known one, for every step: a loss may do something else in a later step.
            if not sampled and found[0].is_observed:
                break
        if context is not None and context.drew():
            context.rewind()
            program.give_up("draws random numbers and runs uncompiled")
            return None
        assert found is not None
        found[0].is_observed = True
        self._key = key
        self._captured = program, *found
        return self._captured

    def _observed(self, given: StepInputs, structure: TreeSpec) -> bool:
        """Observe the steps of the first learner of an architecture, one by one; return whether they may be compiled.

        Raises:
            InnerLoopError: if the learner cannot be taught.
        """
        context = ReplayContext(_CPU)
        apart = {key: list(value.unbind()) for key, (value,) in given.values.items()}
        self.one_by_one(given._replace(values=apart), structure, self.checked)
        drew = context.drew()
        context.rewind()
        return not drew and not self._is_uncompilable()

    def _is_uncompilable(self) -> bool:
        traits = traits_of(self.loss_fn)
        # The derivative of suspects is compared with central differences step by step.
        return traits.uncompilable or bool(traits.suspects)


class _UncompiledError(Exception):
    """The steps cannot be compiled."""


class _Part(NamedTuple):
    """One call of a program."""

    program: StepProgram
    steps: int
    given: StepInputs | None
    """Its arguments, until the derivative is confirmed."""


class _Steps:
    """What the node keeps besides tensors."""

    def __init__(
        self,
        unroll: _Unroll,
        program: Program,
        loss: CapturedLoss,
        structure: TreeSpec,
        wanted: tuple[bool, ...],
        buffers: Buffers,
        constants: Mapping[int, Tensor],
    ) -> None:
        self.wanted = wanted
        self.on_backward = unroll.on_backward
        self.buffers = buffers
        self._program = program
        self._parts: list[_Part] = []
        self._unroll = unroll
        self._loss = loss
        self._structure = structure
        self._constants = constants
        self._losses: Tensor | None = None

    def forward(self, given: StepInputs) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Take all steps; return parameters, state, losses and buffers, and what `backward` needs.

        Raises:
            _UncompiledError: if they cannot be compiled.
        """
        found = self._program.tried(lambda: self._forward(given))
        if found is None:
            raise _UncompiledError
        return found

    def _forward(self, given: StepInputs) -> tuple[list[Tensor], list[list[Tensor]]] | None:
        optimizer = self._unroll.optimizer
        learned = [value for (value,) in given.values.values()]
        # Dynamo guards neither state nor hyperparameters.
        kinds = *((tensor.dtype, tensor.shape) for tensor in given.state), *(value.dtype for value in learned)
        settings = (optimizer.settings(), str(self._structure), kinds)
        values = [value.unbind() for value in learned]
        batches = [self._unroll.laid_out(batch) for batch in given.batches]
        now = laid_out([*given.params.values(), *given.state])
        count = len(now)
        constants = dict(zip(self._constants, laid_out(self._constants.values()), strict=True))
        tail = [*laid_out(self.buffers.values()), *constants.values()]
        losses: list[Tensor] = []
        kept: list[list[Tensor]] = []
        programs: dict[int, StepProgram] = {}
        for start, end in _parts(len(batches), self._loss.operators):
            flat = list(now)
            for value in values:
                flat += value[start:end]
            for batch in batches[start:end]:
                flat += batch
            flat += tail
            program, at = programs.get(end - start), None
            if program is None or not program.confirmed_back:
                template = given._replace(
                    values={key: value[start:end] for key, value in zip(given.values, values, strict=True)},
                    batches=batches[start:end],
                    buffers=self.buffers,
                    constants=constants,
                )
                at = template.like(flat)
                key = (*settings, end - start)
                program = self._program.steps(self._loss, optimizer, self._structure, at, self.wanted, key)
                programs[end - start] = program
            results, needed = program(flat)
            if not program.confirmed:
                assert at is not None
                if not _agree(results, _tensors(self._unroll.one_by_one(at, self._structure))):
                    self._program.give_up(WRONG)
                    return None
                program.confirmed = True
            self._parts.append(_Part(program, end - start, None if program.confirmed_back else at))
            kept.append(needed)
            now = laid_out(results[:count])
            losses.append(results[count])
            tail = [*laid_out(results[count + 1 :]), *constants.values()]
        buffers = tail[: len(self.buffers)]
        values_of_losses = torch.cat(losses) if len(losses) > 1 else losses[0]
        self._losses = values_of_losses.detach()
        return [*now, values_of_losses, *buffers], kept

    def backward(
        self, given: StepInputs, kept: Sequence[Sequence[Tensor]], cotangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the products by `StepInputs.sources`; the cotangents are those of parameters, state and losses."""
        count = len(given.params) + len(given.state)
        found = None
        if cotangents[count] is None:
            outputs = [*given.params.values(), *given.state]
            now = [
                torch.zeros_like(output) if cotangent is None else cotangent.to(output.dtype)
                for output, cotangent in zip(outputs, cotangents[:count], strict=True)
            ]
            found = self._program.tried(lambda: self._backward(len(given.values), kept, now))
        return self._backward_uncompiled(given, cotangents) if found is None else found

    def _backward(self, learned: int, kept: Sequence[Sequence[Tensor]], now: list[Tensor]) -> list[Tensor] | None:
        count = len(now)
        values: list[list[Tensor]] = [[] for _ in range(learned)]
        batches: list[Tensor] = []
        for part, needed in zip(reversed(self._parts), reversed(kept), strict=True):
            now = laid_out(now)
            found = part.program.back(needed, now)
            if not part.program.confirmed_back:
                assert part.given is not None
                if not _agree(found, self._products(part.given, now)):
                    self._program.give_up(WRONG)
                    return None
                part.program.confirmed_back = True
            now = list(found[:count])
            for number, value in enumerate(values):
                begin = count + number * part.steps
                value[:0] = found[begin : begin + part.steps]
            batches[:0] = found[count + learned * part.steps :]
        return [*now, *(torch.stack(products) for products in values), *batches]

    def _products(
        self, given: StepInputs, cotangents: Sequence[Tensor | None], losses: Tensor | None = None
    ) -> list[Tensor | None]:
        """Return the products by the sources, by ordinary autograd.

        Args:
            given: the arguments.
            cotangents: of parameters, state and losses.
            losses: what the losses must be.

        Raises:
            RecomputationError: if they are others.
        """
        with torch.enable_grad():
            sources = [tensor.detach().requires_grad_() for tensor in given.sources(self.wanted)]
            results = self._unroll.one_by_one(given.replaced(sources, self.wanted), self._structure)
            if losses is not None:
                rounding = AutocastState.current(_CPU).rounding([losses])
                for loss, first in zip(results.losses.detach(), losses, strict=True):
                    check_recomputation(loss, {}, first, {}, rounding)
            outputs = [*results.params.values(), *results.state, results.losses]
            pairs = [
                (output, cotangent)
                for output, cotangent in zip(outputs, cotangents, strict=False)
                if cotangent is not None and output.requires_grad
            ]
            return list(torch.autograd.grad([o for o, _ in pairs], sources, [c for _, c in pairs], allow_unused=True))

    def _backward_uncompiled(self, given: StepInputs, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        apart = {key: list(value.unbind()) for key, (value,) in given.values.items()}
        losses = self._losses if self._unroll.checked else None
        found = iter(self._products(given._replace(values=apart, buffers=self.buffers), cotangents, losses))
        products = [next(found) for _ in (*given.params, *given.state)]
        for values in apart.values():
            own = [next(found) for _ in values]
            zero = [torch.zeros_like(v) if product is None else product for v, product in zip(values, own, strict=True)]
            products.append(torch.stack(zero))
        return [*products, *found]


class _Node(torch.autograd.Function):
    """``(params, state, values, batches) -> (params, state, losses, buffers)``."""

    @staticmethod
    def forward(ctx: Any, steps: _Steps, given: StepInputs, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs, ctx.kept = steps.forward(given.like(tensors))
        ctx.steps, ctx.given = steps, given
        ctx.set_materialize_grads(False)
        # What the programs keep is neither an input nor an output of the node, or a detached one: it makes no cycle.
        ctx.save_for_backward(*tensors)
        # A node must not return one of its inputs, nor a tensor twice.
        outputs = [output.view_as(output) for output in outputs]
        ctx.buffers = len(outputs) - len(steps.buffers)
        ctx.mark_non_differentiable(*outputs[ctx.buffers :])
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        steps: _Steps = ctx.steps
        start = time.perf_counter()
        given = ctx.given.like(ctx.saved_tensors)
        with record_function("inner gradient, backward"):
            found = iter(steps.backward(given, ctx.kept, cotangents[: ctx.buffers]))
        products: list[Tensor | None] = [next(found) for _ in (*given.params, *given.state, *given.values)]
        for _ in given.batches:
            products += [next(found) if want else None for want in steps.wanted]
        if steps.on_backward is not None:
            steps.on_backward(time.perf_counter() - start)
        return (None, None, *products)


def _alike(batches: Sequence[Batch]) -> bool:
    """Return whether one program can take all of these batches."""
    shapes = [[(tensor.shape, tensor.dtype) for tensor in batch] for batch in batches]
    return all(shape == shapes[0] for shape in shapes)


def _parts(steps: int, operators: int) -> Iterator[tuple[int, int]]:
    """Divide inner steps into parts of equal size, if possible, each the first and the last step of a program.

    Args:
        steps: number of inner steps.
        operators: number of the loss's operators.
    """
    largest = min(max(MAX_OPERATORS // operators, 1), MAX_STEPS, steps)
    equal = [size for size in range(largest, largest // 2, -1) if steps % size == 0]
    size = equal[0] if equal else -(-steps // -(-steps // largest))
    return ((start, min(start + size, steps)) for start in range(0, steps, size))


def _tensors(results: StepResults) -> list[Tensor]:
    return [*results.params.values(), *results.state, results.losses, *results.buffers.values()]


def _agree(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> bool:
    rounding = AutocastState.current(_CPU).rounding(tensor for tensor in expected if tensor is not None)
    return agree(found, expected, rounding)
