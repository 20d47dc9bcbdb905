"""Generative Teaching Networks for PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtn_lightning.module import GTN

__version__ = "0.1.0"

__all__ = ["GTN", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: a part of the package loads what it needs itself, and no more.
    if name == "GTN":
        from gtn_lightning.module import GTN

        return GTN
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
