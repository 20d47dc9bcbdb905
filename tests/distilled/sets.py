"""Small sets of synthetic data for tests."""

import torch
from torch import Tensor

from gtn_lightning.data import DigitsData
from gtn_lightning.distilled import Card, DistilledSet
from gtn_lightning.inner_loop import InnerOptimizer


def small_set(optimizer: InnerOptimizer, steps: int = 4, soft: bool = True) -> DistilledSet:
    """Two classes of 1x4x4 images, bright above or below, with an optimizer's rates."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat(steps, 1) % 2
    images = 0.3 * torch.randn(steps, 6, 1, 4, 4, generator=generator)
    images[:, :, :, :2] += (1 - labels).float()[:, :, None, None, None]
    images[:, :, :, 2:] += labels.float()[:, :, None, None, None]
    targets = torch.nn.functional.one_hot(labels, 2).float() * 0.9 + 0.05 if soft else labels
    scale = {"normalize_center": torch.tensor([[[100.0]]]), "normalize_scale": torch.tensor([[[50.0]]])}
    return _set({"inputs": images, "targets": targets, **scale}, optimizer, classes=2)


def digits_set(optimizer: InnerOptimizer, steps: int, batch_size: int, soft: bool = False) -> DistilledSet:
    """Real digits in the place of synthetic ones, with an optimizer's rates."""
    data = DigitsData()
    data.setup()
    images, labels = (part[: steps * batch_size] for part in data.split("train"))
    targets = torch.nn.functional.one_hot(labels, 10).float() if soft else labels
    inputs, targets = (part.unflatten(0, (steps, batch_size)) for part in (data.normalize(images), targets))
    tensors = {"inputs": inputs, "targets": targets, **data.normalization()}
    return _set(tensors, optimizer, 10, {"class_path": "gtn_lightning.data.DigitsData", "init_args": {}})


def _set(
    tensors: dict[str, Tensor], optimizer: InnerOptimizer, classes: int, data: dict[str, object] | None = None
) -> DistilledSet:
    schedules = optimizer.schedules(len(tensors["inputs"]))
    card = Card(
        fields=["inputs", "targets"],
        loss="cross_entropy",
        optimizer={
            "name": type(optimizer).__name__,
            "hyperparameters": list(schedules),
            "nesterov": getattr(optimizer, "nesterov", False),
        },
        task={"class_path": "gtn_lightning.tasks.Classification", "init_args": {"classes": classes}},
        data=data,
    )
    return DistilledSet(tensors | schedules, card)
