"""The moments of a run at which it may be cut."""

import signal
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from gtn_lightning.cli.signals import Signals


class SafePoints(Callback):
    """Says when a signal may end a run: while gradients are computed or learners are taught, which changes nothing.

    From the outer optimizer's step to the next meta-step, and while files are written, signals wait. Then what
    `TeacherCheckpoint` saves is the state between two meta-steps.

    Lightning's own handler of SIGTERM, which talks to other processes in the middle of whatever goes on, is left out.

    Args:
        signals: what raises.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep Lightning from handling SIGTERM; there is no public way, see tests/cli/test_signals.py."""
        connector = trainer._signal_connector
        register = type(connector)._register_signal

        def register_others(number: int, handlers: Any) -> None:
            if number not in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", None)):
                register(number, handlers)

        connector._register_signal = register_others  # type: ignore[method-assign, assignment]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold: nothing is to be cut before the first meta-step."""
        self.signals.hold()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Release: the last meta-step is done, and all that follows it."""
        self.signals.release()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Hold: the teacher is about to change."""
        self.signals.hold()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release while learners are taught."""
        self.signals.release()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold while the result is written."""
        self.signals.hold()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release after a validation that is no part of a fit, which has its own moments."""
        if not trainer.training and not trainer.sanity_checking and trainer.state.fn == "validate":
            self.signals.release()

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release: nothing has changed yet."""
        self.signals.release()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release while learners are taught."""
        self.signals.release()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold while the result is written."""
        self.signals.hold()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release: the run is over."""
        self.signals.release()
