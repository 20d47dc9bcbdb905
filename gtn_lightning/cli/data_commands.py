"""``gtn distil | replay | compare | export | zoo``: what is done with a file of synthetic data.

Each command is a function whose arguments are the command's, which jsonargparse reads.
"""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, Literal, cast

import torch
from jsonargparse import ArgumentError, ArgumentParser
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gtn_lightning.callbacks.synthetic_data import DATA_FILE
from gtn_lightning.cli.distil import distil as distilled_data
from gtn_lightning.cli.endings import USER_ERRORS
from gtn_lightning.cli.front_door import refuse
from gtn_lightning.cli.quiet import quiet
from gtn_lightning.cli.signals import InterruptedBySignal
from gtn_lightning.cli.working_folder import shielded_programs
from gtn_lightning.distilled import DistilledSet, read_distilled
from gtn_lightning.distilled.card_page import save_scores
from gtn_lightning.distilled.comparison import SCALED, Comparison, Row
from gtn_lightning.distilled.comparison import compare as compared
from gtn_lightning.distilled.export import export as exported
from gtn_lightning.distilled.learners import home_learners, named_learner
from gtn_lightning.distilled.real import real_samples
from gtn_lightning.distilled.scores import judge_of, plays, replayed
from gtn_lightning.distilled.zoo import zoo_files, zoo_table
from gtn_lightning.errors import RecipeError, one_line
from gtn_lightning.streams import Escaping


def _with_underscores(words: Sequence[str], function: Callable[..., Any]) -> list[str]:
    """Return options as the parser wants them: ``--a-b`` as ``--a_b``, and a switch without a value as true."""
    parameters = inspect.signature(function).parameters
    given = []
    for word, following in zip_longest(words, words[1:], fillvalue="--"):
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not word.startswith("--") or name not in parameters:
            given.append(word)
            continue
        alone = isinstance(parameters[name].default, bool) and not equals and following.lower() not in ("true", "false")
        given.append(f"--{name}=true" if alone else f"--{name}{equals}{value}")
    return given


Format = Literal["dd-ranking", "hugging-face", "npz", "png"]
"""Formats of `gtn_lightning.distilled.export`."""


def run_data_command(arguments: Sequence[str]) -> int:
    """Run a command on a file of synthetic data.

    Args:
        arguments: the arguments after the program's name, of which the first is the command.

    Returns:
        The exit code: 0; 2 for wrong input; 128 plus its number for a signal.
    """
    name, *rest = arguments
    function = DATA_COMMANDS[name]
    parser = ArgumentParser(prog=f"gtn {name}", exit_on_error=False, allow_abbrev=False)
    parser.add_function_arguments(function, as_positional=True)
    try:
        try:
            values = parser.parse_args(_with_underscores(rest, function))
        except (ArgumentError, ValueError, TypeError) as error:
            raise RecipeError(f"gtn {name}: {one_line(error)}; `gtn {name} --help` lists its options") from error
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)  # as for the other commands, see docs/results/threads.md
        with quiet(), shielded_programs():
            function(**values.as_dict())
    except USER_ERRORS as error:
        return refuse(error)
    except InterruptedBySignal as interruption:
        print(f"gtn: {interruption.ending}", file=sys.stderr)
        return interruption.code
    return 0


