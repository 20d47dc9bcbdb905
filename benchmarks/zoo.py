"""The zoo's files of synthetic data: re-made by their commands, replayed by new networks, listed in zoo/README.md.

python -m benchmarks.zoo                # replays every file and writes zoo/README.md
python -m benchmarks.zoo --make digits  # re-makes a file first
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.report import markdown_table
from gtn_lightning.distilled import Card, ZooEntry, read_distilled, write_distilled, zoo_entries
from gtn_lightning.distilled.learners import home_learners, other_learners
from gtn_lightning.distilled.scores import judge_of, plays, replayed

ZOO = Path(__file__).resolve().parent.parent / "zoo"


@dataclass(frozen=True)
class Command:
    """How a file is made: the arguments of ``gtn distil``, or the recipe of ``gtn fit``."""

    arguments: tuple[str, ...]
    recipe: bool = False

    def text(self) -> str:
        """The commands that make the file, for a shell."""
        if not self.recipe:
            return shlex.join(["gtn", "distil", *self.arguments])
        return f"{shlex.join(['gtn', 'fit', '--config', *self.arguments])} && gtn predict --teacher path/to/teacher"


MNIST, CIFAR10 = "ylecun/mnist", "uoft-cs/cifar10"
"""Names on the hub, in whose place ``--mnist`` and ``--cifar10`` give local copies."""

COMMANDS = {
    "breast_cancer": Command(("breast_cancer", "--minutes=3")),
    "cartpole": Command(("cartpole",), recipe=True),
    "cifar10_10": Command((CIFAR10, "--images-per-class=10", "--minutes=10")),
    "digits": Command(("digits", "--minutes=10")),
    "mnist_1": Command((MNIST, "--images-per-class=1", "--minutes=5")),
    "mnist_10": Command((MNIST, "--images-per-class=10", "--minutes=10")),
    "mnist_50": Command((MNIST, "--images-per-class=50", "--minutes=10")),
}
"""The commands of the files, by name."""


def make(name: str, zoo: Path, local: dict[str, str]) -> None:
    """Make a file by its command, with command and machine in its card.

    Args:
        name: a key of `COMMANDS`.
        zoo: the folder for the file.
        local: local copies of data sets on the hub, by name.
    """
    command = COMMANDS[name]
    arguments = [local.get(word, word) for word in command.arguments]
    with tempfile.TemporaryDirectory() as folder:
        if command.recipe:
            _gtn("fit", "--config", *arguments, f"--trainer.default_root_dir={folder}/fit")
            (teacher,) = Path(folder).glob("fit/*/teacher.safetensors")
            _gtn("predict", "--teacher", str(teacher), f"--trainer.default_root_dir={folder}/predict")
            (path,) = Path(folder).glob("predict/*/synthetic.safetensors")
        else:
            _gtn("distil", *arguments, f"--out={folder}/made")
            path = Path(folder) / "made" / "synthetic.safetensors"
        data = read_distilled(path)
    text = json.dumps(asdict(data.card))
    for hub, place in local.items():
        text = text.replace(json.dumps(place)[1:-1], hub)
    card = Card(**json.loads(text))
    card = replace(card, made=card.made | {"command": command.text(), "machine": machine()})
    write_distilled(zoo / f"{name}.safetensors", replace(data, card=card))


def _gtn(*arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    subprocess.run([sys.executable, "-m", "gtn_lightning", *arguments], env=environment, check=True)


def machine() -> str:
    """Return what this process computes on."""
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}, OMP_NUM_THREADS={threads}"


def figure(path: Path, networks: int, local: dict[str, str]) -> str:
    """Train new networks on a file, by `gtn_lightning.replay`, and return their score on the real task.

    Args:
        path: the file.
        networks: number of networks of each architecture, other than those of the card's figure.
        local: local copies of data sets on the hub, by name.
    """
    data = read_distilled(path)
    source = ((data.card.data or {}).get("init_args") or {}).get("path")
    judge = judge_of(data, local.get(str(source)))
    learners = home_learners(data) | ({} if plays(data) else other_learners(data))
    scores = torch.cat([replayed(make, data, judge.score, networks, seed=1) for make in learners.values()])
    return (
        f"{judge.metric.name} {judge.metric.text(scores)}, {networks} networks of each of {len(learners)} architectures"
    )


def readme(entries: Sequence[ZooEntry], figures: Sequence[str], command: str) -> str:
    """Return the text of ``zoo/README.md``.

    Args:
        entries: the files.
        figures: what `figure` found for each.
        command: the command that this was made by.
    """
    parts = [
        "# Zoo",
        "Files of synthetic data that come with the package.\n"
        "`gtn_lightning.load_zoo(NAME)` returns the tensors of one, and `gtn_lightning.replay` trains a network on it.",
    ]
    for entry, figure in zip(entries, figures, strict=True):
        made = read_distilled(entry.path).card.made
        rows = [
            ("source", entry.source),
            ("samples", f"{entry.samples}" + (f", {entry.per_class:g} per class" if entry.per_class else "")),
            ("command", f"`{made['command']}`" if "command" in made else "unknown"),
            ("seed", str(made.get("seed", "unknown"))),
            ("seconds of meta-training", "unknown" if entry.seconds is None else f"{entry.seconds:.0f}"),
            ("date", entry.date or "unknown"),
            ("machine", str(made.get("machine", "unknown"))),
            ("metric, by its card", entry.reaches or "not measured"),
            ("metric, replayed", figure),
            ("checksum", f"`{entry.checksum}`"),
        ]
        cells = [[name, " ".join(value.replace("|", r"\|").split())] for name, value in rows]
        parts += [f"## {entry.name}", markdown_table([f"`{entry.path.name}`", ""], cells)]
    if not entries:
        parts.append("There are no files yet: `python -m benchmarks.zoo --make NAME` makes one.")
    parts += [
        "Metrics are on the test split of the real data.\n"
        "They are mean and standard deviation over new networks of the architectures that the file was made with, and "
        "of others.\n"
        "The checksum is the SHA-256 of the tensors, which reading a file checks.",
        f"Made on {time.strftime('%Y-%m-%d')} by `{command}` on {machine()}.",
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Make what is asked for, replay all files and write the README."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--make", nargs="+", default=[], choices=list(COMMANDS), help="files to make again")
    parser.add_argument("--mnist", help="a local copy of MNIST, instead of the hub's")
    parser.add_argument("--cifar10", help="a local copy of CIFAR-10, instead of the hub's")
    parser.add_argument("--networks", type=int, default=5, help="networks of each architecture, per file")
    parser.add_argument("--zoo", type=Path, default=ZOO, help="the folder of the files")
    options = parser.parse_args(arguments)
    given = {MNIST: options.mnist, CIFAR10: options.cifar10}
    local = {hub: path for hub, path in given.items() if path}
    for name in options.make:
        make(name, options.zoo, local)
    entries, figures = zoo_entries(options.zoo), []
    for entry in entries:
        figures.append(figure(entry.path, options.networks, local))
        print(f"{entry.name}: {figures[-1]}", flush=True)
    command = shlex.join(["python", "-m", "benchmarks.zoo", *arguments])
    for hub, path in local.items():
        command = command.replace(path, f"path/to/{hub.rpartition('/')[2]}")
    (options.zoo / "README.md").write_text(readme(entries, figures, command), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
