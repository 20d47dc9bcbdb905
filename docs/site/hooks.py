"""Hooks of MkDocs: pages from files outside docs/, notebooks, the command line's help, and the check of addresses."""

import os
import re
from pathlib import Path
from typing import Any

from links import PAGES, rewritten
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebooks import page_of

from gtn_lightning.cli.front_door import COMMAND_HELP, DATA_HELP, answer

ROOT = Path(__file__).parents[2]
HELP = "<!-- the help of every command -->"
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?https?:"""
    r"""|<link\b[^>]*\bhref=["']?https?:[^>]*>"""
)
KEPT = re.compile(r"""rel=["']?(?:canonical|prev|next)""")
"""Links in the head that no browser fetches."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of docs/ has."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    execute = os.environ.get("NOTEBOOKS", "true") != "false"
    for path in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        made = page_of(path, execute)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=made.text))
        for name, picture in made.pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links, and print the command line's help."""
    path = page.file.src_uri
    sources = {inside: source for source, inside in PAGES.items()}
    if not path.startswith("notebooks/"):
        markdown = rewritten(markdown, sources.get(path, f"docs/{path}"), path, ROOT)
    return markdown.replace(HELP, "\n\n".join(map(_help, [None, *COMMAND_HELP, *DATA_HELP])))


def _help(command: str | None) -> str:
    name = "gtn" if command is None else f"gtn {command}"
    text = answer(["--help"] if command is None else [command, "--help"])
    return f"## {name}\n\n```text\n{str(text).rstrip()}\n```"


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would fetch something from the web."""
    fetched: list[Any] = [match.group() for match in FETCHED.finditer(output) if not KEPT.search(match.group())]
    if fetched:
        raise PluginError(f"{page.file.src_uri} fetches from the web: {fetched[0]}")
    return output
