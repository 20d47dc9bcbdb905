"""Small sets of synthetic data for tests."""

import torch

from gtn_lightning.distilled import Card, DistilledSet
from gtn_lightning.inner_loop import InnerOptimizer


def small_set(optimizer: InnerOptimizer, steps: int = 4, soft: bool = True) -> DistilledSet:
    """Two classes of 1x4x4 images, bright above or below, with an optimizer's rates."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat(steps, 1) % 2
    images = 0.3 * torch.randn(steps, 6, 1, 4, 4, generator=generator)
    images[:, :, :, :2] += (1 - labels).float()[:, :, None, None, None]
    images[:, :, :, 2:] += labels.float()[:, :, None, None, None]
    schedules = optimizer.schedules(steps)
    targets = torch.nn.functional.one_hot(labels, 2).float() * 0.9 + 0.05 if soft else labels
    card = Card(
        fields=["inputs", "targets"],
        loss="cross_entropy",
        optimizer={
            "name": type(optimizer).__name__,
            "hyperparameters": list(schedules),
            "nesterov": getattr(optimizer, "nesterov", False),
        },
        task={"class_path": "gtn_lightning.tasks.Classification", "init_args": {"classes": 2}},
    )
    scale = {"normalize_center": torch.tensor([[[100.0]]]), "normalize_scale": torch.tensor([[[50.0]]])}
    return DistilledSet({"inputs": images, "targets": targets, **schedules, **scale}, card)
