"""The progress bar, on a terminal and in a log file."""

import re

from gtn_lightning.callbacks import MetaProgressBar
from gtn_lightning.data import DigitsData


def test_a_log_file_gets_one_line_per_validation(run):
    lines = [line for line in run.printed.splitlines() if line.startswith("meta-step")]
    assert len(lines) == 2  # none for the sanity check
    for line, step in zip(lines, (3, 6), strict=True):
        assert re.fullmatch(rf"meta-step {step}/6  loss \d+\.\d+  val 0\.\d+  0:00:\d\d elapsed  0:0\d:\d\d left", line)
    assert "\x1b" not in run.printed


def test_a_terminal_gets_one_bar_over_all_meta_steps(make_gtn, make_trainer, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    trainer = make_trainer([MetaProgressBar()])
    trainer.fit(make_gtn(), DigitsData(batch_size=64))
    printed = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    frames = [frame.rstrip() for frame in re.split(r"[\r\n]", printed) if frame.strip()]
    assert all(frame.startswith(("meta-steps", "validating")) for frame in frames), frames
    assert all(len(frame) <= 80 for frame in frames)
    assert any(frame.startswith("validating") and " 3/6 " in frame for frame in frames), frames
    assert re.search(r"meta-steps .* 6/6 .* loss: \d\.\d+ val: 0\.\d+$", frames[-1])


def test_a_resumed_run_goes_on_where_it_was(make_gtn, make_trainer, tmp_path, capsys):
    gtn, data = make_gtn(evaluation={"learners": 1}), DigitsData(batch_size=64)
    trainer = make_trainer([])
    trainer.fit(gtn, data)
    trainer.save_checkpoint(tmp_path / "at_6.ckpt")
    make_trainer([MetaProgressBar()], max_steps=9).fit(gtn, data, ckpt_path=tmp_path / "at_6.ckpt")
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["9/9"]
