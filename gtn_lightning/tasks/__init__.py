"""Tasks that learners are taught: classification and regression."""

from gtn_lightning.task import Baseline, BaselineSetting, Images, Points, Task, TaskMetric
from gtn_lightning.tasks.classification import Classification
from gtn_lightning.tasks.regression import Regression
from gtn_lightning.tasks.supervised import Supervised

__all__ = [
    "Baseline",
    "BaselineSetting",
    "Classification",
    "Images",
    "Points",
    "Regression",
    "Supervised",
    "Task",
    "TaskMetric",
]
