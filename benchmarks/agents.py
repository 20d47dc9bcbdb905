"""Agents over several meta-seeds: never-seen policies in gymnasium's own environments, beside PPO and cloning.

Every policy is a new network, of an architecture that the teacher has met or not, taught by the teacher's data and then
scored in copies of the environment made by ``gymnasium.make``. Beside it: PPO on the real environment
(stable-baselines3, with the settings of its zoo), behavior cloning of as many state-action pairs of a trained PPO
policy, and random pairs.
"""

import argparse
import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from benchmarks.report import RESULTS, markdown_table, write_sections
from benchmarks.runs import cpu_seconds, data_of, fit_once
from gtn_lightning import GTN
from gtn_lightning.data import EnvironmentData
from gtn_lightning.inner_loop import Functional
from gtn_lightning.learners import MLP
from gtn_lightning.randomness import keyed_generator
from gtn_lightning.rl import Environments, Episodes
from gtn_lightning.task import Taught
from gtn_lightning.tasks import Control
from gtn_lightning.teacher_file import read_meta_training
from gtn_lightning.teachers import FreeTensors
from gtn_lightning.teaching import teach

MET: dict[str, dict[str, Any]] = {
    "tanh 64-64": {"hidden": [64, 64], "activation": "tanh"},
    "relu 64-64": {"hidden": [64, 64], "activation": "relu"},
    "relu 128": {"hidden": [128], "activation": "relu"},
    "gelu 128-64": {"hidden": [128, 64], "activation": "gelu"},
}
"""Architectures of the recipes' mixtures."""

NEW: dict[str, dict[str, Any]] = {
    "tanh 256": {"hidden": [256], "activation": "tanh"},
    "tanh 128-128-128": {"hidden": [128, 128, 128], "activation": "tanh"},
    "relu 48-48": {"hidden": [48, 48], "activation": "relu"},
    "gelu 32-32": {"hidden": [32, 32], "activation": "gelu"},
    "relu 64-64, layer norm": {"hidden": [64, 64], "activation": "relu", "norm": "layer"},
    "leaky relu 96-48": {"hidden": [96, 48], "activation": "leaky_relu"},
}
"""Architectures that no recipe's mixture has."""

HARD: dict[str, dict[str, Any]] = {
    "relu 16-16": {"hidden": [16, 16], "activation": "relu"},
    "sigmoid 64": {"hidden": [64], "activation": "sigmoid"},
}
"""Never met and far from what was met: reported, but not counted among the ten."""

BARS = {"CartPole-v1": 475.0, "Acrobot-v1": -85.0, "MountainCar-v0": -110.0, "Pendulum-v1": -200.0}
"""Return from which an environment counts as solved here."""

CLONING_FACTORS = (1 / 3, 1.0, 3.0, 10.0)
"""Learning rates of cloning, relative to the teacher's mean rate; the best on other episodes counts."""


class Rival(NamedTuple):
    """A setting of PPO, from rl-baselines3-zoo (hyperparams/ppo.yml)."""

    steps: int
    """Environment steps; fewer than the zoo's million where its curve is flat before."""
    copies: int
    normalize: bool
    """Whether states and rewards are normalized by running statistics."""
    options: dict[str, Any]


