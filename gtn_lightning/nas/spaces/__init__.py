"""Search spaces: finite sets of architectures that can be drawn, named, changed and built."""

from gtn_lightning.nas.spaces.base import ATTEMPTS, Choice, SearchSpace
from gtn_lightning.nas.spaces.convnet_grid import ConvNetGrid
from gtn_lightning.nas.spaces.micro import MicroSpace
from gtn_lightning.nas.spaces.nasbench201 import NASBench201

__all__ = ["ATTEMPTS", "Choice", "ConvNetGrid", "MicroSpace", "NASBench201", "SearchSpace"]
