"""Baselines: training of the same learners without a teacher."""

import torch
from torch import nn

from gtn_lightning.curricula import ShuffledPasses
from gtn_lightning.inner_loop import Snapshot
from gtn_lightning.task import Baseline, BaselineSetting, Task
from gtn_lightning.teachers import RealData
from gtn_lightning.teaching import teach, teach_at_best_rate


class RealDataBaseline(Baseline):
    """The same number of inner steps on real data, with the best of several constant learning rates.

    All other hyperparameters of the inner optimizer have their initial values.

    Args:
        task: the learners' task.
        setting: data, optimizer and steps.
    """

    def __init__(self, task: Task, setting: BaselineSetting) -> None:
        self._task = task
        assert setting.train is not None
        assert setting.tuning is not None
        self._setting = setting
        self._tuning = list(setting.tuning.values())
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
            self._tuning,
            setting.mode,
        )
        return taught


class RandomDataBaseline(Baseline):
    """The same inner loop on random numbers: as many samples as the teacher makes, drawn anew for every learner.

    All fields are standard normal. The inner optimizer has its initial values. Only tests are scored, since it does not
    depend on the teacher.

    Args:
        task: the learners' task; its fields are real.
        setting: optimizer and steps.
    """

    name = "random"
    title = "random data"
    splits = ("test",)

    def __init__(self, task: Task, setting: BaselineSetting) -> None:
        self._task = task
        self._setting = setting

    def teach(self, learner: nn.Module, generator: torch.Generator) -> dict[int, Snapshot]:
        """Train a learner; see the base class."""
        setting = self._setting
        count = setting.pool or setting.steps * setting.batch_size
        like = next(learner.parameters())
        data = RealData()
        data.attach(
            {
                name: torch.randn(count, *(field.shape or ()), generator=generator).to(like)
                for name, field in self._task.fields.items()
            }
        )
        passes = ShuffledPasses(setting.steps, setting.batch_size, images=count)
        return teach(
            learner,
            self._task,
            data,
            passes.requests(generator, like.device),
            setting.optimizer.constant(),
            setting.scored_steps,
            setting.mode,
        )
