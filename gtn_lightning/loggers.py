"""Loggers as recipes want them: W&B that never stands in the way of a run, and TensorBoard by one override."""

import os
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning import loggers
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_warn

from gtn_lightning.errors import RecipeError


class WandbLogger(loggers.WandbLogger):
    """Lightning's W&B logger, offline unless the user is logged in.

    ``WANDB_MODE`` is honoured where it is set. A server that cannot be reached turns the run into an offline one,
    with a warning; one that fails later keeps no run waiting for longer than a while at its end. ``wandb sync`` uploads
    what is missing.

    Which server gets the key and the data is said by the environment, by the user's own settings (``wandb login``) and
    by the arguments below. W&B also reads a file ``wandb/settings`` in the working folder, which may come from anybody;
    this logger leaves out what it says, with a warning.

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
        RecipeError: if there is no such setting, or it has no such value.
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
        # Lightning passes it on always, and W&B warns of it always.
        self._wandb_init.pop("anonymous", None)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the W&B run, starting it at first use."""
        if self._experiment is None:
            leave_out_folder_settings()
            os.makedirs(self.save_dir or ".", exist_ok=True)
        try:
            if self._experiment is None and "WANDB_MODE" not in os.environ and not wandb.login(prompt=False):
                self._wandb_init["mode"] = "offline"
            return super().experiment
        except (wandb.errors.Error, TimeoutError) as error:
            # A key that the server does not take is among these: no reason to lose a run either.
            rank_zero_warn(
                f"the W&B server cannot be reached ({' '.join(str(error).split())}); this run is logged offline, "
                "`wandb sync` uploads it"
            )
            self._wandb_init["mode"] = "offline"
            return super().experiment


def leave_out_folder_settings() -> None:
    """Take back what W&B has read from a settings file in the working folder, and warn of it.

    Such a file may name the server, a proxy, headers, or files to read and upload. Settings from elsewhere stay: those
    of the environment, of the user's own settings file, and what a program has set by ``wandb.setup``.
    """
    with_folder = wandb.Settings(silent=True)
    file = Path(with_folder.settings_workspace)
    if not file.exists():
        return
    in_force = wandb.setup().settings
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
        if name not in ("root_dir", "anonymous") and getattr(with_folder, name) != getattr(without, name)
    ]
    for name in taken_back:
        if getattr(in_force, name) == getattr(with_folder, name):
            setattr(in_force, name, getattr(without, name))
    if taken_back:
        rank_zero_warn(
            f"{file} may come from anybody and is not used; it would change {', '.join(taken_back)}. Set what you want "
            f"to keep in the environment, as in WANDB_BASE_URL or WANDB_ENTITY, or in {in_force.settings_system}"
        )


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Lightning's TensorBoard logger, which writes to ``tensorboard/`` in the run folder.

    ``gtn fit --config digits --trainer.logger+=gtn_lightning.loggers.TensorBoardLogger`` adds it to a recipe's
    loggers; with ``=`` in place of ``+=`` it takes their place.

    Args:
        save_dir: where the ``tensorboard`` folder goes; the command line puts the run folder here.
    """

    def __init__(self, save_dir: str = ".") -> None:
        super().__init__(save_dir, name="", version="tensorboard")
