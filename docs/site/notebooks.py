"""Notebooks as pages: their cells, and what these print and draw when the site is built."""

import base64
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import nbformat
from nbclient import NotebookClient

SECONDS = 120
"""How long a cell may take."""


class NotebookPage(NamedTuple):
    """A notebook as Markdown."""

    text: str
    """The page."""
    pictures: dict[str, bytes]
    """Its pictures, by the name of their file beside the page."""


def page_of(path: Path, execute: bool) -> NotebookPage:
    """Return a notebook as a page.

    Args:
        path: the notebook, stored without outputs.
        execute: whether to run it, in an empty folder and without W&B; an error in a cell is raised.
    """
    notebook = nbformat.read(path, as_version=4)
    note = f"Download: [{path.name}]({path.name})."
    if execute:
        os.environ["WANDB_MODE"] = "disabled"
        # The kernel warns that its messages are not encrypted; they do not leave this machine.
        arguments = ["--Application.log_level=ERROR"]
        with TemporaryDirectory() as folder:
            resources = {"metadata": {"path": folder}}
            NotebookClient(notebook, timeout=SECONDS, resources=resources, extra_arguments=arguments).execute()
    else:
        note += " It was not run when this page was built."
    parts, pictures = [], {}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for place, output in enumerate(cell.outputs):
            picture = f"{path.stem}-{number}-{place}.png"
            text, drawn = _shown(output)
            if drawn is not None:
                pictures[picture] = drawn
                parts.append(f"![Output of the cell above]({picture})")
            elif text:
                parts.append(f"```text\n{text.rstrip()}\n```")
    heading, _, rest = "\n\n".join(parts).partition("\n")
    return NotebookPage(f"{heading}\n\n{note}\n{rest}\n", pictures)


def _shown(output: Any) -> tuple[str, bytes | None]:
    """Return what a cell printed or drew; what it wrote to stderr, such as progress bars, is left out."""
    if output.output_type == "stream":
        return (output.text if output.name == "stdout" else ""), None
    data = output.get("data", {})
    if "image/png" in data:
        return "", base64.b64decode(data["image/png"])
    return data.get("text/plain", ""), None
