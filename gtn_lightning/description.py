"""Components as plain data and back: ``{"class_path": ..., "init_args": {...}}``, the form that recipes use.

A component is described by its class and its constructor's arguments, which it stores under their own names. That
convention, not pickle, is what lets a teacher file be read anywhere without running code that it brings along.

Values that JSON does not have are written with their kind, as ``{"$path": "data/mnist"}``; the kinds are a closed set.
What is of none of them is refused when it is written, with its place.
"""

import base64
import inspect
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import Path, PosixPath, PurePosixPath, WindowsPath
from types import MappingProxyType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import nn

from gtn_lightning.component import Component
from gtn_lightning.errors import RecipeError
from gtn_lightning.trust import Trusted, find, refusal, resolve

BUILDABLE: tuple[type, ...] = (nn.Module, Component)
"""What a description may name: a file from a stranger cannot ask for an arbitrary callable."""

COMPONENT = {"class_path", "init_args"}

TORCH: dict[str, Any] = {
    name: value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format)
}
"""Torch's constants by their names."""


def describe(component: Any, rebuilt: bool = True) -> Any:
    """Return a component as plain data.

    Args:
        component: a teacher, curriculum, learner distribution, optimizer or task; a learner factory; or a plain value.
        rebuilt: whether `build` is to read it, so that it may hold nothing but what `build` makes.

    Raises:
        RecipeError: if an argument of its constructor is not stored under its own name, or could not come back as it
            is.
    """
    return _Describer(rebuilt).value(component, _called(component), factory=False, kept=True)


class _Describer:
    """Describes values, which it hands down the place where each stands."""

    def __init__(self, rebuilt: bool) -> None:
        self.rebuilt = rebuilt

    def value(self, value: Any, place: str, factory: bool, kept: bool) -> Any:
        """Return a value as plain data.

        Args:
            value: the value.
            place: where it stands, such as ``Fixed.learner.norm_layer``.
            factory: whether it is an argument of a learner distribution, where a class stands for what makes learners.
            kept: whether what a network has learned is in the state of what holds it.
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
        # jsonargparse passes the class as an argument to a function of its own; a user's partial holds it directly.
        cls = next((item for item in (value.func, *value.args) if inspect.isclass(item)), None)
        if cls is None:
            raise RecipeError(f"{place}: {value} cannot be described: expected functools.partial of a learner class")
        named: dict[str, Any] = dict(value.keywords)
        if cls is value.func and value.args:
            if not factory:  # it is called with further ones by position, which would take the places of the named
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
        # Among a distribution's arguments a network's class stands for what makes it.
        return {"$built": written} if factory and isinstance(component, nn.Module) else written

    def _argument(self, cls: type, name: str, value: Any, place: str, factory: bool, kept: bool) -> Any:
        kinds = _annotated(cls, name)
        if isinstance(value, Enum) and type(value) in kinds and value.name in type(value).__members__:
            return {"$enum": value.name}  # of which enumeration, the constructor says
        written = self.value(value, place, factory, kept)
        if tuple in kinds:
            if type(value) in (tuple, torch.Size):
                return written["$tuple"]  # as a recipe has it
            if type(value) is list:
                return {"$list": written}
        return written

    def _path(self, cls: type, place: str) -> str:
        path = f"{cls.__module__}.{cls.__qualname__}"
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


def _called(component: Any) -> str:
    return "learner" if isinstance(component, partial) or inspect.isroutine(component) else type(component).__name__


def _stored(component: Any, place: str) -> dict[str, Any]:
    """Return the arguments that a component was made with, which it stores under their own names.

    What a constructor takes as ``*args`` or ``**kwargs`` and does not store, it hands on: those are its base's.
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


def _annotated(cls: type, name: str) -> list[Any]:
    """Return what types a constructor's argument may be of by its annotation, without their own arguments."""
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        try:
            hints = get_type_hints(init)
        except (TypeError, NameError, AttributeError):  # annotated by what is imported for type checkers alone
            continue
        if name in hints:
            hint = hints[name]
            options = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
            return [get_origin(option) or option for option in options]
    return []


def _texts(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r}")
    return value


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {value!r}")
    return value


def _range(ends: Any) -> range:
    made = range(*_items(ends))
    if len(made) > LONGEST:
        raise ValueError(f"expected at most {LONGEST} numbers")
    return made


LONGEST = 1_000_000
"""The most numbers of a range in a description, which may be written out."""

READERS: dict[str, Callable[[Any], Any]] = {
    "$float": lambda text: float(_texts(text)),
    "$complex": lambda text: complex(_texts(text)),
    "$bytes": lambda text: base64.b64decode(_texts(text), validate=True),
    "$path": lambda text: Path(_texts(text)),
    "$device": lambda text: torch.device(_texts(text)),
    "$torch": lambda text: TORCH[text],
    "$range": _range,
    "$list": _items,
    "$tuple": lambda items: tuple(_items(items)),
    "$set": lambda items: set(_items(items)),
    "$frozenset": lambda items: frozenset(_items(items)),
}
"""What makes a value of its description, for every kind that holds no components by itself."""

KINDS = (*READERS, "$dict", "$enum", "$class", "$partial", "$built")


def build(description: Any, trust: Trusted = ()) -> Any:
    """Return the component that a description stands for; learner factories come back as ``functools.partial``.

    Args:
        description: what `describe` returned.
        trust: classes that may be built beside this package's, or names of them or of their modules.

    Raises:
        RecipeError: if a class is not allowed, cannot be found or is not a component, or a value is not what its kind
            says.
    """
    return _Builder(trust).value(description, factory=False)


