"""Proxies: cheap scores of architectures, and the cost of each."""

from gtn_lightning.nas.proxies.az_nas import AZNAS
from gtn_lightning.nas.proxies.base import Cost, Features, Proxy, Report, Score, Scorer
from gtn_lightning.nas.proxies.combined import MeanRank
from gtn_lightning.nas.proxies.predicted import PredictedRank
from gtn_lightning.nas.proxies.taught import GTNProxy, RealDataProxy
from gtn_lightning.nas.proxies.zero_cost import NASWOT, FLOPs, NumParameters, SynFlow

__all__ = [
    "AZNAS",
    "NASWOT",
    "Cost",
    "FLOPs",
    "Features",
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
