"""Distilled data: the file that is taken away, networks trained on it, comparisons, other formats, a zoo."""

from gtn_lightning.distilled.export import FORMATS, export
from gtn_lightning.distilled.file import Card, DistilledSet, read_distilled, write_distilled

__all__ = ["FORMATS", "Card", "DistilledSet", "export", "read_distilled", "write_distilled"]
