"""The zoo's files of synthetic data: re-made by their commands, replayed by new networks, listed in zoo/README.md.

python -m benchmarks.zoo                # replays every file and writes zoo/README.md
python -m benchmarks.zoo --make digits  # re-makes a file first
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.report import markdown_table
from benchmarks.runs import module_of, predict_once
from gtn_lightning import replay
from gtn_lightning.data import InMemoryData
from gtn_lightning.description import build
from gtn_lightning.distilled import Card, ZooEntry, read_distilled, write_distilled, zoo_entries
from gtn_lightning.learners import LearnerDistribution
from gtn_lightning.randomness import keyed_generator

ZOO = Path(__file__).resolve().parent.parent / "zoo"

CHUNK = 1000
"""Real samples that a network takes at once."""


@dataclass(frozen=True)
class Command:
    """How a file is made."""

    recipe: str
    seed: int = 0
    overrides: tuple[str, ...] = ()
    hub: str | None = None
    """The data set on the hub that ``--data`` stands for; None if the recipe needs no download."""

    @property
    def text(self) -> str:
        """The commands that make the file, for a shell."""
        fit = ["gtn", "fit", "--config", self.recipe, f"--seed_everything={self.seed}", *self.overrides]
        return f"{shlex.join(fit)} && gtn predict --teacher path/to/teacher.safetensors"


COMMANDS = {
    "diabetes": Command("diabetes"),
    "digits": Command("digits"),
    "mnist": Command("mnist_cpu", hub="ylecun/mnist"),
    "wine": Command("wine"),
}
"""The commands of the files, by name."""


def make(name: str, zoo: Path, runs: Path, local: str | None) -> None:
    """Make a file by its command, with command and machine in its card.

    Args:
        name: a key of `COMMANDS`.
        zoo: the folder for the file.
        runs: where runs are kept; a finished one is not repeated.
        local: a local copy of the data set on the hub.
    """
    command = COMMANDS[name]
    own = [f"--data.init_args.path={local}"] if local and command.hub else []
    data = read_distilled(predict_once(command.recipe, command.seed, runs, [*command.overrides, *own]))
    content = asdict(data.card)
    if own:
        content = _replaced(content, str(local), str(command.hub))
    card = Card(**content)
    card = replace(card, made=card.made | {"command": command.text, "machine": machine()})
    write_distilled(zoo / f"{name}.safetensors", replace(data, card=card))


def machine() -> str:
    """Return what this process computes on."""
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}, OMP_NUM_THREADS={threads}"


def replayed(path: Path, networks: int, local: str | None = None) -> str:
    """Train new networks on a file, by `gtn_lightning.replay`, and return their score on the real test split.

    Args:
        path: the file.
        networks: number of networks, drawn from the distribution of learners in the file's card.
        local: a local copy of the data set, instead of the path in the card.

    Returns:
        A text such as ``accuracy 97.1 ± 0.7 %, 10 networks``, or why there is none.
    """
    card = read_distilled(path).card
    if not card.learners or card.data is None:
        return "not replayed: its card describes no learners or no real data"
    if local and "path" in card.data["init_args"]:
        card.data["init_args"]["path"] = local
    module = module_of(card.data)
    if not isinstance(module, InMemoryData):
        return f"not replayed: {type(module).__name__} has no test split"
    module.prepare_data()
    module.setup()
    inputs, targets, *_ = module.split("test")
    learners = build(card.learners)
    assert isinstance(learners, LearnerDistribution)
    tensors, plain = replay.load(str(path))
    scores = []
    for number in range(networks):
        torch.manual_seed(1000 + number)
        network = learners.sample(keyed_generator(0, "zoo", number))
        replay.train(network, tensors, plain)
        scores.append(_score(network, module.normalize(inputs), targets, card.loss))
    values = torch.tensor(scores, dtype=torch.float64)
    spread = float(values.std()) if networks > 1 else 0.0
    if card.loss == "cross_entropy":
        return f"accuracy {100 * float(values.mean()):.1f} ± {100 * spread:.1f} %, {networks} networks"
    return f"RMSE of normalized targets {float(values.mean()):.3f} ± {spread:.3f}, {networks} networks"


def _score(network: nn.Module, inputs: Tensor, targets: Tensor, loss: str) -> float:
    with torch.no_grad():
        outputs = torch.cat([network(part) for part in inputs.split(CHUNK)])
    if loss == "cross_entropy":
        classes = targets.argmax(1) if targets.is_floating_point() else targets
        return float((outputs.argmax(1) == classes).double().mean())
    return float((outputs - targets).square().mean().sqrt())


def readme(entries: Sequence[ZooEntry], figures: Sequence[str], command: str) -> str:
    """Return the text of ``zoo/README.md``.

    Args:
        entries: the files.
        figures: what `replayed` found for each.
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
        "They are mean and standard deviation over new networks, drawn from the learners that the file was made with.\n"
        "The checksum is the SHA-256 of the tensors, which reading a file checks.",
        f"Made on {time.strftime('%Y-%m-%d')} by `{command}` on {machine()}.",
    ]
    return "\n\n".join(parts) + "\n"


def _replaced(content: Any, old: str, new: str) -> Any:
    """Return plain data with every text ``old`` replaced."""
    text = json.dumps(content)
    return json.loads(text.replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1]))


def main(arguments: Sequence[str]) -> None:
    """Make what is asked for, replay all files and write the README."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--make", nargs="+", default=[], choices=list(COMMANDS), help="files to make again")
    parser.add_argument("--data", help="a local copy of MNIST, instead of the hub's")
    parser.add_argument("--networks", type=int, default=10, help="networks that are trained on every file")
    parser.add_argument("--zoo", type=Path, default=ZOO, help="the folder of the files")
    parser.add_argument("--output", type=Path, default=Path("runs/zoo"), help="where the runs are kept")
    options = parser.parse_args(arguments)
    for name in options.make:
        make(name, options.zoo, options.output, options.data)
    entries = zoo_entries(options.zoo)
    figures = []
    for entry in entries:
        hub = entry.name in COMMANDS and COMMANDS[entry.name].hub
        figures.append(replayed(entry.path, options.networks, options.data if hub else None))
        print(f"{entry.name}: {figures[-1]}", flush=True)
    command = shlex.join(["python", "-m", "benchmarks.zoo", *arguments])
    if options.data:
        command = command.replace(shlex.quote(options.data), "path/to/mnist")
    (options.zoo / "README.md").write_text(readme(entries, figures, command), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
