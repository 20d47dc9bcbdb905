"""What is printed at the end."""

import re

from gtn_lightning.callbacks import RunSummary
from gtn_lightning.data import DigitsData


def test_fit_ends_with_the_result_and_the_run_folder(run):
    lines = run.printed.splitlines()
    assert "accuracy after 4 inner steps, validation split, 3 never-seen learners" in lines
    for kind, scores in (("synthetic", run.curve.synthetic), ("real", run.curve.baseline)):
        last = scores[:, -1]
        row = next(line for line in lines if line.strip().startswith(f"{kind} data"))
        numbers = [float(number) for number in re.findall(r"[\d.]+", row)]
        expected = [last.mean(), last.std(correction=0), last.min(), last.max()]
        assert numbers == [round(100 * float(value), 1) for value in expected]
    assert any(line.startswith("best val/accuracy: ") for line in lines)
    assert f"pictures: {run.folder / 'pictures'}" in lines
    assert f"teacher: {run.folder / 'teacher.safetensors'}" in lines
    assert f"view the run: wandb leet {run.wandb_folder}" in lines
    assert f"upload it: wandb sync {run.wandb_folder}" in lines
    assert lines[-1] == f"run folder: {run.folder}"


def test_test_ends_with_its_own_result(run):
    lines = run.test_printed.splitlines()
    assert "accuracy after 4 inner steps, test split, 3 never-seen learners" in lines
    assert not any(line.startswith("best") for line in lines)
    assert lines[-1] == f"run folder: {run.folder}"


def test_without_validation_or_loggers_there_is_still_a_run_folder(make_gtn, make_trainer, tmp_path, capsys):
    trainer = make_trainer([RunSummary()], max_steps=1, limit_val_batches=0)
    trainer.fit(make_gtn(), DigitsData(batch_size=64))
    assert capsys.readouterr().out.splitlines() == [f"run folder: {tmp_path}"]
