"""Agents over several meta-seeds: never-seen policies in gymnasium's own environments, beside PPO and cloning.

Every policy is a new network, of an architecture that the teacher has met or not, taught by the teacher's data and then
scored in single environments made by ``gymnasium.make``, not in the copies that meta-training used. Beside it: PPO on
the real environment (stable-baselines3, with the tuned settings of its zoo), behavior cloning of as many state-action
pairs of a trained PPO policy, and random pairs.
"""

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.report import RESULTS, markdown_table, write_report
from benchmarks.runs import data_of, fit_and_test
from gtn_lightning import GTN
from gtn_lightning.learners import MLP
from gtn_lightning.randomness import keyed_generator
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

PPO: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 100_000,
        "copies": 8,
        "options": {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": lambda left: 0.001 * left,
            "clip_range": lambda left: 0.2 * left,
        },
    },
}
"""The tuned settings of rl-baselines3-zoo (hyperparams/ppo.yml); a rate falls linearly to zero."""

RATES = (0.003, 0.01, 0.03)
"""Learning rates of cloning, of which the best on other episodes counts."""


class Scores(NamedTuple):
    """Mean returns of policies, ``[policies]`` each."""

    greedy: Tensor
    sampled: Tensor


def returns(policy: Callable[[Tensor], Tensor], env_id: str, episodes: int, seed: int) -> float:
    """Return the mean return of a policy in a single environment of gymnasium.

    Args:
        policy: takes raw states ``[1, *shape]``, returns actions ``[1, ...]`` as the environment takes them.
        env_id: the environment.
        episodes: number of episodes.
        seed: seed of the first episode.
    """
    environment, total = gymnasium.make(env_id), 0.0
    for episode in range(episodes):
        state, _ = environment.reset(seed=seed + episode)
        ended = False
        while not ended:
            action = policy(torch.from_numpy(state)[None])[0].numpy()
            state, reward, terminated, truncated, _ = environment.step(action)
            total += float(reward)
            ended = terminated or truncated
    environment.close()
    return total / episodes


def scored(network: nn.Module, task: Control, data: Any, episodes: int, seed: int, sampled: bool) -> float:
    """Return the mean return of a network, with the most probable actions or with sampled ones."""
    generator = torch.Generator().manual_seed(seed)

    def policy(states: Tensor) -> Tensor:
        outputs = network((states - data.center) / data.scale)
        actions = task.act(outputs, generator if sampled else None)
        return torch.from_numpy(data.environments.native(actions))

    with torch.no_grad():
        return returns(policy, data.environments.env_id, episodes, seed)


def taught(gtn: GTN, architecture: dict[str, Any], number: int) -> nn.Module:
    """Return a new network, taught by a teacher."""
    assert isinstance(gtn.task, Control)
    torch.manual_seed(100_000 + number)
    network = MLP(gtn.task.shape, gtn.task.actions, **architecture)
    with torch.no_grad():
        requests = gtn.curriculum.requests(keyed_generator(1, "agents", number), torch.device("cpu"))
    steps = gtn.inner_loop.steps
    last = teach(network, gtn.task, gtn.teacher, requests, gtn.inner_optimizer, [steps], "remat")[steps]
    network.load_state_dict({**last.params, **last.buffers})
    return network.eval()


def by_architecture(gtn: GTN, data: Any, policies: int, episodes: int) -> dict[str, Scores]:
    """Return the scores of new networks of every architecture."""
    assert isinstance(gtn.task, Control)
    found = {}
    for place, (name, architecture) in enumerate((MET | NEW | HARD).items()):
        networks = [taught(gtn, architecture, place * policies + number) for number in range(policies)]
        seeds = [3_000_000 + 1000 * (place * policies + number) for number in range(policies)]
        found[name] = Scores(
            *(
                torch.tensor(
                    [
                        scored(network, gtn.task, data, episodes, seed, sampled)
                        for network, seed in zip(networks, seeds, strict=True)
                    ]
                )
                for sampled in (False, True)
            )
        )
    return found


