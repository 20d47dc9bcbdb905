"""Reading the YAML of recipes. Ambiguous, endless and oversized documents are refused."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from gtn_lightning.errors import RecipeError

DEPTH = 50
"""The deepest nesting of a recipe."""

SIZE = 100_000
"""The most values that a recipe may hold, with aliases expanded."""

BITS = 63
"""The most bits of an integer, without its sign."""

FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*(?:[eE][-+]?[0-9]+)
    |\.[0-9_]+(?:[eE][-+][0-9]+)?
    |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
"""What is read as a floating-point number: as in YAML 1.1, and ``1e-3`` too, which YAML 1.1 reads as a text."""


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the numbers of recipes and without repeated keys."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping; refuse one that has a key twice."""
        if isinstance(node, yaml.MappingNode):
            seen: set[Hashable] = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, str | int | float | bool | None):
                    raise _fault("expected a text or a number as a key", key_node)
                if key in seen:
                    raise _fault(f"the key {key!r} stands here a second time: merge both", key_node)
                seen.add(key)
        return dict(super().construct_mapping(node, deep))  # type: ignore[arg-type]  # reports other nodes itself


def _construct_int(loader: Loader, node: yaml.ScalarNode) -> int:
    try:
        value = int(loader.construct_yaml_int(node))
    except ValueError:  # of more digits than Python reads
        value = 1 << BITS
    if value.bit_length() > BITS:
        raise _fault(f"the number {node.value[:20]}... has more than 64 bits", node)
    return value


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("float", "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


class Dumper(yaml.SafeDumper):
    """Writes every text in quotes, so that it is read as a text again, and expands aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Expand all aliases."""
        return True


Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def read_yaml(path: Path) -> Any:
    """Return what a YAML file says as plain data.

    Raises:
        RecipeError: if it is no UTF-8, no YAML, says something twice, or is too deep or too large.
    """
    try:
        return load_yaml(path.read_bytes().decode("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise RecipeError(f"{path} is not valid YAML: {_reason(error)}") from error
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}") from error


def load_yaml(text: str) -> Any:
    """Return what a text in YAML says as plain data.

    Raises:
        yaml.YAMLError: if it is no YAML, says something twice, or is too deep or too large.
    """
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, set(), {})
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError(f"it is nested more than {DEPTH} levels deep") from error
    finally:
        loader.dispose()


def is_storable(text: str) -> bool:
    """Return whether a text has no null bytes, and UTF-8 has bytes for all of it."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def dump_yaml(content: Any) -> str:
    """Return plain data as one line of YAML that every reader of YAML understands alike."""
    text: str = yaml.dump(content, Dumper=Dumper, default_flow_style=True, width=1 << 30, allow_unicode=True)
    return text.strip()


def dump_yaml_lines(content: Any) -> str:
    """Return plain data as YAML to read and to edit, one entry per line, which every reader understands alike."""
    text: str = yaml.dump(content, Dumper=Dumper, default_flow_style=False, sort_keys=False, allow_unicode=True)
    return text


def _measure(node: yaml.Node, above: set[int], known: dict[int, int], depth: int = 0) -> int:
    """Return how many values a node holds, with aliases expanded."""
    if id(node) in above:
        raise _fault("an alias stands inside what it stands for", node)
    if depth > DEPTH:
        raise _fault(f"it is nested more than {DEPTH} levels deep", node)
    if isinstance(node, yaml.ScalarNode):
        if not is_storable(node.value):
            raise _fault("expected a text in UTF-8, without null bytes", node)
        return 1
    if id(node) not in known:
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        inside = above | {id(node)}
        size = 1 + sum(_measure(child, inside, known, depth + 1) for child in children)
        if size > SIZE:
            raise _fault(f"it holds more than {SIZE} values, aliases written out", node)
        known[id(node)] = size
    return known[id(node)]


def _fault(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _reason(error: BaseException) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {' '.join(str(problem).split())}"
    return " ".join(str(error).split()) or type(error).__name__


def check_text(key: str, text: str) -> None:
    """Refuse a text that no file can hold.

    Args:
        key: where it stands.
        text: what stands there.

    Raises:
        RecipeError: if it holds null bytes, or what UTF-8 has no bytes for.
    """
    if not is_storable(text):
        raise RecipeError(f"{key}: expected a text in UTF-8, without null bytes, got {text!r}")
