"""Tables of results, printed and written to docs/results with their command."""

import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

RESULTS = Path(os.environ.get("GTN_RESULTS") or Path(__file__).resolve().parent.parent / "docs" / "results")
"""Where reports are written; trials set the variable to another folder."""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def heat_map(axes: Axes, values: torch.Tensor, rows: Sequence[str], columns: Sequence[str], bright: float) -> AxesImage:
    """Draw values in %, ``[rows, columns]``, with their numbers, in black if above ``bright``."""
    shown = axes.imshow(values.numpy(), cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            color = "black" if value > bright else "white"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color)
    return shown


def write_report(name: str, title: str, body: str, note: str = "") -> None:
    """Print a report and write it to ``docs/results/<name>.md``, with date, command and machine."""
    _write(name, f"# {title}\n\n{body}\n\n{note + chr(10) + chr(10) if note else ''}{_made()}\n")


def write_sections(name: str, title: str, sections: Mapping[str, str], note: str) -> None:
    """Print sections of a report and write them to ``docs/results/<name>.md``, each with date, command and machine.

    Sections of the file that are not given, those of earlier commands, stay as they are.

    Args:
        name: of the report.
        title: its heading.
        sections: their texts by heading; new ones are added at the end.
        note: explains all of them.
    """
    path = RESULTS / f"{name}.md"
    _, *parts = path.read_text(encoding="utf-8").split("\n## ") if path.exists() else [""]
    kept = {heading: text.strip() for heading, _, text in (part.partition("\n") for part in parts)}
    kept |= {heading: f"{text}\n\n{_made()}" for heading, text in sections.items()}
    _write(
        name, "\n\n".join([f"# {title}", note, *(f"## {heading}\n\n{text}" for heading, text in kept.items())]) + "\n"
    )


def _write(name: str, text: str) -> None:
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")


def _made() -> str:
    module = Path(sys.argv[0]).with_suffix("")
    if module.name == "__main__":  # of a package
        module = module.parent
    command = f"python -m {module.parent.name}.{module.name} {shlex.join(sys.argv[1:])}".strip()
    device = f"one {torch.cuda.get_device_name()} and " if torch.cuda.is_available() else ""
    return (
        f"Made on {time.strftime('%Y-%m-%d')} by `{command}` on {device}{os.cpu_count()} CPU cores "
        f"({platform.machine()}), "
        f"torch {torch.__version__}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}."
    )
