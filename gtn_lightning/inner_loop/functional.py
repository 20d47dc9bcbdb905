"""A module as a pure function of its parameters, its buffers and its inputs."""

import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import attrgetter
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gtn_lightning.inner_loop.capture import is_recorded
from gtn_lightning.inner_loop.compiler.formulas import CompilerFormulas
from gtn_lightning.inner_loop.errors import InnerLoopError
from gtn_lightning.inner_loop.replaced_kernels import WeightNormFormula
from gtn_lightning.inner_loop.replay import ReplayContext, Source
from gtn_lightning.inner_loop.torch_internals import (
    HOOK_ATTRIBUTES,
    TENSOR_ATTRIBUTES,
    BatchNormBase,
    has_gradient_hook,
    has_weight_norm,
    is_compiled,
    is_compiled_wrapper,
    own_parameters,
    own_tensors,
    with_tensors,
)
from gtn_lightning.inner_loop.types import Buffers, Params

HOOKS = "saved-tensor hooks inside a learner"
"""Torch's error message where a learner uses saved-tensor hooks, as ``torch.utils.checkpoint`` does."""


class CheckpointedError(InnerLoopError):
    """A learner that checkpoints its activations would be differentiated wrongly."""


_open: list[ExitStack] = []
"""Open blocks of `kept_in_place`."""


@contextmanager
def kept_in_place() -> Iterator[None]:
    """Leave the tensors that modules are called with in the modules until the end of the block.

    A learner that checkpoints its activations recomputes parts of itself in the backward pass, with the parameters
    that its module then holds.
    """
    with ExitStack() as stack:
        _open.append(stack)
        try:
            yield
        finally:
            _open.remove(stack)


class Owned(dict[str, Tensor]):
    """Tensors by name, with the module that they were taken from."""

    def __init__(self, tensors: Mapping[str, Tensor], owner: nn.Module) -> None:
        super().__init__(tensors)
        self.owner = owner


