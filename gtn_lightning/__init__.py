"""Generative Teaching Networks for PyTorch Lightning."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtn_lightning.distilled import load_zoo
    from gtn_lightning.module import GTN

__version__ = "0.1.0"

__all__ = ["GTN", "__version__", "load_zoo"]

PARTS = (
    *("callbacks", "curricula", "data", "inner_loop", "learners", "loggers", "nas", "recipes", "tasks", "teachers"),
    "trust",
)
"""The modules that are imported when they are first used."""


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: a part of the package loads what it needs itself, and no more.
    if name == "GTN":
        from gtn_lightning.module import GTN

        return GTN
    if name == "load_zoo":
        from gtn_lightning.distilled import load_zoo

        return load_zoo
    if name in PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *PARTS})
