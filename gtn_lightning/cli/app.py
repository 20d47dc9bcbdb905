"""The command line: ``gtn fit | validate | test | predict | search | recipes``.

It is a LightningCLI: everything about its options and recipes works as LightningCLI users expect. Added are recipes
by name, teacher files, one folder per run, and errors of one line.

Only errors that a user can cause become one line; an error of the package's own, or of a user's own class, keeps its
traceback.
"""

import json
import os
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import wandb
import yaml
from jsonargparse import ArgumentError, Namespace, set_parsing_settings
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import distributed

from gtn_lightning.callbacks.writing import unless_unwritable
from gtn_lightning.cli.front_door import NOTES, refuse, show_traceback
from gtn_lightning.cli.messages import (
    check_arguments,
    check_values,
    components,
    explained,
    is_lightnings,
    is_of_callback,
    is_out_of_memory,
    is_own_code,
    is_restoring,
    made_in,
    reject_nulls,
    wanted_memory,
)
from gtn_lightning.cli.quiet import quiet
from gtn_lightning.cli.recipes import (
    COMMANDS,
    SEARCH,
    SUBCOMMANDS,
    Command,
    CommandLine,
)
from gtn_lightning.cli.runs import RunFolder, newest_checkpoint, read_checkpoint, refused_checkpoint
from gtn_lightning.cli.safe_points import SafePoints, shield_children
from gtn_lightning.cli.search import search
from gtn_lightning.cli.shared_values import fill_in
from gtn_lightning.cli.signals import InterruptedBySignal, Signals
from gtn_lightning.cli.teacher_recipe import with_teacher_recipe
from gtn_lightning.cli.trust import Policy, ignore_files, policy_for
from gtn_lightning.cli.working_folder import check_inside, shielded_programs
from gtn_lightning.description import changed_kinds
from gtn_lightning.errors import RecipeError, first_line, one_line
from gtn_lightning.files import UnwritableError, whole_file
from gtn_lightning.inner_loop import InnerLoopError
from gtn_lightning.meta_training.checkpoints import CheckpointError
from gtn_lightning.module import GTN
from gtn_lightning.teacher_file import TeacherRecipe, check_sizes, load_weights, read_shapes
from gtn_lightning.trust import trusting

OUT_OF_MEMORY = (
    "out of memory; less is needed with fewer model.inner_loop.steps, with model.inner_loop.segment, with "
    "model.inner_loop.mode=remat, or with a smaller model.population or batch_size"
)

PROCESSES_PER_CORE = 4
"""How many processes of a run a CPU core may be asked to carry."""

USER_ERRORS = (RecipeError, InnerLoopError, MisconfigurationException, OSError)
"""What a user can cause at any time. Anything else in the middle of a run is a bug and keeps its traceback."""


LOST_PROCESS = re.compile(
    r"Connection (closed|reset) by (remote )?peer|gloo|NCCL|ProcessGroup|failed to recv|Broken pipe", re.IGNORECASE
)
"""What torch's process groups say when a process at the other end has ended."""


# A value of no declared type is a value, and no class to make; no recipe is read from an address.
set_parsing_settings(instantiate_subclass_spec_in_any=False, config_read_mode_fsspec_enabled=False)


class EndedRunError(Exception):
    """A run that ended before its time.

    Args:
        what: what happened, for the user.
        checkpoint: the checkpoint to go on from, or empty.
        code: the exit code.
    """

    def __init__(self, what: str, checkpoint: str, code: int) -> None:
        super().__init__(what)
        self.what = what
        self.checkpoint = checkpoint
        self.code = code


