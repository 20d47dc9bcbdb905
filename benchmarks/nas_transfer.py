"""Transfer in the ConvNet grid: teachers meta-trained on one norm, on all the others, and on all, for every norm.

Every teacher is meta-trained by `gtn fit` in a separate process. Results are cached, so the command can be stopped and
continued.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure

from benchmarks.nas_reference import HELD_OUT, load_grid_and_data
from benchmarks.report import RESULTS, heat_map, markdown_table, write_report
from gtn_lightning.inner_loop import Adam
from gtn_lightning.nas import GTNProxy, RealDataProxy
from gtn_lightning.nas.proxies import Proxy
from gtn_lightning.nas.spaces import Architecture, ConvNetGrid
from gtn_lightning.randomness import keyed_generator

NORMS = ("batch", "layer", "instance", "group", "none")
REAL_RATES = (0.003, 0.005, 0.01, 0.03)
"""Learning rates on real data, of which the best is used for every network."""


class Setting(NamedTuple):
    """Settings of all rows."""

    data: str
    output: Path
    inner_steps: int
    meta_steps: int
    networks: int


def main() -> None:
    """Meta-train and measure what is not cached, then write the matrix as a table and a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ylecun/mnist", help="MNIST on the hub or in a local folder")
    parser.add_argument("--inner-steps", type=int, default=16, help="of 64 images")
    parser.add_argument("--meta-steps", type=int, default=240, help="of every teacher")
    parser.add_argument("--networks", type=int, default=8, help="that are taught, of every norm; none was met before")
    parser.add_argument("--jobs", type=int, default=2, help="teachers at a time, one thread each")
    parser.add_argument("--output", type=Path, default=Path("runs/nas_transfer"), help="where the runs are kept")
    options = parser.parse_args()
    setting = Setting(options.data, options.output, options.inner_steps, options.meta_steps, options.networks)
    taught: dict[str, tuple[str, ...]] = {"every norm": NORMS}
    taught |= {f"all but {norm}": tuple(other for other in NORMS if other != norm) for norm in NORMS}
    taught |= {f"{norm} alone": (norm,) for norm in NORMS}
    names = [*taught, "untrained teacher", "real data"]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        rows = pool.map(partial(measure, setting=setting), names, [taught.get(name, NORMS) for name in names])
        matrix = dict(zip(names, rows, strict=True))
    report(matrix, setting)


def measure(name: str, norms: tuple[str, ...], setting: Setting) -> list[list[float]]:
    """Return the accuracies of the networks of every norm after training, ``[norms][networks]``."""
    torch.set_num_threads(1)
    file = setting.output / f"{name.replace(' ', '_')}.json"
    asked_for = {key: value for key, value in setting._asdict().items() if key != "output"}
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    found: list[list[float]] = known.get("accuracies", [])
    if known.get("setting") == asked_for:
        return found
    proxy: Proxy
    if name == "real data":
        proxy = RealDataProxy(setting.inner_steps, optimizer=Adam(), rates=REAL_RATES)
    elif name == "untrained teacher":
        proxy = GTNProxy(teacher(file.with_suffix(""), norms, setting._replace(meta_steps=1)), untrained=True)
    else:
        proxy = GTNProxy(teacher(file.with_suffix(""), norms, setting))
    space, data = load_grid_and_data(setting.data)
    scorer = proxy.bind(space, data)
    found = [[scorer(architecture) for architecture in unmet(space, norm, setting.networks)] for norm in NORMS]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"setting": asked_for, "accuracies": found}), encoding="utf-8")
    print(name, "|", *(f"{norm} {sum(row) / len(row):.3f}" for norm, row in zip(NORMS, found, strict=True)), flush=True)
    return found


def teacher(folder: Path, norms: tuple[str, ...], setting: Setting) -> str:
    """Meta-train a teacher for small networks of these norms, unless there is one; return its file."""
    if not (made := sorted(folder.glob("*/teacher.safetensors"))):
        command = [
            *(str(Path(sys.executable).with_name("gtn")), "fit", "--config", "nas_mnist"),
            f"--data.init_args.path={setting.data}",
            f"--model.learners.init_args.only={{width: [4, 8], norm: [{', '.join(norms)}]}}",
            f"--model.inner_loop.steps={setting.inner_steps}",
            f"--model.teacher.init_args.images={64 * setting.inner_steps}",
            f"--trainer.max_steps={setting.meta_steps}",
            f"--trainer.val_check_interval={setting.meta_steps}",
            f"--trainer.default_root_dir={folder}",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        log = folder.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as out:
            subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT, check=True)
        made = sorted(folder.glob("*/teacher.safetensors"))
    return str(made[-1])


def unmet(space: ConvNetGrid, norm: str, count: int) -> list[Architecture]:
    """Return networks of a norm, of width 16 at most, from the held-out part of the grid."""
    drawn = space.draw(len(space) // 3, keyed_generator(0, "unmet"), held_out=HELD_OUT)
    fit = [one for one in drawn if one.choices["norm"] == norm and int(one.choices["width"]) <= 16]
    return fit[:count]


def report(matrix: dict[str, list[list[float]]], setting: Setting) -> None:
    """Write the table and the picture."""
    accuracies = 100 * torch.tensor(list(matrix.values()))
    means, names = accuracies.mean(dim=2), list(matrix)
    real = accuracies[names.index("real data")]
    rows = [
        [name, *(f"{value:.1f}" for value in row), f"{row.mean():.1f}"] for name, row in zip(names, means, strict=True)
    ]
    differences = []
    for place, norm in enumerate(NORMS):
        cells = [norm]
        for name in ("every norm", f"all but {norm}", f"{norm} alone"):
            gap = accuracies[names.index(name), place] - real[place]
            cells.append(f"{gap.mean():+.1f} ± {gap.std() / len(gap) ** 0.5:.1f}")
        differences.append(cells)
    body = [
        markdown_table(["taught by a teacher of", *NORMS, "mean"], rows),
        "![transfer matrix](nas_transfer.png)",
        "## Synthetic less real",
        markdown_table(["networks with norm", "met among every norm", "never met", "met alone"], differences),
    ]
    write_report(
        "nas_transfer",
        "The ConvNet grid on MNIST: who can be taught by whom",
        "\n\n".join(body),
        f"Accuracy in % on 2,000 validation images after {setting.inner_steps} steps of 64 images, mean over "
        f"{accuracies.shape[2]} networks that no teacher has met, one learner each. Every teacher is that of "
        f"`nas_mnist`, meta-trained for {setting.meta_steps} meta-steps with networks of width 4 and 8; its rate is "
        f"0.005, as in meta-training; real data takes the best of {', '.join(map(str, REAL_RATES))} for every network. "
        "Differences with their standard errors over the networks.",
    )
    picture(names, means, setting.inner_steps)


def picture(names: list[str], means: torch.Tensor, steps: int) -> None:
    """Draw mean accuracies, ``[teachers, norms]``."""
    figure = Figure(figsize=(7, 0.4 * len(names) + 1.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    shown = heat_map(axes, means, names, NORMS, bright=float(means.min() + means.max()) / 2)
    axes.set_xlabel("norm of the networks that are taught")
    axes.set_ylabel("norm that the teacher was meta-trained with")
    axes.set_title(f"Accuracy in % after {steps} inner steps")
    figure.colorbar(shown, ax=axes)
    figure.savefig(RESULTS / "nas_transfer.png")


if __name__ == "__main__":
    main()
