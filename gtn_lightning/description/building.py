"""Components from their descriptions, of allowed classes only."""

import inspect
from collections.abc import Mapping
from enum import Enum
from functools import partial
from typing import Any

from torch import nn

from gtn_lightning.component import Component
from gtn_lightning.description.kinds import BUILDABLE, COMPONENT, READERS, annotated, as_text, kind_of
from gtn_lightning.errors import RecipeError, one_line
from gtn_lightning.trust import Trusted, find, refusal


def build(description: Any, trust: Trusted = ()) -> Any:
    """Return the component of a description; learner factories become ``functools.partial``.

    Args:
        description: the result of `describe`.
        trust: classes that may be built besides this package's, or names of them or of their modules.

    Raises:
        RecipeError: if a class is not allowed, cannot be found or is not a component, or a value does not have its
            kind.
    """
    return _Builder(trust).value(description, factory=False)


class _Builder:
    """Builds components recursively, of allowed classes only."""

    def __init__(self, trust: Trusted) -> None:
        self.trust = trust

    def value(self, description: Any, factory: bool) -> Any:
        """Return the value of a description.

        Args:
            description: plain data.
            factory: whether it is an argument of a learner distribution, where a network's class is a factory.
        """
        if isinstance(description, list):
            return [self.value(item, factory) for item in description]
        if not isinstance(description, Mapping):
            return description
        if set(description) == COMPONENT:
            return self._component(description, factory)
        kind = kind_of(description)
        if kind is None:
            return {key: self.value(value, factory) for key, value in description.items()}
        content = description[kind]
        try:
            if kind == "$class":
                return self._network(as_text(content))
            if kind == "$partial":
                cls = self._network(as_text(content["class_path"]))
                return partial(cls, **self._arguments(cls, content["init_args"]))
            if kind == "$built":
                return self._component(content, factory=False)
            if kind == "$dict":
                return {self.value(key, False): self.value(value, factory) for key, value in content}
            return READERS[kind](self.value(content, factory))
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
            if isinstance(error, RecipeError):
                raise
            raise RecipeError(
                f"the file holds {kind} with an invalid value ({one_line(error)}): take a whole file"
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
            # Values that the constructor cannot use.
            if isinstance(error, RecipeError):
                raise
            reason = " ".join((str(error) or type(error).__name__).split())[:200]
            raise RecipeError(f"{path} does not accept the arguments in the file: {reason}") from error

    def _arguments(self, cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
        # Networks among the arguments of a distribution are factories.
        within = issubclass(cls, Component) and cls.makes_networks
        return {name: self._argument(cls, name, value, within) for name, value in arguments.items()}

    def _argument(self, cls: type, name: str, description: Any, factory: bool) -> Any:
        if isinstance(description, Mapping) and kind_of(description) == "$enum":
            member = description["$enum"]
            for kind in annotated(cls, name):
                if inspect.isclass(kind) and issubclass(kind, Enum) and member in kind.__members__:
                    return kind[member]
            raise RecipeError(
                f"{cls.__qualname__}.{name}: the file names {member!r}, which is no member of its enumeration"
            )
        made = self.value(description, factory)
        return tuple(made) if isinstance(description, list) and tuple in annotated(cls, name) else made

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