class Functional:
    """A module seen as a pure function ``(params, buffers, inputs) -> (outputs, buffers)``.

    The module provides its code and its initial values; it is never trained and its tensors are never written to.
    Tensors that are plain attributes count as buffers. Modules compiled by ``torch.compile`` run uncompiled, since
    compiled code cannot be differentiated twice.

    Args:
        module: the module. Every layer keeps its current mode (training or evaluation), so a layer frozen by ``eval()``
            stays frozen.

    Raises:
        InnerLoopError: if a parameter has a gradient hook.

    Examples:
        >>> import torch
        >>> from gtn_lightning.inner_loop import Functional
        >>> network = Functional(torch.nn.Linear(3, 2))
        >>> params, buffers = network.init()
        >>> sorted(params), sorted(buffers)
        (['bias', 'weight'], [])
        >>> outputs, buffers = network(params, buffers, torch.zeros(4, 3))
        >>> outputs.shape
        torch.Size([4, 2])
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        parts = list(module.modules())
        # Intercepting torch's functions costs time at every call, so it is done only if needed.
        self._weight_norm = any(has_weight_norm(part) for part in parts)
        self._compiled = any(is_compiled(part) for part in parts)
        sources = Source.types()
        self._generators = [value for part in parts for value in vars(part).values() if isinstance(value, sources)]
        # Handling tied tensors takes as long as a small network, so it is done only if there are some.
        held = [id(tensor) for part in parts for tensor in own_tensors(part)]
        self._tied = len(set(held)) < len(held) or len(parts) < len(list(module.named_modules(remove_duplicate=False)))
        for part in parts:
            for name, parameter in own_parameters(part):
                if has_gradient_hook(parameter):
                    raise InnerLoopError(
                        f"the learner cannot be taught: parameter {name} of its {type(part).__name__} has a gradient "
                        "hook, which does not apply to the tensor used in its place; call register_hook in forward"
                    )

    def init(self) -> tuple[Params, Buffers]:
        """Return the module's current parameters and buffers, detached.

        Parameters that do not require grad are left out: the module's own are used.
        """
        params = {
            name: parameter.detach() for name, parameter in self.module.named_parameters() if parameter.requires_grad
        }
        buffers = {name: buffer.detach() for name, buffer in self.module.named_buffers()}
        return Owned(params, self.module), Owned(buffers | self._plain_tensors(), self.module)

    def _plain_tensors(self) -> Buffers:
        """Return tensors that are attributes of the module or its parts, and neither parameters nor buffers."""
        return {
            f"{prefix}.{name}" if prefix else name: value.detach()
            for prefix, part in self.module.named_modules()
            for name, value in vars(part).items()
            if _is_constant(value)
        }

    def __call__(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], *inputs: Any, training: bool = True
    ) -> tuple[Any, Buffers]:
        """Run the module with the given parameters and buffers.

        Running statistics are updated by the layers in place and outside of autograd: the returned buffers
        carry their values, not their gradient, as everywhere in torch. With batch statistics (training mode,
        or layers built with ``track_running_stats=False``) the meta-gradient is complete.

        Args:
            params: parameters by name.
            buffers: buffers by name; left untouched.
            inputs: the positional arguments of the module.
            training: whether layers such as dropout and batch normalization behave as in training, each in its own
                mode; otherwise all behave as in evaluation.

        Returns:
            The module's outputs and the buffers as the call left them.
        """
        # Layers write to their buffers in place, so they get copies. If a layer assigns a new tensor instead, torch
        # puts it into `tensors`.
        tensors = {**params, **{name: buffer.clone() for name, buffer in buffers.items()}}
        flags = None
        if self.module.training != training:
            flags = [(part, part.training) for part in self.module.modules()]
            self.module.train(training)
            if not training and torch.is_grad_enabled() and not (torch.compiler.is_compiling() or is_recorded()):
                self._warn_of_statistics(flags, params, buffers)
        try:
            if torch.compiler.is_compiling():
                with CompilerFormulas():
                    outputs = functional_call(self.module, tensors, inputs, tie_weights=self._tied)
            else:
                outputs = self._run(tensors, inputs)
        finally:
            for part, flag in flags or ():
                part.training = flag
        return outputs, {name: tensors[name].detach() for name in buffers}

    def _warn_of_statistics(
        self, flags: list[tuple[nn.Module, bool]], params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
    ) -> None:
        """Warn if a loss in evaluation mode uses statistics computed in training, which carry no gradient."""
        switched = {part for part, flag in flags if flag and isinstance(part, BatchNormBase)}
        for name, part in self.module.named_modules() if switched else ():
            key = f"{name}.running_mean" if name else "running_mean"
            own = part.running_mean if part in switched else None
            changed = isinstance(own, Tensor) and key in buffers and not torch.equal(own, buffers[key])
            if changed and any(tensor.requires_grad for tensor in params.values()):
                warnings.warn(
                    f"the learner is differentiated in evaluation mode, where its batch normalization {name!r} uses "
                    "running statistics computed in training: they carry no gradient, so the meta-gradient is "
                    "incomplete; compute the meta-loss in training mode",
                    stacklevel=4,
                )
                return

    def _run(self, tensors: dict[str, Tensor], inputs: tuple[Any, ...]) -> Any:
        if self._generators:
            ReplayContext.record(self._generators)
        if not (self._weight_norm or self._compiled):
            return self._call(tensors, inputs)
        with ExitStack() as stack:
            if self._weight_norm:
                stack.enter_context(WeightNormFormula())
            if self._compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            return self._call(tensors, inputs)

    def _call(self, tensors: dict[str, Tensor], inputs: tuple[Any, ...]) -> Any:
        if _open:
            _open[-1].enter_context(with_tensors(self.module, tensors))
            outputs = self.module(*inputs)
            for name in tensors:
                tensors[name] = attrgetter(name)(self.module)
            return outputs
        if torch.is_grad_enabled():
            return self._without_checkpoints(tensors, inputs)
        return functional_call(self.module, tensors, inputs, tie_weights=self._tied)

    def _without_checkpoints(self, tensors: dict[str, Tensor], inputs: tuple[Any, ...]) -> Any:
        """Call the module; raise if it checkpoints its activations.

        It would recompute them when the module no longer holds ``tensors``.
        """
        try:
            with torch.autograd.graph.disable_saved_tensors_hooks(HOOKS):
                return functional_call(self.module, tensors, inputs, tie_weights=self._tied)
        except RuntimeError as error:
            if HOOKS not in str(error):
                raise
            if _hooks_around():  # set outside of this call
                return functional_call(self.module, tensors, inputs, tie_weights=self._tied)
            raise CheckpointedError(
                "the learner checkpoints its activations (torch.utils.checkpoint) and would recompute them with the "
                "parameters of its module, not with those of the call: compute its loss by eager_loss, or switch "
                "checkpointing off"
            ) from error


def _hooks_around() -> bool:
    """Return whether saved-tensor hooks are active, such as ``torch.autograd.graph.save_on_cpu``."""
    leaf = torch.ones((), requires_grad=True)
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(HOOKS):
            leaf * leaf
    except RuntimeError:
        return True
    return False


def difference(one: nn.Module, other: nn.Module) -> str | None:
    """Return the name of an attribute in which two learners differ, other than parameters and buffers, or None.

    Learners without a difference are the same function of parameters and buffers. Attributes that cannot be compared
    count as different.
    """
    ours, theirs = dict(one.named_modules()), dict(other.named_modules())
    if ours.keys() != theirs.keys():
        return min(ours.keys() ^ theirs.keys())
    for prefix, part in ours.items():
        twin = theirs[prefix]
        if not _same_class(type(part), type(twin)):
            return prefix or type(part).__name__
        mine, its = _configuration(part), _configuration(twin)
        for name in mine.keys() | its.keys():
            if name not in mine or name not in its or not _alike(mine[name], its[name]):
                return f"{prefix}.{name}" if prefix else name
    return None


def _same_class(one: type, other: type) -> bool:
    # A parametrization creates a new class for every module.
    parametrized = one.__qualname__.startswith("Parametrized") and one.__qualname__ == other.__qualname__
    return one is other or (parametrized and one.__bases__ == other.__bases__)


def _configuration(part: nn.Module) -> dict[str, Any]:
    """Return a module's attributes other than tensors and submodules, and its frozen parameters."""
    if is_compiled_wrapper(part):
        return {}
    held = {
        # Their keys count all hooks of the process.
        name: list(value.values()) if name.endswith(HOOK_ATTRIBUTES) else value
        for name, value in vars(part).items()
        if name not in TENSOR_ATTRIBUTES and not _is_constant(value) and not _is_computed(value)
    }
    frozen = {f"frozen parameter {name}": p.detach() for name, p in own_parameters(part) if not p.requires_grad}
    return held | frozen


