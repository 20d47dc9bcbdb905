"""What the parser says about a faulty recipe, in one line that names the key; and what it should have said.

jsonargparse reports a tree: the key, the class given for it, that class's own key, and for a union one branch per
type. A reader wants the one branch that he meant, and its full key. It takes null for a value that is not set.
"""

import difflib
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args, get_type_hints

import torch
from torch import distributed

from gtn_lightning import callbacks, curricula, data, inner_loop, learners, loggers, nas, tasks, teachers
from gtn_lightning.cli.strict_yaml import check_text
from gtn_lightning.errors import RecipeError, first_line

# Imported here so that recipes can name their classes without the path.
COMPONENTS = (callbacks, curricula, data, inner_loop, learners, loggers, nas, tasks, teachers)

TOKENS = re.compile(
    r'Parser key "(?P<key>[^"]+)"'
    r"|Problem with given class_path '(?P<cls>[^']+)'"
    r"|(?P<factory>expects a function or a callable class)"
    r"|Option '(?P<option>[^']+)' is not accepted"
    r'|Key "(?P<missing>[^"]+)" is required'
)


def explain(message: str, keys: Iterable[str], classes: Iterable[str]) -> str:
    """Return the parser's message as one line: the full key, what is wrong with it, and the nearest valid name.

    Args:
        message: as the parser raised it, of many lines.
        keys: the keys that the parser knows, dotted.
        classes: short names of the classes that recipes can name.
    """
    unknown = r"(?:unrecognized arguments: (?:--)?|Subcommand '\w+' does not accept option ')([^\s=']+)"
    if match := re.match(unknown, message):
        nearest = _nearest(match[1], keys) or "; correct it, or see what there is with `gtn fit --help`"
        return f"{match[1]}: there is no such key{nearest}"
    if match := re.match(r"the following arguments are required: (.*)", message):
        names = re.sub(r"\b(?:fit|validate|test|predict)\.", "", match[1])
        return f"{names}: required and not given; name a recipe with --config (`gtn recipes` lists them)"
    match = re.match(r"argument (?:-\w/)?--([\w.]+): (.*)", message, re.DOTALL)
    if match and "Parser key" not in message:
        return f"{match[1]}: {_one_line(match[2])}"
    if match := re.search(r"^(.*)\n\s+full_key: (?:\w+\.)?(model|data|trainer)(\S*)", message):
        if kind := re.match(r"Unsupported interpolation type (\S+)", match[1]):
            return (
                f"{match[2]}{match[3]}: ${{{kind[1]}:…}} refers to what is not in the recipe: it is unknown, or "
                "not allowed beside a stranger's file; write the value out"
            )
        return f"{match[2]}{match[3]}: {match[1]}; correct the reference"

    branch = _telling_branch(message)
    path: list[str] = []
    cls = ""
    option = missing = None
    inside = False
    for token in TOKENS.finditer(branch):
        name = token["key"] or token["option"] or token["missing"]
        if name is None:
            inside, cls = True, token["cls"] or cls
            continue
        path += ["init_args"] * inside + [name]
        inside, option, missing = False, token["option"], token["missing"]
    # A factory's class stands behind the message, in what was given, the innermost first.
    if "callable class" in branch and (given := re.search(r"class_path='([^']+)'", branch)):
        cls = given[1]
    key = ".".join(path)
    short = cls.rpartition(".")[2]
    if option:
        if not cls:
            return f"{option}: there is no such key{_nearest(option, keys) or '; correct it, or see --help'}"
        valid = _arguments(cls)
        return f"{key}: {short} takes no {option!r}{_nearest(option, valid) or f': give one of {_listed(valid)}'}"
    if match := re.search(r"the following arguments are required: (\w+)", branch):
        key, missing = f"{key}.init_args.{match[1]}", match[1]
    if missing:
        return f"{key}: required{f' by {short}' if short else ''} and not given; add it to the recipe"
    kinds = re.findall(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", branch)
    named = [name for kind, choices in kinds for name in [kind] * bool(kind) + re.findall(r"[^\s,']+", choices)]
    if expected := list(dict.fromkeys(named)):
        given = re.search(r"Got value: ((?:(?!\. Got value).)*)|Given value: (.*)", branch)
        value = f", got {(given[1] or given[2] or '').strip()!r}" if given else ""
        return f"{key}: expected {' or '.join(expected).replace('NoneType', 'null')}{value}; correct the value"
    if match := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", branch):
        return f"{key}: {match[1]} is no {match[2]}; name a class that is one"
    if match := re.search(r"Expected a dot import path string: (\S+)", branch):
        nearest = _nearest(match[1], classes) or "; give the dotted path of one that can be imported"
        return f"{key}: there is no class {match[1]}{nearest}"
    if match := re.search(r"(No module named .*|module '\S+' has no attribute .*)", branch):
        return (
            f"{key}: {_one_line(match[1])}; correct the class path, or put its file into this folder or on PYTHONPATH"
        )
    if re.search(
        r"argument of type '\w+' is not iterable|has no attribute 'keys'|unhashable type|dot import path", branch
    ):
        return f"{key}: expected a class by name, or class_path and init_args; correct the value"
    reason = [line.strip(" -") for line in branch.splitlines() if line.strip(" -") and "Parser key" not in line]
    return f"{key}: {_one_line(reason[-1])}" if key and reason else _one_line(branch)


def with_item(line: str, given: Iterable[Any]) -> str:
    """Put the item of a list or a mapping into the key that a line begins with, where it can be found.

    The parser says which class or value it refuses, but not which of several it was.

    Args:
        line: what ``explain`` returned.
        given: the recipes and overrides as plain data, from the weakest to the strongest.
    """
    key, _, reason = line.partition(": ")
    path, ending = key.split("."), []
    refused = re.search(r"got '(.*)';|there is no class ([^;\s]+)|: (?!there )(\S+) is no |takes no '(.*?)'", line)
    lacking = re.match(r"required by (\w+) and not given", reason)
    if lacking and len(path) > 2:
        path, ending = path[:-2], path[-2:]

    def fits(value: Any) -> bool:
        arguments = value if isinstance(value, dict) else {}
        cls = str(arguments.get("class_path"))
        if lacking:
            return cls.rpartition(".")[2] == lacking[1] and ending[-1] not in (arguments.get("init_args") or {})
        return refused is not None and (
            refused[4] is not None or (refused[1] or refused[2] or refused[3]) in (str(value), cls)
        )

    for content in reversed(list(given)):
        found = list(_places(content, path, fits))
        if len(found) == 1:
            return f"{'.'.join([*found[0], *ending])}: {reason}"
        if found:  # whichever it was
            break
    return line


def components(value: Any, key: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the key of every component in a recipe, with its class path and its arguments."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from components(item, f"{key}.{number}")
    elif isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield key, value["class_path"], value.get("init_args") or {}
        for name, item in value.items():
            yield from components(item, f"{key}.{name}" if key else name)


def check_values(values: Any, key: str = "") -> None:
    """Refuse integers that no tensor takes, and texts that no file can hold.

    Args:
        values: the recipe as it was parsed.
        key: where it stands.

    Raises:
        RecipeError: if an integer has more than 64 bits, or for a text as `check_text` does.
    """
    if isinstance(values, str):
        check_text(key, values)
    if isinstance(values, int) and not -(2**63) <= values < 2**63:
        raise RecipeError(f"{key}: expected an integer of at most 64 bits, got one of {values.bit_length()}")
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list | tuple) else ()
    )
    for name, value in items:
        check_values(value, f"{key}.{name}" if key else str(name))


