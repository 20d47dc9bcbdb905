"""One progress bar for the whole of meta-training."""

import sys
import time
from datetime import timedelta
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from rich import get_console
from rich.progress import ProgressColumn

from gtn_lightning.streams import Escaping

# Reading a metric waits for the device; a person does not read faster than this many seconds.
METRICS_EVERY = 0.2


class MetaProgressBar(RichProgressBar):
    """Shows all meta-steps as one bar, with the meta-loss, the validation metric and the time left.

    Validations change the bar's name and draw no bar of their own. Where the output is no terminal, such as a
    log file, there is no bar but one line per validation.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)
        self._lines = False
        self._first_step = 0
        self._began_at = 0.0
        self._metrics_at = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out whether there is a terminal to draw on."""
        super().setup(trainer, pl_module, stage)
        console = get_console()
        if self.is_enabled and not (console.is_terminal or console.is_jupyter):
            self._lines = True
            self.disable()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the bar, at the meta-step from which a run is resumed."""
        super().on_train_start(trainer, pl_module)
        self._first_step, self._began_at = trainer.global_step, time.monotonic()
        if self.progress is not None:
            total = trainer.estimated_stepping_batches
            self.train_progress_bar_id = self.progress.add_task(
                "meta-steps", total=total, completed=trainer.global_step
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it is: an epoch's beginning means nothing here."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar on."""
        self._update(self.train_progress_bar_id, trainer.global_step)
        if time.monotonic() - self._metrics_at >= METRICS_EVERY:
            self._metrics_at = time.monotonic()
            self._update_metrics(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it is."""
        self._update_metrics(trainer, pl_module)
        self._stop_progress()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that the learners are examined."""
        super().on_validation_start(trainer, pl_module)
        self._rename("validating")

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw a bar for a validation on its own, not for one within ``fit``."""
        if trainer.state.fn != "fit":
            super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the result."""
        super().on_validation_end(trainer, pl_module)
        self._rename("meta-steps")
        if self._lines and trainer.state.fn == "fit" and not trainer.sanity_checking:
            print(self._line(trainer, pl_module), file=Escaping(sys.stdout), flush=True)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the meta-loss and the validation metric, the numbers that tell how it goes."""
        gtn: Any = pl_module
        names = {"loss": "train/meta_loss", "val": f"val/{gtn.task.metrics()[0].name}"}
        logged = trainer.callback_metrics
        return {shown: float(logged[name]) for shown, name in names.items() if name in logged}

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Make it fit into 80 columns: a shorter bar, and no speed, since the time left tells as much."""
        description, bar, steps, times, _ = super().configure_columns(trainer)
        bar.bar_width = 16
        return [description, bar, steps, times]

    def _rename(self, description: str) -> None:
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, description=description)
            self.refresh(hard=True)

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
