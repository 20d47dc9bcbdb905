"""What the recipes of the paper's experiments have reached: a table of runs of ``gtn fit`` and ``gtn test``.

Unfinished runs are in it, with the meta-steps that they have taken. ``benchmarks/gpu.sh`` makes the runs.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from benchmarks.report import markdown_table, write_report


def main() -> None:
    """Read the runs, write a JSON file beside each, and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="default_root_dir of a recipe's runs, named after it")
    options = parser.parse_args()
    rows = []
    for folder in options.folders:
        if any(folder.glob("*/metrics.csv")):
            found = reached(folder)
            folder.with_suffix(".json").write_text(json.dumps(found), encoding="utf-8")
            rows.append([folder.name, *_shown(found)])
    if not rows:
        raise SystemExit(f"no run has logged anything in {', '.join(map(str, options.folders))}")
    write_report(
        "paper",
        "The paper's experiments",
        markdown_table(["recipe", "meta-steps", "seconds of a meta-step", "split", "accuracy", "real data"], rows),
        "Accuracy of never-seen learners taught by the best teacher, mean and standard deviation, and of the same "
        "learners after as many steps of real data at the best of several rates. The test split if the run has ended, "
        "else the best validation so far. Seed 0.",
    )


def reached(folder: Path) -> dict[str, Any]:
    """Return what a recipe's run folders say: meta-steps, median seconds of one, and the accuracies of a split.

    A run that goes on from a checkpoint has a folder of its own.
    """
    rows = [row for path in sorted(folder.glob("*/metrics.csv")) for row in _rows(path)]
    seconds = sorted(float(row["time/meta_step"]) for row in rows if row.get("time/meta_step"))
    found: dict[str, Any] = {
        "meta_steps": max(int(row["step"]) for row in rows) + 1,
        "seconds": seconds[len(seconds) // 2] if seconds else None,
        "split": None,
    }
    tests = sorted(folder.glob("*/test/*/metrics.csv"))
    split = "test" if tests else "val"
    scored = [row for row in (_rows(tests[-1]) if tests else rows) if row.get(f"{split}/accuracy")]
    if scored:
        best = max(scored, key=lambda row: float(row[f"{split}/accuracy"]))
        names = ("accuracy", "accuracy_std", "accuracy_real", "accuracy_real_std")
        values = {name: float(best[f"{split}/{name}"]) for name in names if best.get(f"{split}/{name}")}
        found |= {"split": split, **values}
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _shown(found: dict[str, Any]) -> list[str]:
    def percent(name: str) -> str:
        spread = f" ± {100 * found[f'{name}_std']:.1f}" if f"{name}_std" in found else ""
        return f"{100 * found[name]:.1f}{spread} %" if name in found else ""

    seconds = "" if found["seconds"] is None else f"{found['seconds']:.2f}"
    return [str(found["meta_steps"]), seconds, found["split"] or "", percent("accuracy"), percent("accuracy_real")]


if __name__ == "__main__":
    main()
