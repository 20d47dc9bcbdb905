"""Checks that the processes of a run hold the same teacher."""

import torch
from torch import Tensor

from gtn_lightning.lightning import pl


class DisagreementError(RuntimeError):
    """The processes hold different teachers."""


def check_agreement(module: pl.LightningModule) -> None:
    """Compare a checksum of all weights and buffers over the processes.

    Raises:
        DisagreementError: on every process, if they differ in a single bit.
    """
    trainer = module.trainer
    if trainer.world_size == 1:
        return
    own = checksum(module)
    checksums = own.new_zeros(trainer.world_size)
    checksums[trainer.global_rank] = own
    checksums = trainer.strategy.reduce(checksums, reduce_op="sum")
    different = [rank for rank, other in enumerate(checksums.tolist()) if other != checksums[0].item()]
    if different:
        raise DisagreementError(
            f"meta-step {trainer.global_step}: the teachers of processes {different} are not that of process 0; "
            "weights were changed without DDP, by a callback on one process only or by a backward pass without "
            "manual_backward"
        )


def checksum(module: torch.nn.Module) -> Tensor:
    """Return a checksum of a module's weights and buffers (scalar, int64)."""
    found = torch.zeros((), dtype=torch.int64, device=next(module.parameters()).device)
    for tensor in module.state_dict().values():
        found = found * 31 + torch.hash_tensor(tensor.detach()).view(torch.int64)
    return found
