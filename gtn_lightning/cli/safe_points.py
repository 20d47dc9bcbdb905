"""The moments at which a signal may end a run."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from gtn_lightning.cli.signals import NUMBERS, Signals
from gtn_lightning.cli.upstream_privates import child_processes, handle_signals_by
from gtn_lightning.lightning import Callback, LightningModule, Trainer, TrainerFn


class SafePoints(Callback):
    """Lets signals end a run only where nothing is half done: while gradients are computed or learners are taught.

    In a fit, signals wait from the outer optimizer's step to the next meta-step, and at the end of a validation, when
    averaged weights are put away and files are written. Then what `TeacherCheckpoint` saves is the state between two
    meta-steps. A validation, test or prediction of its own has nothing to save, and ends at once.

    Lightning's own handler of SIGTERM, which talks to other processes in the middle of whatever goes on, is left out.
    Its handler of a requeue signal runs when nothing is half done, and to its end.

    Args:
        signals: what raises.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep Lightning from handling the signals."""

        def register(original: Callable[[int, Any], None], number: int, handler: Any) -> None:
            if number not in NUMBERS:
                original(number, self.signals.whole(handler) if callable(handler) else handler)

        handle_signals_by(trainer, register)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold: what is resumed may still be changed."""
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

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Release while they are scored."""
        self.signals.release()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hold: this may have been the last batch."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.signals.hold()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """End the run if it was told to and something has swallowed that."""
        self.signals.release()

    on_predict_batch_start = on_test_batch_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the processes that Lightning has started: they have nothing to save, and may wait for this one."""
        launcher = child_processes(trainer)
        if self.signals.received is None or launcher is None:
            return
        ended = list(launcher.procs)
        launcher.procs.clear()  # Lightning, which watches them, would kill this process in turn
        for process in ended:
            process.kill()
        for process in ended:
            process.wait()


def shield_children(trainer: Trainer, signals: Signals) -> None:
    """Let the processes that a trainer starts live until they can handle signals themselves."""
    launcher = child_processes(trainer)
    if launcher is None:
        return
    launch = launcher.launch

    def shielded(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        def begin(*arguments: Any, **options: Any) -> Any:
            signals.unblock()
            return function(*arguments, **options)

        signals.block()
        try:
            return launch(begin, *arguments, **options)
        finally:
            signals.unblock()

    launcher.launch = shielded  # type: ignore[method-assign]