def ppo(env_id: str, seed: int, every: int, episodes: int) -> tuple[list[tuple[int, float, float]], Any]:
    """Train by PPO; return the curve (environment steps, seconds, greedy return), and the model."""
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    setting = PPO[env_id]
    curve: list[tuple[int, float, float]] = []

    class Curve(BaseCallback):
        began = time.perf_counter()
        paused = 0.0

        def _on_step(self) -> bool:
            if self.num_timesteps // every > len(curve):
                now = time.perf_counter()
                score = returns(lambda states: _predicted(self.model, states), env_id, episodes, 4_000_000)
                curve.append((self.num_timesteps, now - self.began - self.paused, score))
                self.paused += time.perf_counter() - now
            return True

    copies = make_vec_env(env_id, n_envs=setting["copies"], seed=seed)
    model = stable_baselines3.PPO("MlpPolicy", copies, seed=seed, device="cpu", **setting["options"])
    model.learn(setting["steps"], callback=Curve())
    return curve, model


def _predicted(model: Any, states: Tensor) -> Tensor:
    return torch.from_numpy(model.predict(states.numpy(), deterministic=True)[0])


def cloned(gtn: GTN, data: Any, model: Any, policies: int, episodes: int) -> list[float]:
    """Return the returns of policies that clone as many pairs of a trained PPO policy, at the best of several rates."""
    assert isinstance(gtn.task, Control)
    pairs, environment = _pairs(gtn, data, model), data.environments.env_id
    best: list[float] = []
    for rate in RATES:
        own = _with_pairs(gtn, pairs, rate)
        networks = [taught(own, list(MET.values())[number % len(MET)], number) for number in range(policies)]
        found = [
            scored(network, gtn.task, data, episodes, 5_000_000 + 1000 * number, sampled=False)
            for number, network in enumerate(networks)
        ]
        print(f"cloning {environment} at rate {rate}: {statistics.mean(found):.1f}", flush=True)
        if not best or statistics.mean(found) > statistics.mean(best):
            best = found
    return best


def _pairs(gtn: GTN, data: Any, model: Any) -> dict[str, Tensor]:
    """Return states that a PPO policy visits, evenly spread over an episode, with its action logits."""
    assert isinstance(gtn.teacher, FreeTensors)
    environment, states, logits = gymnasium.make(data.environments.env_id), [], []
    state, _ = environment.reset(seed=6_000_000)
    ended = False
    while not ended:
        states.append(torch.from_numpy(state))
        distribution = model.policy.get_distribution(states[-1][None]).distribution
        logits.append(distribution.logits[0].detach())
        state, _, terminated, truncated, _ = environment.step(int(distribution.logits.argmax()))
        ended = terminated or truncated
    chosen = torch.linspace(0, len(states) - 1, gtn.teacher.samples).round().long()
    normalized = (torch.stack(states)[chosen] - data.center) / data.scale
    return {"states": normalized, "actions": torch.stack(logits)[chosen]}


def _with_pairs(gtn: GTN, pairs: dict[str, Tensor] | None, rate: float) -> GTN:
    """Return a GTN that teaches given pairs, or random ones, with a constant rate."""
    own = GTN.from_description(gtn.description())
    assert isinstance(own.teacher, FreeTensors)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in own.teacher.tensors.items():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) if pairs is None else pairs[name])
    own.inner_optimizer = gtn.inner_optimizer.constant(lr=rate)
    return own


class Plan(NamedTuple):
    """What to run."""

    recipe: str
    seeds: int
    policies: int
    episodes: int
    output: Path


def measured(plan: Plan, seed: int) -> dict[str, Any]:
    """Return the result of one meta-seed; it is kept, so that an interrupted benchmark goes on where it was."""
    kept = plan.output / plan.recipe / f"{seed}.json"
    if kept.exists():
        known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return known
    fit_and_test(plan.recipe, seed, plan.output)
    (file,) = (plan.output / plan.recipe / str(seed)).glob("*/teacher.safetensors")
    gtn, data = GTN.from_teacher(file), data_of(file).batch("test", 0)
    assert isinstance(gtn.task, Control)
    with (file.parent / "metrics.csv").open(encoding="utf-8") as log:
        rows = list(csv.DictReader(log))
    steps = [float(row["train/env_steps"]) for row in rows if row.get("train/env_steps")]
    found = by_architecture(gtn, data, plan.policies, plan.episodes)
    random = _with_pairs(gtn, None, 0.01)
    model_curve, model = ppo(data.environments.env_id, seed, 2000, 5)
    result = {
        "meta_training": read_meta_training(file),
        "env_steps": steps[-1],
        "policies": {name: [scores.greedy.tolist(), scores.sampled.tolist()] for name, scores in found.items()},
        "random": [
            scored(taught(random, list(MET.values())[number % len(MET)], number), gtn.task, data, 5, 8_000_000, False)
            for number in range(12)
        ],
        "ppo": model_curve,
        "cloned": cloned(gtn, data, model, 12, plan.episodes),
    }
    kept.write_text(json.dumps(result), encoding="utf-8")
    return result


