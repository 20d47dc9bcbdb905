"""The result of a search as a table, as files and as a picture."""

import csv
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gtn_lightning.files import whole_file
from gtn_lightning.nas.proxies import Cost, Scorer
from gtn_lightning.nas.search.candidates import Candidate
from gtn_lightning.nas.spaces import Architecture

SHOWN = 10
"""Number of candidates in the printed table."""


@dataclass(frozen=True)
class TrainedGroup:
    """A group of architectures that were trained in full."""

    name: str
    accuracies: dict[Architecture, list[float]]
    """Test accuracies of each architecture, one per seed."""
    candidates: int
    """Number of candidates from which the group was chosen."""

    def means(self) -> list[float]:
        """Return the mean accuracy of each architecture."""
        return [statistics.fmean(values) for values in self.accuracies.values()]


def write_leaderboard(
    folder: Path,
    board: Sequence[Candidate],
    trained: Sequence[TrainedGroup],
    spent: Cost,
    scorer: Scorer,
    console: Console,
    table: str | None = None,
) -> None:
    """Print the best, and write all of it to ``leaderboard.csv``, ``leaderboard.json`` and ``leaderboard.png``.

    Args:
        folder: the folder of the files.
        board: the candidates, the best first.
        trained: the groups that were trained in full, empty before any was.
        spent: what the scores cost altogether.
        scorer: the source of the scores.
        console: prints the table.
        table: the file that has the accuracies of those trained in full; None if they were trained.
    """
    full = {name: values for group in trained for name, values in group.accuracies.items()}
    with whole_file(folder / "leaderboard.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["rank", "architecture", "score", "pruned", "seconds", "test_accuracy"])
        for rank, candidate in enumerate(board, start=1):
            accuracy = statistics.fmean(full[candidate.architecture]) if candidate.architecture in full else ""
            row = [rank, candidate.architecture.name, candidate.value, int(candidate.pruned), candidate.cost.seconds]
            writer.writerow([*row, accuracy])
    content = {
        "proxy": scorer.name,
        "spent": asdict(spent),
        "overhead": asdict(scorer.overhead()),
        "leaderboard": [{**vars(c), "architecture": c.architecture.name, "cost": asdict(c.cost)} for c in board],
        "trained": [{**vars(g), "accuracies": {str(one): a for one, a in g.accuracies.items()}} for g in trained],
    }
    with whole_file(folder / "leaderboard.json") as part:
        part.write_text(json.dumps(_with_texts(content), indent=1), encoding="utf-8")
    canvas = FigureCanvasAgg(draw_leaderboard(board, trained, scorer.name))
    with whole_file(folder / "leaderboard.png") as part:
        canvas.print_png(str(part))
    if trained:
        console.print(_trained_table(trained, spent, table))
        # Chosen by its score: the test split is not used to choose.
        found = next((candidate.architecture for candidate in board if candidate.architecture in full), None)
        if found is not None:
            accuracy = 100 * statistics.fmean(full[found])
            among = "" if table is None else f" among those in {table}"
            console.print(
                f"found: {found}, the best by {scorer.name}{among}, {accuracy:.2f} % on the test split",
                soft_wrap=True,
                markup=False,
            )
    else:
        console.print(_board_table(board, scorer.name))


def _with_texts(content: Any) -> Any:
    """Return plain data with numbers that JSON does not have as texts, such as ``"nan"``."""
    if isinstance(content, dict):
        return {key: _with_texts(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_texts(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def _board_table(board: Sequence[Candidate], proxy: str) -> Table:
    table = Table(title=f"the best of {len(board)} candidates by {escape(proxy)}", title_justify="left")
    for column, justify in (("rank", "right"), ("architecture", "left"), ("score", "right"), ("seconds", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for rank, candidate in enumerate(board[:SHOWN], start=1):
        pruned = " (pruned)" if candidate.pruned else ""
        table.add_row(
            str(rank),
            escape(candidate.architecture.name),
            f"{candidate.value:.4g}{pruned}",
            f"{candidate.cost.seconds:.2g}",
        )
    return table


def _trained_table(trained: Sequence[TrainedGroup], spent: Cost, file: str | None) -> Table:
    seeds = len(next(iter(trained[0].accuracies.values())))
    title = f"trained in full, {seeds} seeds each" if file is None else f"accuracies of {escape(file)}"
    table = Table(title=f"{title}; the search took {spent.seconds:.0f} seconds", title_justify="left")
    table.add_column("group")
    for column in ("of", "mean accuracy", "best"):
        table.add_column(column, justify="right", no_wrap=True)
    for group in trained:
        means = group.means()
        spread = f" ± {100 * statistics.stdev(means):.2f}" if len(means) > 1 else ""
        table.add_row(
            escape(group.name),
            str(group.candidates),
            f"{100 * statistics.fmean(means):.2f}{spread} %",
            f"{100 * max(means):.2f} %",
        )
    return table


def draw_leaderboard(board: Sequence[Candidate], trained: Sequence[TrainedGroup], proxy: str) -> Figure:
    """Draw the candidates' scores by rank, and beside them the accuracies of those trained in full."""
    figure = Figure(figsize=(9, 4) if trained else (5, 4), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2 if trained else 1, squeeze=False)[0]
    values = [c.value if math.isfinite(c.value) else math.nan for c in board]
    axes[0].plot(range(1, len(board) + 1), values, ".", color="C0")
    axes[0].set_xlabel("rank")
    axes[0].set_ylabel(f"score by {proxy}")
    axes[0].set_title(f"{len(board)} candidates")
    axes[0].grid(alpha=0.3)
    if trained:
        for row, group in enumerate(trained):
            for values in group.accuracies.values():
                axes[1].plot([100 * v for v in values], [row] * len(values), "o", color=f"C{row}", alpha=0.6)
            axes[1].plot([100 * statistics.fmean(group.means())], [row], "|", color="black", markersize=24)
        axes[1].set_yticks(range(len(trained)), [group.name.replace(" by ", "\nby ") for group in trained])
        axes[1].set_ylim(len(trained) - 0.5, -0.5)
        axes[1].set_xlabel("test accuracy in %, every training; lines: means")
        axes[1].grid(axis="x", alpha=0.3)
    return figure
