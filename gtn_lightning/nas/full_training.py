"""Full training of an architecture on real data, whose accuracy a proxy predicts."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from gtn_lightning.data import RealBatches, TensorData
from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import PACKAGES, OptimizerLRScheduler, SingleDeviceStrategy, pl
from gtn_lightning.nas.spaces import Architecture, SearchSpace
from gtn_lightning.randomness import keyed_rng, keyed_seed


@dataclass(frozen=True)
class FullTraining:
    """Adam with a cosine schedule down to zero, on the training split; scored on the test split.

    Args:
        steps: number of optimizer steps.
        batch_size: real images in each.
        lr: the first learning rate.

    Raises:
        RecipeError: a number is not positive.
    """

    steps: int = 1000
    batch_size: int = 64
    lr: float = 0.003

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "lr"):
            if getattr(self, key) <= 0:
                raise RecipeError(f"FullTraining: {key} must be above 0, got {getattr(self, key)}")

    def accuracy(
        self, space: SearchSpace, architecture: Architecture, data: TensorData, seed: int, device: torch.device
    ) -> float:
        """Train once and return the accuracy on the test split.

        Args:
            space: builds the network.
            architecture: a member of the space.
            data: the images, set up.
            seed: of the initial parameters and of the order of the images, together with the architecture's name.
            device: where it runs.

        Raises:
            KeyboardInterrupt: it was interrupted.
            RuntimeError: it ended before its last step.
        """
        with (
            _quietly(),
            torch.inference_mode(False),
            torch.enable_grad(),
            keyed_rng(seed, "full training", architecture.name, device=device),
        ):
            # One device, also inside a distributed run: every process trains other networks.
            trainer = pl.Trainer(
                accelerator=device.type,
                strategy=SingleDeviceStrategy(device),
                max_steps=self.steps,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            module = _Classifier(space.build(architecture), data, self)
            order = keyed_seed(seed, "full training", architecture.name) % 2**32
            try:
                batches = RealBatches(
                    *data.splits.train, batch_size=self.batch_size, seed=order, epoch_length=self.steps
                )
                trainer.fit(module, batches)
            except SystemExit as error:
                if isinstance(error.__context__, KeyboardInterrupt):
                    # Lightning turns it into an exit with code 1; the caller decides whether to exit.
                    raise KeyboardInterrupt from None
                raise
            if trainer.global_step < self.steps:  # its accuracy must not get into a cache
                raise RuntimeError(f"FullTraining: ended after {trainer.global_step} of {self.steps} steps")
            return module.accuracy()


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence Lightning's messages and warnings about every training."""
    names = (f"{package}{part}" for package in PACKAGES for part in ("", ".utilities.rank_zero"))
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class _Classifier(pl.LightningModule):
    def __init__(self, network: nn.Module, data: TensorData, training: FullTraining) -> None:
        super().__init__()
        self.network = network
        self._data = data
        self._training = training

    def training_step(self, batch: tuple[Tensor, Tensor, int]) -> Tensor:
        images, labels = self._data.on_after_batch_transfer(batch)
        return F.cross_entropy(self.network(images.float()), labels)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self._training.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._training.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def accuracy(self) -> float:
        self.eval()
        metric = MulticlassAccuracy(self._data.classes, average="micro", sync_on_compute=False).to(self.device)
        for images, labels in self._data.test_dataloader():
            metric.update(self.network(self._data.normalize(images.to(self.device))), labels.to(self.device))
        return float(metric.compute())