PLACEHOLDER = re.compile(r"\{[A-Za-z_][\w./-]*(?::[<>^+ ]?\d{0,2}(?:\.\d{1,2})?[a-zA-Z%]?)?\}")
"""What a checkpoint's name may hold for a metric, such as ``{epoch}`` and ``{val/loss:.3f}``."""


def check_arguments(values: dict[str, Any]) -> None:
    """Refuse what Lightning's callbacks and loggers take and then fail with, or worse.

    Args:
        values: the recipe as it was parsed.

    Raises:
        RecipeError: if a checkpoint's name has placeholders for more than metrics, from which Lightning makes what
            Python's ``str.format`` evaluates; if a logger is to write its rows every 0 steps; or if torch has no such
            backend.
    """
    for key, _, arguments in components(values):
        name, every = arguments.get("filename"), arguments.get("flush_logs_every_n_steps")
        if isinstance(name, str) and re.search(r"[{}]", PLACEHOLDER.sub("", name)):
            raise RecipeError(
                f"{key}.init_args.filename: expected placeholders such as {{epoch}} and {{val/loss:.3f}}, got {name!r}"
            )
        backend = arguments.get("process_group_backend")
        if isinstance(backend, str) and backend not in (known := distributed.Backend.backend_list):
            raise RecipeError(
                f"{key}.init_args.process_group_backend: expected one of {', '.join(known)}, got {backend!r}"
            )
        if isinstance(every, int) and every < 1:
            raise RecipeError(f"{key}.init_args.flush_logs_every_n_steps must be at least 1, got {every}")