class RecipeCallback(SaveConfigCallback):
    """Write the recipe, as it was resolved, to the run folder and to the loggers.

    It is the recipe as the user gave it, interpolation and overrides applied, so that ``--config`` takes it again; the
    run folder and what else the command line puts into it are not.
    """

    def __init__(self, *args: Any, recipe: Namespace, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = recipe
        self.began_with: int | None = None
        """How many batches the run that goes on had trained on, or None before the first of this one."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember where this run began."""
        self.began_with = trainer.fit_loop.epoch_loop.batch_progress.total.completed

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write ``recipe.yaml`` and log the hyperparameters; called on rank zero."""
        folder = Path(trainer.default_root_dir)
        stage = getattr(stage, "value", stage)  # an enumeration outside of fit
        name = "recipe.yaml" if stage == "fit" else f"recipe-{stage}.yaml"
        # Not by the parser's own `save`, which writes in the locale's encoding and cuts an earlier file short.
        text = self.parser.dump(self.config, skip_unset=False)
        with unless_unwritable(trainer, name), whole_file(folder / name) as part:
            part.write_text(text, encoding="utf-8")
        values = json.loads(self.parser.dump(self.config, format="json", skip_unset=False))
        for logger in trainer.loggers:
            with unless_unwritable(trainer, f"the log of {type(logger).__name__}"):
                logger.log_hyperparams(
                    {key: values[key] for key in ("model", "data", "seed_everything") if key in values}
                )


class GTNCLI(LightningCLI):
    """LightningCLI for ``GTN`` and any data module."""

    def __init__(
        self, line: CommandLine, policy: Policy, signals: Signals, teacher: TeacherRecipe | None = None
    ) -> None:
        self._signals = signals
        self._folder = RunFolder()
        self._line = line
        self._policy = policy
        self._teacher = teacher
        # Abbreviated keys would let a misspelt one pass for another.
        options = {"exit_on_error": False, "parser_mode": "omegaconf+", "allow_abbrev": False, "epilog": NOTES}
        self._checkpoint: dict[str, Any] | None = None
        try:
            self._start(line, options)
        finally:
            self._folder.discard_if_empty()

    def _start(self, line: CommandLine, options: dict[str, Any]) -> None:
        super().__init__(
            GTN,
            pl.LightningDataModule,
            subclass_mode_data=True,
            seed_everything_default=0,
            parser_kwargs=dict.fromkeys(self.subcommands(), options) | options | {"prog": "gtn"},
            trainer_defaults={"callbacks": SafePoints(self._signals)},
            save_config_callback=RecipeCallback,
            save_config_kwargs={"save_to_log_dir": False},
            args=line.arguments(inline=self._policy.classes is not None),
            auto_configure_optimizers=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # not static: it depends on the command
        """Return the commands to make parsers of, which takes a while: the one that is given, or all."""
        known = super().subcommands()
        return {name: skipped for name, skipped in known.items() if [name] == self._line.command} or known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options for teacher files and for recipes that build on others."""
        parser.add_argument(
            "--teacher",
            type=str | None,
            default=None,
            help="A teacher file (teacher.safetensors) to start from; validate, test and predict take its recipe too.",
        )
        parser.add_argument(
            "--extends",
            type=str | None,
            default=None,
            help="In a recipe: the recipe (a packaged one's name, or a path) that it changes.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, turning what the parser says about wrong input into one line."""
        if self._policy.classes is not None:
            ignore_files(parser)
        try:
            super().parse_arguments(parser, args)
        except yaml.representer.RepresenterError as error:
            raise RecipeError(
                f"an argument that is left out is {error.args[-1]!r} by default, which no recipe can hold: give it as "
                "text"
            ) from error
        except (ArgumentError, OmegaConfBaseException, ValueError, TypeError) as error:
            command = args[0] if args and args[0] in SUBCOMMANDS else None
            keys = [action.dest for action in self._parser(command)._actions]
            raise RecipeError(
                explained(str(getattr(error, "message", None) or error), keys, self._line.given())
            ) from error
        config = self.config.get(self.config.get("subcommand") or "")
        if config is None:
            return
        values = config.as_dict()
        self._policy.check(values)
        check_values(values)
        check_arguments(values)
        reject_nulls(values, {"model": GTN})
        if config.model.inner_loop.steps < 1:
            # Before the curriculum, which would name its own argument.
            raise RecipeError(f"model.inner_loop.steps must be at least 1, got {config.model.inner_loop.steps}")
        seed = config.seed_everything
        if seed is not None and not 0 <= seed < 2**32:
            raise RecipeError(f"seed_everything must lie between 0 and {2**32 - 1}; got {seed}")
        if config.trainer.val_check_interval == 0:
            raise RecipeError(
                "trainer.val_check_interval must be above 0; to validate never: trainer.limit_val_batches=0"
            )
        _reject_crowd(config.trainer)
        if config.ckpt_path == "last":
            config.ckpt_path = str(newest_checkpoint(Path(config.trainer.default_root_dir or "runs")))
            if self._policy.strict:
                check_inside("ckpt_path", config.ckpt_path)
        if config.weights_only is False:
            raise RecipeError("weights_only: expected true, got false: a checkpoint is read without running code in it")
        if config.ckpt_path is not None:
            self._checkpoint = read_checkpoint(config.ckpt_path)
            if config.ckpt_path.startswith("http"):  # for Lightning an address
                config.ckpt_path = os.path.join(os.curdir, config.ckpt_path)

    def _parse_ckpt_path(self) -> None:
        # Lightning's own takes what a checkpoint holds as "hyper_parameters" for a recipe, which it may not be: it
        # names classes and files. A GTN is what its recipe says.
        pass

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and point the loggers at it."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        fill_in(config.model)
        recipe = config.clone()
        recipe.config = recipe.extends = None  # all that they said is in the recipe by now
        self.save_config_kwargs["recipe"] = recipe
        base = config.trainer.default_root_dir or "runs"
        folder = self._folder.claim(Path(base))
        config.trainer.default_root_dir = str(folder)
        if config.trainer.enable_progress_bar is not False:
            # Not in the recipes: Lightning refuses a bar that is named while bars are switched off.
            bar = Namespace(class_path="gtn_lightning.callbacks.MetaProgressBar", init_args=Namespace())
            config.trainer.callbacks = [*(config.trainer.callbacks or []), bar]
        entries = config.trainer.logger
        for entry in entries if isinstance(entries, list) else [entries]:
            arguments = getattr(entry, "init_args", None)
            if arguments is not None and arguments.get("save_dir") in (base, "."):
                arguments.save_dir = str(folder)
            is_wandb = str(getattr(entry, "class_path", "")).endswith("WandbLogger")
            if is_wandb and arguments is not None and arguments.get("name") is None and "WANDB_NAME" not in os.environ:
                arguments.name = f"{Path(base).name} {folder.name}"

    def instantiate_classes(self) -> None:
        """Instantiate, naming the key of whatever a component refuses."""
        try:
            super().instantiate_classes()
        except (ValueError, ImportError, MisconfigurationException) as error:
            # Constructors refuse what cannot work, some because an extra is not installed. What one says stands behind
            # the parser's account of the types that would have been allowed.
            told: BaseException = error
            while "Union subtypes" in str(told) and (behind := told.__cause__ or told.__context__):
                told = behind
            raise RecipeError(self._with_key(one_line(told))) from error
        except Exception as error:
            refusal = None if is_own_code(error) else self._cannot_be_made(error)
            if refusal is None:
                raise
            raise refusal from error

    def after_instantiate_classes(self) -> None:
        """Load the teacher file's weights, and see that a checkpoint belongs to the model."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        if isinstance(self.trainer.strategy.launcher, _MultiProcessingLauncher):
            raise RecipeError(
                "trainer.strategy: expected one whose processes can save the run on a signal, got one that forks or "
                "spawns them: use ddp"
            )
        if config.teacher is not None:
            if self._teacher is not None:
                self._check_kinds(self._teacher.model, config.teacher)
            load_weights(self.model, config.teacher)
        if self._checkpoint is not None:
            trainer = self.trainer if self.subcommand == "fit" else None
            try:
                self.model.check_checkpoint(self._checkpoint, trainer, config.ckpt_path)
            except CheckpointError as error:
                raise refused_checkpoint(config.ckpt_path, one_line(error)) from error
            except Exception as error:
                if isinstance(error, USER_ERRORS) or is_out_of_memory(error) or is_own_code(error):
                    raise
                raise refused_checkpoint(config.ckpt_path, f"{type(error).__name__}: {first_line(error)}") from error
            self._checkpoint = None

    def _check_kinds(self, written: dict[str, Any], path: str) -> None:
        """See that the parser has made of a teacher file's recipe what the file says."""
        place = next(changed_kinds(written, self.model.description(), "model"), None)
        if place is not None:
            raise RecipeError(
                f"{path}: {place} is of another kind in the file than the command line makes of it, which goes by the "
                "constructor's annotations: annotate the argument with its type, or load the file by GTN.from_teacher"
            )

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        own = arguments.get("datamodule")
        if subcommand == "predict" and own is not None and not is_overridden("predict_dataloader", own):
            # What is predicted is synthetic data; a data module without a loader for it is the rule.
            del arguments["datamodule"]
        return arguments

    def _run_subcommand(self, subcommand: str) -> None:
        folder = Path(self.trainer.default_root_dir)
        config = self.config[subcommand]
        if subcommand != "fit" and config.teacher is None and config.ckpt_path is None:
            rank_zero_warn(f"gtn {subcommand} without --teacher or --ckpt_path: the teacher is not meta-trained")
        shield_children(self.trainer, self._signals)
        try:
            super()._run_subcommand(subcommand)
            self._signals.release()
        except BaseException as error:
            self._signals.hold()  # what follows is the last
            last = folder / "checkpoints" / "last.ckpt"
            told = self._signals.received is not None
            refusal = None if told else self._refused_checkpoint(error)
            if refusal is not None or (not last.exists() and self._took_no_step()):
                # A faulty recipe leaves nothing behind, also if the fault shows only with the data at hand.
                self._finish_wandb(exit_code=1)
                self._folder.discard()
            if refusal is not None:
                raise refusal from error
            if (
                isinstance(error, Exception)
                and not isinstance(error, USER_ERRORS)
                and not told
                and self._took_no_step()
            ):
                # Learners are made when the data is at hand; Lightning looks at some options no earlier than that.
                refusal = None if is_own_code(error) else self._cannot_be_made(error)
                if refusal is not None:
                    raise refusal from error
            checkpoint = str(last) if last.exists() else ""
            if told:
                assert self._signals.received is not None
                # Whatever it became on its way; other processes may also have ended first.
                interruption = InterruptedBySignal(self._signals.received)
                raise EndedRunError(interruption.ending, checkpoint, interruption.code) from None
            # Lightning turns a Ctrl-C that is raised by something else into exit(1).
            if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
                raise EndedRunError("interrupted", checkpoint, 130) from None
            if isinstance(error, ValueError) and not isinstance(error, RecipeError) and is_lightnings(error):
                raise RecipeError(f"trainer: {one_line(error).lstrip('` ')}") from error
            if isinstance(error, RuntimeError) and is_of_callback(error):
                raise EndedRunError(f"error: trainer.callbacks: {one_line(error)}", checkpoint, 2) from error
            if self.trainer.world_size > 1 and isinstance(error, RuntimeError) and LOST_PROCESS.search(str(error)):
                what = f"error: another process of this run has ended, its own output says why ({first_line(error)})"
                raise EndedRunError(what, checkpoint, 1) from error
            if isinstance(error, Exception) and is_out_of_memory(error):
                raise EndedRunError(f"error: {OUT_OF_MEMORY} ({wanted_memory(error)})", checkpoint, 1) from error
            if isinstance(error, OSError | UnwritableError) and subcommand == "fit" and not self._took_no_step():
                raise EndedRunError(f"error: {one_line(error)}", checkpoint, 2) from error
            raise
        finally:
            self._signals.hold()
            # Another run of this process must not go on in this one's W&B run, nor with its environment.
            self._finish_wandb()
            # Lightning destroys NCCL's group alone. Gloo's threads, left running, may abort a process at its exit.
            if distributed.is_initialized() and distributed.get_backend() == "gloo":
                distributed.destroy_process_group()

    def _finish_wandb(self, exit_code: int | None = None) -> None:
        """End the W&B run, which is no reason to lose what the run has come to, nor to stay when told to end."""
        try:
            with self._signals.soon():
                wandb.finish(exit_code=exit_code)
        except (Exception, InterruptedBySignal) as error:
            rank_zero_warn(f"the log of W&B is not complete: {one_line(error)}")
        if exit_code is None:
            with suppress(Exception, InterruptedBySignal), self._signals.soon():
                wandb.teardown()

    def _took_no_step(self) -> bool:
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        callback = next((entry for entry in callbacks if isinstance(entry, RecipeCallback)), None)
        began_with = 0 if callback is None else callback.began_with
        return began_with in (None, self.trainer.fit_loop.epoch_loop.batch_progress.total.completed)

    def _refused_checkpoint(self, error: BaseException) -> RecipeError | None:
        """Return what to say if the checkpoint is to blame for an error; None if it is not."""
        path = self.config[self.subcommand].ckpt_path
        if path is None or not isinstance(error, Exception):
            return None
        if isinstance(error, CheckpointError):
            return refused_checkpoint(path, one_line(error))
        if isinstance(error, USER_ERRORS) or is_out_of_memory(error) or is_own_code(error):
            return None
        if self.trainer.world_size > 1 and LOST_PROCESS.search(str(error)):
            return None
        # What no check of the checkpoint has found shows while it is restored, or in the first meta-step.
        if is_restoring(error) or (self.subcommand == "fit" and self._took_no_step()):
            return refused_checkpoint(path, f"{type(error).__name__}: {first_line(error)}")
        return None

    def _cannot_be_made(self, error: Exception) -> RecipeError | None:
        """Return what to say of an error that one of the recipe's components was made with; None if it was not."""
        key = made_in(error, self.config[self.subcommand].as_dict())
        if key is None:
            return None
        if is_out_of_memory(error):
            return RecipeError(f"{key}: there is not so much memory ({wanted_memory(error)}): lower it")
        kind = "" if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: "
        return RecipeError(f"{key}: {kind}{first_line(error)}; correct the value")

    def _with_key(self, message: str) -> str:
        """Put the key of the component that a message begins with before it."""
        name = message.partition(":")[0].partition(".")[0]
        values = self.config[self.subcommand].as_dict() if self.subcommand else {}
        key = next((key for key, path, _ in components(values) if path.rpartition(".")[2] == name), None)
        return f"{key}.init_args: {message}" if key else message


def run(command: Command, signals: Signals) -> int:
    """Run a command; see `gtn_lightning.cli.main`.

    Args:
        command: the command.
        signals: what makes exceptions of signals.

    Returns:
        The exit code.
    """
    given = shlex.join(["gtn", *command.given])
    name = next((word for word in command.given if word in COMMANDS), None)  # options may stand before it
    try:
        with quiet():
            _run(command, signals)
    except EndedRunError as end:
        show_traceback()
        if end.checkpoint:
            kept = f"{end.checkpoint} is kept, go on with: {given} {shlex.join(['--ckpt_path', end.checkpoint])}"
        else:
            kept = "nothing was kept" if name == "fit" else f"run it again: {given}"
        if signals.received is None or signals.speaks:  # one process says for all that they were told to end
            print(f"gtn: {end.what}; {kept}", file=sys.stderr)
        return end.code
    except (Exception, InterruptedBySignal) as error:
        if signals.received is not None:
            # A library that was cut may make an error of its own of that.
            interruption = InterruptedBySignal(signals.received)
            if name != SEARCH:
                raise interruption from None
            print(f"gtn: {interruption.ending}; what is scored is kept, go on with: {given}", file=sys.stderr)
            return interruption.code
        if not isinstance(error, USER_ERRORS):
            raise
        return refuse(error)
    return 0


def _run(command: Command, signals: Signals) -> None:
    if command.threads is not None or "OMP_NUM_THREADS" not in os.environ:
        # Small learners gain little by more, and lose much where other programs want the cores: torch's threads wait
        # for each other at every operator, and they wait busily (docs/results/threads.md).
        torch.set_num_threads(command.threads or 1)
    with trusting(*command.trust), shielded_programs():
        line, teacher = with_teacher_recipe(command.line, command.trust)
        policy = policy_for(line, teacher, command.strict, command.trust)
        if teacher is not None:
            path = line.recipes[0].path
            check_sizes(teacher.model, read_shapes(path), str(path), teacher.trust)
        with policy.enforced():
            if line.command == [SEARCH]:
                search(line, policy)
            else:
                GTNCLI(line, policy, signals, teacher)


def _reject_crowd(trainer: Namespace) -> None:
    """Refuse more processes on CPU cores than could do any good: they are all started before anything goes wrong."""
    devices = trainer.devices
    if isinstance(devices, str) and devices.isdecimal():
        devices = int(devices)
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.accelerator.is_available())
    most = PROCESSES_PER_CORE * (os.cpu_count() or 1)
    if on_cpu and isinstance(devices, int) and devices > most:
        raise RecipeError(
            f"trainer.devices must be at most {most} on the CPU of this machine, {PROCESSES_PER_CORE} processes for "
            f"every core; got {devices}: one per core is fastest"
        )
