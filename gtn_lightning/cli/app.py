"""``gtn fit | validate | test | predict``: a LightningCLI for `GTN`.

Everything about its options and recipes works as LightningCLI users expect. Added are recipes by name, teacher files,
one folder per run, and errors of one line.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
import wandb
import yaml
from jsonargparse import ArgumentError, Namespace, set_parsing_settings
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from torch import distributed

from gtn_lightning.cli.early_checks import KEYS
from gtn_lightning.cli.endings import FailedRun, checkpoint_refused, component_refused
from gtn_lightning.cli.faults import Section
from gtn_lightning.cli.front_door import NOTES
from gtn_lightning.cli.messages import causes, explained
from gtn_lightning.cli.parsed_recipe import check_recipe, check_run, check_unfinished, components
from gtn_lightning.cli.policy import Policy
from gtn_lightning.cli.recipes import CommandLine
from gtn_lightning.cli.runs import RecipeCallback, RunFolder, newest_checkpoint, read_checkpoint
from gtn_lightning.cli.safe_points import SafePoints, shield_children
from gtn_lightning.cli.shared_values import fill_in
from gtn_lightning.cli.signals import InterruptedBySignal, Signals
from gtn_lightning.cli.upstream_privates import batches_done, ignore_files, starts_workers
from gtn_lightning.cli.working_folder import check_inside
from gtn_lightning.description import changed_kinds
from gtn_lightning.errors import RecipeError, one_line
from gtn_lightning.lightning import MisconfigurationException, is_overridden, pl, rank_zero_warn
from gtn_lightning.module import GTN
from gtn_lightning.teacher_file import TeacherRecipe

# Nothing is made of a value that has no declared type, and no recipe is read from an address.
set_parsing_settings(instantiate_subclass_spec_in_any=False, config_read_mode_fsspec_enabled=False)

MatmulPrecision = Literal["highest", "high", "medium"]
"""What ``torch.set_float32_matmul_precision`` takes."""


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
        # With abbreviations, a misspelt key could be taken for another.
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
        """Return the commands that get a parser: the one that is given, or all. Making one takes a while."""
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
        parser.add_argument(
            "--matmul_precision",
            type=MatmulPrecision | None,
            default=None,
            help="Precision of float32 matrix products, see torch.set_float32_matmul_precision: high uses a GPU's TF32 "
            "units. Left as it is by default.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and report wrong input in one line."""
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
            raise RecipeError(explained(error, self._line.given(), self._keys())) from error
        config = self.config.get(self.config.get("subcommand") or "")
        if config is None:
            return
        values = config.as_dict()
        self._policy.check(values)
        check_recipe(values, {"model": GTN})
        check_run(config)
        if config.ckpt_path == "last":
            config.ckpt_path = str(newest_checkpoint(Path(config.trainer.default_root_dir or "runs")))
            if self._policy.strict:
                check_inside("ckpt_path", config.ckpt_path)
        if config.ckpt_path is not None:
            self._checkpoint = read_checkpoint(config.ckpt_path)
            if config.ckpt_path.startswith("http"):  # for Lightning an address
                config.ckpt_path = os.path.join(os.curdir, config.ckpt_path)

    @staticmethod
    def _keys() -> Section:
        """Return the keys of the command, with the types of their values."""
        own = {
            "seed_everything": bool | int,
            "teacher": str | None,
            "extends": str | None,
            "matmul_precision": MatmulPrecision | None,
        }
        parts = {"model": Section.of(GTN), "data": pl.LightningDataModule, "trainer": Section.of(pl.Trainer)}
        return Section({**dict.fromkeys(sorted(KEYS), Any), **own, **parts}, frozenset({"data"}))

    def _parse_ckpt_path(self) -> None:
        # Lightning's own reads "hyper_parameters" of a checkpoint as a part of the recipe. They may name classes and
        # files, which a checkpoint must not: the recipe alone says what is made.
        pass

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and point the loggers at it."""
        assert self.subcommand is not None  # the parser requires one
        config = self.config[self.subcommand]
        fill_in(config.model)
        recipe = config.clone()
        recipe.config = recipe.extends = None  # their content is in the recipe by now
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
        """Instantiate, and name the key of the component that refuses its arguments."""
        try:
            super().instantiate_classes()
        except (ValueError, ImportError, MisconfigurationException) as error:
            # Constructors refuse what cannot work, some because an extra is not installed. Their error is the cause of
            # the parser's, which lists the types that would have been allowed.
            chain = list(causes(error))
            told = next((each for each in chain if "Union subtypes" not in str(each)), chain[-1])
            raise RecipeError(self._with_key(one_line(told))) from error
        except Exception as error:
            refusal = component_refused(error, self.config[self.subcommand].as_dict())
            if refusal is None:
                raise
            raise refusal from error

    def after_instantiate_classes(self) -> None:
        """Load the teacher file's weights, and see that a checkpoint belongs to the model."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        if starts_workers(self.trainer):
            raise RecipeError(
                "trainer.strategy: expected one whose processes can save the run on a signal, got one that forks or "
                "spawns them: use ddp"
            )
        if config.teacher is not None:
            if self._teacher is not None:
                self._check_kinds(self._teacher.model, config.teacher)
            self.model.load_teacher(config.teacher)
        if self._checkpoint is not None:
            trainer = self.trainer if self.subcommand == "fit" else None
            try:
                self.model.check_checkpoint(self._checkpoint, trainer, config.ckpt_path)
            except Exception as error:
                refusal = checkpoint_refused(error, config.ckpt_path)
                if refusal is None:
                    raise
                raise refusal from error
            if trainer is not None:
                check_unfinished(self._checkpoint, config)
            self._checkpoint = None

    def _check_kinds(self, written: dict[str, Any], path: str) -> None:
        """Check that the parser has read a teacher file's recipe as the file means it."""
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
            # Predictions are synthetic data: most data modules have no loader for them.
            del arguments["datamodule"]
        return arguments

    def _run_subcommand(self, subcommand: str) -> None:
        folder = Path(self.trainer.default_root_dir)
        config = self.config[subcommand]
        if subcommand != "fit" and config.teacher is None and config.ckpt_path is None:
            rank_zero_warn(f"gtn {subcommand} without --teacher or --ckpt_path: the teacher is not meta-trained")
        shield_children(self.trainer, self._signals)
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(config.matmul_precision or precision)
        try:
            super()._run_subcommand(subcommand)
            self._signals.release()
        except BaseException as error:
            self._signals.hold()  # while the run is cleaned up
            last = folder / "checkpoints" / "last.ckpt"
            failed = FailedRun(
                command=subcommand,
                values=config.as_dict(),
                kept=str(last) if last.exists() else "",
                took_no_step=self._took_no_step(),
                processes=self.trainer.world_size,
                signal=self._signals.received,
            )
            if failed.left_nothing(error):
                # A faulty recipe leaves nothing behind, also if the fault shows only with the data at hand.
                self._finish_wandb(exit_code=1)
                self._folder.discard()
            ending = failed.ending(error)
            if ending is None:
                raise
            raise ending from error
        finally:
            self._signals.hold()
            torch.set_float32_matmul_precision(precision)
            # A later run of this process must not go on in the W&B run of this one, nor with its environment.
            self._finish_wandb()
            # Lightning destroys NCCL's group only. Threads of Gloo that still run may abort the process at its exit.
            if distributed.is_initialized() and distributed.get_backend() == "gloo":
                distributed.destroy_process_group()

    def _finish_wandb(self, exit_code: int | None = None) -> None:
        """End the W&B run. If that fails or takes long, the run's results are kept and its end is not delayed."""
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
        return began_with in (None, batches_done(self.trainer))

    def _with_key(self, message: str) -> str:
        """Put the key of a component before a message that begins with the component's name."""
        name = message.partition(":")[0].partition(".")[0]
        values = self.config[self.subcommand].as_dict()
        key = next((key for key, path, _ in components(values) if path.rpartition(".")[2] == name), None)
        return f"{key}.init_args: {message}" if key else message