def reject_nulls(values: dict[str, Any], roots: Mapping[str, type]) -> None:
    """Refuse null for what is not optional in this package's classes.

    Args:
        values: the recipe as it was parsed.
        roots: the classes whose arguments stand in the recipe without a class path, by their keys; the key of one whose
            arguments are the recipe is empty.

    Raises:
        RecipeError: if there is such a null.
    """
    named = ((f"{key}.init_args.", path, given) for key, path, given in components(values))
    own = ((key, pkgutil.resolve_name(path), given) for key, path, given in named if path.startswith("gtn_lightning."))
    bare = ((f"{key}." if key else "", cls, values[key] if key else values) for key, cls in roots.items())
    for key, component, arguments in (*bare, *own):
        kinds = get_type_hints(component.__init__)
        for name, value in arguments.items():
            kind = kinds.get(name, Any)
            if value is None and kind is not Any and type(None) not in get_args(kind):
                expected = getattr(kind, "__name__", kind)
                raise RecipeError(f"{key}{name}: null given, expected {expected}; give a value, or leave it out")


def _places(value: Any, path: list[str], fits: Callable[[Any], bool]) -> Iterator[list[str]]:
    """Yield the full key of everything that a key without the names of items can mean and that fits."""
    if not path and fits(value):
        yield []
    elif path and isinstance(value, dict) and path[0] in value:
        yield from ([path[0], *rest] for rest in _places(value[path[0]], path[1:], fits))
    elif isinstance(value, list) or (isinstance(value, dict) and "class_path" not in value):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from ([str(name), *rest] for rest in _places(item, path, fits))


def _telling_branch(message: str) -> str:
    """Return the message with every union reduced to the branch that got furthest."""
    head, found, rest = message.partition("Errors:\n")
    if not found:
        return message
    body, _, tail = rest.partition("Given value type")
    bullets = re.split(r"^- ", textwrap.dedent(body), flags=re.MULTILINE)
    branches = [_telling_branch(text) for text in bullets if text.strip()]
    best = max(_telling(text) for text in branches)
    # Plain types that fit equally badly are alternatives: expected int or bool.
    chosen = [text.rstrip() for text in branches if _telling(text) == best]
    head = re.sub(r"\s*Does not validate against any of the Union subtypes\s*Subtypes:.*", "", head)
    value = re.search(r"Given value: .*", tail)
    return "\n".join([head.rstrip(), *chosen, value[0] if value and best <= 0 else ""])


def _telling(branch: str) -> int:
    """Return how much a union's branch has to say about what was meant."""
    if TOKENS.search(branch):
        return 3 if "is not accepted" in branch or "Parser key" in branch else 2
    if "NoneType" in branch or "Not a valid subclass" in branch:
        return -1
    if re.search(r"Expected an? (<class|typing\.Literal)", branch):
        return 0
    return 1 if re.search("import|No module named|has no attribute", branch) else -1


def _arguments(path: str) -> list[str]:
    """Return the arguments of the constructor that a class path names."""
    module, _, name = path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return []
    return [name for name in parameters if name not in ("self", "args", "kwargs")]


