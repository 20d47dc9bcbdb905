"""Runs on several processes, started by test_scale.py. Each process leaves what it saw in ``rank<N>.pt``."""

from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from gtn_lightning.data import DigitsData
from gtn_lightning.meta_training.recovery import Recovery
from gtn_lightning.meta_training.replicas import DisagreementError
from tests.tiny import make_gtn, make_trainer, with_generator

SGD = partial(torch.optim.SGD, lr=0.5, momentum=0.5)

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 2},
    "clipping": {"gradient_clip_val": 0.01},
    "static graph": {"strategy": partial(DDPStrategy, static_graph=True)},
    "mixed precision": {"precision": "bf16-mixed"},
}


class Gradients(pl.Callback):
    """Computes the meta-gradient of the first meta-step as a process of its own would, and keeps the averaged one."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int) -> None:
        if trainer.global_step == 0:
            with trainer.precision_plugin.train_step_context():
                loss = pl_module.training_step(batch, idx)
            parameters = dict(pl_module.named_parameters())
            self.own = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.global_step == 0:
            self.averaged = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}


class OneSpoils(pl.Callback):
    """Makes the gradient of one process infinite in two meta-steps, and keeps the weights before each."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before: list[dict[str, torch.Tensor]] = []

        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            spoilt = trainer.global_rank == 1 and trainer.global_step in (3, 4)
            return gradient * torch.inf if spoilt else gradient

        next(pl_module.parameters()).register_hook(spoil)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.before.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})


class OneStrays(pl.Callback):
    """Changes a weight on one process in the third meta-step."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == 3 and trainer.global_rank == 1:
            with torch.no_grad():
                next(pl_module.parameters()).view(-1)[0] += 1e-6


def main(folder: Path, devices: int, accelerator: str) -> None:
    left: dict[str, Any] = {}

    def fit(max_steps: int = 3, ckpt_path: Path | None = None, **options: Any) -> pl.Trainer:
        gtn = make_gtn(**with_generator(), outer_optimizer=SGD, recovery=Recovery(max_consecutive_skips=2))
        strategy = options.pop("strategy", DDPStrategy)
        where = {"devices": devices, "accelerator": accelerator, "strategy": strategy()}
        trainer = make_trainer(folder, max_steps=max_steps, **where | {"val_check_interval": 2} | options)
        trainer.fit(gtn, DigitsData(32), ckpt_path=ckpt_path)
        left["rank"] = trainer.global_rank
        return trainer

    def state(trainer: pl.Trainer) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in trainer.lightning_module.state_dict().items()}

    resumed = folder / "two.ckpt"
    if devices == 2:
        gradients = Gradients()
        fit(max_steps=1, precision="64-true", callbacks=[gradients])
        left["own"], left["averaged"] = gradients.own, gradients.averaged
        for way, options in WAYS.items():
            left[way] = state(fit(**options))
        trainer = fit(max_steps=4)
        trainer.save_checkpoint(resumed)
        spoils = OneSpoils()
        fit(max_steps=6, callbacks=[spoils])
        left["recovered"] = spoils.before
        try:
            fit(max_steps=10, callbacks=[OneStrays()])
        except DisagreementError as error:
            left["strayed"] = str(error)
    else:
        trainer = fit(max_steps=6, ckpt_path=resumed)
        left["resumed"], left["steps"] = state(trainer), trainer.global_step
    torch.save(left, folder / f"rank{left['rank']}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # its threads, left running, may abort a process at its exit
