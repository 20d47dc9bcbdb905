"""Tasks that learners are taught: classification, regression, autoencoding, representation, control."""

from gtn_lightning.task import Baseline, BaselineSetting, Images, Points, Task, TaskMetric, Taught
from gtn_lightning.tasks.actor_critic import ActorCritic
from gtn_lightning.tasks.autoencoding import Autoencoding
from gtn_lightning.tasks.classification import Classification
from gtn_lightning.tasks.control import BehaviorDistillation, ContextualBandit, Control
from gtn_lightning.tasks.regression import Regression
from gtn_lightning.tasks.representation import Representation
from gtn_lightning.tasks.supervised import Supervised

__all__ = [
    "ActorCritic",
    "Autoencoding",
    "Baseline",
    "BaselineSetting",
    "BehaviorDistillation",
    "Classification",
    "ContextualBandit",
    "Control",
    "Images",
    "Points",
    "Regression",
    "Representation",
    "Supervised",
    "Task",
    "TaskMetric",
    "Taught",
]