def _nearest(wrong: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(wrong, list(names), n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\s*Got value: Namespace.*", "", text)).strip()


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


def explained(message: str, keys: list[str], given: Iterable[Any]) -> str:
    """Return what the parser says as one line.

    Args:
        message: what it says.
        keys: the keys that the parser knows, dotted.
        given: the recipes and overrides as plain data, from the weakest to the strongest.
    """
    if match := re.search(r"Importing '([^']+)' is not allowed", message):
        line = explain(re.sub(r"Importing '[^']+' is not allowed.*", "", message), keys, ())
        key = line.partition(":")[0] if ":" in line else ""
        named = match[1]
        return foreign(key if " " not in key else "", named)
    classes = [name for module in COMPONENTS for name in vars(module) if name[:1].isupper()]
    return with_item(explain(message, keys, classes), given)


def is_lightnings(error: BaseException) -> bool:
    """Return whether an error was raised by Lightning, about the trainer's arguments."""
    frames = list(traceback.walk_tb(error.__traceback__))
    name = frames[-1][0].f_globals.get("__name__") or "" if frames else ""
    return name.startswith(("pytorch_lightning.", "lightning_fabric."))


LIBRARIES = frozenset(
    {
        *("gtn_lightning", "jsonargparse", "lightning_fabric", "lightning_utilities", "numpy", "omegaconf"),
        *("pytorch_lightning", "torch", "torchmetrics", "torchvision"),
        *sys.stdlib_module_names - {"__main__"},
    }
)
"""Packages whose errors are about what the user gave them, if nothing else is between."""


def is_own_code(error: BaseException) -> bool:
    """Return whether an error was raised in the user's own code, or in what that called."""
    names = (frame.f_globals.get("__name__") or "torch" for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.partition(".")[0] not in LIBRARIES for name in names)


def is_of_callback(error: BaseException) -> bool:
    """Return whether one of Lightning's callbacks raised an error, such as for a metric that nobody logs."""
    names = [frame.f_globals.get("__name__") or "" for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(names) and names[-1].startswith("pytorch_lightning.callbacks.")


def is_restoring(error: BaseException) -> bool:
    """Return whether an error was raised while Lightning restored a checkpoint."""
    return any(
        frame.f_globals.get("__name__") == "pytorch_lightning.trainer.connectors.checkpoint_connector"
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left, on the host or on a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and re.search("can't allocate memory|out of memory", str(error)) is not None


LARGE = 1_000_000
"""From here on a number passes for a size that is too large."""


def wanted_memory(error: Exception) -> str:
    """Return how much memory could not be had, in words, or what else an error says on its first line."""
    found = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
    return found[0].lower().replace("gib", "GiB").replace("mib", "MiB") if found else first_line(error)


def made_in(error: BaseException, values: dict[str, Any]) -> str | None:
    """Return the key of the component or argument that could not be made, None if it was something else.

    Args:
        error: what was raised.
        values: the recipe as it was parsed.
    """
    places: dict[str, list[tuple[str, dict[str, Any]]]] = {"gtn_lightning.module.GTN": [("model", values["model"])]}
    places["pytorch_lightning.trainer.trainer.Trainer"] = [("trainer", values["trainer"])]
    for key, path, arguments in components(values):
        with suppress(ImportError, AttributeError, ValueError):
            cls = pkgutil.resolve_name(path)
            places.setdefault(f"{cls.__module__}.{cls.__qualname__}", []).append((f"{key}.init_args", arguments))
    found = f"trainer{_suspect(values['trainer'], error)}" if is_lightnings(error) else None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        cls = type(frame.f_locals.get("self"))
        if frame.f_code.co_name == "__init__" and (there := places.get(f"{cls.__module__}.{cls.__qualname__}")):
            key, arguments = there[0]
            found = f"{key}{_suspect(arguments, error)}"
    return found


def _suspect(arguments: dict[str, Any], error: BaseException) -> str:
    """Return a dot and the name of the one argument that an error can be about, or nothing."""
    # Torch says the size that it refuses, or nothing of use.
    words = set(re.findall(r"'[^']*'|-?[\w.]+", str(error)))
    named = [name for name, value in arguments.items() if words & set(_telling_parts(value))]
    large = [name for name, value in arguments.items() if any(size >= LARGE for size in _sizes(value))]
    suspects = named if len(named) == 1 else large
    return f".{suspects[0]}" if len(suspects) == 1 else ""


def _telling_parts(value: Any) -> Iterator[str]:
    """Yield what a value would be recognized by in an error: large numbers, and names in a mapping."""
    if isinstance(value, dict):
        yield from (repr(name) for name in value.keys() - {"class_path", "init_args"})
    elif not isinstance(value, str):
        yield from (str(size) for size in _sizes(value) if size > 99)


def _sizes(value: Any) -> Iterator[int | float]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _sizes(item)
    elif isinstance(value, int | float):
        yield value
