"""The outer gradient and optimizer, recovery from divergence, resumption, and agreement of the processes."""

from gtn_lightning.meta_training.gradients import EvolutionStrategies, MetaGradient, OuterGradient
from gtn_lightning.meta_training.recovery import DivergedError, Recovery

__all__ = ["DivergedError", "EvolutionStrategies", "MetaGradient", "OuterGradient", "Recovery"]
