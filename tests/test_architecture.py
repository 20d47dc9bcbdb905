"""Imports run one way, and private names of torch are used in one module."""

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
    for folder in ("callbacks", "recipes", "zoo"):
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


def private_names(path: Path) -> Iterator[str]:
    """The private names of torch that a module imports or reads as attributes of ``torch`` or ``nn``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "torch"]
        elif isinstance(node, ast.Attribute) and ast.unparse(node).split(".")[0] in ("torch", "nn", "_aten"):
            names = [ast.unparse(node)]
        else:
            continue
        yield from (name for name in names if any(part.startswith("_") for part in name.split(".")[1:]))


def test_private_names_of_torch_are_used_in_one_module() -> None:
    internals = ROOT / PACKAGE / "inner_loop" / "torch_internals.py"
    assert list(private_names(internals))
    used = {
        f"{path.relative_to(ROOT)}: {name}"
        for part, path in modules()
        if part in ("inner_loop", "meta_training", "description", "loggers", "callbacks") and path != internals
        for name in private_names(path)
    }
    assert used == set()