PPO = {
    "CartPole-v1": Rival(
        100_000,
        8,
        False,
        {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": lambda left: 0.001 * left,
            "clip_range": lambda left: 0.2 * left,
        },
    ),
    "Acrobot-v1": Rival(
        200_000, 16, True, {"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0}
    ),
    "MountainCar-v0": Rival(
        500_000, 16, True, {"n_steps": 16, "gae_lambda": 0.98, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0}
    ),
    "Pendulum-v1": Rival(
        100_000,
        4,
        False,
        {
            "n_steps": 1024,
            "gae_lambda": 0.95,
            "gamma": 0.9,
            "n_epochs": 10,
            "ent_coef": 0.0,
            "learning_rate": 0.001,
            "use_sde": True,
            "sde_sample_freq": 4,
        },
    ),
}
"""PPO's setting for each environment."""


class Scores(NamedTuple):
    """Mean returns of policies, ``[policies]`` each."""

    greedy: Tensor
    sampled: Tensor


class Examiner:
    """Teaches new policies by a GTN, and scores them in single environments of gymnasium.

    Args:
        gtn: the GTN.
        data: its data module, set up.
        episodes: number of episodes of each policy.
    """

    def __init__(self, gtn: GTN, data: EnvironmentData, episodes: int) -> None:
        assert isinstance(gtn.task, Control)
        self.gtn, self.task, self.data, self.episodes = gtn, gtn.task, data, episodes
        self.environments = Environments(data.env_id, "sync")
        self.normalization = tuple(data.normalization().values())

    def taught(self, architecture: dict[str, Any], number: int, steps: Sequence[int] = ()) -> list[Taught]:
        """Return a new network after some numbers of inner steps, by default after the last."""
        torch.manual_seed(100_000 + number)
        network, gtn = MLP(self.task.shape, self.task.actions, **architecture), self.gtn
        with torch.no_grad():
            requests = gtn.curriculum.requests(keyed_generator(1, "agents", number), torch.device("cpu"))
        steps = list(steps) or [gtn.inner_loop.steps]
        snapshots = teach(network, gtn.task, gtn.teacher, requests, gtn.inner_optimizer, steps, "remat")
        return [Taught(Functional(network), *snapshots[step]) for step in steps]

    def scores(self, policies: Sequence[Taught], seed: int) -> Scores:
        """Return the policies' mean returns, each in episodes of its own."""
        batch = Episodes(self.environments, self.episodes, seed, *self.normalization)
        with torch.no_grad():
            played = self.task.experience(policies, batch, torch.Generator().manual_seed(seed), training=False)
        greedy, sampled = zip(*played, strict=True)
        return Scores(torch.stack(greedy).mean(1), torch.stack(sampled).mean(1))

    def by_architecture(self, policies: int) -> dict[str, Scores]:
        """Return the scores of so many new networks of every architecture."""
        return {
            name: self.scores(
                [self.taught(architecture, place * policies + number)[0] for number in range(policies)],
                3_000_000 + 10_000 * place,
            )
            for place, (name, architecture) in enumerate((MET | NEW | HARD).items())
        }

    def by_inner_steps(self, steps: Sequence[int], policies: int) -> list[list[float]]:
        """Return greedy returns after some numbers of inner steps, ``[steps, policies]``."""
        architectures = list(MET.values())
        every = [self.taught(architectures[number % len(MET)], 50_000 + number, steps) for number in range(policies)]
        return [self.scores(each, 7_000_000).greedy.tolist() for each in zip(*every, strict=True)]


def ppo(env_id: str, seed: int, every: int) -> tuple[list[tuple[int, float, float]], Any]:
    """Train by PPO; return the curve (environment steps, seconds, greedy return), and the model."""
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize, sync_envs_normalization

    rival = PPO[env_id]
    copies, examined = make_vec_env(env_id, rival.copies, seed), make_vec_env(env_id, 5, 4_000_000)
    if rival.normalize:
        copies = VecNormalize(copies, gamma=rival.options["gamma"])
        examined = VecNormalize(examined, training=False, norm_reward=False)
    curve: list[tuple[int, float, float]] = []

    class Curve(BaseCallback):
        began = time.perf_counter()
        paused = 0.0

        def _on_step(self) -> bool:
            if self.num_timesteps // every > len(curve):
                now = time.perf_counter()
                if rival.normalize:
                    sync_envs_normalization(copies, examined)
                score = torch.tensor(evaluate_policy(self.model, examined, 10)[0])
                curve.append((self.num_timesteps, now - self.began - self.paused, float(score)))
                self.paused += time.perf_counter() - now
            return True

    model = stable_baselines3.PPO("MlpPolicy", copies, seed=seed, device="cpu", **rival.options)
    model.learn(rival.steps, callback=Curve())
    return curve, model


def pairs(examiner: Examiner, model: Any) -> dict[str, Tensor]:
    """Return states that a PPO policy visits, evenly spread over an episode, with its logits or mean actions."""
    task, teacher = examiner.task, examiner.gtn.teacher
    assert isinstance(teacher, FreeTensors)
    signals: list[Tensor] = []
    normalizer = model.get_vec_normalize_env()

    def act(states: Tensor) -> Tensor:
        raw = states.flatten(0, 1)
        seen = raw if normalizer is None else torch.from_numpy(normalizer.normalize_obs(raw.numpy())).float()
        distribution = model.policy.get_distribution(seen).distribution
        space = model.action_space
        if task.continuous:
            middle, half = torch.tensor(space.high + space.low) / 2, torch.tensor(space.high - space.low) / 2
            signals.append(((distribution.mean - middle) / half).clamp(-1, 1))
            return signals[-1][:, None]
        signals.append(distribution.logits)
        return signals[-1].argmax(-1)[:, None]

    center = torch.zeros(examiner.environments.shape)
    with torch.no_grad():
        played = Episodes(examiner.environments, 1, 6_000_000, center, center + 1).play(act, 1, torch.zeros(()))
    chosen = torch.linspace(0, len(signals) - 1, teacher.samples).round().long()
    center, scale = examiner.normalization
    return {
        "states": (played.states[:-1, 0, 0][chosen] - center) / scale,
        task.signal: torch.cat(signals)[chosen],
    }


def with_pairs(examiner: Examiner, given: dict[str, Tensor] | None, factor: float) -> Examiner:
    """Return an examiner whose GTN teaches given pairs, or random ones, at a constant rate."""
    own = GTN.from_description(examiner.gtn.description())
    assert isinstance(own.teacher, FreeTensors)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in own.teacher.tensors.items():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) if given is None else given[name])
    mean = float(examiner.gtn.inner_optimizer.schedules(own.inner_loop.steps)["lr"].mean())
    own.inner_optimizer = examiner.gtn.inner_optimizer.constant(lr=factor * mean)
    return Examiner(own, examiner.data, examiner.episodes)


