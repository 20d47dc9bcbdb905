"""What a stranger's recipe may name: ``--trusted-only``.

The parser itself refuses to import what is not allowed (`Policy.enforced`). Its result is checked again
(`Policy.check`): every class by identity, every file name, every argument that decides where data goes.
"""

import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtn_lightning.cli.parsed_recipe import components
from gtn_lightning.cli.recipes import CommandLine, overrides
from gtn_lightning.cli.upstream_privates import imports_limited_to, without_resolvers
from gtn_lightning.cli.working_folder import OPTION, check_inside, check_joined
from gtn_lightning.description import TORCH
from gtn_lightning.errors import RecipeError
from gtn_lightning.teacher_file import TeacherRecipe
from gtn_lightning.trust import canonical, find, known_paths, look_in_working_folder, resolve

FILES = frozenset(
    {
        *("cache", "ckpt_path", "default_root_dir", "dir", "dirpath", "filename", "folder", "name", "path"),
        *("save_dir", "storage", "study", "teacher", "version"),
    }
)
"""Arguments that name files or folders, in all classes that a trusted recipe may name."""

WRITTEN = FILES - {"path", "teacher", "ckpt_path"}
"""Those of them that are written to."""

SETTABLE = {
    "gtn_lightning.loggers.WandbLogger": frozenset(
        {"project", "save_dir", "init_timeout", "finish_timeout", "name", "tags", "group", "notes", "job_type"}
    ),
}
"""Classes of which a trusted recipe may set these arguments only: others say where a key and data are sent."""

CONSTANTS = ("torch.dtype", "torch.layout", "torch.memory_format", *(f"torch.{name}" for name in TORCH))
"""Values that arguments may have beside classes."""

SUFFIXES = frozenset({"ckpt", "csv", "db", "journal", "json", "safetensors", "sqlite", "yaml", "yml"})
"""Endings of the names of files."""

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


@dataclass(frozen=True)
class Policy:
    """Which classes and files the recipes of a command may name."""

    classes: Sequence[str] | None
    """Names that are allowed beside `gtn_lightning.trust.KNOWN`; None allows every class."""
    files: frozenset[str]
    """Arguments whose values have to lie in the working folder; none if nothing is a stranger's."""
    chosen: frozenset[str]
    """Values that the user gave on the command line; such files may lie anywhere."""
    strict: bool
    """Whether recipes are a stranger's: ``--trusted-only``."""

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Let the parser import nothing but allowed classes within a block.

        Where a recipe or a teacher file is a stranger's, references lead to other values of the recipe alone, such as
        ``${model.inner_loop.steps}``: without resolvers, OmegaConf reads no environment variables.
        """
        if self.classes is None:
            yield
            return
        allowed = [*known_paths(), *CONSTANTS, *self.classes]
        with imports_limited_to(allowed), without_resolvers() if self.files else nullcontext():
            yield

    def check(self, values: dict[str, Any]) -> None:
        """Refuse a parsed recipe that names classes or files that are not allowed.

        Args:
            values: the recipe as it was parsed.

        Raises:
            RecipeError: if it names anything else.
        """
        if self.classes is None:
            return
        for key, path, arguments in components(values):
            if not self._allows(path):
                raise RecipeError(foreign(key, path))
            if self.strict:
                _check_arguments(key, path, arguments)
                check_joined(key, self._named(arguments))
        if self.strict and (values.get("trainer") or {}).get("model_registry") is not None:
            raise RecipeError(f"{OPTION}: trainer.model_registry decides where the model goes: leave it out")
        if self.strict:
            check_joined("trainer", self._named(values.get("trainer") or values))  # a search's arguments stand alone
        for key, value in _leaves(values):
            if inspect.isroutine(value) or inspect.isclass(value):
                path = f"{value.__module__}.{value.__qualname__}"
                if not self._allows(path):
                    raise RecipeError(foreign(key, path))
            name = next((part for part in reversed(key.split(".")) if not part.isdigit()), "")
            if name in self.files and isinstance(value, str | Path) and str(value) not in self.chosen:
                check_inside(key, str(value))

    def _named(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return those of a component's arguments that the user has not given on the command line."""
        return {name: value for name, value in arguments.items() if str(value) not in self.chosen}

    def _allows(self, path: str) -> bool:
        """Return whether a class that the parser has imported is allowed: it names each by its shortest path."""
        if self.classes is None or path in self.classes:
            return True
        with suppress(ImportError, AttributeError, ValueError):
            if find(path) is not None:
                return True
            found = resolve(path)
            return inspect.isclass(found) and canonical(found) in self.classes
        return False


