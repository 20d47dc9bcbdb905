"""Architecture search: spaces of architectures, cheap scores of them, and what they are held against.

The search itself, `gtn_lightning.nas.search`, needs Optuna.
"""

from gtn_lightning.nas.full_training import FullTraining
from gtn_lightning.nas.learners import SpaceLearners
from gtn_lightning.nas.proxies import (
    NASWOT,
    Cost,
    FLOPs,
    GTNProxy,
    MeanRank,
    NumParameters,
    PredictedRank,
    Proxy,
    RealDataProxy,
    Score,
    SynFlow,
)
from gtn_lightning.nas.ranking import RankedLearners
from gtn_lightning.nas.reference import MeasuredReference, Reference, TableReference
from gtn_lightning.nas.spaces import ConvNetGrid, SearchSpace

__all__ = [
    "NASWOT",
    "ConvNetGrid",
    "Cost",
    "FLOPs",
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
    "SearchSpace",
    "SpaceLearners",
    "SynFlow",
    "TableReference",
]
