"""Tables of results: printed, and kept under docs/results with the command that made them."""

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_report(name: str, title: str, body: str, note: str = "") -> None:
    """Print a report and write it to ``docs/results/<name>.md``, with date, command and machine."""
    command = f"python -m {Path(sys.argv[0]).parent.name}.{Path(sys.argv[0]).stem} {shlex.join(sys.argv[1:])}".strip()
    text = (
        f"# {title}\n\n{body}\n\n{note + chr(10) + chr(10) if note else ''}"
        f"Made on {time.strftime('%Y-%m-%d')} by `{command}` on {os.cpu_count()} CPU cores ({platform.machine()}), "
        f"torch {torch.__version__}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}.\n"
    )
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
