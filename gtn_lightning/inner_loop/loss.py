"""Evaluates an inner loss, the same way for every mode."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from gtn_lightning.errors import first_line
from gtn_lightning.inner_loop.autograd_graph import (
    AutogradGraph,
    inspect_graph,
    reject_captured,
    reject_undifferentiable,
)
from gtn_lightning.inner_loop.capture import is_recorded, note_obstacle
from gtn_lightning.inner_loop.errors import InnerLoopError
from gtn_lightning.inner_loop.functional import CheckpointedError, kept_in_place
from gtn_lightning.inner_loop.replay import ReplayContext
from gtn_lightning.inner_loop.stopped_gradients import STOP, InnerPass, LossObserver
from gtn_lightning.inner_loop.torch_internals import version
from gtn_lightning.inner_loop.traits import Traits
from gtn_lightning.inner_loop.types import Batch, Buffers, LossFn, Params, is_continuous

MAX_ATTEMPTS = 4
"""Maximum number of evaluations until the loss's traits are complete."""


class EvaluatedLoss(NamedTuple):
    """An evaluated loss, valid within the block of `evaluated` only."""

    loss: Tensor
    """A scalar, with its graph."""
    buffers: Buffers
    """The learner's buffers afterwards."""
    graph: AutogradGraph
    """What lies between the loss and its variables."""
    inner: InnerPass
    """To be ended after the inner gradient, before its derivative."""


@contextmanager
def evaluated(
    loss_fn: LossFn,
    params: Params,
    buffers: Mapping[str, Tensor],
    batch: Batch,
    traits: Traits,
    context: ReplayContext | None,
    closed: bool = True,
) -> Iterator[EvaluatedLoss]:
    """Evaluate a loss with its graph, and complete its traits.

    The loss gets copies of the batch, so it may write to them. Stops and hooks of the learner act in the inner pass
    alone, see `stopped_gradients`. The module of a learner that checkpoints its activations holds the parameters until
    the block ends.

    Args:
        loss_fn: pure function ``(params, buffers, *batch) -> (scalar loss, buffers)``.
        params: the parameters, requiring grad.
        buffers: the buffers.
        batch: the batch; tensors that require grad are variables, like the parameters.
        traits: the loss's traits.
        context: the state at the beginning of the evaluation, if the gradient will be differentiated, so that
            stops and hooks matter; None otherwise.
        closed: whether to reject losses that depend on other tensors that require grad.

    Raises:
        ValueError: if ``closed`` and the loss does.
        InnerLoopError: if the loss cannot be differentiated, or writes to its parameters or buffers.
    """
    twice = context is not None
    observed = traits.begin(twice)
    start = context or ReplayContext(next(iter(params.values())).device, foreign=traits.foreign)
    arguments = _Arguments(loss_fn, params, buffers, batch, closed)
    inner = InnerPass()
    with ExitStack() as stack:
        found, in_place = None, False
        for _ in range(MAX_ATTEMPTS):
            if traits.checkpoints and not in_place:
                note_obstacle("the learner checkpoints its activations")
                stack.enter_context(kept_in_place())
                in_place = True
            try:
                with start.recording():
                    found = arguments.attempt(traits, inner, observed, twice)
                break
            except _RetryError as retry:
                observed = retry.observed
                start.rewind()
        if found is None:
            raise InnerLoopError("the learner cannot be taught: every evaluation of its loss does something different")
        if twice and not traits.carried and not is_recorded():
            arguments.check_buffers(traits, found, start)
        try:
            yield found
        finally:
            inner.end()


class _RetryError(Exception):
    """The loss must be evaluated in another way, according to its completed traits.

    Args:
        observed: whether to observe it.
    """

    def __init__(self, observed: bool) -> None:
        super().__init__()
        self.observed = observed


