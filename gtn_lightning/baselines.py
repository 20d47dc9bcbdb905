"""Baselines: training of the same learners without a teacher."""

import torch
from torch import nn

from gtn_lightning.curricula import ShuffledPasses
from gtn_lightning.inner_loop import Snapshot
from gtn_lightning.task import Baseline, BaselineSetting, Task
from gtn_lightning.teachers import RealData
from gtn_lightning.teaching import teach_at_best_rate


class RealDataBaseline(Baseline):
    """The same number of inner steps on real data, with the best of several constant learning rates.

    All other hyperparameters of the inner optimizer have their initial values.

    Args:
        task: the learners' task.
        setting: data, optimizer and steps.
    """

    def __init__(self, task: Task, setting: BaselineSetting) -> None:
        self._task = task
        self._setting = setting
        self._real = RealData()
        self._real.attach(setting.train)
        self._passes = ShuffledPasses(setting.steps, setting.batch_size, images=self._real.size)

    def teach(self, learner: nn.Module, generator: torch.Generator) -> dict[int, Snapshot]:
        """Train a learner; see the base class."""
        setting = self._setting
        _, taught = teach_at_best_rate(
            learner,
            self._task,
            self._real,
            self._passes.requests(generator, self._real.device),
            setting.optimizer,
            setting.scored_steps,
            setting.rates,
            list(setting.tuning.values()),
            setting.mode,
        )
        return taught
