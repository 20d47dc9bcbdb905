"""The inner gradient as one node of the autograd graph, and the ways to differentiate it again.

Whatever the mode, ``inner_gradient`` returns the gradient of a loss w.r.t. the learner's parameters, itself
differentiable w.r.t. these parameters and the batch. The modes differ in what is kept between the forward
and the backward pass, never in the result:

* ``reverse`` keeps the whole graph of the gradient's computation: ordinary double backward, memory of all
  activations.
* ``remat`` keeps only the inputs and computes the gradient again, with its graph, when the backward pass
  arrives.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtn_lightning.inner_loop.functional import Buffers, Params

LossFn = Callable[..., tuple[Tensor, Buffers]]
"""``loss_fn(params, buffers, *batch) -> (scalar loss, buffers)``, a pure function of its arguments."""

Batch = Sequence[Tensor]
"""The tensors of one batch, in the order in which the loss takes them, for instance ``(inputs, targets)``."""


class NotTwiceDifferentiableError(RuntimeError):
    """An operator of the learner has a gradient that cannot be differentiated again; the message names it."""


class InnerGradient(NamedTuple):
    """What one evaluation of the inner loss yields."""

    grads: Params
    """Gradient of the loss w.r.t. each parameter, shaped as the parameters."""
    loss: Tensor
    """The loss, a scalar."""
    buffers: Buffers
    """The learner's buffers after the forward pass; no gradient flows through them."""


def inner_gradient(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: Batch,
    mode: str = "remat",
) -> InnerGradient:
    """Compute the gradient of an inner loss as a differentiable function of the parameters and the batch.

    Under ``torch.no_grad`` the same values come without any graph, whatever the mode.

    Args:
        loss_fn: pure function ``(params, buffers, *batch) -> (loss, buffers)``. It must not close over
            tensors that require grad: what is to receive a meta-gradient goes into ``params`` or ``batch``.
        params: the learner's parameters.
        buffers: the learner's buffers; they are constants of the meta-gradient.
        batch: the tensors of the batch, of any shape and dtype.
        mode: a key of ``MODES``.

    Returns:
        The gradients, the loss, and the buffers after the forward pass.

    Raises:
        ValueError: if the mode is unknown, there is no parameter, or the loss closes over a tensor that
            requires grad.
        NotTwiceDifferentiableError: if an operator of the loss has no second derivative; in mode ``remat``
            from the backward pass.
    """
    if mode not in MODES:
        raise ValueError(f"inner-gradient mode {mode!r} is unknown: use one of {', '.join(sorted(MODES))}")
    if not params:
        raise ValueError(
            "there is no parameter to differentiate the inner loss by: a learner needs one that requires grad"
        )
    if not torch.is_grad_enabled():
        grads, loss, new_buffers = _first_order(loss_fn, params, buffers, batch)
        return InnerGradient(dict(zip(params, grads, strict=True)), loss.detach(), new_buffers)
    return MODES[mode](loss_fn, params, buffers, batch)


