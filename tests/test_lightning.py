"""Programs that import ``lightning`` instead of ``pytorch_lightning``."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys

import lightning as L
import torch

from gtn_lightning import GTN
from gtn_lightning import callbacks
from gtn_lightning.data import DigitsData
from gtn_lightning.loggers import CSVLogger
from gtn_lightning.nas import ConvNetGrid, FullTraining
from tests.tiny import make_gtn

gtn = make_gtn()
assert isinstance(gtn, L.LightningModule)
names = ("TeacherCheckpoint", "SampleGrid", "LearningCurve", "SyntheticData", "GradientNorm", "RunSummary")
ours = [getattr(callbacks, name)() for name in names]
quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": "run"}
trainer = L.Trainer(
    max_steps=2, val_check_interval=1, check_val_every_n_epoch=None, num_sanity_val_steps=0, log_every_n_steps=1,
    logger=CSVLogger("run", name="", version=""), callbacks=ours, **quiet,
)
data = DigitsData(32)
trainer.fit(gtn, data)
assert 0 <= float(trainer.callback_metrics["val/accuracy"]) <= 1
trainer.validate(gtn, data)
trainer.test(gtn, data)
trainer.predict(gtn, data)
again = GTN.load_from_checkpoint("run/checkpoints/last.ckpt")
assert again.description() == gtn.description()
GTN.from_teacher("run/teacher.safetensors")
L.Trainer(max_steps=4, callbacks=[callbacks.TeacherCheckpoint()], logger=False, **quiet).fit(
    make_gtn(), data, ckpt_path="run/checkpoints/last.ckpt"
)
grid = ConvNetGrid((1, 8, 8), 10, depths=[1])
(architecture,) = grid.draw(1, torch.Generator())
FullTraining(steps=2, batch_size=32).accuracy(grid, architecture, data, 0, torch.device("cpu"))
loaded = [name for name in sys.modules if name.split(".")[0] in ("pytorch_lightning", "lightning_fabric")]
assert not loaded, loaded[:5]
"""


def run(program: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_whole_run_with_lightning(tmp_path: Path) -> None:
    result = run(PROGRAM, tmp_path)
    assert result.returncode == 0, result.stderr
    for name in ("teacher.safetensors", "metrics.csv", "synthetic.safetensors", "pictures/samples.png"):
        assert (tmp_path / "run" / name).is_file(), name


def test_the_command_line_within_such_a_program_is_refused(tmp_path: Path) -> None:
    program = "import sys, lightning; from gtn_lightning.cli import main; sys.exit(main(['fit', '--config', 'digits']))"
    result = run(program, tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("gtn: error: gtn works with pytorch_lightning")
