"""Whether the processes of a run still agree."""

import pytorch_lightning as pl
import torch
from torch import Tensor

UNSUITABLE = {
    "FSDPStrategy": "shards parameters",
    "ModelParallelStrategy": "shards parameters",
    "DeepSpeedStrategy": "shards parameters and optimizer states",
}
"""Strategies of Lightning that cannot carry a GTN, and why."""


class DisagreementError(RuntimeError):
    """The processes hold different teachers."""


def unsuitable(trainer: pl.Trainer) -> str | None:
    """Return why a trainer's strategy cannot carry a GTN, or None if it can."""
    names = {kind.__name__ for kind in type(trainer.strategy).__mro__}
    return next((f"{name} {reason}" for name, reason in UNSUITABLE.items() if name in names), None)


def check_agreement(module: pl.LightningModule) -> None:
    """Compare a digest of all weights and buffers over the processes.

    Raises:
        DisagreementError: on every process, if they differ in a single bit.
    """
    trainer = module.trainer
    if trainer.world_size == 1:
        return
    own = digest(module)
    digests = own.new_zeros(trainer.world_size)
    digests[trainer.global_rank] = own
    digests = trainer.strategy.reduce(digests, reduce_op="sum")
    different = [rank for rank, other in enumerate(digests.tolist()) if other != digests[0].item()]
    if different:
        raise DisagreementError(
            f"meta-step {trainer.global_step}: the teachers of processes {different} are not that of process 0; "
            "something changes weights past DDP: a callback that acts on one process only, or an own backward pass "
            "without manual_backward"
        )


def digest(module: torch.nn.Module) -> Tensor:
    """Return an integer (scalar) that another state of the module's weights and buffers would hardly share.

    It is made of sums of the bits, read as integers: a change in a single place changes it, one in several almost
    surely. A teacher of 7 million parameters takes a few milliseconds.
    """
    found = torch.zeros((), dtype=torch.int64, device=next(module.parameters()).device)
    for tensor in module.state_dict().values():
        flat = tensor.detach().flatten()
        bits = flat.view(torch.int32 if flat.element_size() % 4 == 0 else torch.uint8)
        found = found * 31 + bits.sum(dtype=torch.int64)
    return found
