"""The examples that use the inner loop alone, as their first lines say to run them, for fewer steps."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score

from gtn_lightning.inner_loop import SGD

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def printed(example: str, meta_steps: int, *more: str) -> str:
    command = [sys.executable, str(EXAMPLES / example), "--meta-steps", str(meta_steps), *more]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_learned_rates_beat_the_best_constant_one() -> None:
    output = printed("learned_rates.py", 60)
    constant, learned = (float(value) for value in re.findall(r"test accuracy ([\d.]+)", output))
    assert learned > constant + 0.03
    assert len(re.findall(r"\d\.\d\d", output.split("learned rates:")[1].splitlines()[0])) == 20


@pytest.mark.slow
def test_maml_adapts_in_a_few_steps() -> None:
    output = printed("maml_sinusoid.py", 150)
    joint, maml = ([float(value) for value in re.findall(r"([\d.]+) after", line)] for line in output.splitlines()[1:3])
    assert maml[2] < 0.7 * maml[0]  # five steps help
    assert maml[2] < 0.8 * joint[2]  # and more than after training on all tasks at once


def test_wrong_labels_are_found_by_the_meta_gradient_as_by_retraining() -> None:
    spec = importlib.util.spec_from_file_location("mislabeled_digits", EXAMPLES / "mislabeled_digits.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    training = example.Training(0, SGD(lr=0.3, momentum=0.0))
    gradient = training.meta_gradient()
    assert roc_auc_score(training.wrong, gradient) > 0.95
    without = torch.ones(41, len(gradient))
    without[torch.arange(40), torch.arange(40)] = 0
    losses = training.clean_losses(without)
    assert torch.corrcoef(torch.stack([gradient[:40], losses[-1] - losses[:-1]]))[0, 1] > 0.98


@pytest.mark.slow
def test_strengths_of_augmentation_are_learned() -> None:
    output = printed("learned_augmentation.py", 15, "--seeds", "1", "--networks", "2")
    scores = dict(re.findall(r"^(.*): ([\d.]+) and", output, re.MULTILINE))
    assert len(scores) == 6
    assert float(scores["learned"]) > float(scores["0 times the guess"]) + 2
    assert float(scores["learned"]) > float(scores["1 times the guess"]) + 2


def test_the_code_of_the_page_on_ones_own_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (EXAMPLES.parent / "own_loop.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    exec("\n".join(blocks), {})
    assert "True (" in capsys.readouterr().out


def test_they_need_nothing_but_the_inner_loop() -> None:
    for example in EXAMPLES.glob("*.py"):
        imported = re.findall(r"^from (gtn_lightning[\w.]*)", example.read_text(), re.MULTILINE)
        assert imported == ["gtn_lightning.inner_loop"]


def test_the_inner_loop_needs_torch_alone() -> None:
    program = "import sys; import gtn_lightning.inner_loop; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"pytorch_lightning", "torchmetrics", "wandb", "matplotlib", "scipy", "datasets", "omegaconf"}
    own = {name for name in done.stdout.split() if name.startswith("gtn_lightning.")}
    assert {name.split(".")[1] for name in own} == {"inner_loop", "errors"}
