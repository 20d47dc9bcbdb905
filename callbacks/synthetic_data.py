"""Write the synthetic data to a safetensors file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from gtn_lightning.callbacks.writing import unless_unwritable
from gtn_lightning.data import Normalizes
from gtn_lightning.files import whole_file
from gtn_lightning.lightning import BasePredictionWriter, LightningModule, Trainer

DATA_FILE = "synthetic.safetensors"
"""Name of the file in the run folder."""

FORMAT = "gtn-lightning synthetic data 1"
"""Value of the metadata key ``format``."""

MEANINGS = {
    "inputs": "the inputs of the T inner steps in order, normalized as for a network",
    "targets": "the targets of the loss: classes int64 [T, B], class probabilities [T, B, classes], or numbers",
    "labels": "the class that each sample was made for",
}
"""Descriptions of tensors, by name, for the file's metadata."""


NORMALIZATION = {
    "normalize_center": "what is subtracted from raw data to make a learner's inputs",
    "normalize_scale": "what the difference is divided by",
}
"""Descriptions of a data module's normalization."""


class SyntheticData(BasePredictionWriter):
    """Writes the synthetic data of ``gtn predict`` and the learned rates to ``<run folder>/synthetic.safetensors``.

    The file holds every field of the T inner steps in order, for instance ``inputs`` ``[T, B, C, H, W]`` and
    ``targets``, and each hyperparameter of the inner optimizer by its name, float ``[T]``; and, if the data module is
    one that `Normalizes`, ``normalize_center`` and ``normalize_scale``. The metadata's ``description`` describes
    them as JSON. Under DDP every rank makes its share of the steps, and rank zero writes all.
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
        batches = {int(batch["step"]): batch for share in shares for batch in share}
        steps = sorted(batches)
        tensors: dict[str, Tensor] = {
            name: torch.stack([batches[step][name].cpu() for step in steps])
            for name in batches[steps[0]]
            if name != "step"
        }
        # float32, whatever the trainer's precision.
        tensors = {name: field.float() if field.is_floating_point() else field for name, field in tensors.items()}
        gtn: Any = pl_module
        schedules = gtn.inner_optimizer.schedules(gtn.inner_loop.steps)
        # What turns raw data into a learner's inputs, from a data module that says it.
        data = getattr(trainer, "datamodule", None)
        normalization = data.normalization() if isinstance(data, Normalizes) else {}
        learned = {name: values[steps].float().cpu() for name, values in schedules.items()}
        meanings = {
            name: f"{str(field.dtype).removeprefix('torch.')} [{', '.join(['T', 'B', *map(str, field.shape[2:])])}], "
            f"{MEANINGS.get(name, 'a field of the batches')}"
            for name, field in tensors.items()
        }
        meanings |= dict.fromkeys(schedules, "float32 [T], the inner optimizer's value at each step")
        for name, value in normalization.items():
            meanings[name] = f"float32 {list(value.shape)}, {NORMALIZATION[name]}"
            learned[name] = value.float().cpu().contiguous()
        metadata = {
            "format": FORMAT,
            "optimizer": type(gtn.inner_optimizer).__name__,
            "description": json.dumps(meanings),
        }
        # Serialized in memory: safetensors' writer hides the system's error.
        path = Path(trainer.default_root_dir) / DATA_FILE
        with unless_unwritable(trainer, path.name), whole_file(path) as part:
            part.write_bytes(save(tensors | learned, metadata))
