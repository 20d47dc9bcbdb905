"""Search spaces: finite sets of architectures that can be drawn, named, mutated and built."""

from gtn_lightning.nas.spaces.base import ATTEMPTS, Architecture, Choice, SearchSpace
from gtn_lightning.nas.spaces.convnet_grid import ConvNetGrid
from gtn_lightning.nas.spaces.micro import MicroSpace
from gtn_lightning.nas.spaces.nasbench201 import NASBench201

__all__ = ["ATTEMPTS", "Architecture", "Choice", "ConvNetGrid", "MicroSpace", "NASBench201", "SearchSpace"]