class _Builder:
    """Builds what descriptions stand for, of allowed classes alone."""

    def __init__(self, trust: Trusted) -> None:
        self.trust = trust

    def value(self, description: Any, factory: bool) -> Any:
        """Return what a description stands for.

        Args:
            description: plain data.
            factory: whether it is an argument of a learner distribution, where networks are made and not parts.
        """
        if isinstance(description, list):
            return [self.value(item, factory) for item in description]
        if not isinstance(description, Mapping):
            return description
        if set(description) == COMPONENT:
            return self._component(description, factory)
        kind = _kind(description)
        if kind is None:
            return {key: self.value(value, factory) for key, value in description.items()}
        content = description[kind]
        try:
            if kind == "$class":
                return self._network(_texts(content))
            if kind == "$partial":
                cls = self._network(_texts(content["class_path"]))
                return partial(cls, **self._arguments(cls, content["init_args"]))
            if kind == "$built":
                return self._component(content, factory=False)
            if kind == "$dict":
                return {self.value(key, False): self.value(value, factory) for key, value in content}
            return READERS[kind](self.value(content, factory))
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
            if isinstance(error, RecipeError):
                raise
            reason = " ".join(str(error).split())
            raise RecipeError(
                f"the file holds {kind} of something that is none ({reason}): take a whole file"
            ) from error

    def _component(self, description: Mapping[str, Any], factory: bool) -> Any:
        path, arguments = description["class_path"], description["init_args"]
        if not isinstance(path, str) or not isinstance(arguments, Mapping):
            raise RecipeError(
                f"the file names {path!r} with the arguments {arguments!r}: expected a class and a mapping"
            )
        cls = self._class(path)
        inner = self._arguments(cls, arguments)
        if factory and issubclass(cls, nn.Module):
            return partial(cls, **inner)
        try:
            return cls(**inner)
        except (
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            RuntimeError,
            ArithmeticError,
            MemoryError,
        ) as error:
            # Values of a kind or a size that the constructor cannot work with.
            if isinstance(error, RecipeError):
                raise
            reason = " ".join((str(error) or type(error).__name__).split())[:200]
            raise RecipeError(f"{path} does not accept the arguments in the file: {reason}") from error

    def _arguments(self, cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
        # Inside a distribution, networks are what it makes, not parts of it.
        within = issubclass(cls, Component) and cls.makes_networks
        return {name: self._argument(cls, name, value, within) for name, value in arguments.items()}

    def _argument(self, cls: type, name: str, description: Any, factory: bool) -> Any:
        if isinstance(description, Mapping) and _kind(description) == "$enum":
            member = description["$enum"]
            for kind in _annotated(cls, name):
                if inspect.isclass(kind) and issubclass(kind, Enum) and member in kind.__members__:
                    return kind[member]
            raise RecipeError(
                f"{cls.__qualname__}.{name}: the file names {member!r}, which is no member of its enumeration"
            )
        made = self.value(description, factory)
        return tuple(made) if isinstance(description, list) and tuple in _annotated(cls, name) else made

    def _class(self, path: str) -> type:
        try:
            cls = find(path, self.trust)
        except (ImportError, AttributeError, ValueError) as error:
            raise RecipeError(
                f"the class {path} named in the file cannot be imported ({error}): put its module on PYTHONPATH"
            ) from error
        if cls is None:
            raise refusal("the file", path)
        if not issubclass(cls, BUILDABLE):
            raise RecipeError(f"the file names {path}, which is no teacher, curriculum, learner, optimizer or task")
        return cls

    def _network(self, path: str) -> type:
        cls = self._class(path)
        if not issubclass(cls, nn.Module):
            raise RecipeError(f"the file names {path} where a class of networks is expected: take a whole file")
        return cls


def _kind(description: Mapping[str, Any]) -> str | None:
    """Return the kind of value that a description is of, None if it is none but a dictionary."""
    only = next(iter(description)) if len(description) == 1 else None
    return only if only in KINDS else None


def as_recipe(description: Any) -> Any:
    """Return a description in the form of recipes, where the annotation of an argument says what kind a value is of."""
    if isinstance(description, list):
        return [as_recipe(item) for item in description]
    if not isinstance(description, Mapping):
        return description
    kind = _kind(description)
    if kind is None:
        return {key: as_recipe(value) for key, value in description.items()}
    content = description[kind]
    if kind == "$dict":
        return {tuple(key) if isinstance(key, list) else key: value for key, value in as_recipe(content)}
    if kind == "$float":
        return float(content)
    if kind == "$torch":
        return f"torch.{content}"
    if kind == "$range":
        return str(range(*content))
    return as_recipe(content)


def changed_kinds(written: Any, again: Any, place: str) -> Iterator[str]:
    """Yield the places where a recipe made of a description the same text, but of another kind.

    Args:
        written: the description.
        again: that of what was made by the recipe.
        place: where both stand.
    """
    written, again = (
        one[kind] if isinstance(one, Mapping) and (kind := _kind(one)) in ("$tuple", "$list") else one
        for one in (written, again)
    )
    if isinstance(written, list) and isinstance(again, list):
        for number, pair in enumerate(zip(written, again, strict=False)):
            yield from changed_kinds(*pair, f"{place}[{number}]")
    elif all(isinstance(one, Mapping) and (_kind(one) is None) for one in (written, again)):
        for key in written.keys() & again.keys():
            yield from changed_kinds(written[key], again[key], f"{place}.{key}")
    elif written != again and as_recipe(written) == as_recipe(again):
        yield place
