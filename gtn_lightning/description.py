"""Components as plain data and back: ``{"class_path": ..., "init_args": {...}}``, the form that recipes use.

A component is described by its class and its constructor's arguments, which it stores under their own names. That
convention, not pickle, is what lets a teacher file be read anywhere without running code from it.
"""

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from gtn_lightning.curricula import Curriculum
from gtn_lightning.errors import RecipeError
from gtn_lightning.learners import LearnerDistribution
from gtn_lightning.tasks import Task


class Describable:
    """What may stand in a teacher file though it is no teacher, curriculum, learner, optimizer or task."""

    def described_as(self) -> "Describable":
        """Return what stands for it in the file: itself, or something that needs less where the file is read."""
        return self


BUILDABLE: tuple[type, ...] = (nn.Module, LearnerDistribution, Task, Curriculum, Describable)
"""What a description may name: a file from a stranger cannot ask for an arbitrary callable."""


def describe(component: Any) -> Any:
    """Return a component as plain data.

    Args:
        component: a teacher, curriculum, learner distribution, optimizer or task; a learner factory; or a plain value.

    Raises:
        RecipeError: if an argument of its constructor is not stored under its own name.
    """
    if component is None or isinstance(component, bool | int | float | str):
        return component
    if isinstance(component, list | tuple):
        return [describe(item) for item in component]
    if isinstance(component, Mapping):
        return {str(key): describe(value) for key, value in component.items()}
    if inspect.isclass(component):
        return {"class_path": _path(component), "init_args": {}}
    if isinstance(component, partial):
        # jsonargparse passes the class as an argument to a function of its own; a user's partial holds it directly.
        cls = next((item for item in (component.func, *component.args) if inspect.isclass(item)), None)
        if cls is None:
            raise RecipeError(f"{component} cannot be described: expected functools.partial of a learner class")
        positional = component.args if component.func is cls else ()
        named = dict(zip(inspect.signature(cls).parameters, positional, strict=False))
        return {"class_path": _path(cls), "init_args": describe(named | component.keywords)}
    if inspect.isroutine(component):
        raise RecipeError(
            f"the function {component.__qualname__} cannot be described: give the learner's class, or a "
            "functools.partial of it with its arguments"
        )
    if isinstance(component, Describable):
        component = component.described_as()
    arguments = {}
    for name, parameter in inspect.signature(type(component).__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(component, name):
            raise RecipeError(
                f"{type(component).__name__} does not store its argument {name!r} under that name, so the teacher "
                f"file cannot describe it: write self.{name} = {name} in its constructor"
            )
        arguments[name] = describe(getattr(component, name))
    return {"class_path": _path(type(component)), "init_args": arguments}


def build(description: Any) -> Any:
    """Return the component that a description stands for; learner factories come back as ``functools.partial``.

    Raises:
        RecipeError: if the class cannot be found or is not a component.
    """
    return _build(description, factory=False)


def _build(description: Any, factory: bool) -> Any:
    if isinstance(description, list):
        return [_build(item, factory) for item in description]
    if not isinstance(description, Mapping):
        return description
    if set(description) != {"class_path", "init_args"}:
        return {key: _build(value, factory) for key, value in description.items()}
    cls = _class(description["class_path"])
    # Inside a distribution, networks are what it makes, not parts of it.
    inner = {
        name: _build(value, issubclass(cls, LearnerDistribution)) for name, value in description["init_args"].items()
    }
    if factory and issubclass(cls, nn.Module):
        return partial(cls, **inner)
    try:
        return cls(**inner)
    except TypeError as error:
        raise RecipeError(f"{description['class_path']} does not accept the arguments in the file: {error}") from error


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _class(path: str) -> type:
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"the class {path} named in the file cannot be imported ({error}): put its module on PYTHONPATH"
        ) from error
    if not (inspect.isclass(cls) and issubclass(cls, BUILDABLE)):
        raise RecipeError(f"the file names {path}, which is no teacher, curriculum, learner, optimizer or task")
    return cls
