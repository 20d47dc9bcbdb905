"""The documentation site: every page is reachable, every link leads to a file, and marked commands work."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gtn_lightning.cli.front_door import COMMAND_HELP

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not path.is_relative_to(DOCS / "site"))
MARKED = re.compile(r"<!-- tested: (\w+) -->\n```(\w*)\n(.*?)```", re.DOTALL)
"""How a block is tested, its language, its text."""


def module(name: str) -> Any:
    """A module of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


LINKS = module("links")


def in_navigation(entries: Any) -> Iterator[str]:
    """The paths of a navigation."""
    if isinstance(entries, str):
        yield entries
        return
    for entry in entries.values() if isinstance(entries, dict) else entries:
        yield from in_navigation(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = list(in_navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    notebooks = [f"notebooks/{path.stem}.md" for path in DOCS.glob("notebooks/*.ipynb")]
    pages = [path.relative_to(DOCS).as_posix() for path in PAGES]
    assert sorted(navigation) == sorted([*pages, *notebooks, *LINKS.PAGES.values()])


def test_relative_links_lead_to_files() -> None:
    sources = [*PAGES, *(ROOT / name for name in ("README.md", *LINKS.PAGES))]
    missing = {
        f"{path.relative_to(ROOT)}: {target}"
        for path in sources
        for target in LINKS.targets(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
        if not (ROOT / target).exists()
    }
    assert missing == set()


def test_a_page_links_only_to_what_the_site_shows() -> None:
    for source, page in [("SECURITY.md", "security.md"), *((f"docs/{p.relative_to(DOCS)}", None) for p in PAGES)]:
        page = page or source.removeprefix("docs/")
        text = LINKS.rewritten((ROOT / source).read_text(encoding="utf-8"), source, page, ROOT)
        for target in LINKS.targets(text, f"docs/{page}"):
            assert target.startswith("docs/"), f"{source} links to {target}"


@pytest.mark.parametrize(
    ("source", "page", "link", "shown"),
    [
        ("docs/agents.md", "agents.md", "[a](../recipes/README.md#x)", "[a](recipes.md#x)"),
        ("docs/results/rl.md", "results/rl.md", "[a](../../SECURITY.md)", "[a](../security.md)"),
        ("recipes/README.md", "recipes.md", "[a](../docs/results/rl.md)", "[a](results/rl.md)"),
        ("CONTRIBUTING.md", "contributing.md", "[parts](tests/examples)", "parts (`tests/examples`)"),
        ("docs/agents.md", "agents.md", "[a](https://arxiv.org)", "[a](https://arxiv.org)"),
        ("docs/agents.md", "agents.md", "[a](missing.py)", "[a](missing.py)"),
        ("docs/agents.md", "agents.md", "```\n[a](../SECURITY.md)\n```", "```\n[a](../SECURITY.md)\n```"),
    ],
)
def test_links_are_rewritten(source: str, page: str, link: str, shown: str) -> None:
    assert LINKS.rewritten(link, source, page, ROOT) == shown


def test_no_page_needs_the_web() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert config["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css", "repo_url"} & config.keys()
    for path in PAGES:
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(img|script|iframe)", path.read_text(encoding="utf-8")), path


def test_every_command_has_its_help_in_the_reference() -> None:
    assert "<!-- the help of every command -->" in (DOCS / "reference" / "commands.md").read_text()
    assert {"fit", "test", "predict", "search"} <= COMMAND_HELP.keys()
