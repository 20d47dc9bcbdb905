"""Components as plain data: by their class, and the arguments of its constructor, stored under their own names."""

import base64
import inspect
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum
from functools import partial
from pathlib import PosixPath, PurePosixPath, WindowsPath
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from gtn_lightning.component import Component
from gtn_lightning.description.kinds import BUILDABLE, COMPONENT, TORCH, annotated
from gtn_lightning.errors import RecipeError
from gtn_lightning.trust import canonical, resolve


def describe(component: Any, rebuilt: bool = True) -> Any:
    """Return a component as plain data.

    Args:
        component: a teacher, curriculum, learner distribution, optimizer or task; a learner factory; or a plain value.
        rebuilt: whether `build` must be able to read it.

    Raises:
        RecipeError: if an argument of its constructor is not stored under its own name, or cannot be restored.
    """
    return _Describer(rebuilt).value(component, _name_of(component), factory=False, kept=True)


class _Describer:
    """Describes values recursively."""

    def __init__(self, rebuilt: bool) -> None:
        self.rebuilt = rebuilt

    def value(self, value: Any, place: str, factory: bool, kept: bool) -> Any:
        """Return a value as plain data.

        Args:
            value: the value.
            place: its place, such as ``Fixed.learner.norm_layer``, for errors.
            factory: whether it is an argument of a learner distribution, where a class is a factory of learners.
            kept: whether the weights of a network are part of the state of its parent.
        """
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"$float": str(value)}
        if type(value) is list:
            return self._items(value, place, factory, kept)
        if type(value) in (dict, OrderedDict, MappingProxyType):
            return self._mapping(value, place, factory, kept)
        if type(value) in (tuple, torch.Size):
            return {"$tuple": self._items(value, place, factory, kept)}
        if type(value) in (set, frozenset):
            items = sorted(self._items(value, place, factory, kept), key=json.dumps)
            return {f"${type(value).__name__}": items}
        if type(value) in (PosixPath, WindowsPath, PurePosixPath):
            return {"$path": str(value)}
        if type(value) is complex:
            return {"$complex": str(value)}
        if type(value) is bytes:
            return {"$bytes": base64.b64encode(value).decode()}
        if type(value) is range:
            return {"$range": [value.start, value.stop, value.step]}
        if isinstance(value, torch.device):
            return {"$device": str(value)}
        if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
            return {"$torch": next(name for name, constant in TORCH.items() if constant is value)}
        if inspect.isclass(value):
            return self._network_class(value, {}, place, factory)
        if isinstance(value, partial):
            return self._partial(value, place, factory)
        if inspect.isroutine(value):
            raise RecipeError(
                f"{place}: the function {value.__qualname__} cannot be described: give the learner's class, or a "
                "functools.partial of it with its arguments"
            )
        return self._component(value, place, factory, kept)

    def _items(self, items: Any, place: str, factory: bool, kept: bool) -> list[Any]:
        return [self.value(item, f"{place}[{number}]", factory, kept) for number, item in enumerate(items)]

    def _mapping(self, mapping: Mapping[Any, Any], place: str, factory: bool, kept: bool) -> dict[str, Any]:
        entries = [(key, self.value(value, f"{place}.{key}", factory, kept)) for key, value in mapping.items()]
        if all(type(key) is str and not key.startswith("$") for key in mapping) and set(mapping) != COMPONENT:
            return dict(entries)
        return {"$dict": [[self.value(key, f"{place}'s key", False, kept), value] for key, value in entries]}

    def _network_class(self, cls: type, arguments: dict[str, Any], place: str, factory: bool) -> dict[str, Any]:
        if self.rebuilt and not issubclass(cls, nn.Module):
            raise _indescribable(place, f"the class {cls.__qualname__}", "give a class of networks (nn.Module)")
        path = self._path(cls, place)
        if factory:
            return {"class_path": path, "init_args": arguments}
        return {"$partial": {"class_path": path, "init_args": arguments}} if arguments else {"$class": path}

    def _partial(self, value: "partial[Any]", place: str, factory: bool) -> dict[str, Any]:
        # jsonargparse passes the class as an argument to its own function; a user's partial holds it directly.
        cls = next((item for item in (value.func, *value.args) if inspect.isclass(item)), None)
        if cls is None:
            raise RecipeError(f"{place}: {value} cannot be described: expected functools.partial of a learner class")
        named: dict[str, Any] = dict(value.keywords)
        if cls is value.func and value.args:
            if not factory:  # further positional arguments would take the places of the named ones
                raise _indescribable(place, f"{value}", "name its arguments")
            try:
                bound = inspect.signature(cls).bind_partial(*value.args)
            except (TypeError, ValueError) as error:
                raise _indescribable(place, f"{value}", f"{error}; name its arguments") from error
            for name in bound.arguments:
                if bound.signature.parameters[name].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
                    raise _indescribable(
                        place, f"the argument {name} of {cls.__qualname__}", "it has no name of its own"
                    )
            named = bound.arguments | named
        arguments = {
            name: self._argument(cls, name, item, f"{place}.{name}", False, False) for name, item in named.items()
        }
        written = self._network_class(cls, arguments, place, factory)
        return written if factory else {"$partial": {"class_path": self._path(cls, place), "init_args": arguments}}

    def _component(self, component: Any, place: str, factory: bool, kept: bool) -> dict[str, Any]:
        if isinstance(component, Component):
            component = component.described_as()
        cls = type(component)
        name = f"a value of the class {cls.__qualname__}"
        if self.rebuilt and not isinstance(component, BUILDABLE):
            raise _indescribable(place, name, "give what it is made of, and make it in the constructor")
        if self.rebuilt and not kept and isinstance(component, nn.Module) and component.state_dict():
            raise _indescribable(
                place, f"the weights of a {cls.__qualname__}", "give its class, or a functools.partial of it"
            )
        within = issubclass(cls, Component) and cls.makes_networks
        arguments = {
            argument: self._argument(
                cls, argument, value, f"{place}.{argument}", within, isinstance(component, nn.Module)
            )
            for argument, value in _stored(component, place).items()
        }
        written = {"class_path": self._path(cls, place), "init_args": arguments}
        # Among a distribution's arguments a network's class is a factory.
        return {"$built": written} if factory and isinstance(component, nn.Module) else written

    def _argument(self, cls: type, name: str, value: Any, place: str, factory: bool, kept: bool) -> Any:
        kinds = annotated(cls, name)
        if isinstance(value, Enum) and type(value) in kinds and value.name in type(value).__members__:
            return {"$enum": value.name}  # the annotation says of which enumeration
        written = self.value(value, place, factory, kept)
        if tuple in kinds:
            if type(value) in (tuple, torch.Size):
                return written["$tuple"]  # the form in recipes
            if type(value) is list:
                return {"$list": written}
        return written

    def _path(self, cls: type, place: str) -> str:
        path = canonical(cls)
        if self.rebuilt:
            try:
                found = resolve(path)
            except (ImportError, AttributeError, ValueError):
                found = None
            if found is not cls:
                raise _indescribable(
                    place, f"the class {path}", "it is not found under that name: define it at the top of a module"
                )
        return path


