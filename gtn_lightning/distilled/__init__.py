"""Distilled data: the file that is taken away, networks trained on it, comparisons, other formats, a zoo."""

from gtn_lightning.distilled.export import FORMATS, export
from gtn_lightning.distilled.file import Card, DistilledSet, read_distilled, write_distilled
from gtn_lightning.distilled.zoo import ZooEntry, load_zoo, zoo_entries, zoo_files, zoo_table

__all__ = [
    "FORMATS",
    "Card",
    "DistilledSet",
    "ZooEntry",
    "export",
    "load_zoo",
    "read_distilled",
    "write_distilled",
    "zoo_entries",
    "zoo_files",
    "zoo_table",
]
