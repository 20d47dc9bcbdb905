"""What guards meta-training: the outer optimizer, recovery from divergence, resumption, agreement of the processes."""

from gtn_lightning.meta_training.recovery import DivergedError, Recovery

__all__ = ["DivergedError", "Recovery"]
