"""Reinforcement learning: episodes in vector environments, policies that act together, and advantages."""

from gtn_lightning.rl.advantages import BASELINES, advantages, features_of
from gtn_lightning.rl.environments import Environments, Episodes, Trajectories
from gtn_lightning.rl.film import Film, film
from gtn_lightning.rl.policies import Policies

__all__ = [
    "BASELINES",
    "Environments",
    "Episodes",
    "Film",
    "Policies",
    "Trajectories",
    "advantages",
    "features_of",
    "film",
]
