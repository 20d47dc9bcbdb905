"""Real data in three disjoint splits: to compute the meta-loss on, to select a checkpoint by, to report."""

from gtn_lightning.data.base import Split, Splits, TensorData
from gtn_lightning.data.batches import EvaluationBatches, RealBatches
from gtn_lightning.data.digits import DigitsData
from gtn_lightning.data.images import ImageData

__all__ = ["DigitsData", "EvaluationBatches", "ImageData", "RealBatches", "Split", "Splits", "TensorData"]