def main() -> None:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="cartpole", help="the recipe")
    parser.add_argument("--seeds", type=int, default=5, help="meta-seeds")
    parser.add_argument("--policies", type=int, default=10, help="policies of every architecture")
    parser.add_argument("--episodes", type=int, default=5, help="episodes of every policy")
    parser.add_argument("--output", type=Path, default=Path("runs/agents"), help="where the runs are kept")
    options = parser.parse_args()
    plan = Plan(options.recipe, options.seeds, options.policies, options.episodes, options.output)
    results = [measured(plan, seed) for seed in range(plan.seeds)]
    write_report("rl", "Agents", report(results, plan), NOTE)
    draw(results).savefig(RESULTS / "rl.png")


NOTE = (
    "Returns are the mean of a policy's episodes in gymnasium's own single environments; the spread is over policies. "
    "Never met: architectures that the recipe's mixture does not have. Cloning: as many states of a trained PPO policy "
    "as the teacher has pairs, with its logits, the same inner loop at the best of three constant rates. Environment "
    "steps of meta-training count time steps within episodes, about a third of them in validations; PPO's do not "
    "count its evaluations."
)


def report(results: Sequence[dict[str, Any]], plan: Plan) -> str:
    """Return the tables."""
    rows = []
    for name in MET | NEW | HARD:
        greedy, sampled = (
            torch.tensor([result["policies"][name][place] for result in results]).flatten() for place in (0, 1)
        )
        rows.append(
            [
                name,
                "met" if name in MET else "never met" if name in NEW else "never met, not counted",
                _spread(greedy),
                f"{greedy.min():.0f}",
                _spread(sampled),
            ]
        )
    architectures = markdown_table(["policy", "", "greedy return", "worst policy", "sampled return"], rows)
    lines = []
    for seed, result in enumerate(results):
        every = torch.tensor([result["policies"][name] for name in MET | NEW])
        greedy, sampled = every[:, 0].flatten(), every[:, 1].flatten()
        reached = next((f"{steps:,}" for steps, _, score in result["ppo"] if score >= 475), "not reached")
        last = result["ppo"][-1]
        lines.append(
            [
                str(seed),
                _spread(greedy),
                f"{greedy.min():.0f}",
                _spread(sampled),
                f"{result['meta_training']['seconds']:.0f}",
                f"{result['env_steps']:,.0f}",
                reached,
                f"{last[2]:.0f} ({last[1]:.0f} s)",
                f"{statistics.mean(result['cloned']):.0f} ({min(result['cloned']):.0f})",
                f"{statistics.mean(result['random']):.0f}",
            ]
        )
    heading = ["seed", "greedy return", "worst policy", "sampled return", "seconds", "environment steps"]
    heading += ["PPO: steps to 475", "PPO at its end", "cloning (worst)", "random pairs"]
    count = plan.policies * len(MET | NEW)
    means = [torch.tensor([result["policies"][name][0] for name in MET | NEW]).mean() for result in results]
    overall = f"Greedy return over all meta-seeds: {torch.stack(means).mean():.1f}."
    return (
        f"`{plan.recipe}`: {count} never-seen policies x {plan.episodes} episodes per meta-seed.\n\n"
        f"{markdown_table(heading, lines)}\n\n{overall}\nBy architecture, over all meta-seeds:\n\n{architectures}\n\n"
        "![returns](rl.png)"
    )


def _spread(values: Tensor) -> str:
    return f"{values.mean():.1f} ± {values.std():.1f}"


def draw(results: Sequence[dict[str, Any]]) -> Figure:
    """Draw PPO's returns against environment steps, and those of the taught policies."""
    figure = Figure(figsize=(6.4, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for number, result in enumerate(results):
        steps, _, scores = zip(*result["ppo"], strict=True)
        axes.plot(steps, scores, color="C1", alpha=0.6, linewidth=1, label="PPO, one policy" if not number else None)
    greedy = torch.tensor([result["policies"][name][0] for result in results for name in MET | NEW])
    axes.axhline(float(greedy.mean()), color="C0", label="taught, no environment steps of their own")
    axes.axhline(float(greedy.min()), color="C0", linestyle=":", label="the worst of them")
    axes.set_xlabel("environment steps of a policy")
    axes.set_ylabel("greedy return")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    return figure


if __name__ == "__main__":
    main()