def policy_for(line: CommandLine, teacher: TeacherRecipe | None, strict: bool, trust: Sequence[str]) -> Policy:
    """Return what the recipes of a command line may name, and look for the user's own modules in the working folder.

    Args:
        line: the command line, the recipe in a teacher file among its recipes.
        teacher: that recipe, if there is one.
        strict: whether ``--trusted-only`` was given.
        trust: the modules and classes that ``--trust`` names.

    """
    chosen = {word.partition("=")[2] if word.startswith("--") else word for word in line.words}
    if teacher is not None:
        chosen.add(line.recipes[0].content["trainer"]["default_root_dir"])
    if strict:
        look_in_working_folder(trust)
        own = [] if teacher is None else [name for name in teacher.trust if isinstance(name, str)]
        return Policy([*trust, *own], FILES, frozenset(chosen), strict)
    theirs = line.recipes if teacher is None else line.recipes[1:]
    texts = [value for recipe in theirs for _, value in _leaves(recipe.content) if isinstance(value, str)]
    # A packaged recipe names no module of the user's: a text in it that looks like a class must not open a
    # stranger's folder.
    named = [value for recipe in theirs if not recipe.packaged for _, value in _leaves(recipe.content)]
    given = [value for content in overrides(line.words) for _, value in _leaves(content)]
    words = list(filter(_may_be_class, map(str, (*named, *given, *chosen))))
    look_in_working_folder([*trust, *words])
    if teacher is None:
        return Policy(None, frozenset(), frozenset(), strict)
    own = [name for name in teacher.trust if isinstance(name, str)]
    allowed = [*trust, *(path for name in own for path in _offered(name))]
    for word in (*texts, *map(str, given), *chosen):
        if _may_be_class(word):
            with suppress(ImportError, AttributeError, ValueError):
                allowed += [word, canonical(resolve(word))]
    files = frozenset() if teacher.own else WRITTEN
    return Policy(list(dict.fromkeys(allowed)), files, frozenset(chosen | set(texts)), strict)


def foreign(key: str, path: str) -> str:
    """Return the line for a name that a recipe may not name.

    Args:
        key: where it stands; empty where that is not known.
        path: the name.
    """
    where = f"{key}: " if key else ""
    return (
        f"{where}{path} is code from elsewhere; allowed are the classes of gtn-lightning, and named ones of Lightning "
        f"and torch.optim: read it, then allow it with --trust {path.rpartition('.')[0] or path}"
    )


def _check_arguments(key: str, path: str, arguments: dict[str, Any]) -> None:
    cls = find(path)
    settable = next((names for name, names in SETTABLE.items() if find(name) is cls), None)
    if cls is None or settable is None:
        return
    # The parser also lists arguments that are passed on to a base class.
    defaults = {
        name: parameter.default
        for base in reversed(cls.__mro__)
        if "__init__" in vars(base)
        for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items()
    }
    for name, value in arguments.items():
        if name not in settable and value is not None and value != defaults.get(name, inspect.Parameter.empty):
            raise RecipeError(
                f"{OPTION}: {key}.init_args.{name} may decide where your key and your data go, which no recipe of a "
                f"stranger's may: leave it out; allowed are {', '.join(sorted(settable))}"
            )


def _offered(path: str) -> list[str]:
    """Return the names under which a class can be imported: the parser reports it by the shortest of them."""
    with suppress(ImportError, AttributeError, ValueError):
        found = resolve(path)
        parts = path.split(".")
        above = [".".join([*parts[:count], parts[-1]]) for count in range(1, len(parts) - 1)]
        modules = [(name, sys.modules.get(name.rpartition(".")[0])) for name in above]
        return [path, *(name for name, module in modules if getattr(module, parts[-1], None) is found)]
    return [path]


def _may_be_class(text: str) -> bool:
    """Return whether a text can be the name of a class in a module, and is not that of a file."""
    if not _DOTTED.fullmatch(text) or text.rpartition(".")[2] in SUFFIXES:
        return False
    return not os.path.lexists(text)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value in plain data that is neither a mapping nor a list, with its key."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield key, name
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple | set):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{key}.{number}" if key else str(number))
    else:
        yield key, value
