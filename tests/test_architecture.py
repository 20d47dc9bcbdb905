"""Imports run one way: every part imports parts that stand above it in the table of docs/architecture.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "gtn_lightning"


def parts() -> list[str]:
    """The parts in the order of the table, such as ``files`` and ``inner_loop``."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = re.findall(r"^\| `(?:gtn_lightning/)?([\w/]+?)(?:\.py|/)` \|", text, re.MULTILINE)
    return [path.rpartition("/")[2] for path in paths]


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package with the part that it belongs to."""
    for path in sorted(ROOT.glob(f"{PACKAGE}/*")):
        if path.suffix == ".py" and path.stem not in ("__init__", "__main__"):
            yield path.stem, path
        elif path.is_dir():
            yield from ((path.name, module) for module in path.rglob("*.py"))
    for folder in ("callbacks", "recipes"):
        yield from ((folder, module) for module in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The parts that a module imports, also where only types are wanted or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            yield from ("module" if name == "GTN" else name for name in names if name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
            yield (node.module or "").split(".")[1]
        else:
            yield from (name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}."))


def test_the_table_names_every_part() -> None:
    assert sorted(parts()) == sorted({part for part, _ in modules()})


def test_imports_run_one_way() -> None:
    order = {part: place for place, part in enumerate(parts())}
    wrong = {
        f"{path.relative_to(ROOT)} imports {other}"
        for part, path in modules()
        for other in imported(path)
        if order[other] > order[part]
    }
    assert wrong == set()
