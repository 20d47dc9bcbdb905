"""Writes checkpoints completely or not at all."""

import io
from pathlib import Path
from typing import Any

import torch

from gtn_lightning.files import whole_file
from gtn_lightning.lightning import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin for checkpoints, with files that are complete or absent.

    Lightning's own uses the system's temporary folder. If that is another file system, the final move is a copy, which
    a full disk interrupts and which a read-only folder rejects without an error.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; an address such as ``s3://...`` is left to Lightning.

        Args:
            checkpoint: what Lightning has collected.
            path: where the checkpoint is written.
            storage_options: options that Lightning rejects.

        Raises:
            UnwritableError: if the file cannot be written; an earlier file stays as it was.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # In memory first: torch reports a full disk by an error without a cause.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with whole_file(Path(path)) as part:
            part.write_bytes(buffer.getbuffer())
