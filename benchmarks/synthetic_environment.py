"""What binds when the teacher is an environment: noise of the meta-gradient, and returns of the recipe's variants."""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from benchmarks.report import markdown_table, write_report
from benchmarks.runs import data_of, fit_and_test, fit_once
from gtn_lightning import GTN
from gtn_lightning.curricula import Curriculum
from gtn_lightning.inner_loop import InnerLoop
from gtn_lightning.meta_training.step import meta_step
from gtn_lightning.parts import Parts
from gtn_lightning.randomness import keyed_generator
from gtn_lightning.tasks import ActorCritic
from gtn_lightning.tasks.actor_critic import GRADIENTS
from gtn_lightning.teacher_file import read_meta_training
from gtn_lightning.teachers import TeacherInput

RECIPE = "cartpole_environment"

LAST_STEP = "--model.evaluation.steps=[]"
"""Policies are scored after the last inner step alone, which takes less time."""

VARIANTS: dict[str, tuple[list[str], int]] = {
    "the recipe": ([], 3),
    "policy gradient of drawn actions": (["--model.task.init_args.gradient=sampled"], 1),
}
"""For each variant the overrides of the recipe's keys, and the number of meta-seeds."""


class SameDraws(Curriculum):
    """Gives the same requests in every meta-step.

    Args:
        curriculum: makes these requests.
    """

    def __init__(self, curriculum: Curriculum) -> None:
        super().__init__(curriculum.steps, curriculum.batch_size, noise=curriculum.noise)
        self._requests = curriculum.requests(keyed_generator(0, "same draws"), torch.device("cpu"))

    @property
    def pool(self) -> None:
        """None: see `NoCurriculum`."""
        return

    def requests(self, generator: torch.Generator, device: torch.device) -> list[TeacherInput]:
        """Return the requests that were made first; see the base class."""
        return self._requests


def gradients(gtn: GTN, form: Any, batch: Callable[[int], Any], same_draws: bool, count: int) -> Tensor:
    """Return independent meta-gradients of an untrained teacher with respect to the teacher, ``[count, size]``."""
    described = gtn.task
    assert isinstance(described, ActorCritic)
    task = ActorCritic(
        described.shape,
        described.actions,
        described.samples,
        horizon=described.horizon,
        hidden=described.hidden,
        gradient=form,
    )
    curriculum = SameDraws(gtn.curriculum) if same_draws else gtn.curriculum
    loop = InnerLoop(gtn.inner_loop.steps, "reverse")
    parts = Parts(gtn.teacher, curriculum, gtn.learners, gtn.inner_optimizer, task, loop, gtn.seed)
    parameters = list(gtn.teacher.parameters())
    rows = []
    for number in range(count):
        loss, _ = meta_step(parts, 8, batch(number), (0, number, 0), torch.device("cpu"))
        rows.append(parameters_to_vector(torch.autograd.grad(loss, parameters)))
    return torch.stack(rows)


def cosine(rows: Tensor) -> float:
    """Return the mean cosine between different rows."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    return float((unit @ unit.T)[~torch.eye(len(rows), dtype=torch.bool)].mean())


def noise(trained: Path, count: int) -> str:
    """Return the table of the noise of meta-gradients.

    Args:
        trained: a teacher file of the recipe; the teacher is made anew from its description.
        count: number of independent meta-gradients.
    """
    torch.manual_seed(0)
    gtn, data = GTN.from_description(GTN.from_teacher(trained).description()), data_of(trained)
    rows = []
    for form in GRADIENTS:
        for same in (False, True):
            found = gradients(gtn, form, lambda number: data.batch("train", number), same, count)
            what = "policies and episodes" if same else "policies, episodes and drawn actions"
            rows.append([form, what, f"{cosine(found):.2f}", f"{found.norm(dim=1).median():.2f}"])
    return markdown_table(["policy gradient", "what differs", "mean cosine", "median norm"], rows)


def curve(folder: Path) -> str:
    """Return the validation returns of a run, in their order."""
    with (folder / "metrics.csv").open(encoding="utf-8") as log:
        return ", ".join(f"{float(row['val/return']):.0f}" for row in csv.DictReader(log) if row.get("val/return"))


def main() -> None:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gradients", type=int, default=5, help="independent meta-gradients of each kind")
    parser.add_argument("--output", type=Path, default=Path("runs/synthetic_environment"), help="where runs are kept")
    options = parser.parse_args()
    rows, teachers = [], []
    for number, (name, (overrides, seeds)) in enumerate(VARIANTS.items()):
        for seed in range(seeds):
            run = (RECIPE, seed, options.output / str(number), [*overrides, LAST_STEP])
            teacher, scores = fit_once(*run), fit_and_test(*run)
            teachers.append(teacher)
            cost = read_meta_training(teacher)
            assert cost is not None
            rows.append(
                [
                    name,
                    str(seed),
                    f"{scores['test/return']:.0f} ± {scores['test/return_std']:.0f}",
                    f"{scores['test/return_sampled']:.0f}",
                    curve(teacher.parent),
                    f"{cost['seconds']:.0f}",
                ]
            )
            print(rows[-1], flush=True)
    heading = ["variant", "meta-seed", "greedy return", "sampled return", "in validations", "seconds"]
    write_report(
        "synthetic_environment",
        "An environment as a teacher",
        f"`{RECIPE}`, test of the teacher that was best in validation; the spread is over never-seen policies:\n\n"
        f"{markdown_table(heading, rows)}\n\n"
        f"Cosine between {options.gradients} independent meta-gradients of an untrained teacher, and their norm:\n\n"
        f"{noise(teachers[0], options.gradients)}",
        "In validations: greedy returns in validations of the run, in their order.",
    )


if __name__ == "__main__":
    main()
