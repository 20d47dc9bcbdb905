"""Loggers as recipes want them: W&B that never stands in the way of a run, and TensorBoard by one override."""

import configparser
import os
import tempfile
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning import loggers
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_warn

from gtn_lightning.errors import RecipeError

SENDS_NOTHING = ("offline", "dryrun", "disabled")
"""W&B's modes in which nothing leaves this machine."""

OF_THE_PROCESS = frozenset({"root_dir", "settings_system", "silent"})
"""W&B's settings that say nothing about a server or an account."""


class WandbLogger(loggers.WandbLogger):
    """Lightning's W&B logger, offline unless the user is logged in.

    ``WANDB_MODE`` is honoured if it is set. W&B's settings are those of the environment and of the user's own file,
    ``~/.config/wandb/settings``, where ``wandb login --host`` notes the server. A file ``wandb/settings`` in the
    working folder, which may have come with the folder, can only switch W&B off.

    A server that cannot be reached turns the run into an offline one, with a warning; one that fails later keeps no run
    waiting for longer than a while at its end. ``wandb sync`` uploads what is missing.

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
        # Lightning passes it on always, and W&B warns of it always.
        self._wandb_init.pop("anonymous", None)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the W&B run, starting it at first use."""
        if self._experiment is None:
            os.makedirs(self.save_dir or ".", exist_ok=True)
            forget_folder_settings()
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


def forget_folder_settings() -> None:
    """Set W&B's settings to what they would be without a file ``wandb/settings`` in the working folder.

    W&B puts what is in such a file above the user's own: the server that gets the key, proxies, the account. Whoever
    the folder comes from would decide on them. A ``mode`` that sends nothing is kept. What else the file says is named
    in a warning. Settings that a program has made itself, with ``wandb.setup``, are kept too.

    Raises:
        RecipeError: if the file cannot be read.
    """
    defaults = wandb.Settings()
    file = Path(defaults.settings_workspace)
    if not file.is_file():
        return
    try:
        parser = configparser.ConfigParser()
        parser.read(file, encoding="utf-8")
        said = dict(parser.items("default")) if parser.has_section("default") else {}
        # Loads them, if nothing has yet. Nobody is asked for anything.
        settings = wandb.setup().settings
    except (OSError, ValueError, configparser.Error) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{file}: cannot be read as W&B's settings ({reason}); correct or remove it") from error
    own = _settings_without_folder(settings.settings_system)
    ignored = []
    for name, value in _one_by_one(said).items():
        if name == "mode" and value in SENDS_NOTHING:
            continue
        if getattr(settings, name) == value != getattr(own, name):
            setattr(settings, name, getattr(own, name))
            ignored.append(name)
    # One value that cannot be, and W&B takes nothing from the user's own file either.
    for name in own.model_fields_set - OF_THE_PROCESS:
        if getattr(settings, name) == getattr(defaults, name) != getattr(own, name):
            setattr(settings, name, getattr(own, name))
    if ignored:
        rank_zero_warn(
            f"{file}: not used ({', '.join(ignored)}), because the file may have come with the folder; set in the "
            f"environment or in {settings.settings_system} what you want of it"
        )


def _settings_without_folder(system: str | None) -> wandb.Settings:
    """Return what W&B would take from the user's own file and the environment."""
    with tempfile.TemporaryDirectory() as empty:
        own = wandb.Settings(root_dir=empty, settings_system=system, silent=True)
        own.update_from_system_settings()
        own.update_from_env_vars(dict(os.environ))
        own.update_from_system_environment()
    return own


def _one_by_one(said: dict[str, str]) -> dict[str, Any]:
    """Return the settings in a file as W&B understands each, but those that it would not take."""
    understood: dict[str, Any] = {}
    for name, text in said.items():
        try:
            one = wandb.Settings(**{name: text})  # type: ignore[arg-type]
        except (ValueError, TypeError, wandb.errors.Error):
            continue
        understood |= {field: getattr(one, field) for field in one.model_fields_set - OF_THE_PROCESS}
    return understood


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Lightning's TensorBoard logger, which writes to ``tensorboard/`` in the run folder.

    ``gtn fit --config digits --trainer.logger+=gtn_lightning.loggers.TensorBoardLogger`` adds it to a recipe's
    loggers; with ``=`` in place of ``+=`` it takes their place.

    Args:
        save_dir: where the ``tensorboard`` folder goes; the command line puts the run folder here.
    """

    def __init__(self, save_dir: str = ".") -> None:
        super().__init__(save_dir, name="", version="tensorboard")
