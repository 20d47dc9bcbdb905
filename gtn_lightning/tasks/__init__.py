"""Tasks: what a learner is taught to do."""

from gtn_lightning.tasks.base import Task
from gtn_lightning.tasks.classification import Classification

__all__ = ["Classification", "Task"]
