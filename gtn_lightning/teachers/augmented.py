"""Random changes of another teacher's images."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gtn_lightning.data.augment import Changes, change, check_changes, draw_changes
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, given
from gtn_lightning.teachers.base import Teacher, TeacherInput


class Augmented(Teacher):
    """Another teacher's images, changed at random at every inner step of a meta-step.

    Differentiable augmentation of synthetic images (Zhao and Bilen, arXiv 2102.08259), with its own random numbers for
    every image and step. They are drawn from torch's random state before the batch is made, which a meta-step seeds by
    its key, so that a recomputation of the batch has the same ones and the meta-gradient is exact.

    It acts only in training mode, like dropout: evaluations teach with the plain images, and files hold these.

    Args:
        teacher: makes the images, in the field ``inputs``.
        crop: random crop, pixels of padding; 0 for none.
        flip: mirror images left to right at random.
        rotate: maximum random rotation, in degrees.
        scale: maximum fraction by which images are stretched or shrunk at random.
        shift: maximum random shift, in pixels; may be a fraction.

    Raises:
        RecipeError: if a value is out of range, or the teacher makes no images.

    Examples:
        >>> import torch
        >>> from gtn_lightning.curricula import Full
        >>> from gtn_lightning.teachers import Augmented, Pixels
        >>> teacher = Augmented(Pixels(image_shape=(1, 8, 8), classes=10, images=60), flip=True, rotate=15.0)
        >>> requests = Full(steps=3, batch_size=20, classes=10).requests(torch.Generator(), torch.device("cpu"))
        >>> teacher(requests[0])["inputs"].shape
        torch.Size([20, 1, 8, 8])
    """

    def __init__(
        self,
        teacher: Teacher | None = None,
        crop: int = 0,
        flip: bool = False,
        rotate: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
    ) -> None:
        super().__init__()
        self.teacher = given(teacher, "Augmented.teacher")
        check_changes("Augmented: ", crop, rotate, scale, shift)
        made = self.teacher.fields.get("inputs")
        if self.teacher.fields and (made is None or len(made.sample_shape) != 3):
            raise RecipeError(
                "Augmented: expected a teacher that makes images as inputs, got "
                f"{type(self.teacher).__name__} with {', '.join(map(str, self.teacher.fields.values()))}: leave it out"
            )
        self.crop = crop
        self.flip = flip
        self.rotate = rotate
        self.scale = scale
        self.shift = shift
        self.fields = self.teacher.fields
        self.noise = self.teacher.noise
        self.pool = self.teacher.pool

    @property
    def needs_real_data(self) -> bool:
        """Whether the teacher needs it."""
        return self.teacher.needs_real_data

    def attach(self, real: Batch) -> None:
        """Pass real data to the teacher."""
        self.teacher.attach(real)

    def forward(self, request: TeacherInput) -> Batch:
        """Return the teacher's batch, changed at random in training mode; see the base class."""
        return next(self.batches([request]))

    def batches(self, requests: Sequence[TeacherInput]) -> Iterator[Batch]:
        """Yield the teacher's batches, each changed at random in training mode."""
        # Drawn before the learner draws random numbers of its own.
        return self.batches_of(requests, self.draw(requests))

    def draw(self, requests: Sequence[TeacherInput]) -> list[tuple[Tensor, ...]]:
        """Draw the changes of every batch, and what the teacher draws; see the base class."""
        if not self.training:
            return self.teacher.draw(requests)
        keys = torch.randint(2**62, (len(requests),)).tolist()
        options = self.crop, self.flip, self.rotate, self.scale, self.shift
        drawn = []
        for request, key, others in zip(requests, keys, self.teacher.draw(requests), strict=True):
            changes = draw_changes(self._shape(request), key, *options)
            drawn.append((*(part.to(request.index.device) for part in changes if part is not None), *others))
        return drawn

    def batches_of(self, requests: Sequence[TeacherInput], drawn: Sequence[Sequence[Tensor]]) -> Iterator[Batch]:
        """Yield the teacher's batches, with the changes that have been drawn."""
        kinds = self._kinds if self.training else ()
        batches = self.teacher.batches_of(requests, [each[len(kinds) :] for each in drawn])
        for own, batch in zip(drawn, batches, strict=True):
            changes = Changes(**dict(zip(kinds, own, strict=False)))
            yield {**batch, "inputs": change(batch["inputs"], changes, self.crop)}

    @property
    def _kinds(self) -> tuple[str, ...]:
        """The names of the changes that images get."""
        moves = ("rows", "columns") if self.crop or self.flip else ()
        return (*moves, "maps") if self.rotate or self.scale or self.shift else moves

    def _shape(self, request: TeacherInput) -> tuple[int, ...]:
        made = self.teacher.fields.get("inputs")
        if made is not None:
            return len(request.index), *made.sample_shape
        with torch.no_grad():  # a teacher of real data
            return tuple(next(iter(self.teacher.batches([request])))["inputs"].shape)
