"""What is wrong in a recipe, found in the recipe itself: keys, classes and values against the classes' signatures.

The parser (jsonargparse) refuses a recipe with a text. Which key it means is found here, by a walk through the plain
data that the recipes and the overrides say. The walk only explains what the parser has refused: a recipe that the
parser takes is never looked at. It imports what the parser would, by the parser's own door and under the same policy
(`gtn_lightning.cli.policy.Policy.enforced`).
"""

import collections.abc
import copy
import dataclasses
import difflib
import enum
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gtn_lightning.cli.policy import foreign
from gtn_lightning.cli.strict_yaml import dump_yaml, load_yaml
from gtn_lightning.cli.upstream_privates import ImportDenied, import_allowed, parameters_of
from gtn_lightning.files import is_file

NO_CLASS = "expected a class by name, or class_path and init_args; correct the value"

INHERITED = "init_args of the class that an override replaces"
"""Where `merged` keeps arguments that the parser takes over if the new class has them."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a recipe."""

    key: str
    """Where it stands, with the numbers of list items."""
    reason: str
    """What is wrong, and what to do."""
    expected: tuple[str, ...] = ()
    """The kinds of plain values that would have been right, if that is what is wrong."""
    unknown: bool = False
    """Whether it is a key of the command line that does not exist."""


@dataclass(frozen=True)
class Section:
    """Keys that stand together, and what each of them may hold: a type, or another section."""

    kinds: Mapping[str, Any]
    required: frozenset[str] = frozenset()
    owner: str = ""
    """The class whose arguments they are; empty for sections of the command line."""

    @classmethod
    def of(cls, component: Any, skipped: int = 0, owner: str = "") -> "Section":
        """Return the arguments of a class.

        Args:
            component: the class.
            skipped: how many of the first ones are given by whoever calls the class.
            owner: the name of the class for messages; empty if its arguments are keys of the command line.
        """
        parameters = parameters_of(component)[skipped:]
        required = frozenset(each.name for each in parameters if each.default is inspect.Parameter.empty)
        return cls({each.name: each.annotation for each in parameters}, required, owner)

    def keys(self) -> Iterator[str]:
        """Yield all keys, dotted."""
        for name, kind in self.kinds.items():
            yield name
            inner = _section(kind)
            if inner is not None:
                yield from (f"{name}.{key}" for key in inner.keys())  # noqa: SIM118 (not a mapping)


def find_fault(layers: Iterable[Any], root: Section) -> Fault | None:
    """Return the first thing that is wrong in a recipe, None if nothing is found.

    Args:
        layers: the recipes and overrides as plain data, from the weakest to the strongest.
        root: the keys of the command.
    """
    wholes: list[Any] = [{}]
    for layer in layers:
        wholes.append(merged(wholes[-1], layer))
    # The parser also looks at values that a stronger layer replaces. References are followed last: a wrong value is
    # reported where it stands, and not where it is referred to.
    whole = wholes[-1]
    for values, complete in ((whole, True), *((each, False) for each in wholes[1:-1]), (_resolved(whole), True)):
        fault = _Walk(complete).section(values, root, "")
        if fault is not None:
            return _with_suggestion(fault, root) if fault.unknown else fault
    return None


def merged(below: Any, above: Any) -> Any:
    """Return one layer of a recipe over another, as the parser reads them: plain data.

    Args:
        below: the weaker one.
        above: the stronger one.
    """
    if isinstance(above, dict):
        if isinstance(below, list) and below:  # arguments of the item that was added last
            return [*below[:-1], merged(below[-1], above)]
        if isinstance(below, str):
            below = {"class_path": below} if _names_class(below) else _loaded(below, None)
        if not isinstance(below, dict):
            below = {}
        if "class_path" in below and not above.keys() & {"class_path", "init_args", "dict_kwargs"}:
            above = {"init_args": above}
        if "class_path" in below and above.get("class_path", below["class_path"]) != below["class_path"]:
            below = {INHERITED: below.get("init_args")}
        result = dict(below)
        for name, value in above.items():
            if isinstance(name, str) and name.endswith("+"):
                name, given = name[:-1], result.get(name[:-1])
                items = given if isinstance(given, list) else [] if given is None else [given]
                result[name] = [*items, *(value if isinstance(value, list) else [value])]
            else:
                result[name] = merged(result.get(name), value)
        return result
    if isinstance(above, str) and isinstance(below, dict) and "class_path" in below and _names_class(above):
        return merged(below, {"class_path": above})
    return above


