"""What the README says is true: its program works, its figures are those of the table of recipes."""

import re
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 120
    assert len(SNIPPETS) == 1  # the program that composes a GTN is in docs/start.md


def test_its_figures_are_those_of_the_table_of_recipes() -> None:
    uses = re.search(r"## Four uses\n(.*?)\n## ", README, flags=re.DOTALL)
    assert uses is not None
    rows = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    figures = re.findall(r"\d+\.\d(?: ± \d\.\d)? %|\d+ to \d+ of \d+", uses.group(1))
    assert len(figures) >= 7
    assert [figure for figure in figures if figure not in rows] == []


def test_the_inner_loop_by_itself() -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {
        "F": nn.functional,
        "network": nn.Linear(3, 2),
        "batches": [(torch.randn(4, 3, requires_grad=True), torch.randint(2, (4,))) for _ in range(3)],
        "validation_batch": (torch.randn(5, 3), torch.randint(2, (5,))),
    }
    exec(SNIPPETS[0], names)
    rate = names["optimizer"].logs["lr"]  # type: ignore[attr-defined]
    assert rate.grad.abs() > 0
    assert names["batches"][0][0].grad.abs().sum() > 0  # type: ignore[index]
