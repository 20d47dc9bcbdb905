"""What the README says to type works."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_two_snippets() -> None:
    assert len(SNIPPETS) == 2


@pytest.mark.slow
def test_composing_a_gtn_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippet, replaced = re.subn(
        "max_steps=100, val_check_interval=50", "max_steps=2, val_check_interval=2", SNIPPETS[0]
    )
    assert replaced == 1
    names: dict[str, object] = {}
    exec(snippet, names)
    gtn = names["gtn"]
    assert isinstance(gtn, nn.Module)
    assert "test/accuracy" in names["trainer"].callback_metrics  # type: ignore[attr-defined]


def test_the_inner_loop_by_itself() -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {
        "F": nn.functional,
        "network": nn.Linear(3, 2),
        "batches": [(torch.randn(4, 3, requires_grad=True), torch.randint(2, (4,))) for _ in range(3)],
        "validation_batch": (torch.randn(5, 3), torch.randint(2, (5,))),
    }
    exec(SNIPPETS[1], names)
    rate = names["optimizer"].logs["lr"]  # type: ignore[attr-defined]
    assert rate.grad.abs() > 0
    assert names["batches"][0][0].grad.abs().sum() > 0  # type: ignore[index]
