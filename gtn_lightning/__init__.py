"""Generative Teaching Networks for PyTorch Lightning."""

from gtn_lightning.module import GTN

__version__ = "0.1.0"

__all__ = ["GTN", "__version__"]
