"""The one door through which every mode evaluates an inner loss."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from gtn_lightning.errors import first_line
from gtn_lightning.inner_loop.errors import InnerLoopError
from gtn_lightning.inner_loop.following import STOP, Following, InnerPass
from gtn_lightning.inner_loop.functional import CheckpointedError, kept_in_place
from gtn_lightning.inner_loop.operators import Graph, look_through, reject_captured, reject_undifferentiable
from gtn_lightning.inner_loop.replay import Surroundings
from gtn_lightning.inner_loop.traits import Traits
from gtn_lightning.inner_loop.types import Batch, Buffers, LossFn, Params, is_continuous

ATTEMPTS = 4
"""How often an evaluation is repeated until it is known how the loss has to be evaluated."""


class Evaluation(NamedTuple):
    """An evaluated loss; it holds within the block of ``evaluated`` only."""

    loss: Tensor
    """A scalar, with its graph."""
    buffers: Buffers
    """The learner's buffers afterwards."""
    graph: Graph
    """What lies between the loss and its variables."""
    inner: InnerPass
    """To be ended between the inner gradient and its derivative."""


@contextmanager
def evaluated(
    loss_fn: LossFn,
    params: Params,
    buffers: Mapping[str, Tensor],
    batch: Batch,
    traits: Traits,
    surroundings: Surroundings | None,
    closed: bool = True,
) -> Iterator[Evaluation]:
    """Evaluate a loss with its graph, and complete what is known of it.

    The loss gets copies of the batch, which it may write to. Stops and hooks of the learner act in the inner pass
    alone, see ``following``. A learner that checkpoints its activations finds its parameters in place until the block
    ends.

    Args:
        loss_fn: pure function ``(params, buffers, *batch) -> (scalar loss, buffers)``.
        params: the parameters, requiring grad.
        buffers: the buffers.
        batch: the batch; what requires grad of it is a variable as the parameters are.
        traits: what is known of the loss.
        surroundings: those of the evaluation, from its beginning, if the gradient will be differentiated, so that stops
            and hooks matter; None otherwise.
        closed: whether the loss may depend on nothing else that requires grad.

    Raises:
        ValueError: if it does.
        InnerLoopError: if the loss cannot be differentiated, or writes to its arguments.
    """
    watch = surroundings is not None
    watching = traits.begin(watch)
    start = surroundings or Surroundings(next(iter(params.values())).device, foreign=traits.foreign)
    arguments = _Arguments(loss_fn, params, buffers, batch, closed)
    inner = InnerPass()
    with ExitStack() as stack:
        found, in_place = None, False
        for _ in range(ATTEMPTS):
            if traits.checkpoints and not in_place:
                stack.enter_context(kept_in_place())
                in_place = True
            try:
                with start.noting():
                    found = arguments.attempt(traits, inner, watching, watch)
                break
            except _TryAgainError as again:
                watching = again.watching
                start.rewind()
        if found is None:
            raise InnerLoopError("the learner cannot be taught: it does something else in every evaluation")
        if watch and not traits.carried:
            arguments.look_at_buffers(traits, found, start)
        try:
            yield found
        finally:
            inner.end()


class _TryAgainError(Exception):
    """The loss turned out to be one that has to be evaluated otherwise, as its traits say by now.

    Args:
        watching: whether to watch it.
    """

    def __init__(self, watching: bool) -> None:
        super().__init__()
        self.watching = watching


