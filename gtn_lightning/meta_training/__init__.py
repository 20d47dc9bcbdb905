"""The outer optimizer, recovery from divergence, resumption from checkpoints, and agreement of the processes."""

from gtn_lightning.meta_training.recovery import DivergedError, Recovery

__all__ = ["DivergedError", "Recovery"]
