"""Stopped gradients and gradient hooks, told apart by whose derivative is being taken.

A learner may stop gradients (``detach``, ``torch.no_grad``) and change them (``register_hook``). That belongs to the
inner gradient: the learner is trained by it. It does not belong to the inner gradient's own derivative, which makes the
meta-gradient: a stopped value still depends on the parameters, and so does the inner gradient through it. Double
backward through torch's own operators drops that dependence, and applies hooks a second time; the result then differs
from central differences, without an error. ``Following`` evaluates a loss so that stops and hooks act in the inner pass
alone.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from gtn_lightning.inner_loop.replay import Surroundings
from gtn_lightning.inner_loop.types import is_continuous, is_wrapped

STOP = "_StopBackward"
"""The name of a stop's node in the autograd graph."""


class InnerPass:
    """The time in which a loss is evaluated and its inner gradient taken."""

    def __init__(self) -> None:
        self.running = True

    def end(self) -> None:
        """From here on, derivatives are those of the inner gradient."""
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
"""Operators whose derivative is not that of their value, and ways around autograd."""
_ACCESSORS = {"data": "the attribute .data", "grad_fn": "the attribute .grad_fn"}


class Following(TorchFunctionMode):
    """Evaluates a loss so that its stops and hooks act in the inner pass alone, and notes what it meets.

    Args:
        inner: the inner pass.
        variables: the tensors by which the inner gradient is differentiated: parameters and batch.
        stops: whether the inner gradient will be differentiated. Otherwise stops and hooks stay torch's own, and only
            generators and leaves are noted.
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
        """Whether the loss takes a derivative itself."""
        self.asymmetric = False
        """Whether the gradient's derivative is not symmetric, though it is right."""
        self.made: list[Tensor] = []
        """Leaves that require grad and were made inside the loss."""
        self.lost: set[str] = set()
        """Ways by which a value may have gone on without its derivative, which could not be followed."""
        self.generators: dict[int, torch.Generator] = {}
        """Generators that were drawn from by name."""

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
                # To the inner gradient its results are constants; to the derivative they are none.
                found = func(*args, **kwargs | {"create_graph": True, "retain_graph": True})
                return tuple(self._stopped(tensor) if isinstance(tensor, Tensor) else tensor for tensor in found)
        elif func in _MAKES_NUMBERS and args[0].requires_grad:
            self.lost.add(f"the number taken out of a tensor by {name}()")
            if func is Tensor.numpy or func is Tensor.__array__:
                return func(args[0].detach(), *args[1:], **kwargs)
        elif func is F.embedding and kwargs.get("padding_idx", (*args, None, None)[2]) is not None:
            self.asymmetric = True  # the padding's row has a gradient of zero, whatever it does
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
        """Note a result that has no derivative, or a wrong one, though what it is computed from has some."""
        if name in _ODD or (func is F.embedding and kwargs.get("scale_grad_by_freq", True in args[5:6])):
            self.lost.add(f"{name}()")
        if name.endswith("_like") or (name.startswith("new_") and name != "new_tensor"):
            return  # shaped like its argument, and nothing else
        results = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor) and is_continuous(leaf)]
        if not results or any(result.requires_grad or is_wrapped(result) for result in results):
            return
        given = tree_leaves((args, kwargs))
        if any(isinstance(leaf, Tensor) and leaf.requires_grad and is_continuous(leaf) for leaf in given):
            self.lost.add(f"{name or func}(), whose result has no gradient")

    def _stopped(self, tensor: Tensor) -> Tensor:
        # Where the caller has turned gradients off, the graph goes on all the same.
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
            Surroundings.note([generator])
            self.generators[id(generator)] = generator

    def _under_no_grad(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute with a graph what the caller computes without one, stopped where it begins."""
        if func is torch._C._set_grad_enabled or func in _MAKES_NUMBERS:
            return func(*args, **kwargs)
        out = kwargs.pop("out", None)
        in_place = (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE_OPERATORS | {"__setitem__"}
        target = args[0] if in_place else out
        with torch.enable_grad():
            if isinstance(target, Tensor) and self._depends(target):
                # It would become part of the inner gradient, which it is not.
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
        """Return whether a tensor depends on a variable otherwise than through a stop."""
        if id(tensor) in self._variables:
            return True
        stack: list[Any] = [tensor.grad_fn]
        seen = {None}
        while stack:
            node = stack.pop()
            if node in seen or node.name() == STOP:
                continue
            if node in self._sources or id(getattr(node, "variable", None)) in self._variables:
                return True
            seen.add(node)
            stack.extend(parent for parent, _ in node.next_functions)
        return False


def _attribute(func: Callable[..., Any]) -> str:
    """Return which attribute of a tensor a function reads or writes, or nothing."""
    accessor = func.__name__ in ("__get__", "__set__") if hasattr(func, "__name__") else False
    return func.__self__.__name__ if accessor else ""  # type: ignore[attr-defined]
