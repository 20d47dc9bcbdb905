"""Stopped gradients and gradient hooks, which act on the inner gradient but not on its derivative.

A learner may stop gradients (``detach``, ``torch.no_grad``) and change them (``register_hook``). That is part of the
inner gradient, which trains the learner. It is not part of the inner gradient's derivative, from which the
meta-gradient is computed: a stopped value still depends on the parameters, and so does the inner gradient through it.
Torch's double backward drops that dependence and applies hooks twice; the result differs from central differences,
without an error. `LossObserver` evaluates a loss so that stops and hooks act in the inner pass alone.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gtn_lightning.inner_loop.replay import ReplayContext
from gtn_lightning.inner_loop.torch_internals import (
    is_functorch_wrapped,
    leaf_tensor,
    set_grad_enabled,
    tree_leaves,
    tree_map_only,
)
from gtn_lightning.inner_loop.types import is_continuous

STOP = "_StopBackward"
"""Name of a stop's node in the autograd graph."""


class InnerPass:
    """The period in which a loss is evaluated and its inner gradient computed."""

    def __init__(self) -> None:
        self.running = True

    def end(self) -> None:
        """Mark the end: later derivatives are those of the inner gradient."""
        self.running = False


class _Stop(torch.autograd.Function):
    """The identity, with derivative zero in the inner pass and one afterwards."""

    @staticmethod
    def forward(tensor: Tensor, inner: InnerPass) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.inner = inputs[1]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, None]:
        return None if ctx.inner.running else cotangent, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, None], tensor: Tensor, inner: InnerPass
    ) -> tuple[Tensor, int | None]:
        stopped: Tensor = _Stop.apply(tensor, inner)
        return stopped, in_dims[0]


_DETACH = {Tensor.detach, torch.detach}
_IN_PLACE_OPERATORS = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")}
_MAKES_NUMBERS = {
    Tensor.item, Tensor.__float__, Tensor.__complex__, Tensor.__format__, Tensor.tolist, Tensor.numpy, Tensor.__array__,
}  # fmt: skip
_ODD = {
    "normal", "fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine", "set_", "__copy__", "__deepcopy__",
    "__reduce_ex__", "_make_subclass",
}  # fmt: skip
"""Operators whose derivative is not that of their value, and operators that bypass autograd."""
_ACCESSORS = {"data": "the attribute .data", "grad_fn": "the attribute .grad_fn"}


