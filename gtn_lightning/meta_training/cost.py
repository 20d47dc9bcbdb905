"""The cost of meta-training: wall-clock time, meta-steps, processes."""

import time

from gtn_lightning.lightning import pl


class Cost:
    """Measures the wall-clock time of meta-training, including earlier runs that this one resumes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Seconds of runs that have ended."""
        self._began: float | None = None
        self._read: dict[str, float] = {}

    def restore(self, spent: dict[str, float]) -> None:
        """Take over the cost of a meta-training that a teacher file states, for a module that is not trained."""
        self._read = dict(spent)

    def begin(self) -> None:
        """Start the clock, before the first meta-step of a run."""
        self.end()  # of a run that an error has ended
        self._began = time.perf_counter()

    def end(self) -> None:
        """Stop the clock."""
        self.seconds += self._running()
        self._began = None

    def so_far(self, trainer: pl.Trainer | None) -> dict[str, float]:
        """Return ``seconds`` of wall-clock time including validations, ``meta_steps``, and the number of ``processes``.

        Args:
            trainer: the trainer of the run, if there is one.
        """
        if self._read and self._began is None and not self.seconds:
            return dict(self._read)
        return {
            "seconds": self.seconds + self._running(),
            "meta_steps": 0 if trainer is None else trainer.global_step,
            "processes": 1 if trainer is None else trainer.world_size,
        }

    def _running(self) -> float:
        return 0.0 if self._began is None else time.perf_counter() - self._began
