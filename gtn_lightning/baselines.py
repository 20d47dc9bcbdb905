"""What learners reach without a teacher."""

import torch
from torch import nn

from gtn_lightning.curricula import ShuffledPasses
from gtn_lightning.inner_loop import Snapshot
from gtn_lightning.task import Baseline, BaselineSetting, Task
from gtn_lightning.teachers import RealData
from gtn_lightning.teaching import teach_at_best_rate


class RealDataBaseline(Baseline):
    """As many inner steps on real data, at the best of several constant rates.

    Everything else about the inner optimizer is at its initial value.

    Args:
        task: what is taught.
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
            [setting.tuning[name] for name in self._task.fields],
            setting.mode,
        )
        return taught