class _Arguments(NamedTuple):
    """The loss and its arguments."""

    loss_fn: LossFn
    params: Params
    buffers: Mapping[str, Tensor]
    batch: Batch
    closed: bool

    def attempt(self, traits: Traits, inner: InnerPass, observed: bool, stops: bool) -> EvaluatedLoss:
        """Evaluate the loss.

        Args:
            traits: the loss's traits.
            inner: the inner pass.
            observed: whether to observe it.
            stops: whether its stops and hooks matter.

        Raises:
            _RetryError: if it must be evaluated in another way.
        """
        variables = [*self.params.values(), *(tensor for tensor in self.batch if tensor.requires_grad)]
        observer = None
        if observed or (traits.followed and stops) or (traits.makes_leaves and self.closed):
            observer = LossObserver(inner, variables, stops)
        ReplayContext.record(traits.generators.values())
        versions = {name: version(tensor) for name, tensor in self.arguments()}
        try:
            with nullcontext() if observer is None else observer:
                loss, buffers = self.loss_fn(self.params, self.buffers, *(tensor.clone() for tensor in self.batch))
        except torch.OutOfMemoryError:
            raise
        except CheckpointedError as error:
            traits.checkpoints = True
            raise _RetryError(observed) from error
        except Exception as error:
            if observer is None or not observer.stops:
                raise
            # If the error is the learner's own, the next attempt raises it.
            traits.followed = False
            traits.suspects.add(f"an operation that cannot be followed ({first_line(error)})")
            raise _RetryError(False) from error
        _reject_written(versions, self.arguments())
        _reject_malformed(loss)
        graph = inspect_graph(loss, variables)
        reject_undifferentiable(graph)
        if observer is None:
            if STOP in graph.names and stops:  # left by an earlier, observed evaluation
                raise InnerLoopError(
                    "the learner cannot be taught: it keeps a computed tensor in a plain attribute for its next "
                    "step; register the tensor as a buffer, or compute it again in every step"
                )
            if graph.captured and self.closed:
                traits.makes_leaves = True  # if the loss did not make it, the next attempt raises an error
                raise _RetryError(observed)
            if stops and not is_recorded() and traits.is_new(graph) and self.probed(traits):
                raise _RetryError(True)
        else:
            made = {id(tensor) for tensor in observer.made}
            if self.closed:
                reject_captured(tensor for tensor in graph.captured if id(tensor) not in made)
            if observed and STOP in graph.names and (reason := _impossible(loss, variables)):
                traits.suspects.add(reason)
                raise _RetryError(False)
            if traits.checkpoints and STOP in graph.names:
                raise InnerLoopError(
                    "the learner cannot be taught: it checkpoints its activations and stops gradients before "
                    "its loss; switch checkpointing off, since the inner loop recomputes by itself"
                )
            traits.learn(observer, graph)
        return EvaluatedLoss(loss, buffers, graph, inner)

    def probed(self, traits: Traits) -> bool:
        """Observe the loss once more, without side effects; return whether it must be evaluated in another way."""
        before = traits.reverse_only
        try:
            with self.aside():
                self.attempt(traits, InnerPass(), True, True)
        except _RetryError:
            return True
        return traits.reverse_only != before

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Restore all random states after the block."""
        context = ReplayContext(next(iter(self.params.values())).device)
        try:
            with context.recording(), LossObserver(InnerPass(), (), stops=False):
                yield
        finally:
            context.rewind()

    def arguments(self) -> list[tuple[str, Tensor]]:
        """Return the parameters and buffers."""
        return [*self.params.items(), *self.buffers.items()]

    def check_buffers(self, traits: Traits, found: EvaluatedLoss, start: ReplayContext) -> None:
        """Find buffers that are computed from variables and enter the loss of this or of the next step."""
        if traits.pending:
            traits.carried = self.read(traits.pending, found, start)
            traits.pending = set()
        written = {
            name
            for name, buffer in found.buffers.items()
            if is_continuous(buffer) and name in self.buffers and not torch.equal(buffer, self.buffers[name])
        }
        if written - traits.written:
            traits.written |= written
            if dependent := self.dependent(written, found, start):
                traits.carried |= self.read(dependent, found, start)
                traits.pending = dependent

    def dependent(self, written: Set[str], found: EvaluatedLoss, start: ReplayContext) -> set[str]:
        """Return which of these buffers depend on parameters or batch, by computing them from other values."""
        noise = torch.Generator().manual_seed(0)
        params = {name: _moved(tensor, noise) for name, tensor in self.params.items()}
        batch = [_moved(tensor, noise) if is_continuous(tensor) else tensor.clone() for tensor in self.batch]
        with start.restored(), self.aside(), torch.no_grad():
            _, after = self.loss_fn(params, self.buffers, *batch)
        return {
            name
            for name in written
            if found.buffers[name].requires_grad or not torch.equal(after[name], found.buffers[name])
        }

    def read(self, names: Set[str], found: EvaluatedLoss, start: ReplayContext) -> set[str]:
        """Return these buffers if the loss depends on them, by computing it from other values; otherwise nothing."""
        noise = torch.Generator().manual_seed(0)
        moved = {name: _moved(self.buffers[name], noise) for name in names}
        with start.restored(), self.aside(), torch.no_grad():
            loss, _ = self.loss_fn(self.params, {**self.buffers, **moved}, *(tensor.clone() for tensor in self.batch))
        # Running statistics do not enter a loss in training.
        return set() if torch.equal(loss, found.loss.detach()) else set(names)


def _moved(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return a tensor with noise of a tenth of its size."""
    noise = torch.rand(tensor.shape, dtype=torch.float64, generator=generator).to(tensor)
    return tensor.detach() + 0.1 * (1 + tensor.detach().abs()) * noise


def _impossible(loss: Tensor, variables: Sequence[Tensor]) -> str | None:
    """Return why an observed loss cannot be differentiated, for instance an in-place write, or None."""
    try:
        torch.autograd.grad(loss, variables, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        return f"an operation that cannot be followed ({first_line(error)})"
    return None


def _reject_written(versions: Mapping[str, int], arguments: Sequence[tuple[str, Tensor]]) -> None:
    for name, tensor in arguments:
        if version(tensor) != versions[name]:
            raise InnerLoopError(
                f"the learner cannot be taught: its loss writes to the parameter or buffer {name} in "
                "place; compute a new tensor from it instead"
            )


def _reject_malformed(loss: Tensor) -> None:
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        found = f"{str(loss.dtype)[6:]} {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InnerLoopError(f"the inner loss must be a real number, a scalar tensor, got {found}")
    if not loss.requires_grad:
        raise InnerLoopError(
            "the inner loss does not depend on the learner's parameters: they are frozen, unused, or "
            "detached from it by detach() or no_grad()"
        )