class LossObserver(TorchFunctionMode):
    """Evaluates a loss so that its stops and hooks act in the inner pass alone, and records what it observes.

    Args:
        inner: the inner pass.
        variables: the tensors w.r.t. which the inner gradient is differentiated: parameters and batch.
        stops: whether the inner gradient will be differentiated. Otherwise stops and hooks are torch's own, and only
            generators and leaves are recorded.
    """

    def __init__(self, inner: InnerPass, variables: Iterable[Tensor], stops: bool = True) -> None:
        super().__init__()
        self.stops = stops
        self._inner = inner
        variables = list(variables)
        self._variables = {id(variable) for variable in variables}
        self._sources = {variable.grad_fn for variable in variables} - {None}
        self.hooked = False
        """Whether a hook was registered."""
        self.nested = False
        """Whether the loss computes a derivative itself."""
        self.asymmetric = False
        """Whether the gradient's derivative is correct but not symmetric."""
        self.made: list[Tensor] = []
        """Leaves that require grad and were created inside the loss."""
        self.lost: set[str] = set()
        """Operations through which a value may have lost its derivative."""
        self.generators: dict[int, torch.Generator] = {}
        """Generators that were passed to random functions."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self._note_generator(kwargs)
        if not self.stops:
            found = func(*args, **kwargs)
            self._note_leaf(func, args, kwargs, found)
            return found
        if func in _DETACH and is_continuous(args[0]):
            return self._stopped(args[0])
        name = getattr(func, "__name__", "")
        if attribute := _attribute(func):
            self._note_leaf(func, args, kwargs, None)
            if attribute in _ACCESSORS and is_continuous(args[0]):
                self.lost.add(_ACCESSORS[attribute])
            return func(*args)
        if func is Tensor.register_hook:
            self.hooked = True
            return func(args[0], self._in_inner_pass(args[1]))
        if func is torch.autograd.grad:
            self.nested = True
            if not kwargs.get("create_graph"):
                # For the inner gradient its results are constants; for the derivative they are not.
                found = func(*args, **kwargs | {"create_graph": True, "retain_graph": True})
                return tuple(self._stopped(tensor) if isinstance(tensor, Tensor) else tensor for tensor in found)
        elif func in _MAKES_NUMBERS and args[0].requires_grad:
            self.lost.add(f"the number taken out of a tensor by {name}()")
            if func is Tensor.numpy or func is Tensor.__array__:
                return func(args[0].detach(), *args[1:], **kwargs)
        elif func is F.embedding and kwargs.get("padding_idx", (*args, None, None)[2]) is not None:
            self.asymmetric = True  # the padding's row has gradient zero by definition
        elif func is Tensor.detach_:
            self.lost.add("detach_()")
        elif func is F.gumbel_softmax and (kwargs.get("hard") or True in args[2:3]):
            self.lost.add("gumbel_softmax(hard=True)")
        plain = torch.is_grad_enabled()
        found = func(*args, **kwargs) if plain else self._under_no_grad(func, name, args, kwargs)
        self._note_leaf(func, args, kwargs, found)
        self._note_lost(func, name, args, kwargs, found)
        return found

    def _note_lost(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any
    ) -> None:
        """Record a result that has no or a wrong derivative although its arguments require grad."""
        if name in _ODD or (func is F.embedding and kwargs.get("scale_grad_by_freq", True in args[5:6])):
            self.lost.add(f"{name}()")
        if name.endswith("_like") or (name.startswith("new_") and name != "new_tensor"):
            return  # only the shape comes from the argument
        results = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor) and is_continuous(leaf)]
        if not results or any(result.requires_grad or is_functorch_wrapped(result) for result in results):
            return
        given = tree_leaves((args, kwargs))
        if any(isinstance(leaf, Tensor) and leaf.requires_grad and is_continuous(leaf) for leaf in given):
            self.lost.add(f"{name or func}(), whose result has no gradient")

    def _stopped(self, tensor: Tensor) -> Tensor:
        # The graph continues even if the caller has disabled gradients.
        with torch.enable_grad():
            stopped: Tensor = _Stop.apply(tensor, self._inner)
        return stopped

    def _in_inner_pass(self, hook: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
        return lambda gradient: hook(gradient) if self._inner.running else None

    def _note_leaf(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], found: Any) -> None:
        if func is Tensor.requires_grad_ or (kwargs.get("requires_grad") and isinstance(found, Tensor)):
            self.made.append(found)
        elif _attribute(func) == "requires_grad" and len(args) == 2 and args[1]:
            self.made.append(args[0])

    def _note_generator(self, kwargs: dict[str, Any]) -> None:
        generator = kwargs.get("generator")
        if isinstance(generator, torch.Generator):
            ReplayContext.record([generator])
            self.generators[id(generator)] = generator

    def _under_no_grad(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute with a graph what the caller computes under ``no_grad``, with stops at its arguments."""
        if func is set_grad_enabled or func in _MAKES_NUMBERS:
            return func(*args, **kwargs)
        out = kwargs.pop("out", None)
        in_place = writes_in_place(name)
        target = args[0] if in_place else out
        with torch.enable_grad():
            if isinstance(target, Tensor) and self._depends(target):
                # The written value would become part of the inner gradient.
                self.lost.add("a tensor written in place under no_grad()")
                with torch.no_grad():
                    return func(*args, **kwargs) if out is None else func(*args, out=out, **kwargs)
            given = tree_map_only(
                Tensor, lambda tensor: self._stopped(tensor) if is_continuous(tensor) else tensor, args[in_place:]
            )
            found = func(*args[:in_place], *given, **kwargs)
            if isinstance(out, Tensor):
                return out.copy_(found)
            return found

    def _depends(self, tensor: Tensor) -> bool:
        """Return whether a tensor depends on a variable without a stop between them."""
        if id(tensor) in self._variables:
            return True
        stack: list[Any] = [tensor.grad_fn]
        seen = {None}
        while stack:
            node = stack.pop()
            if node in seen or node.name() == STOP:
                continue
            if node in self._sources or id(leaf_tensor(node)) in self._variables:
                return True
            seen.add(node)
            stack.extend(parent for parent, _ in node.next_functions)
        return False


def writes_in_place(name: str) -> bool:
    """Return whether torch's function of this name writes to its first argument."""
    return (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE_OPERATORS | {"__setitem__"}


def _attribute(func: Callable[..., Any]) -> str:
    """Return the attribute of a tensor that a function reads or writes, or ""."""
    accessor = func.__name__ in ("__get__", "__set__") if hasattr(func, "__name__") else False
    return func.__self__.__name__ if accessor else ""  # type: ignore[attr-defined]
