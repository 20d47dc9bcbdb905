"""Architecture search: spaces of architectures, proxies that score them, and ground-truth accuracies.

The search itself, `gtn_lightning.nas.search`, needs Optuna.
"""

from gtn_lightning.nas.full_training import FullTraining
from gtn_lightning.nas.learners import SpaceLearners
from gtn_lightning.nas.proxies import (
    AZNAS,
    NASWOT,
    Cost,
    Features,
    FLOPs,
    GTNProxy,
    MeanRank,
    NumParameters,
    PredictedRank,
    Proxy,
    RealDataProxy,
    Score,
    Scorer,
    SynFlow,
)
from gtn_lightning.nas.ranking import RankedLearners
from gtn_lightning.nas.reference import MeasuredReference, Reference, TableReference
from gtn_lightning.nas.spaces import Architecture, ConvNetGrid, SearchSpace

__all__ = [
    "AZNAS",
    "NASWOT",
    "Architecture",
    "ConvNetGrid",
    "Cost",
    "FLOPs",
    "Features",
    "FullTraining",
    "GTNProxy",
    "MeanRank",
    "MeasuredReference",
    "NumParameters",
    "PredictedRank",
    "Proxy",
    "RankedLearners",
    "RealDataProxy",
    "Reference",
    "Score",
    "Scorer",
    "SearchSpace",
    "SpaceLearners",
    "SynFlow",
    "TableReference",
]
