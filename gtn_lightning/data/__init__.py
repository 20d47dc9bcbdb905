"""Real data in three disjoint splits: train for the meta-loss, val to select the checkpoint, test to report."""

from gtn_lightning.data.base import Split, Splits, TensorData
from gtn_lightning.data.batches import EvaluationBatches, RealBatches
from gtn_lightning.data.digits import DigitsData
from gtn_lightning.data.environments import EnvironmentData
from gtn_lightning.data.images import ImageData
from gtn_lightning.data.in_memory import InMemoryData
from gtn_lightning.data.reports import Counts, Documents, Normalizes
from gtn_lightning.data.representation import RepresentationData
from gtn_lightning.data.table import TableData
from gtn_lightning.data.vicreg import SelfSupervision, VICReg, vicreg_loss

__all__ = [
    "Counts",
    "DigitsData",
    "Documents",
    "EnvironmentData",
    "EvaluationBatches",
    "ImageData",
    "InMemoryData",
    "Normalizes",
    "RealBatches",
    "RepresentationData",
    "SelfSupervision",
    "Split",
    "Splits",
    "TableData",
    "TensorData",
    "VICReg",
    "vicreg_loss",
]
