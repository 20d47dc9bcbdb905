"""The synthetic data as a file that any program can read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from gtn_lightning.callbacks.writing import unless_unwritable
from gtn_lightning.files import whole_file
from gtn_lightning.lightning import BasePredictionWriter, LightningModule, Trainer

DATA_FILE = "synthetic.safetensors"
"""Name of the file in the run folder."""

FORMAT = "gtn-lightning synthetic data 1"
"""Value of the metadata key ``format``."""

MEANINGS = {
    "inputs": "the inputs of the T inner steps in order, as a network sees them",
    "targets": "what the loss compares with: classes int64 [T, B], class probabilities [T, B, classes], or numbers",
    "labels": "the class that each sample was made for",
}
"""What the tensors of these names are."""


class SyntheticData(BasePredictionWriter):
    """Writes what ``gtn predict`` makes, with the learned rates, to ``<run folder>/synthetic.safetensors``.

    The file holds every field of the T inner steps in order, for instance ``inputs`` [T, B, C, H, W] and ``targets``,
    and each hyperparameter of the inner optimizer under its own name, float [T]; the metadata's ``description``
    says so as JSON. Under DDP every rank makes its share of the steps and rank zero writes them all.
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
        """Bring the steps of all ranks together and write them."""
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
        # Whatever the trainer's precision is, the file is what it says it is.
        tensors = {name: made.float() if made.is_floating_point() else made for name, made in tensors.items()}
        gtn: Any = pl_module
        schedules = gtn.inner_optimizer.schedules(gtn.inner_loop.steps)
        learned = {name: values[steps].float().cpu() for name, values in schedules.items()}
        meanings = {
            name: f"{str(made.dtype).removeprefix('torch.')} [{', '.join(['T', 'B', *map(str, made.shape[2:])])}], "
            f"{MEANINGS.get(name, 'a field of the batches')}"
            for name, made in tensors.items()
        }
        meanings |= dict.fromkeys(schedules, "float32 [T], the inner optimizer's value at each step")
        metadata = {
            "format": FORMAT,
            "optimizer": type(gtn.inner_optimizer).__name__,
            "description": json.dumps(meanings),
        }
        # Serialized in memory: the library's own writer hides the system's reason when it fails.
        path = Path(trainer.default_root_dir) / DATA_FILE
        with unless_unwritable(trainer, path.name), whole_file(path) as part:
            part.write_bytes(save(tensors | learned, metadata))