def _indescribable(place: str, what: str, advice: str) -> RecipeError:
    return RecipeError(f"{place}: {what} cannot be written to the teacher file: {advice}")


def _name_of(component: Any) -> str:
    return "learner" if isinstance(component, partial) or inspect.isroutine(component) else type(component).__name__


def _stored(component: Any, place: str) -> dict[str, Any]:
    """Return the arguments of a component's constructor, which it stores under their own names.

    ``*args`` or ``**kwargs`` that a constructor does not store are arguments of its base class.
    """
    cls = type(component)
    arguments: dict[str, Any] = {}
    handed_on: str | None = None
    for base in cls.__mro__:
        if base in (object, nn.Module):
            break
        if "__init__" not in vars(base):
            continue
        found, handed_before, handed_on = False, handed_on, None
        for name, parameter in list(inspect.signature(vars(base)["__init__"]).parameters.items())[1:]:
            found = True
            if name in arguments:
                continue
            stored = getattr(component, name, None)
            if parameter.kind is parameter.VAR_KEYWORD:
                if isinstance(stored, Mapping):
                    arguments |= stored
                else:
                    handed_on = handed_on or f"**{name}"
            elif parameter.kind is parameter.VAR_POSITIONAL:
                if stored:
                    raise _indescribable(f"{place}.{name}", f"*{name} of {base.__qualname__}", "give them as one list")
                if not hasattr(component, name):
                    handed_on = f"*{name}"
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                raise _indescribable(f"{place}.{name}", f"{name} of {base.__qualname__}", "it cannot be named")
            elif hasattr(component, name):
                arguments[name] = stored
            else:
                raise RecipeError(
                    f"{cls.__name__} does not store its argument {name!r} under that name, so the teacher "
                    f"file cannot describe it: write self.{name} = {name} in its constructor"
                )
        if handed_before and not found:
            handed_on = handed_before
            break
        if handed_on is None:
            break
    if not arguments and handed_on is None and any("__new__" in vars(base) for base in cls.__mro__[:-1]):
        raise _indescribable(place, f"a value of the class {cls.__qualname__}", "give what it is made of")
    if handed_on is not None:
        name = handed_on.lstrip("*")
        raise RecipeError(
            f"{cls.__name__} does not store its arguments {handed_on}, nor does a class that it derives from, so the "
            f"teacher file cannot describe them: write self.{name} = {name} in its constructor, or name them one by one"
        )
    return arguments
