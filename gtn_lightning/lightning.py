"""Lightning, by the name under which the program has imported it: ``pytorch_lightning`` or ``lightning.pytorch``.

The two packages hold the same code, but a module of one is none to a trainer of the other. All of this package imports
Lightning from here, and takes ``pytorch_lightning`` unless only the other has been imported before.
"""

import sys
from typing import TYPE_CHECKING

UNIFIED = "lightning.pytorch" in sys.modules and "pytorch_lightning" not in sys.modules
"""Whether it is ``lightning.pytorch``."""

if TYPE_CHECKING or not UNIFIED:
    import pytorch_lightning as pl
    from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, loggers
    from pytorch_lightning.callbacks import (
        BasePredictionWriter,
        BatchSizeFinder,
        LearningRateFinder,
        ModelCheckpoint,
        ProgressBar,
        WeightAveraging,
    )
    from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
    from pytorch_lightning.core.saving import save_hparams_to_yaml
    from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
    from pytorch_lightning.loggers.logger import rank_zero_experiment
    from pytorch_lightning.plugins.io import TorchCheckpointIO
    from pytorch_lightning.strategies import SingleDeviceStrategy
    from pytorch_lightning.trainer.states import TrainerFn
    from pytorch_lightning.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
    from pytorch_lightning.utilities.combined_loader import CombinedLoader
    from pytorch_lightning.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.utilities.model_helpers import is_overridden
    from pytorch_lightning.utilities.seed import isolate_rng
    from pytorch_lightning.utilities.types import OptimizerLRScheduler
else:
    import lightning.pytorch as pl
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, loggers
    from lightning.pytorch.callbacks import (
        BasePredictionWriter,
        BatchSizeFinder,
        LearningRateFinder,
        ModelCheckpoint,
        ProgressBar,
        WeightAveraging,
    )
    from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
    from lightning.pytorch.core.saving import save_hparams_to_yaml
    from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
    from lightning.pytorch.loggers.logger import rank_zero_experiment
    from lightning.pytorch.plugins.io import TorchCheckpointIO
    from lightning.pytorch.strategies import SingleDeviceStrategy
    from lightning.pytorch.trainer.states import TrainerFn
    from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
    from lightning.pytorch.utilities.combined_loader import CombinedLoader
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.model_helpers import is_overridden
    from lightning.pytorch.utilities.seed import isolate_rng
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

PACKAGES = ("lightning.pytorch", "lightning.fabric") if UNIFIED else ("pytorch_lightning", "lightning_fabric")
"""The packages that Lightning consists of."""

__all__ = [
    "PACKAGES",
    "UNIFIED",
    "BasePredictionWriter",
    "BatchSizeFinder",
    "CSVLogger",
    "Callback",
    "CombinedLoader",
    "LRSchedulerCallable",
    "LearningRateFinder",
    "LightningDataModule",
    "LightningModule",
    "Logger",
    "MisconfigurationException",
    "ModelCheckpoint",
    "OptimizerCallable",
    "OptimizerLRScheduler",
    "ProgressBar",
    "SingleDeviceStrategy",
    "TensorBoardLogger",
    "TorchCheckpointIO",
    "Trainer",
    "TrainerFn",
    "WandbLogger",
    "WeightAveraging",
    "is_overridden",
    "isolate_rng",
    "loggers",
    "pl",
    "rank_zero_experiment",
    "rank_zero_info",
    "rank_zero_only",
    "rank_zero_warn",
    "save_hparams_to_yaml",
]