def eager_loss(loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Compute a loss and at once its gradient w.r.t. the parameters, so that no activation outlives the call.

    A meta-loss may be taken at many inner steps; kept as ordinary graphs, the activations of all of them
    would be held until the backward pass. This node holds one gradient, the size of the parameters, instead.

    Args:
        loss_fn: pure function ``(params, buffers, *batch) -> (loss, buffers)``.
        params: the parameters that receive the gradient.
        buffers: the learner's buffers, constants.
        batch: the tensors of the batch, constants.

    Returns:
        The scalar loss, differentiable once w.r.t. the parameters.
    """
    loss: Tensor = _EagerLoss.apply(loss_fn, tuple(params), buffers, batch, *params.values())
    return loss


def _reverse(
    loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
) -> InnerGradient:
    variables = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
    loss, new_buffers = loss_fn(variables, buffers, *batch)
    _reject_silently_wrong(loss, [*variables.values(), *batch])
    with _named_operator():
        grads = torch.autograd.grad(loss, list(variables.values()), create_graph=True, materialize_grads=True)
    return InnerGradient(dict(zip(params, grads, strict=True)), loss, _detached(new_buffers))


def _remat(loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch) -> InnerGradient:
    names = tuple(params)
    call = _Call(loss_fn, names, buffers)
    outputs = _RematerialisedGradient.apply(call, *params.values(), *batch)
    loss, grads, new_buffers = outputs[0], outputs[1 : len(names) + 1], outputs[len(names) + 1 :]
    return InnerGradient(
        dict(zip(names, grads, strict=True)), loss, dict(zip(call.buffer_names, new_buffers, strict=True))
    )


MODES: dict[str, Callable[[LossFn, Mapping[str, Tensor], Mapping[str, Tensor], Batch], InnerGradient]] = {
    "reverse": _reverse,
    "remat": _remat,
}
"""The interchangeable ways to compute a differentiable inner gradient, by name."""


class AutocastState(NamedTuple):
    """The autocast setting under which a piece of code ran."""

    device_type: str
    enabled: bool
    dtype: torch.dtype


class _Call:
    """What a rematerialised gradient needs besides tensors: the function, and what the world was like."""

    def __init__(self, loss_fn: LossFn, names: tuple[str, ...], buffers: Mapping[str, Tensor]) -> None:
        self.loss_fn = loss_fn
        self.names = names
        self.buffers = buffers
        self.buffer_names: tuple[str, ...] = ()
        self.random_state: tuple[Tensor, Tensor | None] | None = None
        self.autocast: AutocastState | None = None


class _RematerialisedGradient(torch.autograd.Function):
    """``(params, batch) -> (loss, grads, buffers)``; backward runs the computation again, with its graph."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        device = tensors[0].device
        call.autocast = _autocast_state(device)
        before = _random_state(device)
        split = len(call.names)
        grads, loss, buffers = _first_order(
            call.loss_fn, dict(zip(call.names, tensors[:split], strict=True)), call.buffers, tensors[split:]
        )
        # Only a learner that draws random numbers, such as one with dropout, pays for replaying them.
        if not _same_state(before, _random_state(device)):
            call.random_state = before
        call.buffer_names = tuple(buffers)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(*buffers.values())
        return (loss.detach(), *grads, *buffers.values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        split = len(call.names)
        # The inner gradient is taken w.r.t. every parameter; a batch tensor is a variable only if somebody
        # asks for its gradient.
        variables = [
            tensor.detach().requires_grad_(index < split or needed[index]) for index, tensor in enumerate(saved)
        ]
        with torch.enable_grad(), _named_operator():
            with _replayed(call, saved[0].device):
                loss, _ = call.loss_fn(
                    dict(zip(call.names, variables[:split], strict=True)), call.buffers, *variables[split:]
                )
                _reject_silently_wrong(loss, variables)
                grads = torch.autograd.grad(loss, variables[:split], create_graph=True, materialize_grads=True)
            # Their gradient belongs to the outer backward pass and runs, as in mode reverse, in that pass's
            # autocast state.
            pairs = [
                (output, cotangent)
                for output, cotangent in zip((loss, *grads), cotangents[: split + 1], strict=True)
                if cotangent is not None and output.requires_grad
            ]
            wanted = [index for index, need in enumerate(needed) if need]
            result: list[Tensor | None] = [None] * len(saved)
            if pairs and wanted:
                products = torch.autograd.grad(
                    [output for output, _ in pairs],
                    [variables[index] for index in wanted],
                    [cotangent for _, cotangent in pairs],
                    allow_unused=True,
                )
                for index, product in zip(wanted, products, strict=True):
                    result[index] = product
        return (None, *result)


class _EagerLoss(torch.autograd.Function):
    """A loss that carries its gradient instead of its graph."""

    @staticmethod
    def forward(
        ctx: Any,
        loss_fn: LossFn,
        names: tuple[str, ...],
        buffers: Mapping[str, Tensor],
        batch: Batch,
        *params: Tensor,
    ) -> Tensor:
        grads, loss, _ = _first_order(loss_fn, dict(zip(names, params, strict=True)), buffers, batch)
        ctx.save_for_backward(*grads)
        return loss.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, None, *(cotangent * grad for grad in ctx.saved_tensors))


def _first_order(
    loss_fn: LossFn, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch
) -> tuple[tuple[Tensor, ...], Tensor, Buffers]:
    """Compute loss and gradient and let go of the graph."""
    device = next(iter(params.values())).device
    with _autocast(_autocast_state(device)), torch.enable_grad():
        variables = {name: parameter.detach().requires_grad_() for name, parameter in params.items()}
        constants = [tensor.detach() for tensor in batch]
        loss, new_buffers = loss_fn(variables, buffers, *constants)
        _reject_captured(loss, variables.values())
        grads = torch.autograd.grad(loss, list(variables.values()), materialize_grads=True)
    return grads, loss, _detached(new_buffers)


def _detached(buffers: Mapping[str, Tensor]) -> Buffers:
    return {name: buffer.detach() for name, buffer in buffers.items()}


def _nodes(loss: Tensor, inputs: Iterable[Tensor]) -> Iterator[Any]:
    """Walk the autograd graph between a loss and its inputs."""
    stack: list[Any] = [loss.grad_fn]
    seen = {None, *(tensor.grad_fn for tensor in inputs)}
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        stack.extend(parent for parent, _ in node.next_functions)


def _reject_captured(loss: Tensor, variables: Iterable[Tensor]) -> None:
    """Raise if the loss depends on a tensor that requires grad and was not passed in.

    A custom autograd function would drop the gradient of such a tensor without a word.
    """
    known = {id(variable) for variable in variables}
    for node in _nodes(loss, ()):
        captured = getattr(node, "variable", None)
        if captured is not None and id(captured) not in known:
            raise ValueError(
                f"the inner loss closes over a tensor of shape {tuple(captured.shape)} that requires grad: "
                "its meta-gradient would be lost; pass it in through the parameters or the batch or detach it"
            )


_ONCE_DIFFERENTIABLE = torch.autograd.function.once_differentiable(lambda ctx: None).__code__


def _reject_silently_wrong(loss: Tensor, inputs: Iterable[Tensor]) -> None:
    """Raise if the loss goes through an operator whose second derivative is wrong or missing without an error.

    These are custom autograd functions marked ``once_differentiable`` (the error that torch has for them hangs
    on no input, so that ``torch.autograd.grad`` never meets it and drops the second derivative) and torch's
    fused weight normalisation, where ``Functional`` has not replaced it.
    """
    for node in _nodes(loss, inputs):
        if node.name() == "WeightNormInterfaceBackward0":
            raise _not_twice_differentiable("torch._weight_norm")
        function: Any = getattr(node, "_forward_cls", None)
        if getattr(getattr(function, "backward", None), "__code__", None) is _ONCE_DIFFERENTIABLE:
            raise _not_twice_differentiable(function.__name__)


def _not_twice_differentiable(operator: str) -> NotTwiceDifferentiableError:
    return NotTwiceDifferentiableError(
        f"the learner cannot be taught: the gradient of {operator} cannot be differentiated again; "
        "replace this operator in the learner by one that torch can differentiate twice"
    )


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _same_state(one: tuple[Tensor, Tensor | None], other: tuple[Tensor, Tensor | None]) -> bool:
    return all(
        a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(one, other, strict=True)
    )


def _autocast_state(device: torch.device) -> AutocastState:
    return AutocastState(device.type, torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type))


def _autocast(state: AutocastState) -> torch.autocast:
    # Without the cache, which would keep alive cast copies of every inner step's parameters and their graphs.
    return torch.autocast(state.device_type, dtype=state.dtype, enabled=state.enabled, cache_enabled=False)


@contextmanager
def _replayed(call: _Call, device: torch.device) -> Iterator[None]:
    """Put the random state and the autocast state back to what they were when the call ran forward."""
    assert call.autocast is not None
    with ExitStack() as stack:
        stack.enter_context(_autocast(call.autocast))
        if call.random_state is not None:
            cpu_state, cuda_state = call.random_state
            devices = [] if cuda_state is None else [device]
            stack.enter_context(torch.random.fork_rng(devices=devices))
            torch.set_rng_state(cpu_state)
            if cuda_state is not None:
                torch.cuda.set_rng_state(cuda_state, device)
        yield


@contextmanager
def _named_operator() -> Iterator[None]:
    """Turn torch's errors about missing second derivatives into one that names the operator."""
    try:
        yield
    except RuntimeError as error:
        missing = re.search(r"derivative for '?(?:aten::)?_?(\S+?)(?:_backward)?'? is not implemented", str(error))
        if not missing:
            raise
        raise _not_twice_differentiable(missing.group(1)) from error
