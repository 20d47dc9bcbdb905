"""Private names of Lightning, jsonargparse and OmegaConf that the command line uses, each with the reason.

None of them has a public counterpart in the versions that setup.cfg allows. `tests/cli/test_upstream_privates.py` fails
if one of them disappears or no longer does what it is used for. Methods that `gtn_lightning.cli.app.GTNCLI` overrides
have to keep their names and are in `OVERRIDDEN`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jsonargparse
from jsonargparse import set_parsing_settings
from jsonargparse._common import ImportDenied as ImportDenied
from jsonargparse._common import parsing_settings
from jsonargparse._parameter_resolvers import ParamData, get_signature_parameters
from jsonargparse._util import import_object
from omegaconf.basecontainer import BaseContainer
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher

from gtn_lightning.lightning import pl

OVERRIDDEN = ("_parse_ckpt_path", "_prepare_subcommand_kwargs", "_run_subcommand")
"""Methods of LightningCLI that have no public hook in their place: for what a checkpoint says about the recipe, for the
arguments of the trainer's method, and around the run itself."""

CHECKPOINT_CONNECTOR = "pytorch_lightning.trainer.connectors.checkpoint_connector"
"""The module in which Lightning restores a checkpoint: its errors there have no class of their own."""


def parameters_of(component: Any) -> list[ParamData]:
    """Return the parameters of a class's constructor, those that it passes on to base classes included.

    `inspect.signature` knows nothing of what ``**kwargs`` stands for; the parser does.
    """
    return [each for each in get_signature_parameters(component, logger=False) if each.kind is not None]


def import_allowed(path: str) -> Any:
    """Import what a dotted path names, as the parser does and under its policy (`imports_limited_to`).

    Raises:
        ImportDenied: if the policy does not allow it; nothing is imported then.
        ImportError: if there is no such module.
        AttributeError: if the module has no such name.
        ValueError: if the path is no dotted name.
    """
    return import_object(path)


@contextmanager
def imports_limited_to(paths: Sequence[str]) -> Iterator[None]:
    """Let the parser import only what lies under some paths within a block; jsonargparse cannot take a policy back."""
    before = dict(parsing_settings)
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(paths))
    try:
        yield
    finally:
        parsing_settings.update(before)


@contextmanager
def without_resolvers() -> Iterator[None]:
    """Let references lead to values of the recipe alone within a block; OmegaConf can clear its resolvers for good."""
    before = BaseContainer._resolvers
    BaseContainer._resolvers = {}
    try:
        yield
    finally:
        BaseContainer._resolvers = before


def ignore_files(parser: jsonargparse.ArgumentParser) -> None:
    """Let a parser and its subcommands take texts for values alone, never for the names of files to read.

    ``sub_configs`` of jsonargparse says so, but Lightning and ``add_subclass_arguments`` switch it on by themselves.
    """
    for action in parser._actions:
        if getattr(action, "_enable_path", False):
            action._enable_path = False  # type: ignore[attr-defined]
        if isinstance(kwargs := getattr(action, "sub_add_kwargs", None), dict):
            kwargs["sub_configs"] = False
        choices = action.choices
        for inner in choices.values() if isinstance(choices, dict) else ():
            if isinstance(inner, jsonargparse.ArgumentParser):
                ignore_files(inner)


def starts_workers(trainer: pl.Trainer) -> bool:
    """Return whether a trainer's strategy forks or spawns its processes. What does has no public mark."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def child_processes(trainer: pl.Trainer) -> _SubprocessScriptLauncher | None:
    """Return what starts a trainer's other processes by running the command again, None if nothing does."""
    launcher = trainer.strategy.launcher
    return launcher if isinstance(launcher, _SubprocessScriptLauncher) else None


def handle_signals_by(trainer: pl.Trainer, register: Callable[[Callable[[int, Any], None], int, Any], None]) -> None:
    """Have a function decide about the signal handlers that Lightning sets, which it does without asking.

    Args:
        trainer: the trainer.
        register: takes Lightning's way to set a handler, the signal's number and the handler.
    """
    connector = trainer._signal_connector
    original = type(connector)._register_signal
    connector._register_signal = lambda number, handler: register(original, number, handler)  # type: ignore


def batches_done(trainer: pl.Trainer) -> int:
    """Return how many batches a trainer has trained on, those before it went on from a checkpoint included.

    ``global_step`` does not count those of which Lightning has accumulated the gradient.
    """
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.completed)
