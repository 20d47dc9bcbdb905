"""The command line: ``gtn fit | validate | test | predict | recipes``.

It is a LightningCLI: everything about its options and recipes works as LightningCLI users expect. Added are recipes
by name, teacher files, one folder per run, and errors of one line.
"""

import json
import logging
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentError, Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities.exceptions import MisconfigurationException

# Imported so that recipes can name their classes without the path.
from gtn_lightning import callbacks, curricula, data, inner_loop, learners, loggers, tasks, teachers  # noqa: F401
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import NotTwiceDifferentiableError
from gtn_lightning.module import GTN
from gtn_lightning.teacher_file import load_weights, read_recipe

RUN_FOLDER = "GTN_RUN_FOLDER"
"""Environment variable by which the processes that DDP starts learn the run folder."""

SUBCOMMANDS = ("fit", "validate", "test", "predict")


class RecipeCallback(SaveConfigCallback):
    """Write the recipe, as it was resolved, to the run folder and to the loggers."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write ``recipe.yaml`` and log the hyperparameters; called on rank zero."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        stage = getattr(stage, "value", stage)  # an enumeration outside of fit
        name = "recipe.yaml" if stage == "fit" else f"recipe-{stage}.yaml"
        self.parser.save(self.config, folder / name, skip_none=False, overwrite=True, multifile=False)
        values = json.loads(self.parser.dump(self.config, format="json", skip_none=False))
        for logger in trainer.loggers:
            logger.log_hyperparams({key: values[key] for key in ("model", "data", "seed_everything") if key in values})


class GTNCLI(LightningCLI):
    """LightningCLI for ``GTN`` and any data module."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            GTN,
            pl.LightningDataModule,
            subclass_mode_data=True,
            seed_everything_default=0,
            parser_kwargs={name: {"exit_on_error": False, "parser_mode": "omegaconf+"} for name in SUBCOMMANDS}
            | {"prog": "gtn", "exit_on_error": False, "parser_mode": "omegaconf+"},
            save_config_callback=RecipeCallback,
            save_config_kwargs={"save_to_log_dir": False},
            args=args,
            auto_configure_optimizers=False,
        )

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

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and point the loggers at it."""
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        base = config.trainer.default_root_dir or "runs"
        folder = self._run_folder(Path(base))
        if config.ckpt_path == "last":
            config.ckpt_path = str(_newest_checkpoint(Path(base)))
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

    def after_instantiate_classes(self) -> None:
        """Load the teacher file's weights."""
        teacher = self.config[self.subcommand].teacher if self.subcommand else None
        if teacher is not None:
            load_weights(self.model, teacher)

    def _run_folder(self, base: Path) -> Path:
        """Return a folder of its own for this run; nothing is created yet: a faulty recipe leaves nothing behind."""
        inherited = os.environ.get(RUN_FOLDER)
        if inherited and "LOCAL_RANK" in os.environ:
            return Path(inherited)
        name = time.strftime("%Y%m%d-%H%M%S")
        folder, number = base / name, 1
        while folder.exists():
            number += 1
            folder = base / f"{name}-{number}"
        os.environ[RUN_FOLDER] = str(folder)
        return folder


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: the arguments after the program's name; None for those of the process.

    Returns:
        The exit code: 0; 2 for wrong input; 130 for an interrupted run.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    show_traceback = bool(os.environ.get("GTN_TRACEBACK"))
    try:
        if arguments == ["recipes"]:
            print(_recipe_list())
            return 0
        _quiet()
        GTNCLI(_with_teacher_recipe(_with_recipe_paths(arguments)))
    except (
        RecipeError,
        ArgumentError,
        MisconfigurationException,
        NotTwiceDifferentiableError,
        OSError,
        ValueError,
    ) as error:
        if show_traceback:
            traceback.print_exc()
        print(f"gtn: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except SystemExit as stop:
        # Lightning turns Ctrl-C into exit(1) after its callbacks have saved what there is.
        if isinstance(stop.__context__, KeyboardInterrupt):
            print("gtn: interrupted; continue with --ckpt_path last", file=sys.stderr)
            return 130
        raise
    except KeyboardInterrupt:
        return 130
    return 0


def _recipes() -> dict[str, Path]:
    """Return the packaged recipes by name."""
    folder = Path(str(resources.files("gtn_lightning.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _recipe_list() -> str:
    """Return one line per packaged recipe: its name and what it shows."""
    lines = []
    for name, path in _recipes().items():
        comments = [line.lstrip("# ").rstrip() for line in path.read_text().splitlines() if line.startswith("#")]
        lines.append(f"{name:16} {comments[1] if len(comments) > 1 else ''}")
    return "\n".join(lines)


def _with_recipe_paths(arguments: list[str]) -> list[str]:
    """Replace the recipe's name behind ``--config`` by its path, and put the recipes that it extends before it."""
    result = []
    following = False
    for argument in arguments:
        if following or argument.startswith("--config="):
            for path in _recipe_chain(argument.removeprefix("--config=")):
                result += ["--config", path]
            following = False
        elif argument in ("--config", "-c"):
            following = True
        else:
            result.append(argument)
    return result


def _recipe_chain(name: str) -> list[str]:
    """Return the paths of the recipes that a recipe extends, the remotest first, and its own."""
    recipes = _recipes()
    chain: list[str] = []
    wanted: str | None = name
    while wanted is not None:
        if not Path(wanted).is_file() and wanted not in recipes:
            where = f"--config {name}" if not chain else f"{chain[0]}: extends: {wanted}"
            raise RecipeError(
                f"{where}: there is no such file and no packaged recipe of that name; "
                f"give the path of a YAML file or one of: {', '.join(recipes)}"
            )
        path = wanted if Path(wanted).is_file() else str(recipes[wanted])
        if path in chain:
            raise RecipeError(f"{path}: extends: the recipe extends itself; name another one")
        chain.insert(0, path)
        try:
            content = yaml.safe_load(Path(path).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise RecipeError(f"{path} is no recipe: expected a mapping with the keys model, data and trainer")
        wanted = content.get("extends")
    return chain


def _with_teacher_recipe(arguments: list[str]) -> list[str]:
    """Put the recipe inside a teacher file before the other options of ``validate``, ``test`` and ``predict``."""
    if not arguments or arguments[0] not in SUBCOMMANDS[1:]:
        return arguments
    path = None
    for index, argument in enumerate(arguments):
        if argument.startswith("--teacher="):
            path = argument.removeprefix("--teacher=")
        elif argument == "--teacher" and index + 1 < len(arguments):
            path = arguments[index + 1]
    if path is None:
        return arguments
    folder = str(Path(path).parent / arguments[0])
    recipe = read_recipe(path)
    trainer = {
        "default_root_dir": folder,
        "logger": [_csv_logger(folder)],
        "callbacks": [{"class_path": name} for name in ("LearningCurve", "SampleGrid", "SyntheticData", "RunSummary")],
    }
    config = {"model": recipe["model"], "trainer": trainer}
    if recipe["data"] is not None:
        config["data"] = recipe["data"]
    return [arguments[0], "--config", json.dumps(config), *arguments[1:]]


def _csv_logger(folder: str) -> dict[str, Any]:
    """Return the description of a logger that writes ``metrics.csv`` straight into a folder."""
    init_args = {"save_dir": folder, "name": "", "version": ""}
    return {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": init_args}


def _newest_checkpoint(base: Path) -> Path:
    found = sorted(base.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RecipeError(
            f"--ckpt_path last: there is no checkpoint under {base}; give the path of one, or start without"
        )
    return found[-1]


def _one_line(error: BaseException) -> str:
    """Condense a message, jsonargparse's of many lines included, into one line that names the key and what is wrong."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file of the run'}: {error.strerror}; choose a folder that can be written to"
    # argparse puts the offending option's name beside the message.
    message = str(getattr(error, "message", None) or error)
    lines = [re.sub(r"^[\s-]*\s", "", line).strip() for line in message.splitlines() if line.strip(" -")]
    keys = re.findall(r'(?:Parser key|Key|key) "([^"]+)"', message)
    path = ".".join(dict.fromkeys(keys))
    if len(lines) > 1:
        # Each line of jsonargparse's tree says more than the one above; alternatives that nobody meant end it.
        telling = ("is not accepted", "xpected", "does not exist", "required", "cannot", "nable")
        chosen = [line for line in lines if any(word in line for word in telling) and "NoneType" not in line]
        given = re.search(r"(?:Got value|Given value): (.*)", message)
        text = re.sub(r"\s*Got value:.*", "", (chosen or lines)[-1])
        text = re.sub(r"^Type .* expects a function or a callable class: ", "", text).rstrip(".")
        if given and "xpected" in text:
            text += f"; got {given.group(1)[:80]}"
        message = f"{path}: {text}" if path else text
    unknown = re.search(r"Option '(\w+)' is not accepted", message)
    if unknown:
        message = (
            f"{path}: there is no key {unknown.group(1)!r}; `gtn fit --{keys[0]}.help CLASS` lists what a class takes"
        )
    elif message.startswith("unrecognized arguments"):
        message += "; `gtn fit --help` lists what there is"
    return re.sub(r"\s+", " ", message)[:500]


def _quiet() -> None:
    """Silence what Lightning says to everybody and nobody here can act on."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not any(word in record.getMessage() for word in ("litlogger", "litmodels", "TPU available"))
    )
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*Experiment logs directory.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*instantiate_classes.*")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter.*")
