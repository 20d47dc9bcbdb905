"""What the README says is true: its program works, its figures are those of the table of recipes."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gtn_lightning import replay
from gtn_lightning.distilled import write_distilled
from gtn_lightning.inner_loop import LARS
from tests.distilled.sets import small_set

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


def test_its_program_trains_a_network_without_this_package(tmp_path: Path) -> None:
    write_distilled(tmp_path / "synthetic.safetensors", small_set(LARS(0.1, 0.6)))
    program = (
        "import sys; sys.modules['gtn_lightning'] = None\n"
        "import torch; torch.manual_seed(0)\n"
        "net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))\n"
        f"{SNIPPETS[0]}\n"
        "print(float((net(data['inputs'][0]).argmax(1) == data['targets'][0].argmax(1)).float().mean()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["1.0"]
    # With the rates of the file, as gtn_lightning.replay does it.
    data, card = replay.load(str(tmp_path / "synthetic.safetensors"))
    names: dict[str, Any] = {}
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(16, 2)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    names["net"] = nets[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(SNIPPETS[0], names)
    replay.train(nets[1], data, card)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-3)