@dataclass(frozen=True)
class _Walk:
    """A walk through a recipe."""

    complete: bool
    """Whether everything that is required has to be there."""

    def section(self, values: Any, section: Section, key: str) -> Fault | None:
        """Return what is wrong below the keys of a section."""
        if values is None or (isinstance(values, str) and is_file(Path(values))):  # which the parser reads
            return None
        if not isinstance(values, dict):
            return _wrong(key, ["mapping"], values)
        dot = f"{key}." if key else ""
        for name in values:
            if name not in section.kinds:
                if not section.owner:
                    return Fault(f"{dot}{name}", "there is no such key", unknown=True)
                nearest = _nearest(str(name), section.kinds) or f": give one of {', '.join(section.kinds) or 'none'}"
                return Fault(f"{dot}{name}", f"{section.owner} takes no {name!r}{nearest}")
        for name, value in values.items():
            if (fault := self.value(value, section.kinds[name], f"{dot}{name}")) is not None:
                return fault
        missing = []
        for name, kind in section.kinds.items():
            if values.get(name) is None and isinstance(kind, Section):
                missing += [f"{dot}{name}.{inner}" for inner in kind.kinds if inner in kind.required]
            elif name in section.required and (name not in values or (values[name] is None and not _is_optional(kind))):
                missing.append(f"{dot}{name}")
        if missing and self.complete:
            by = f" by {section.owner}" if section.owner else ""
            return Fault(", ".join(missing), f"required{by} and not given; add it to the recipe")
        return None

    def value(self, value: Any, kind: Any, key: str) -> Fault | None:
        """Return what is wrong in a value, given the type that is wanted."""
        if isinstance(kind, Section):
            return self.section(value, kind, key)
        # null is "not set" for the parser, and a reference can be anything
        if value is None or (isinstance(value, str) and "${" in value) or _fits(value, kind):
            return None
        members = list(_members(kind))
        value = _loaded(value, value)
        bases: list[type] = []
        skipped = 0
        faults: list[Fault] = []
        for member in members:
            origin, inner = get_origin(member), get_args(member)
            if origin is collections.abc.Callable and inner and (made := _components(inner[-1])):
                bases += made
                skipped = max(skipped, len(inner[0]) if isinstance(inner[0], list) else 0)
            elif origin is None and (own := _components(member)):
                bases += own
            elif (fault := self._plain(value, member, key)) is None:
                return None
            else:
                faults.append(fault)
        if bases:
            fault = self.component(value, tuple(bases), key, skipped)
            if fault is None:
                return None
            if _looks_like_component(value) or not faults:
                faults.insert(0, fault)
        deepest = max(faults, key=lambda fault: len(fault.key), default=None)
        if deepest is None or len(deepest.key) > len(key):
            return deepest
        telling = [fault for fault in faults if not fault.expected]
        if telling:
            return telling[0]
        return _wrong(key, [name for fault in faults for name in fault.expected], value)

    def _plain(self, value: Any, kind: Any, key: str) -> Fault | None:
        """Return what is wrong in a value that is to be no component, or to hold components."""
        origin, inner = get_origin(kind), get_args(kind)
        if origin is Literal:
            return _wrong(key, [str(choice) for choice in inner], value)
        if (section := _section(kind)) is not None:
            return self.section(value, section, key) if isinstance(value, dict) else _wrong(key, ["mapping"], value)
        if origin is type and isinstance(value, str):
            found = self.resolve(value, (), key)
            if isinstance(found, Fault):
                return found
        if inspect.isclass(origin) and issubclass(origin, collections.abc.Mapping):
            if not isinstance(value, dict):
                return _wrong(key, ["mapping"], value)
            return self._first((item, inner[-1], f"{key}.{name}") for name, item in value.items()) if inner else None
        if inspect.isclass(origin) and issubclass(origin, collections.abc.Iterable):
            if not isinstance(value, list | tuple):
                return _wrong(key, ["list"], value)
            if origin is tuple and inner[-1] is not Ellipsis:
                if len(value) != len(inner):
                    return _wrong(key, [f"list of {len(inner)}"], value)
                kinds: Sequence[Any] = inner
            else:
                kinds = [inner[0] if inner else Any] * len(value)
            return self._first((item, kinds[number], f"{key}.{number}") for number, item in enumerate(value))
        if inspect.isclass(kind) and issubclass(kind, enum.Enum):
            return _wrong(key, list(kind.__members__), value)
        return None if _fits(value, kind) else _wrong(key, [getattr(kind, "__name__", str(kind))], value)

    def _first(self, items: Iterable[tuple[Any, Any, str]]) -> Fault | None:
        for value, kind, key in items:
            if value is None and not _is_optional(kind):
                return _wrong(key, [getattr(each, "__name__", str(each)) for each in _members(kind)], value)
            if (fault := self.value(value, kind, key)) is not None:
                return fault
        return None

    def component(self, value: Any, bases: tuple[type, ...], key: str, skipped: int = 0) -> Fault | None:
        """Return what is wrong in a component: its class, or the arguments for it.

        Args:
            value: the class's name, or a mapping with ``class_path``.
            bases: the component has to be of a subclass of one of these.
            key: where it stands.
            skipped: how many of its first arguments are not the recipe's.
        """
        given = {"class_path": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or not isinstance(given.get("class_path"), str) or not given["class_path"]:
            return Fault(key, NO_CLASS)
        for name in given:
            if name not in ("class_path", "init_args", "dict_kwargs", INHERITED):
                return Fault(f"{key}.{name}", "expected class_path and init_args alone; move it below init_args")
        path = given["class_path"]
        found = self.resolve(path, bases, key)
        if isinstance(found, Fault):
            return found
        if not inspect.isclass(found):  # a function that makes one
            return None
        if not issubclass(found, tuple(get_origin(base) or base for base in bases)):
            wanted = " or ".join(base.__name__ for base in bases)
            return Fault(key, f"{path} is not a {wanted}; name a class that is one")
        arguments = {} if given.get("init_args") is None else _loaded(given["init_args"], None)
        if not isinstance(arguments, dict):
            return _wrong(f"{key}.init_args", ["mapping"], given["init_args"])
        section = Section.of(found, skipped, found.__name__)
        taken_over = {name: value for name, value in (given.get(INHERITED) or {}).items() if name in section.kinds}
        return self.section({**taken_over, **arguments}, section, f"{key}.init_args")

    def resolve(self, path: str, bases: tuple[type, ...], key: str) -> Any:
        """Return what a class path stands for, or what is wrong with it."""
        full = path
        if "." not in path:
            known = {each.__name__: f"{each.__module__}.{each.__qualname__}" for each in _below(bases)}
            if path not in known:
                nearest = _nearest(path, known) or "; give the dotted path of one that can be imported"
                return Fault(key, f"there is no class {path}{nearest}")
            full = known[path]
        try:
            return import_allowed(full)
        except ImportDenied:
            return Fault(key, foreign("", path))
        except (ImportError, AttributeError, ValueError) as error:
            what = " ".join(str(error).split())
            return Fault(key, f"{what}; correct the class path, or put its file into this folder or on PYTHONPATH")


def _wrong(key: str, expected: Sequence[str], value: Any) -> Fault:
    names = tuple(dict.fromkeys(expected))
    got = repr(value) if isinstance(value, str) else dump_yaml([value])[1:-1]
    return Fault(key, f"expected {' or '.join(names)}, got {got}; correct the value", names)


def _with_suggestion(fault: Fault, root: Section) -> Fault:
    keys = list(root.keys())
    last = fault.key.rpartition(".")[2]
    same = [key for key in keys if key.rpartition(".")[2] == last]
    nearest = f"; did you mean {same[0]}?" if len(same) == 1 else _nearest(fault.key, keys)
    return dataclasses.replace(
        fault, reason=fault.reason + (nearest or "; correct it, or see all keys with --help=all")
    )


def _nearest(wrong: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(wrong, list(names), n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""


def _section(kind: Any) -> Section | None:
    """Return the keys of what is written without a class path: a section, or a dataclass."""
    if isinstance(kind, Section):
        return kind
    return Section.of(kind) if inspect.isclass(kind) and dataclasses.is_dataclass(kind) else None


def _members(kind: Any) -> Iterator[Any]:
    """Yield the types of a union, or the one type."""
    if get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            yield from _members(member)
    elif kind is not type(None):
        yield kind


def _is_optional(kind: Any) -> bool:
    """Return whether null is a value of a type, and not only a word for "not set"."""
    return kind in (Any, inspect.Parameter.empty) or type(None) in get_args(kind)


def _components(kind: Any) -> list[type]:
    """Return those classes of a type whose instances a recipe describes by class path and arguments."""
    return [
        member
        for member in _members(kind)
        if inspect.isclass(get_origin(member) or member)
        and not dataclasses.is_dataclass(member)
        and not issubclass(get_origin(member) or member, enum.Enum)
        and (get_origin(member) or member).__module__.partition(".")[0] not in sys.stdlib_module_names
    ]


def _below(bases: Iterable[type]) -> Iterator[type]:
    """Yield classes that can be named, and their subclasses, as far as they are imported."""
    for base in bases:
        if not base.__name__.startswith("_") and not inspect.isabstract(base) and "<locals>" not in base.__qualname__:
            yield base
        yield from _below(base.__subclasses__())


def _fits(value: Any, kind: Any) -> bool:
    """Return whether the parser takes a value for a type."""
    if kind in (Any, inspect.Parameter.empty):
        return True
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=kind)
    except ValueError:  # a type that the parser does not know and therefore does not check
        return True
    try:
        if isinstance(value, str):
            parser.parse_args([f"--value={value}"])
        else:
            parser.parse_object({"value": copy.deepcopy(value)})  # which it changes
    except (ArgumentError, ValueError, TypeError, AttributeError):
        return False
    return True


def _loaded(value: Any, otherwise: Any) -> Any:
    """Return what a text says that is a list or a mapping in YAML, and another value as it is."""
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        try:
            return load_yaml(value)
        except (yaml.YAMLError, ValueError):
            return otherwise
    return value


def _resolved(whole: Any) -> Any:
    """Return a recipe with values in place of references to them, as far as it can be had."""
    try:
        return OmegaConf.to_container(OmegaConf.create(whole), resolve=True)
    except (OmegaConfBaseException, ValueError):
        return whole


def _names_class(text: str) -> bool:
    return bool(text) and all(part.isidentifier() for part in text.split(".")) and text not in ("null", "true", "false")


def _looks_like_component(value: Any) -> bool:
    """Return whether a value is meant as a component, where something else could stand too."""
    if isinstance(value, str):
        return _names_class(value) and value.rpartition(".")[2][:1].isupper()
    return isinstance(value, dict) and "class_path" in value
