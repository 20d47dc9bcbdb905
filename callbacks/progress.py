"""One progress bar for the whole of meta-training."""

import sys
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gtn_lightning.lightning import LightningModule, ProgressBar, Trainer
from gtn_lightning.streams import Escaping

METRICS_EVERY = 0.2
"""Seconds between two readings of the metrics; each reading waits for the device."""


class MetaProgressBar(ProgressBar):
    """Shows all meta-steps as one bar, with the meta-loss, the validation metric and the time left.

    Validations within ``fit`` change the bar's name; ``validate``, ``test`` and ``predict`` have their own bar. If
    the output is no terminal, such as a log file, one line per validation of ``fit`` is printed instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._lines = False
        self._progress: Progress | None = None
        self._first_step = 0
        self._began_at = 0.0
        self._metrics_at = 0.0

    def disable(self) -> None:
        """Draw nothing from now on."""
        self._enabled = False

    def enable(self) -> None:
        """Draw again."""
        self._enabled = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out whether there is a terminal to draw on."""
        super().setup(trainer, pl_module, stage)
        console = Console()
        if self._enabled and not (console.is_terminal or console.is_jupyter):
            self._lines = True
            self.disable()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the bar, at the meta-step from which a run is resumed."""
        self._first_step, self._began_at = trainer.global_step, time.monotonic()
        self._start("meta-steps", trainer.estimated_stepping_batches, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar."""
        self._update(completed=trainer.global_step)
        if self._progress is not None and time.monotonic() - self._metrics_at >= METRICS_EVERY:
            self._metrics_at = time.monotonic()
            self._show_metrics(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the bar, which stays on the screen."""
        if self._progress is not None:
            self._show_metrics(trainer, pl_module)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the bar, so that the terminal can be used again."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop the bar."""
        self._stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that learners are evaluated."""
        if trainer.state.fn == "fit":
            self._update(description="validating", refresh=True)
        else:
            self._start("validating", sum(trainer.num_val_batches))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Advance the bar of a validation outside of ``fit``."""
        if trainer.state.fn != "fit":
            self._update(advance=1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the result."""
        if trainer.state.fn != "fit":
            self._stop()  # before Lightning prints its table
            return
        if trainer.sanity_checking:
            return
        if self._progress is not None:
            self._show_metrics(trainer, pl_module)
        self._update(description="meta-steps", refresh=True)
        if self._lines:
            print(self._line(trainer, pl_module), file=Escaping(sys.stdout), flush=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a bar over the test batches."""
        self._start("testing", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *_: Any) -> None:
        """Advance the bar."""
        self._update(advance=1)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the bar before Lightning prints its table."""
        self._stop()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a bar over the batches."""
        self._start("predicting", sum(trainer.num_predict_batches))

    def on_predict_batch_end(self, *_: Any) -> None:
        """Advance the bar."""
        self._update(advance=1)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the meta-loss and the validation metric, by the names that the bar shows."""
        gtn: Any = pl_module
        names = {"loss": "train/meta_loss", "val": f"val/{gtn.task.metrics()[0].name}"}
        logged = trainer.callback_metrics
        return {shown: float(logged[name]) for shown, name in names.items() if name in logged}

    def _start(self, description: str, total: float, completed: int = 0) -> None:
        self._stop()
        if not self._enabled:
            return
        # Columns that fit into 80 characters.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}", style="italic"),
            console=Console(),  # the global one may have been made for another output
        )
        self._progress.add_task(
            description, total=None if total == float("inf") else total, completed=completed, metrics=""
        )
        self._progress.start()

    def _update(self, **changes: Any) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], **changes)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show_metrics(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = self.get_metrics(trainer, pl_module).items()
        self._update(metrics=" ".join(f"{name}: {value:.3f}" for name, value in metrics))

    def _line(self, trainer: Trainer, pl_module: LightningModule) -> str:
        step, total = trainer.global_step, trainer.estimated_stepping_batches
        elapsed = time.monotonic() - self._began_at
        parts = [f"meta-step {step}/{total}"]
        parts += [f"{name} {value:.3f}" for name, value in self.get_metrics(trainer, pl_module).items()]
        parts.append(f"{timedelta(seconds=int(elapsed))} elapsed")
        if step > self._first_step and total != float("inf"):
            left = elapsed / (step - self._first_step) * (total - step)
            parts.append(f"{timedelta(seconds=int(left))} left")
        return "  ".join(parts)
