"""Loggers: W&B that never stops or delays a run, CSV tables that lose no row, TensorBoard."""

import configparser
import csv
import os
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning import loggers
from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_warn

from gtn_lightning.errors import RecipeError
from gtn_lightning.files import UnwritableError, whole_file
from gtn_lightning.lightning_internals import has_started, set_experiment, wandb_arguments

OFFLINE = ("offline", "dryrun")
"""W&B's names of the mode in which everything is logged and nothing leaves this machine."""


class WandbLogger(loggers.WandbLogger):
    """Lightning's W&B logger, offline unless the user is logged in.

    ``WANDB_MODE`` is honoured where it is set. A server that cannot be reached turns the run into an offline one,
    with a warning; one that fails later keeps no run waiting for longer than a while at its end. ``wandb sync`` uploads
    what is missing.

    Which server gets the key and the data is said by the environment, by the user's own settings (``wandb login``) and
    by the arguments below. W&B also reads a file ``wandb/settings`` in the working folder, which may come from anybody;
    this logger leaves out what it says, with a warning, except for ``mode = offline``, which the command ``wandb
    offline`` writes there.

    Args:
        project: the W&B project; None for that of ``WANDB_PROJECT``, or ``gtn-lightning``.
        save_dir: where the ``wandb`` folder goes.
        init_timeout: seconds to wait for the server before going offline.
        finish_timeout: seconds to wait at the end of the run for the server to take what it has not yet; everything is
            on the disk by then.
        settings: W&B's own settings, as ``wandb.Settings`` or as a dictionary of some of them. They stand above those
            that this logger chooses: the two waits above, ``console="off"`` and ``silent=True``, the last two of which
            ``WANDB_CONSOLE`` and ``WANDB_SILENT`` change too.
        kwargs: what else Lightning's logger takes, such as ``name``, ``tags``, ``group`` or ``entity``.

    Raises:
        RecipeError: if there is no such setting, or it has no such value; from ``experiment``, if ``wandb/settings``
            cannot be read.
    """

    def __init__(
        self,
        project: str | None = None,
        save_dir: str = ".",
        init_timeout: float = 30.0,
        finish_timeout: float = 300.0,
        settings: Any = None,  # of no type that a recipe's parser would write out in full, W&B's key with it
        **kwargs: Any,
    ) -> None:
        try:
            chosen = settings if isinstance(settings, wandb.Settings) else wandb.Settings(**(settings or {}))
        except (ValueError, TypeError) as error:
            raise RecipeError(f"WandbLogger.settings: {' '.join(str(error).split())}; correct the setting") from error
        merged = chosen.model_copy()
        own = {"init_timeout": init_timeout, "finish_timeout": finish_timeout, "console": "off", "silent": True}
        for name, value in own.items():
            if name not in chosen.model_fields_set and f"WANDB_{name.upper()}" not in os.environ:
                setattr(merged, name, value)
        project = project or os.environ.get("WANDB_PROJECT", "gtn-lightning")
        # Lightning's other name for the folder, over which it lets ours stand.
        save_dir = kwargs.pop("dir", None) or save_dir
        super().__init__(project=project, save_dir=save_dir, settings=merged, **kwargs)
        # Lightning always passes it, and W&B warns that it is deprecated.
        wandb_arguments(self).pop("anonymous", None)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the W&B run, starting it at first use."""
        is_new = not has_started(self)
        if is_new:
            leave_out_folder_settings()
            os.makedirs(self.save_dir or ".", exist_ok=True)
        try:
            if is_new and "WANDB_MODE" not in os.environ and not wandb.login(prompt=False):
                wandb_arguments(self)["mode"] = "offline"
            return super().experiment
        except (wandb.errors.Error, TimeoutError) as error:
            # A key that the server does not take is among these: no reason to lose a run either.
            rank_zero_warn(
                f"the W&B server cannot be reached ({' '.join(str(error).split())}); this run is logged offline, "
                "`wandb sync` uploads it"
            )
            wandb_arguments(self)["mode"] = "offline"
            return super().experiment


def leave_out_folder_settings() -> None:
    """Take back what W&B has read from a settings file in the working folder, and warn of it.

    Such a file may name the server, a proxy, headers, or files to read and upload. Settings from elsewhere stay: those
    of the environment, of the user's own settings file, and what a program has set by ``wandb.setup``. ``mode =
    offline`` stays as well: whoever has said so in a folder does not want its runs uploaded.

    Raises:
        RecipeError: if the file cannot be read.
    """
    with_folder = wandb.Settings(silent=True)
    file = Path(with_folder.settings_workspace)
    if not file.exists():
        return
    try:
        in_force = wandb.setup().settings
    except (ValueError, configparser.Error) as error:
        raise RecipeError(
            f"{file}: W&B cannot read it ({' '.join(str(error).split())}); correct or remove it"
        ) from error
    # W&B looks for the file below the root folder, and nothing lies below this one.
    without = wandb.Settings(silent=True, root_dir=os.devnull)
    for settings in (with_folder, without):
        # In the order of W&B itself, in which the environment stands above the files.
        settings.settings_system = in_force.settings_system
        settings.update_from_system_settings()
        settings.update_from_env_vars(dict(os.environ))
        settings.update_from_system_environment()
    taken_back = [
        name
        for name in wandb.Settings.model_fields
        if name not in ("root_dir", "anonymous")
        and getattr(with_folder, name) != getattr(without, name)
        and not (name == "mode" and with_folder.mode in OFFLINE)
    ]
    for name in taken_back:
        if getattr(in_force, name) == getattr(with_folder, name):
            setattr(in_force, name, getattr(without, name))
    if taken_back:
        rank_zero_warn(
            f"{file} may come from anybody and is not used; it would change {', '.join(taken_back)}. Set what you want "
            f"to keep in the environment, as in WANDB_BASE_URL or WANDB_ENTITY, or in {in_force.settings_system}"
        )


class CSVLogger(loggers.CSVLogger):
    """Lightning's CSV logger, which loses no row if a file cannot be written.

    Lightning's writes ``metrics.csv`` anew whenever a metric comes for the first time, and deletes that of an earlier
    run in the folder, such as a requeued job's. Here a row that cannot be written waits for the next time, the rows
    before it stay, and a run that finds a ``metrics.csv`` goes on with it. The arguments are Lightning's.

    Raises:
        OSError: in ``log_metrics``, ``save`` and ``finalize``, if the file cannot be written.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the writer of the files, making it at first use."""
        if not has_started(self):
            set_experiment(self, MetricsFile(Path(self.log_dir)))
        return super().experiment

    def finalize(self, status: str) -> None:
        """Write what is not written yet; an error that ended the run is not hidden by one of writing."""
        try:
            super().finalize(status)
        except (OSError, UnwritableError) as error:
            if status == "success":
                raise
            rank_zero_warn(f"the last rows of {Path(self.log_dir) / METRICS} are lost: {' '.join(str(error).split())}")


METRICS = "metrics.csv"
"""The table of `CSVLogger`."""


class MetricsFile:
    """Rows of metrics, on their way to ``metrics.csv``, and hyperparameters, to ``hparams.yaml``.

    Args:
        folder: where the files belong; it is made.

    Raises:
        OSError: if it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / METRICS
        self.metrics: list[dict[str, Any]] = []
        """Rows that are not written yet."""
        self.hparams: dict[str, Any] = {}
        self._header: list[str] = []

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Record hyperparameters and write all of them.

        Raises:
            UnwritableError: if the file cannot be written.
        """
        self.hparams.update(params)
        with whole_file(self.path.with_name("hparams.yaml")) as part:
            save_hparams_to_yaml(str(part), self.hparams)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Record a row."""
        row = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        self.metrics.append(row | {"step": len(self.metrics) if step is None else step})

    def save(self) -> None:
        """Write the rows that are not written yet.

        Raises:
            OSError, UnwritableError: if the file cannot be written; it stays as it was, and so do the rows.
        """
        if not self.metrics:
            return
        known = self.path.exists()
        if known and self._header and set().union(*self.metrics) <= set(self._header):
            size = self.path.stat().st_size
            try:
                with self.path.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self._header).writerows(self.metrics)
            except OSError:
                os.truncate(self.path, size)
                raise
        else:
            before = _rows(self.path) if known else []
            header = sorted(set().union(*before, *self.metrics))
            with whole_file(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, header)
                writer.writeheader()
                writer.writerows([*before, *self.metrics])
            self._header = header
        self.metrics = []


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the complete rows of a table: the last may have been cut short by a kill."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        whole = [line for line in file if line.endswith("\n")]
    return [{name: value for name, value in row.items() if name is not None} for row in csv.DictReader(whole)]


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Lightning's TensorBoard logger, which writes to ``tensorboard/`` in the run folder.

    ``gtn fit --config digits --trainer.logger+=gtn_lightning.loggers.TensorBoardLogger`` adds it to a recipe's
    loggers; with ``=`` in place of ``+=`` it takes their place.

    Args:
        save_dir: where the ``tensorboard`` folder goes; the command line puts the run folder here.
    """

    def __init__(self, save_dir: str = ".") -> None:
        super().__init__(save_dir, name="", version="tensorboard")
