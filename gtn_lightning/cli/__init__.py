"""The command line ``gtn``."""

from gtn_lightning.cli.app import main

__all__ = ["main"]
