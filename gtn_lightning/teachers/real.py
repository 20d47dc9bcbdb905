"""Real data as a teacher: the baseline for synthetic data, run through the same code."""

import torch

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Fields
from gtn_lightning.teachers.base import Teacher, TeacherInput


class RealData(Teacher):
    """Teach with real training data.

    It has no parameters; only the inner hyperparameters are meta-learned. ``GTN`` passes it data of the data module's
    training split when training or evaluation starts. The fields of its batches are those of the data.

    Examples:
        >>> import torch
        >>> from gtn_lightning.curricula import ShuffledPasses
        >>> from gtn_lightning.teachers import RealData
        >>> teacher = RealData()
        >>> teacher.attach({"inputs": torch.randn(100, 13), "targets": torch.arange(100) % 3})
        >>> curriculum = ShuffledPasses(steps=2, batch_size=8, images=100)
        >>> requests = curriculum.requests(torch.Generator(), torch.device("cpu"))
        >>> teacher(requests[0])["inputs"].shape
        torch.Size([8, 13])
    """

    def __init__(self) -> None:
        super().__init__()
        self.fields: Fields = {}
        self._real: Batch = {}

    @property
    def needs_real_data(self) -> bool:
        """True until it has some."""
        return not self._real

    def attach(self, real: Batch) -> None:
        """Store the data to teach with; see the base class."""
        inputs = next(iter(real.values()))
        # A data set's probabilities may have another type than its images, which compiled losses do not support.
        self._real = {
            name: tensor.to(inputs.dtype) if tensor.is_floating_point() else tensor for name, tensor in real.items()
        }

    @property
    def size(self) -> int:
        """Number of stored samples, 0 before `attach`."""
        return len(next(iter(self._real.values()))) if self._real else 0

    @property
    def device(self) -> torch.device:
        """The device of the data."""
        return next(iter(self._real.values())).device

    def forward(self, request: TeacherInput) -> Batch:
        """Return the samples at the request's index, modulo their number; its labels and noise are ignored."""
        if not self._real:
            raise RecipeError("RealData has no data yet: train or evaluate it through a Trainer with a data module")
        rows = torch.remainder(request.index, self.size).to(self.device)
        return {name: tensor[rows] for name, tensor in self._real.items()}
