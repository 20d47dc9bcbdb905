"""What a whole meta-step spends its time on, for packaged recipes.

A recipe is run by `gtn fit` for a few meta-steps, whose median time is the whole; then each part is timed on its own,
with the recipe's sizes. What the parts leave over is Lightning, logging, the outer optimizer and waiting for memory.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from benchmarks.report import markdown_table, write_report
from gtn_lightning import GTN
from gtn_lightning.inner_loop import Functional, eager_loss, inner_gradient
from gtn_lightning.teacher_file import read_recipe

RECIPES: dict[str, list[str]] = {
    "digits": ["--trainer.max_steps=30", "--trainer.val_check_interval=30"],
    "mnist_cpu": ["--trainer.max_steps=12", "--trainer.val_check_interval=12"],
    # A few inner steps of the large ones: the shares hardly depend on their number.
    "mnist": ["--trainer.max_steps=4", "--trainer.val_check_interval=4", "--model.inner_steps=4", "--model.mode=remat"],
    "cifar10": [
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=4",
        "--model.inner_steps=4",
        "--model.mode=remat",
    ],
}

LEARNER = ("the learner's gradients", "the learner's Hessian products", "the meta-loss")


def main() -> None:
    """Measure the recipes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=["digits"], choices=RECIPES)
    parser.add_argument("--mnist", help="MNIST in a local folder, for mnist and mnist_cpu")
    parser.add_argument("--cifar10", help="CIFAR-10 in a local folder, for cifar10")
    options = parser.parse_args()
    rows = []
    for recipe in options.recipes:
        path = options.cifar10 if recipe == "cifar10" else options.mnist if recipe != "digits" else None
        whole, parts = measured(recipe, [f"--data.init_args.path={path}"] if path else [])
        rest = {"everything else": whole - sum(parts.values())}
        for name, seconds in {**parts, **rest}.items():
            rows.append([recipe, name, f"{1000 * seconds:.1f} ms", f"{100 * seconds / whole:.0f} %"])
        beside = 1 - sum(parts[name] for name in LEARNER) / whole
        rows.append([recipe, "all but the learner", f"{1000 * beside * whole:.1f} ms", f"{100 * beside:.0f} %"])
        rows.append([recipe, "a meta-step", f"{1000 * whole:.1f} ms", "100 %"])
    write_report(
        "shares",
        "Where the time of a meta-step goes",
        markdown_table(["recipe", "part", "time", "share"], rows),
        "Medians. `mnist` and `cifar10` with 4 inner steps, in mode `remat`.",
    )


def measured(recipe: str, overrides: list[str]) -> tuple[float, dict[str, float]]:
    """Return seconds of a whole meta-step and of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("gtn")), "fit", "--config", recipe, *RECIPES[recipe], *overrides]
        command += [f"--trainer.default_root_dir={folder}", "--trainer.log_every_n_steps=1", "--model.eval_learners=1"]
        command += ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
        environment = {**os.environ, "WANDB_MODE": "disabled"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"{' '.join(command)} failed: {result.stderr.strip().splitlines()[-1]}")
        (run,) = Path(folder).iterdir()
        with (run / "metrics.csv").open() as file:
            times = [float(row["time/meta_step"]) for row in csv.DictReader(file) if row["time/meta_step"]]
        mode = yaml.safe_load((run / "recipe.yaml").read_text())["model"]["mode"]
        gtn = GTN.from_teacher(run / "teacher.safetensors")
        data = read_recipe(run / "teacher.safetensors")["data"]["init_args"]
    return statistics.median(times[len(times) // 2 :]), parts(gtn, mode, data["batch_size"])


def parts(gtn: GTN, mode: str, batch_size: int) -> dict[str, float]:
    """Return seconds per meta-step of each part; the meta-loss is taken on so many images."""
    generator = torch.Generator().manual_seed(0)
    learner = Functional(gtn.learners.sample(generator))
    params, buffers = learner.init()
    params = {name: parameter.requires_grad_() for name, parameter in params.items()}
    loss, steps = gtn.task.inner_loss(learner), gtn.inner_steps
    requests = gtn.curriculum.requests(generator, torch.device("cpu"))
    batch = next(iter(gtn.teacher.batches(requests)))
    images = batch.inputs.detach().requires_grad_()
    cotangents = {name: torch.randn_like(parameter) for name, parameter in params.items()}
    real = torch.randn(batch_size, *gtn.teacher.image_shape), torch.arange(batch_size) % gtn.teacher.classes
    gradient = inner_gradient(loss, params, buffers, (images, batch.targets.detach()), mode)

    def teacher() -> None:
        made = [b.inputs for b in gtn.teacher.batches(gtn.curriculum.requests(generator, torch.device("cpu")))]
        torch.autograd.backward(made, [torch.ones_like(m) for m in made])

    def gradients() -> None:
        inner_gradient(loss, params, buffers, (images, batch.targets.detach()), mode)

    def products() -> None:
        outputs, given = list(gradient.grads.values()), list(cotangents.values())
        torch.autograd.grad(outputs, [images, *params.values()], given, retain_graph=True)

    def inner_optimizer() -> None:
        at, state = params, gtn.optimizer.init(params)
        for step in range(steps):
            at, state = gtn.optimizer.update(cotangents, state, at, step)
        torch.autograd.backward(list(at.values()), list(cotangents.values()))

    def meta_loss() -> None:
        eager_loss(gtn.task.meta_loss(learner), params, buffers, real)

    times = gtn.task.meta_steps(steps)
    return {
        "a fresh learner": seconds(lambda: gtn.learners.sample(generator)),
        "the teacher, forward and backward": seconds(teacher),
        LEARNER[0]: steps * seconds(gradients),
        LEARNER[1]: steps * seconds(products),
        "the inner optimizer, forward and backward": seconds(inner_optimizer),
        LEARNER[2]: len(times) * seconds(meta_loss),
    }


def seconds(function: Callable[[], object]) -> float:
    """Return the median time of a call, after a few to warm up."""
    for _ in range(3):
        function()
    found = []
    for _ in range(9):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


if __name__ == "__main__":
    main()
