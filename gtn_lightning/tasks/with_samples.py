"""Base class of tasks whose inner loss is also the loss on real samples."""

from gtn_lightning.baselines import RealDataBaseline
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import Functional, LossFn
from gtn_lightning.task import Baseline, BaselineSetting, Task


class WithSamples(Task):
    """A task with real samples, and one loss for these and for synthetic ones.

    The meta-loss is the mean of the real-data losses after every ``meta_every``-th inner step and after the last one.
    The paper uses every step on MNIST and every 16th on CIFAR-10.

    Args:
        meta_every: number of inner steps between two meta-losses; 0 for a meta-loss after the last step only.

    Raises:
        RecipeError: if it is below 0.
    """

    def __init__(self, meta_every: int) -> None:
        if meta_every < 0:
            raise RecipeError(f"{type(self).__name__}: meta_every must be at least 0, got {meta_every}")
        self.meta_every = meta_every

    def meta_loss(self, learner: Functional) -> LossFn:
        """Return the inner loss on real data, the learner in training mode.

        In training mode batch normalization uses the batch's statistics, through which gradients flow; running
        statistics carry none.
        """
        return self.inner_loss(learner)

    def meta_steps(self, steps: int) -> list[int]:
        """Return every ``meta_every``-th number of steps, and the last."""
        between = range(self.meta_every, steps, self.meta_every) if self.meta_every else ()
        return [*between, steps]

    def baseline(self, setting: BaselineSetting) -> Baseline:
        """Return the baseline of as many steps on real data, with the best of several learning rates."""
        return RealDataBaseline(self, setting)