def replay(
    file: str,
    learner: str | None = None,
    data: str | None = None,
    networks: int = 5,
    scale: float = 1.0,
    passes: int = 1,
    seed: int = 0,
) -> None:
    """Train fresh networks on a file of synthetic data and score them on the test split of the real data.

    Args:
        file: the file of synthetic data, or the name of one of the zoo.
        learner: the network to train, MODULE:NAME or one of this package; those of the file by default.
        data: where the real data lies; where the file says by default.
        networks: number of fresh networks of each kind.
        scale: what the learned rates are multiplied by; try 0.3 if a network diverges.
        passes: how often the batches are gone through.
        seed: seed of the networks' parameters.
    """
    for key, value in (("networks", networks), ("passes", passes)):
        if value < 1:
            raise RecipeError(f"--{key} must be at least 1, got {value}")
    if not 0 < scale < float("inf"):
        raise RecipeError(f"--scale must be above 0 and finite, got {scale}")
    distilled = _opened(file)
    chosen = {learner: named_learner(learner, distilled)} if learner else home_learners(distilled)
    if not chosen:
        raise RecipeError(f"{file} does not say which networks it is for: name one with --learner")
    judge = judge_of(distilled, data)
    console = _console()
    table = Table(box=SIMPLE_HEAD, title_justify="left")
    for heading in ("network", f"test {judge.metric.name}", "lowest", "highest"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, make in chosen.items():
        scores = replayed(make, distilled, judge.score, networks, seed, scale, passes)
        ends = (judge.metric.number(float(end)) for end in scores.aminmax())
        table.add_row(name, judge.metric.text(scores), *ends)
    console.print(
        f"{distilled.steps * passes} steps of {distilled.batch_size} synthetic samples, {networks} fresh networks, "
        f"scored on {judge.place}",
        soft_wrap=True,
    )
    console.print(table)


def compare(
    file: str,
    data: str | None = None,
    networks: int = 3,
    passes: list[int] = [1, 10],  # noqa: B006  # never changed; jsonargparse shows it
    seed: int = 0,
    save: bool = False,
) -> None:
    """Compare a file of synthetic data with real data of the same size and cost, by what fresh networks learn.

    Args:
        file: the file of synthetic data, or the name of one of the zoo.
        data: where the real data lies; where the file says by default.
        networks: number of fresh networks of each architecture.
        passes: how often the batches of a source are gone through.
        seed: seed of networks and of random choices.
        save: whether to write the scores into the file, and into the README.md of `gtn distil` beside it.
    """
    if networks < 1:
        raise RecipeError(f"--networks must be at least 1, got {networks}")
    if not passes or min(passes) < 1:
        raise RecipeError(f"--passes must be whole numbers of at least 1, got {passes}")
    if save and file in zoo_files():
        raise RecipeError(f"--save: {file} is a file of the package: copy it, and name the copy")
    distilled = _opened(file)
    if plays(distilled):
        raise RecipeError(f"{file} is for policies, for which there is no data to compare with: use gtn replay")
    real = real_samples(distilled, data)
    console = _console()
    result = compared(distilled, real, networks, sorted({1, *passes}), seed, progress=_said)
    print_comparison(console, distilled, result)
    if save:
        for path in save_scores(Path(file), result.plain() | {"samples": len(real.test.targets)}):
            console.print(f"scores written: {path}", soft_wrap=True)


def print_comparison(console: Console, distilled: DistilledSet, result: Comparison) -> None:
    """Print a comparison as a table, and the architectures that real data teaches better."""
    table = Table(box=SIMPLE_HEAD, title_justify="left")
    table.add_column("trained on")
    groups = {"met": result.home, "never met": result.others}
    for passes in result.passes:
        for title, names in groups.items():
            if names:
                table.add_column(f"{title}\n{passes * distilled.steps} steps", justify="right", no_wrap=True)
    table.add_column("seconds", justify="right")
    for row in result.rows:
        cells = [
            _mean_and_worst(result, row, passes, names)
            for passes in result.passes
            for names in groups.values()
            if names
        ]
        table.add_row(row.source, *cells, f"{row.seconds:.0f}")
    console.print(
        f"test {result.metric.name}{' in %' if result.metric.name == 'accuracy' else ''}, mean over architectures "
        f"(worst architecture): {len(result.home)} that the file was made with, {len(result.others)} others; "
        f"{distilled.steps} steps of {distilled.batch_size} samples are one pass",
        soft_wrap=True,
    )
    console.print(table)
    scaled = result.below(1, SCALED)
    for name, sources in result.below(1).items():
        but = "" if name in scaled else "; not with the rates scaled: try --scale 0.3 and 0.6"
        console.print(
            f"taught better by real data in as many steps: {name} ({', '.join(sources)}{but})", soft_wrap=True
        )
    first, *rest = result.rows
    own, best = result.mean(first, 1), [result.mean(row, 1) for row in rest if row.equal]
    if any(not result.metric.better(own, each) for each in best):
        chance = f"; chance is {100 / distilled.classes:.1f} %" if distilled.classes else ""
        console.print(
            "on average, the synthetic data teaches no better than some real data of the same size: give meta-training "
            f"more time, or make more samples{chance}",
            soft_wrap=True,
        )


def _mean_and_worst(result: Comparison, row: Row, passes: int, names: list[str]) -> str:
    values = [result.mean(row, passes, [name]) for name in names]
    worst = min(values) if result.metric.higher_is_better else max(values)
    mean = sum(values) / len(values)
    if result.metric.name == "accuracy":
        return f"{100 * mean:.1f} ({100 * worst:.1f})"
    return f"{mean:.3f} ({worst:.3f})"


def _opened(file: str) -> DistilledSet:
    """Read a file, or one of the zoo by its name; a path with a folder or an ending is never a name."""
    return read_distilled(zoo_files().get(file, file))


def _said(text: str) -> None:
    print(f"training on: {text}", file=sys.stderr)


def _console() -> Console:
    # Names of a file's card are no markup.
    return Console(highlight=False, markup=False, emoji=False, file=cast(IO[str], Escaping(sys.stdout)))


def distil(
    data: str,
    target: str | None = None,
    minutes: float = 10.0,
    images_per_class: int | None = None,
    size: int | None = None,
    out: str | None = None,
    seed: int = 0,
    cpu: bool = False,
    predicts: Literal["auto", "classes", "numbers"] = "auto",
    ignore: list[str] | None = None,
) -> None:
    """Make a small file of synthetic data from your own data, and compare it with real data.

    Args:
        data: a folder of images, a name on the Hugging Face hub, a CSV or Parquet file, the name of a table that
            scikit-learn bundles, or digits.
        target: the column of a table that is to be predicted.
        minutes: how long it may take, comparison included.
        images_per_class: number of synthetic samples of each class, or of all without classes; chosen by default.
        size: height and width to which images are scaled; by default, only large images and those of several sizes.
        out: a new folder for all files; runs/distil/NAME by default.
        seed: seed of every random choice.
        cpu: whether a GPU is left alone.
        predicts: whether the target of a table is a class or a number; auto takes whole numbers as classes.
        ignore: columns of a table to leave out.
    """
    console = _console()
    run, result = distilled_data(
        console, data, target, minutes, images_per_class, size, out, seed, cpu, predicts, ignore
    )
    print_comparison(console, read_distilled(run.folder / DATA_FILE), result)
    for name, path in (
        ("recipe", "recipe.yaml"),
        ("pictures", "README.md"),
        ("synthetic data", DATA_FILE),
    ):
        console.print(f"{name}: {run.folder / path}", soft_wrap=True)
    console.print(
        f"train your network on it: gtn replay {run.folder / DATA_FILE} --learner my_networks:Net", soft_wrap=True
    )


def export(file: str, format: Format, out: str) -> None:
    """Write a file of synthetic data in another format; nothing is overwritten.

    Args:
        file: the file of synthetic data, or the name of one of the zoo.
        format: dd-ranking, hugging-face, npz or png.
        out: the new file or folder.
    """
    console = _console()
    for path in exported(_opened(file), format, Path(out)):
        console.print(str(path), soft_wrap=True)


def zoo() -> None:
    """List the files of synthetic data that come with the package."""
    _console().print(zoo_table(), soft_wrap=True)


DATA_COMMANDS: dict[str, Callable[..., Any]] = {
    "compare": compare,
    "distil": distil,
    "export": export,
    "replay": replay,
    "zoo": zoo,
}
"""The commands by name."""