def best_of_rates(examiner: Examiner, given: dict[str, Tensor] | None) -> Examiner:
    """Return an examiner with given pairs, or random ones, at the best of several rates."""
    every = [with_pairs(examiner, given, factor) for factor in CLONING_FACTORS]
    architectures = list(MET.values())

    def found(own: Examiner) -> float:
        policies = [own.taught(architectures[number % len(MET)], 60_000 + number)[0] for number in range(8)]
        return float(own.scores(policies, 8_000_000).greedy.mean())

    return max(every, key=found)


class Plan(NamedTuple):
    """What to run."""

    policies: int
    episodes: int
    output: Path


def measured(recipe: str, plan: Plan, seed: int) -> dict[str, Any]:
    """Return the result of one meta-seed; it is kept, so that an interrupted benchmark goes on where it was."""
    kept = plan.output / recipe / f"{seed}.json"
    if kept.exists():
        known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return known
    file = fit_once(recipe, seed, plan.output)
    data = data_of(file)
    examiner = Examiner(GTN.from_teacher(file), data, plan.episodes)
    with (file.parent / "metrics.csv").open(encoding="utf-8") as log:
        rows = list(csv.DictReader(log))
    counted = [float(row["train/env_steps"]) for row in rows if row.get("train/env_steps")]
    found = examiner.by_architecture(plan.policies)
    rival, model = ppo(data.env_id, seed, PPO[data.env_id].steps // 50)
    last = examiner.gtn.inner_loop.steps
    steps = sorted({last * quarter // 4 for quarter in range(5)})
    kinds = {
        "taught": examiner,
        "cloned": best_of_rates(examiner, pairs(examiner, model)),
        "random": best_of_rates(examiner, None),
    }
    result = {
        "env_id": data.env_id,
        "samples": getattr(examiner.gtn.teacher, "samples", 0),
        "inner_steps": last,
        "meta_training": read_meta_training(file),
        "cpu_seconds": cpu_seconds(recipe, seed, plan.output),
        "env_steps": counted[-1],
        "policies": {name: [scores.greedy.tolist(), scores.sampled.tolist()] for name, scores in found.items()},
        "ppo": rival,
        "steps": steps,
        "by_steps": {name: own.by_inner_steps(steps, 12) for name, own in kinds.items()},
    }
    kept.write_text(json.dumps(result), encoding="utf-8")
    return result


def main() -> None:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES, help="the recipes")
    parser.add_argument("--seeds", type=int, help="meta-seeds of each recipe, instead of its own number")
    parser.add_argument("--policies", type=int, default=10, help="policies of every architecture")
    parser.add_argument("--episodes", type=int, default=5, help="episodes of every policy")
    parser.add_argument("--output", type=Path, default=Path("runs/agents"), help="where the runs are kept")
    options = parser.parse_args()
    plan = Plan(options.policies, options.episodes, options.output)
    results = {
        recipe: [measured(recipe, plan, seed) for seed in range(options.seeds or RECIPES[recipe])]
        for recipe in options.recipes
    }
    write_sections("rl", "Agents", {recipe: report(recipe, found, plan) for recipe, found in results.items()}, NOTE)
    for recipe, found in results.items():
        draw(recipe, found).savefig(RESULTS / f"rl_{recipe}.png")


RECIPES = {"cartpole": 5, "cartpole_smallest": 3, "acrobot": 1, "mountain_car": 3, "pendulum": 1}
"""Recipes whose teacher is a set of samples, with the number of their meta-seeds."""

NOTE = (
    "Returns are the mean of a policy's episodes in copies made by `gymnasium.make`; the spread is over policies. "
    "Never met: architectures that no recipe's mixture has. Cloning: as many states of a trained PPO policy as the "
    "teacher has samples, with its logits or mean actions, by the same inner loop at the best of four constant rates; "
    "random pairs likewise. Environment steps of meta-training count time steps within episodes, those of validations "
    "among them; PPO's do not count its evaluations. Pays after: the number of policies from which meta-training takes "
    "fewer environment steps, or seconds, than PPO until its return first is as the bar asks."
)


def report(recipe: str, results: Sequence[dict[str, Any]], plan: Plan) -> str:
    """Return a recipe's tables."""
    bar, first = BARS[results[0]["env_id"]], results[0]
    lines = []
    for seed, result in enumerate(results):
        every = torch.tensor([result["policies"][name] for name in MET | NEW])
        greedy, sampled = every[:, 0].flatten(), every[:, 1].flatten()
        seconds, env_steps = result["meta_training"]["seconds"], result["env_steps"]
        reached = next(((steps, took) for steps, took, score in result["ppo"] if score >= bar), None)
        pays = "-" if reached is None else f"{env_steps / reached[0]:,.0f}; {seconds / reached[1]:,.0f}"
        last = result["ppo"][-1]
        cloned, random = (torch.tensor(result["by_steps"][name][-1]) for name in ("cloned", "random"))
        lines.append(
            [
                str(seed),
                _spread(greedy),
                f"{greedy.min():.0f}",
                _spread(sampled),
                f"{seconds:.0f}",
                f"{result['cpu_seconds']:.0f}",
                f"{env_steps:,.0f}",
                "not reached" if reached is None else f"{reached[0]:,} ({reached[1]:.0f} s)",
                f"{last[2]:.0f} ({last[0]:,}, {last[1]:.0f} s)",
                pays,
                f"{cloned.mean():.0f} ({cloned.min():.0f})",
                f"{random.mean():.0f}",
            ]
        )
    heading = ["seed", "greedy return", "worst policy", "sampled return", "seconds", "CPU seconds"]
    heading += [
        "environment steps",
        f"PPO: steps to {bar:.0f}",
        "PPO at its end",
        "pays after (steps; seconds)",
        "cloning (worst)",
    ]
    heading += ["random pairs"]
    rows = []
    for name in MET | NEW | HARD:
        greedy, sampled = (
            torch.tensor([result["policies"][name][place] for result in results]).flatten() for place in (0, 1)
        )
        kind = "met" if name in MET else "never met" if name in NEW else "never met, not counted"
        rows.append([name, kind, _spread(greedy), f"{greedy.min():.0f}", _spread(sampled)])
    architectures = markdown_table(["policy", "", "greedy return", "worst policy", "sampled return"], rows)
    means = torch.tensor([[result["policies"][name][0] for name in MET | NEW] for result in results]).mean((1, 2))
    count = plan.policies * len(MET | NEW)
    return (
        f"{first['env_id']}: {first['samples']} samples, inner steps: {first['inner_steps']}; {count} "
        f"never-seen policies x {plan.episodes} episodes per meta-seed.\n\n{markdown_table(heading, lines)}\n\n"
        f"Greedy return over all meta-seeds: {means.mean():.1f}; the bar is {bar:.0f}.\n"
        f"By architecture, over all meta-seeds:\n\n{architectures}\n\n![returns](rl_{recipe}.png)"
    )


def _spread(values: Tensor) -> str:
    return f"{values.mean():.1f} ± {values.std():.1f}" if len(values) > 1 else f"{values.mean():.1f}"


def draw(recipe: str, results: Sequence[dict[str, Any]]) -> Figure:
    """Draw a recipe's returns against inner steps, and beside it PPO's against environment steps."""
    figure = Figure(figsize=(9, 3), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    titles = {"taught": "synthetic samples", "cloned": "as many pairs of PPO", "random": "random pairs"}
    for color, (name, title) in enumerate(titles.items()):
        values = torch.tensor([result["by_steps"][name] for result in results])  # [seeds, steps, policies]
        values = values.movedim(1, 0).flatten(1)
        low, high = values.quantile(0.1, dim=1), values.quantile(0.9, dim=1)
        left.plot(results[0]["steps"], values.mean(1), color=f"C{color}", label=title, marker="o", markersize=3)
        left.fill_between(results[0]["steps"], low, high, color=f"C{color}", alpha=0.15, linewidth=0)
    for number, result in enumerate(results):
        steps, _, scores = zip(*result["ppo"], strict=True)
        label = "PPO, one policy" if not number else None
        right.plot(steps, scores, color="C3", alpha=0.6, linewidth=1, label=label)
    greedy = torch.tensor([result["policies"][name][0] for result in results for name in MET | NEW])
    right.axhline(float(greedy.mean()), color="C0", label="taught, no environment steps of their own")
    right.axhline(float(greedy.min()), color="C0", linestyle=":", label="the worst of them")
    left.set_title(recipe, fontsize=9)
    left.set_xlabel("inner steps")
    left.set_ylabel("greedy return")
    right.set_xlabel("environment steps of a policy")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.xaxis.set_major_locator(MaxNLocator(5))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
