"""Run folders, the recipe that is kept in them, and the checkpoints."""

import hashlib
import itertools
import json
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning.cli import SaveConfigCallback

from gtn_lightning.callbacks.writing import unless_unwritable
from gtn_lightning.cli.upstream_privates import batches_done
from gtn_lightning.errors import RecipeError, one_line
from gtn_lightning.files import is_file, whole_file
from gtn_lightning.lightning import pl, rank_zero_only
from gtn_lightning.meta_training.checkpoints import CheckpointError, UnreadableError, read_whole

RUN_FOLDER = "GTN_RUN_FOLDER"
"""Environment variable by which the processes that DDP starts learn the run folder."""


class RunFolder:
    """A folder that belongs to one run, also if several runs start at the same moment.

    The process of rank zero makes it, and takes another name if another run was faster. The other processes of the run
    get its name by `RUN_FOLDER`, or write nothing.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._made: list[Path] = []

    def claim(self, base: Path) -> Path:
        """Return a new folder in ``base``, named after the time, or after the job under SLURM.

        A requeued job finds the folder again that the same command had before, and in it what Lightning saved.

        Args:
            base: the folder of runs.

        Raises:
            OSError: if it cannot be made.
        """
        inherited = os.environ.get(RUN_FOLDER)
        if inherited and "LOCAL_RANK" in os.environ:
            return Path(inherited)
        job = os.environ.get("SLURM_JOB_ID")
        # Several runs of one job differ in their commands.
        command = hashlib.sha256("\0".join(sys.argv[1:]).encode("utf-8", "surrogateescape")).hexdigest()[:8]
        name = f"slurm-{job}-{command}" if job else time.strftime("%Y%m%d-%H%M%S")
        requeued = job is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        if getattr(rank_zero_only, "rank", 0) != 0 or (requeued and (base / name).is_dir()):
            return base / name
        above = [folder for folder in (base, *base.parents) if not folder.exists()]
        base.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = base / (name if number == 1 else f"{name}-{number}")
            with suppress(FileExistsError):
                folder.mkdir()
                break
        self.path, self._made = folder, above
        os.environ[RUN_FOLDER] = str(folder)
        return folder

    def discard(self) -> None:
        """Remove the folder with all that is in it, and those above it that were made for it."""
        if self.path is None:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in self._made:
            with suppress(OSError):  # it holds another run
                folder.rmdir()
        self.path = None

    def discard_if_empty(self) -> None:
        """Remove the folder if no file is in it."""
        if self.path is not None and not any(path.is_file() for path in self.path.rglob("*")):
            self.discard()


class RecipeCallback(SaveConfigCallback):
    """Write the recipe, as it was resolved, to the run folder and to the loggers.

    It is the recipe as the user gave it, with interpolation and overrides applied, so that ``--config`` takes it again.
    What the command line adds, such as the run folder, is not in it.
    """

    def __init__(self, *args: Any, recipe: Namespace, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = recipe
        self.began_with: int | None = None
        """How many batches were trained on before this run, which may go on from a checkpoint; None until it starts."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where this run begins."""
        self.began_with = batches_done(trainer)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write ``recipe.yaml`` and log the hyperparameters; called on rank zero."""
        folder = Path(trainer.default_root_dir)
        stage = getattr(stage, "value", stage)  # an enumeration outside of fit
        name = "recipe.yaml" if stage == "fit" else f"recipe-{stage}.yaml"
        # The parser's own `save` writes in the locale's encoding, and leaves half a file if it fails.
        text = self.parser.dump(self.config, skip_unset=False)
        with unless_unwritable(trainer, name), whole_file(folder / name) as part:
            part.write_text(text, encoding="utf-8")
        values = json.loads(self.parser.dump(self.config, format="json", skip_unset=False))
        for logger in trainer.loggers:
            with unless_unwritable(trainer, f"the log of {type(logger).__name__}"):
                logger.log_hyperparams(
                    {key: values[key] for key in ("model", "data", "seed_everything") if key in values}
                )


def newest_checkpoint(base: Path) -> Path:
    """Return the checkpoint of the latest run in a folder of runs."""
    found = sorted(base.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RecipeError(
            f"--ckpt_path last: there is no checkpoint under {base}; give the path of one, or start without"
        )
    return found[-1]


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint before anything is made.

    Args:
        path: the checkpoint.

    Raises:
        RecipeError: if there is no such file, or it is no checkpoint or a damaged one.
        OSError: if it cannot be read.
    """
    if not is_file(Path(path)):
        raise RecipeError(f"--ckpt_path {path}: there is no such file; give the path of a checkpoint, or last")
    try:
        return read_whole(path)
    except UnreadableError as error:
        raise RecipeError(
            f"--ckpt_path {path}: is no complete checkpoint ({error}); give one that `gtn fit` wrote "
            "(a teacher file goes to --teacher)"
        ) from error
    except CheckpointError as error:
        raise refused_checkpoint(path, one_line(error)) from error


def refused_checkpoint(path: str, reason: str) -> RecipeError:
    """Return the error for a checkpoint from which no run can go on.

    Args:
        path: the checkpoint.
        reason: what is wrong with it.
    """
    return RecipeError(
        f"--ckpt_path {path}: {reason}; give another checkpoint, or begin from teacher.safetensors with --teacher"
    )
