"""What a data module may tell the rest of the package, beside its batches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Counts(ABC):
    """A data module that counts something, which is logged beside the meta-loss."""

    @abstractmethod
    def counts(self) -> Mapping[str, int]:
        """Return numbers so far in this process, by their names in logs after ``train/``."""


class Documents(ABC):
    """A data module that knows what its data is, which ``gtn predict`` writes."""

    @abstractmethod
    def document(self) -> Mapping[str, Any]:
        """Return, as plain data, what is known of ``source``, ``license``, ``class_names``, ``columns`` and ``raw``.

        ``raw`` says in words what raw data is, to which the normalization applies.

        Called after ``setup``.
        """


class Normalizes(ABC):
    """A data module that makes a learner's inputs by ``(raw - center) / scale``, which ``gtn predict`` writes.

    ``W (inputs - c)`` may follow, a whitening.
    """

    @abstractmethod
    def normalization(self) -> Mapping[str, Tensor]:
        """Return ``normalize_center`` and ``normalize_scale``; with whitening also ``whiten_center`` and the matrix."""

    def pictured(self, inputs: Tensor) -> Tensor:
        """Return a learner's inputs ``[B, ...]`` as pictures show them, by default unchanged."""
        return inputs
