"""Tasks that learners are taught: classification and regression."""

from gtn_lightning.task import Task
from gtn_lightning.tasks.classification import Classification
from gtn_lightning.tasks.regression import Regression
from gtn_lightning.tasks.supervised import Supervised

__all__ = ["Classification", "Regression", "Supervised", "Task"]
