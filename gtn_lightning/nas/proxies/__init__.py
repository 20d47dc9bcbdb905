"""Proxies: cheap scores of architectures, and the cost of each."""

from gtn_lightning.nas.proxies.base import Cost, Proxy, Report, Score, Scorer
from gtn_lightning.nas.proxies.combined import MeanRank
from gtn_lightning.nas.proxies.predicted import PredictedRank
from gtn_lightning.nas.proxies.taught import GTNProxy, RealDataProxy
from gtn_lightning.nas.proxies.zero_cost import NASWOT, FLOPs, NumParameters, SynFlow

__all__ = [
    "NASWOT",
    "Cost",
    "FLOPs",
    "GTNProxy",
    "MeanRank",
    "NumParameters",
    "PredictedRank",
    "Proxy",
    "RealDataProxy",
    "Report",
    "Score",
    "Scorer",
    "SynFlow",
]
