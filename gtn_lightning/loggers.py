"""Loggers: W&B that neither stops nor delays a run, CSV tables that lose no row, TensorBoard."""

import configparser
import csv
import os
from pathlib import Path
from typing import Any

import wandb

from gtn_lightning.errors import RecipeError
from gtn_lightning.files import UnwritableError, whole_file
from gtn_lightning.lightning import loggers, rank_zero_experiment, rank_zero_warn, save_hparams_to_yaml
from gtn_lightning.lightning_internals import has_started, set_experiment, wandb_arguments

OFFLINE = ("offline", "dryrun")
"""W&B's names of the mode that logs to this machine only."""


class WandbLogger(loggers.WandbLogger):
    """Lightning's W&B logger, offline unless the user is logged in.

    ``WANDB_MODE`` is respected if it is set. If the server cannot be reached, the run is logged offline, with a
    warning; if it fails later, the run waits for it at its end for a limited time. ``wandb sync`` uploads the rest.

    The environment, the user's own settings (``wandb login``) and the arguments below decide which server receives the
    key and the data. W&B also reads a file ``wandb/settings`` in the working folder, which may come from another
    person. This logger ignores it, with a warning, except for ``mode = offline``, which ``wandb offline`` writes.

    Args:
        project: the W&B project; None for that of ``WANDB_PROJECT``, or ``gtn-lightning``.
        save_dir: where the ``wandb`` folder goes.
        init_timeout: seconds to wait for the server before going offline.
        finish_timeout: seconds to wait at the end of the run for the server to receive the rest; everything is on the
            disk by then.
        settings: W&B's own settings, as ``wandb.Settings`` or as a dictionary of some of them. They override
            this logger's: the two timeouts above, ``console="off"`` and ``silent=True``. ``WANDB_CONSOLE`` and
            ``WANDB_SILENT`` also change the last two.
        kwargs: other arguments of Lightning's logger, such as ``name``, ``tags``, ``group`` or ``entity``.

    Raises:
        RecipeError: if a setting is unknown or has a wrong value; from ``experiment``, if ``wandb/settings`` cannot be
            read.
    """

    def __init__(
        self,
        project: str | None = None,
        save_dir: str = ".",
        init_timeout: float = 30.0,
        finish_timeout: float = 300.0,
        settings: Any = None,  # Any: the parser would write a typed value to the recipe in full, with W&B's key
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
        # Lightning's other name for the folder; save_dir would override it.
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
            # A key that the server rejects raises one of these as well.
            rank_zero_warn(
                f"the W&B server cannot be reached ({' '.join(str(error).split())}); this run is logged offline, "
                "`wandb sync` uploads it"
            )
            wandb_arguments(self)["mode"] = "offline"
            return super().experiment


def leave_out_folder_settings() -> None:
    """Undo the settings that W&B has read from a file in the working folder, with a warning.

    Such a file may name the server, a proxy, headers, or files to read and upload. Settings of the environment, of the
    user's own settings file and of ``wandb.setup`` are kept, and so is ``mode = offline``, by which a user of the
    folder has excluded uploads.

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
    # W&B searches the file below the root folder, which is empty here.
    without = wandb.Settings(silent=True, root_dir=os.devnull)
    for settings in (with_folder, without):
        # In W&B's own order, in which the environment overrides the files.
        settings.settings_system = in_force.settings_system
        settings.update_from_system_settings()
        settings.update_from_env_vars(dict(os.environ))
        settings.update_from_system_environment()
    undone = [
        name
        for name in wandb.Settings.model_fields
        if name not in ("root_dir", "anonymous")
        and getattr(with_folder, name) != getattr(without, name)
        and not (name == "mode" and with_folder.mode in OFFLINE)
    ]
    for name in undone:
        if getattr(in_force, name) == getattr(with_folder, name):
            setattr(in_force, name, getattr(without, name))
    if undone:
        rank_zero_warn(
            f"{file} may come from another person and is not used; it would change {', '.join(undone)}. Set what you "
            f"want to keep in the environment, as in WANDB_BASE_URL or WANDB_ENTITY, or in {in_force.settings_system}"
        )


class CSVLogger(loggers.CSVLogger):
    """Lightning's CSV logger, which loses no row if a file cannot be written.

    Lightning's rewrites ``metrics.csv`` whenever a new metric appears, and deletes that of an earlier run in the
    folder, such as a requeued job's. Here a row that cannot be written is kept for the next time and earlier rows stay.
    A run that finds a ``metrics.csv`` appends to it. The arguments are Lightning's.

    Raises:
        OSError: in ``log_metrics``, ``save`` and ``finalize``, if the file cannot be written.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the writer of the files, creating it at first use."""
        if not has_started(self):
            set_experiment(self, MetricsFile(Path(self.log_dir)))
        return super().experiment

    def finalize(self, status: str) -> None:
        """Write the remaining rows; an error of writing does not hide one that ended the run."""
        try:
            super().finalize(status)
        except (OSError, UnwritableError) as error:
            if status == "success":
                raise
            rank_zero_warn(f"the last rows of {Path(self.log_dir) / METRICS} are lost: {' '.join(str(error).split())}")


METRICS = "metrics.csv"
"""The table of `CSVLogger`."""


class MetricsFile:
    """Rows of metrics, for ``metrics.csv``, and hyperparameters, for ``hparams.yaml``.

    Args:
        folder: the folder of the files; it is created.

    Raises:
        OSError: if it cannot be created.
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