def _alike(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, Source.types()):  # they would share one generator
        return False
    if isinstance(one, nn.Parameter):
        return True  # compared elsewhere
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other))
    if isinstance(one, weakref.ref):
        return _alike(one(), other())
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_alike(value, other[key]) for key, value in one.items())
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, partial):
        return _alike([one.func, one.args, one.keywords], [other.func, other.args, other.keywords])
    if isinstance(one, MethodType):
        return _alike(one.__func__, other.__func__) and _alike(one.__self__, other.__self__)
    if callable(one) and hasattr(one, "__code__"):
        # Two functions of one definition may have different closures.
        cells = [[cell.cell_contents for cell in f.__closure__ or ()] for f in (one, other)]
        defaults = [[f.__defaults__, f.__kwdefaults__] for f in (one, other)]
        return one.__code__ is other.__code__ and _alike(*defaults) and _alike(*cells)
    try:
        by_identity = not any("__eq__" in vars(base) for base in type(one).__mro__[:-1])
        if hasattr(one, "__dict__") and not _alike(vars(one), vars(other)):
            return False
        slots = any(vars(base).get("__slots__") for base in type(one).__mro__)
        return (by_identity and hasattr(one, "__dict__") and not slots) or bool(one == other)
    except Exception:  # comparisons may raise anything, for instance those of arrays and of recursive objects
        return False


def _is_constant(value: Any) -> bool:
    """Return whether an attribute is a tensor that counts as a buffer."""
    return isinstance(value, Tensor) and not value.requires_grad


def _is_computed(value: Any) -> bool:
    """Return whether an attribute is a tensor computed from parameters, as old parametrizations keep it."""
    return isinstance(value, Tensor) and value.grad_fn is not None
