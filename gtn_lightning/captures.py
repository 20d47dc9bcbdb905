"""What a captured computation depends on besides its arguments, and why one cannot be captured."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gtn_lightning.component import Component
from gtn_lightning.inner_loop.replay import AutocastState
from gtn_lightning.inner_loop.torch_internals import CALL_HOOKS
from gtn_lightning.teachers import TeacherInput


def tensors_of(requests: Sequence[TeacherInput]) -> list[Tensor]:
    """Return the tensors of a curriculum's requests, one after the other."""
    return [tensor for request in requests for tensor in request if tensor is not None]


def pattern_of(requests: Sequence[TeacherInput]) -> Hashable:
    """Return which tensors the requests have."""
    return tuple(tensor is None for request in requests for tensor in request)


def filled(requests: Sequence[TeacherInput], tensors: Iterator[Tensor]) -> list[TeacherInput]:
    """Return requests like others with the next of some tensors, as leaves."""

    def next_like(like: Tensor | None) -> Tensor | None:
        return None if like is None else next(tensors).detach().requires_grad_(like.requires_grad)

    # An index is never None.
    return [TeacherInput(*map(next_like, request)) for request in requests]  # type: ignore[arg-type]


def settings(value: Any) -> Hashable:
    """Return everything that a capture of a part holds fixed: where its tensors are, and all other attributes.

    Args:
        value: a module, a component, or one of their attributes.
    """
    return _settings(value, {})


def _settings(value: Any, met: dict[int, Any]) -> Hashable:
    if isinstance(value, Tensor):
        return value.data_ptr(), tuple(value.shape), value.stride(), value.dtype, value.requires_grad
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | type):
        return value
    if isinstance(value, Mapping):
        return tuple((str(key), _settings(item, met)) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(_settings(item, met) for item in value)
    if id(value) in met:  # objects may refer to each other
        return _Object(value)
    met[id(value)] = value
    if isinstance(value, nn.Module | Component):
        return type(value), _settings(vars(value), met)
    if isinstance(value, partial):
        return tuple(_settings(part, met) for part in (value.func, value.args, value.keywords))
    if isinstance(value, MethodType):
        return _Object(value.__func__), _settings(value.__self__, met)
    if isinstance(value, FunctionType | ModuleType):
        return _Object(value)
    return _Object(value), _settings(getattr(value, "__dict__", None), met)


class _Object:
    """An object, equal to itself alone. It stays alive, or another one could have its place in memory."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Object) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


def obstacle(device: torch.device, **modules: nn.Module) -> str | None:
    """Return why no computation with these modules can be captured, the end of a sentence, or None.

    Args:
        device: the device of the computation.
        modules: the modules by name.
    """
    autocast = AutocastState.current(device)
    if autocast.enabled and autocast.dtype == torch.float16:
        return "gradients in float16 must be scaled before they are computed: use bf16-mixed"
    for name, module in modules.items():
        for place, part in module.named_modules(prefix=name):
            if isinstance(part, nn.SyncBatchNorm):
                return f"{place} waits for other processes"
            if any(vars(part)[hooks] for hooks in CALL_HOOKS):
                return f"{place} has a hook, which a graph would not call"
    return None
