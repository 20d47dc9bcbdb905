"""Real data as a teacher: the baseline that any synthetic data has to beat, through the same harness."""

import torch

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Fields
from gtn_lightning.teachers.base import Teacher, TeacherInput


class RealData(Teacher):
    """Teach with real training data.

    It has no parameters; what is meta-learned beside it are the inner hyperparameters. The data comes from the data
    module's training split: ``GTN`` hands it over when training or evaluation starts, and it says what the fields are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fields: Fields = {}
        self._real: Batch = {}

    def attach(self, real: Batch) -> None:
        """Keep the data to teach with; see the base class."""
        inputs = next(iter(real.values()))
        # Probabilities of a data set may be of another type than its images, which no compiled loss should meet.
        self._real = {
            name: tensor.to(inputs.dtype) if tensor.is_floating_point() else tensor for name, tensor in real.items()
        }

    @property
    def size(self) -> int:
        """Number of samples it was given, 0 before that."""
        return len(next(iter(self._real.values()))) if self._real else 0

    @property
    def device(self) -> torch.device:
        """Where the data is."""
        return next(iter(self._real.values())).device

    def forward(self, request: TeacherInput) -> Batch:
        """Take the samples that the index names, modulo their number; the classes asked for do not count."""
        if not self._real:
            raise RecipeError("RealData has no data yet: train or evaluate it through a Trainer with a data module")
        rows = torch.remainder(request.index, self.size).to(self.device)
        return {name: tensor[rows] for name, tensor in self._real.items()}
