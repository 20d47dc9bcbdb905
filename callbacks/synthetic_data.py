"""Write the synthetic data to a safetensors file."""

import importlib.metadata
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gtn_lightning import __version__
from gtn_lightning.callbacks.writing import unless_unwritable
from gtn_lightning.data import Documents, Normalizes
from gtn_lightning.description import describe
from gtn_lightning.distilled import Card, DistilledSet, write_distilled
from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import BasePredictionWriter, LightningModule, Trainer

DATA_FILE = "synthetic.safetensors"
"""Name of the file in the run folder."""

MEANINGS = {
    "inputs": "the inputs of the T inner steps in order, normalized as for a network",
    "targets": "the targets of the loss: classes int64 [T, B], class probabilities [T, B, classes], or numbers",
    "labels": "the class that each sample was made for",
    "states": "observations, divided as for a network",
    "actions": "the targets of the loss: action probabilities, or continuous actions",
}
"""Descriptions of tensors, by name, for the card."""

NORMALIZATION = {
    "normalize_center": "what is subtracted from raw data to make a learner's inputs",
    "normalize_scale": "what the difference is divided by",
    "target_center": "what is added to an output times target_scale to make the numbers of the table",
    "target_scale": "what an output is multiplied by",
    "whiten_center": "what is then subtracted",
    "whiten_matrix": "what the flattened difference is then multiplied by",
}
"""Descriptions of a data module's normalization."""


class SyntheticData(BasePredictionWriter):
    """Writes the synthetic data of ``gtn predict`` and the learned rates to ``<run folder>/synthetic.safetensors``.

    The file holds every field of the T inner steps in order, for instance ``inputs`` ``[T, B, C, H, W]`` and
    ``targets``, and each hyperparameter of the inner optimizer by its name, float ``[T]``; and, if the data module is
    one that `Normalizes`, ``normalize_center`` and ``normalize_scale``, and with whitening
    ``whiten_center`` and ``whiten_matrix``. Its card says how to train on them, what they
    were made from and at what cost, see `gtn_lightning.distilled.Card`. Under DDP every rank makes its share of the
    steps, and rank zero writes all.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Gather the steps of all ranks and write them."""
        shares: list[Any] = [predictions]
        if trainer.world_size > 1:
            shares = [None] * trainer.world_size
            torch.distributed.all_gather_object(shares, predictions)
        if not trainer.is_global_zero:
            return
        gtn: Any = pl_module
        batches = {int(batch["step"]): gtn.task.exported(batch) for share in shares for batch in share}
        steps = sorted(batches)
        synthetic: dict[str, Tensor] = {
            name: torch.stack([batches[step][name].cpu() for step in steps])
            for name in batches[steps[0]]
            if name != "step"
        }
        # float32, whatever the trainer's precision.
        synthetic = {name: field.float() if field.is_floating_point() else field for name, field in synthetic.items()}
        schedules = gtn.inner_optimizer.schedules(gtn.inner_loop.steps)
        tensors = synthetic | {name: values[steps].float().cpu() for name, values in schedules.items()}
        meanings = {
            name: f"{str(field.dtype).removeprefix('torch.')} [{', '.join(['T', 'B', *map(str, field.shape[2:])])}], "
            f"{MEANINGS.get(name, 'a field of the batches')}"
            for name, field in synthetic.items()
        }
        meanings |= dict.fromkeys(schedules, "float32 [T], the inner optimizer's value at each step")
        # What turns raw data into a learner's inputs, from a data module that says it.
        data = getattr(trainer, "datamodule", None)
        for name, value in (data.normalization() if isinstance(data, Normalizes) else {}).items():
            kind = str(value.dtype).removeprefix("torch.")
            meanings[name] = f"{kind} {list(value.shape)}, {NORMALIZATION[name]}"
            tensors[name] = value.cpu().contiguous()
        path = Path(trainer.default_root_dir) / DATA_FILE
        with unless_unwritable(trainer, path.name):
            write_distilled(path, DistilledSet(tensors, _card(gtn, data, list(schedules), meanings)))


def _card(gtn: Any, data: Any, hyperparameters: list[str], meanings: dict[str, str]) -> Card:
    optimizer = gtn.inner_optimizer
    return Card(
        fields=list(gtn.task.fields),
        # A loss or an optimizer of another kind is written as well, and refused when a program wants to train with it.
        loss=gtn.task.exported_loss or type(gtn.task).__name__,
        optimizer={
            "name": type(optimizer).__name__,
            "hyperparameters": hyperparameters,
            "nesterov": bool(getattr(optimizer, "nesterov", False)),
        },
        description=meanings,
        task=_described(gtn.task) or {},
        learners=_described(gtn.learners) or {},
        data=None if data is None else _described(data, rebuilt=False),
        real=dict(data.document()) if isinstance(data, Documents) else {},
        made={
            "date": time.strftime("%Y-%m-%d"),
            "version": __version__,
            "torch": importlib.metadata.version("torch"),
            "seed": gtn.seed,
            **gtn.meta_training(),
        },
    )


def _described(component: Any, rebuilt: bool = True) -> Any:
    try:
        return describe(component, rebuilt)
    except RecipeError:  # a user's own, which no file can describe
        return None