class _Arguments(NamedTuple):
    """What a loss is evaluated with."""

    loss_fn: LossFn
    params: Params
    buffers: Mapping[str, Tensor]
    batch: Batch
    closed: bool

    def attempt(self, traits: Traits, inner: InnerPass, watching: bool, stops: bool) -> Evaluation:
        """Evaluate the loss.

        Args:
            traits: what is known of the loss.
            inner: the inner pass.
            watching: whether to look at what it does.
            stops: whether its stops and hooks matter.

        Raises:
            _TryAgainError: if that has to be done in another way.
        """
        variables = [*self.params.values(), *(tensor for tensor in self.batch if tensor.requires_grad)]
        following = None
        if watching or (traits.followed and stops) or (traits.makes_leaves and self.closed):
            following = Following(inner, variables, stops)
        Surroundings.note(traits.generators.values())
        versions = {name: tensor._version for name, tensor in self.arguments()}
        try:
            with nullcontext() if following is None else following:
                loss, buffers = self.loss_fn(self.params, self.buffers, *(tensor.clone() for tensor in self.batch))
        except torch.OutOfMemoryError:
            raise
        except CheckpointedError as error:
            traits.checkpoints = True
            raise _TryAgainError(watching) from error
        except Exception as error:
            if following is None or not following.stops:
                raise
            # If the fault is the learner's own, it shows in the next attempt as well.
            traits.followed = False
            traits.suspects.add(f"an operation that cannot be followed ({first_line(error)})")
            raise _TryAgainError(False) from error
        _reject_written(versions, self.arguments())
        _reject_malformed(loss)
        graph = look_through(loss, variables)
        reject_undifferentiable(graph)
        if following is None:
            if STOP in graph.names and stops:  # left behind by an earlier evaluation, which was watched
                raise InnerLoopError(
                    "the learner cannot be taught: it keeps in a plain attribute what it has computed, for its next "
                    "step; register what it keeps as a buffer, or let it begin every step anew"
                )
            if graph.captured and self.closed:
                traits.makes_leaves = True  # if it is none of its own, the next attempt says so
                raise _TryAgainError(watching)
            if stops and traits.is_new(graph) and self.probed(traits):
                raise _TryAgainError(True)
        else:
            made = {id(tensor) for tensor in following.made}
            if self.closed:
                reject_captured(tensor for tensor in graph.captured if id(tensor) not in made)
            if watching and STOP in graph.names and (reason := _impossible(loss, variables)):
                traits.suspects.add(reason)
                raise _TryAgainError(False)
            if traits.checkpoints and STOP in graph.names:
                raise InnerLoopError(
                    "the learner cannot be taught: it checkpoints its activations and stops gradients on the way to "
                    "its loss; switch checkpointing off, since the inner loop computes again by itself"
                )
            traits.learn(following, graph)
        return Evaluation(loss, buffers, graph, inner)

    def probed(self, traits: Traits) -> bool:
        """Watch the loss once more, without a trace; return whether it has to be evaluated otherwise than before."""
        before = traits.reverse_only
        try:
            with self.aside():
                self.attempt(traits, InnerPass(), True, True)
        except _TryAgainError:
            return True
        return traits.reverse_only != before

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Evaluate the loss within the block as if nobody had: all random states are put back."""
        surroundings = Surroundings(next(iter(self.params.values())).device)
        try:
            with surroundings.noting(), Following(InnerPass(), (), stops=False):
                yield
        finally:
            surroundings.rewind()

    def arguments(self) -> list[tuple[str, Tensor]]:
        """Return the parameters and buffers."""
        return [*self.params.items(), *self.buffers.items()]

    def look_at_buffers(self, traits: Traits, found: Evaluation, start: Surroundings) -> None:
        """Find the buffers that are computed from variables, and enter the loss of this step or of the next."""
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

    def dependent(self, written: Set[str], found: Evaluation, start: Surroundings) -> set[str]:
        """Return which of these buffers depend on parameters or batch, by computing them from others."""
        noise = torch.Generator().manual_seed(0)
        params = {name: _moved(tensor, noise) for name, tensor in self.params.items()}
        batch = [_moved(tensor, noise) if is_continuous(tensor) else tensor.clone() for tensor in self.batch]
        with start.again(), self.aside(), torch.no_grad():
            _, after = self.loss_fn(params, self.buffers, *batch)
        return {
            name
            for name in written
            if found.buffers[name].requires_grad or not torch.equal(after[name], found.buffers[name])
        }

    def read(self, names: Set[str], found: Evaluation, start: Surroundings) -> set[str]:
        """Return these buffers if the loss depends on them, by computing it from others, or nothing."""
        noise = torch.Generator().manual_seed(0)
        moved = {name: _moved(self.buffers[name], noise) for name in names}
        with start.again(), self.aside(), torch.no_grad():
            loss, _ = self.loss_fn(self.params, {**self.buffers, **moved}, *(tensor.clone() for tensor in self.batch))
        # Running statistics do not enter a loss in training.
        return set() if torch.equal(loss, found.loss.detach()) else set(names)


def _moved(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return a tensor with a tenth of noise."""
    noise = torch.rand(tensor.shape, dtype=torch.float64, generator=generator).to(tensor)
    return tensor.detach() + 0.1 * (1 + tensor.detach().abs()) * noise


def _impossible(loss: Tensor, variables: Sequence[Tensor]) -> str | None:
    """Return why a followed loss cannot be differentiated, such as for what it writes in place, or None."""
    try:
        torch.autograd.grad(loss, variables, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        return f"an operation that cannot be followed ({first_line(error)})"
    return None


def _reject_written(versions: Mapping[str, int], arguments: Sequence[tuple[str, Tensor]]) -> None:
    for name, tensor in arguments:
        if tensor._version != versions[name]:
            raise InnerLoopError(
                f"the learner cannot be taught: its loss writes to {name} in place, a parameter or buffer that it was "
                "given; compute a new tensor from it instead"
            )


def _reject_malformed(loss: Tensor) -> None:
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        found = f"{str(loss.dtype)[6:]} {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InnerLoopError(f"the inner loss must be a real number, a tensor without axes; got {found}")
    if not loss.requires_grad:
        raise InnerLoopError(
            "the inner loss does not depend on the learner's parameters: they are frozen, unused, or cut off from it "
            "by detach() or no_grad()"
        )
