"""Components as plain data and back: ``{"class_path": ..., "init_args": {...}}``, the form that recipes use.

A component is described by its class and by the arguments of its constructor, which it stores under their own names.
With this convention a teacher file can be read without pickle, so that reading it runs no code from the file.
"""

from gtn_lightning.description.building import build
from gtn_lightning.description.describing import describe
from gtn_lightning.description.kinds import TORCH
from gtn_lightning.description.recipes import as_recipe, changed_kinds

__all__ = ["TORCH", "as_recipe", "build", "changed_kinds", "describe"]
