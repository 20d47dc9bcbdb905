"""Free tensors: every value of every sample is a parameter, as in dataset distillation."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Field, Fields, given, number_of_classes, restored
from gtn_lightning.labels import class_numbers
from gtn_lightning.teachers.base import LABELS, Teacher, TeacherInput, image_fields

PREFIX = "free_"
"""What the names of parameters begin with, before the field's."""

SHARPNESS = 5.0
"""Initial logit of the true class of learned soft labels: 94 % of the mass among ten classes."""


class FreeTensors(Teacher):
    """A fixed number of learned samples, as in dataset distillation (Wang et al., arXiv 1811.10959).

    Fields of kind ``real`` are parameters. Fields of kind ``classes`` are the curriculum's requested classes; if it
    requests none, sample i is of class i modulo the number of classes. Probabilities are the softmax of parameters,
    which are initialized near these classes.

    It costs one gather per inner loop, where a generator's forward and backward passes can dominate a meta-step, and it
    has as many parameters as values.

    Args:
        fields: the fields of its batches; a recipe may omit it, the task then sets it.
        samples: number of samples, a curriculum's steps times its batch size; a recipe may omit it, the curriculum then
            sets it.
        soft_labels: whether to learn probabilities for fields of kind ``classes``.
        init: initial values of real fields: ``"noise"``, or ``"real"`` for copies of real training data of the same
            classes, with which learners learn from the first meta-step on.
        spread: standard deviation of the noise by field, 1 for those that it does not name.

    Raises:
        RecipeError: if a size is out of range, ``init`` is neither, or ``spread`` names no real field.

    Examples:
        >>> from gtn_lightning.fields import Field
        >>> from gtn_lightning.teachers import FreeTensors
        >>> fields = {"inputs": Field("real", (13,)), "targets": Field("classes", classes=3)}
        >>> teacher = FreeTensors(fields, samples=60, soft_labels=True)
        >>> {name: tensor.shape for name, tensor in teacher.tensors.items()}
        {'inputs': torch.Size([60, 13]), 'targets': torch.Size([60, 3])}
    """

    samples_name: str = "samples"
    """The word for samples in messages."""

    started: Tensor
    """1 once real data has been copied, so that a later run does not copy it again."""

    def __init__(
        self,
        fields: dict[str, Field] | None = None,
        samples: int | None = None,
        soft_labels: bool = False,
        init: Literal["noise", "real"] = "noise",
        spread: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.fields = _checked(name, given(fields, f"{name}.fields"), soft_labels)
        self.samples = given(samples, f"{name}.samples")
        self.soft_labels = soft_labels
        self.init = init
        self.pool = self.samples
        self.classes = number_of_classes(self.fields)
        if self.samples < (self.classes or 1):
            least = f"{self.classes}, the number of classes," if self.classes else "1,"
            raise RecipeError(f"{name}: {self.samples_name} must be at least {least} got {self.samples}")
        if init not in ("noise", "real"):
            raise RecipeError(f"{name}: init must be noise or real, got {init!r}")
        self.spread = spread
        for key, deviation in (spread or {}).items():
            if key not in self.fields or self.fields[key].kind != "real":
                real = ", ".join(key for key, field in self.fields.items() if field.kind == "real")
                raise RecipeError(f"{name}: spread must name real fields, {real}, got {key!r}")
            if not 0 <= deviation < math.inf:
                raise RecipeError(f"{name}: spread.{key} must be at least 0 and finite, got {deviation}")
        for key, field in self.fields.items():
            if field.kind != "classes":
                initial = torch.randn if field.kind == "real" else torch.zeros
                values = initial(self.samples, *field.sample_shape)
                self.register_parameter(PREFIX + key, nn.Parameter(values * (spread or {}).get(key, 1.0)))
        self.register_buffer("started", torch.tensor(int(init == "noise"), dtype=torch.uint8))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The learned tensors by field: values, or logits relative to the samples' classes."""
        return {key: self.get_parameter(PREFIX + key) for key, field in self.fields.items() if field.kind != "classes"}

    @property
    def needs_real_data(self) -> bool:
        """Whether it is to be initialized with real data and has not been yet."""
        return not self.started

    def attach(self, real: Batch) -> None:
        """Initialize real fields with copies of real data, once.

        If there are classes, sample i is a copy of a real sample of class i modulo their number. If targets are class
        probabilities, the most probable class counts.

        Raises:
            RecipeError: if there is no real sample of some class.
        """
        if self.started:
            return
        rows = self._rows_to_copy(real)
        with torch.no_grad():
            for key, field in self.fields.items():
                if field.kind == "real":
                    self.tensors[key].copy_(real[key][rows])
            self.started.fill_(1)

    def _rows_to_copy(self, real: Batch) -> Tensor:
        key = next((key for key, field in self.fields.items() if field.classes), None)
        count = len(next(iter(real.values())))
        if key is None:
            return torch.arange(self.samples) % count
        assert self.classes is not None
        numbers = class_numbers(real[key]).cpu()
        rows = torch.empty(self.samples, dtype=torch.int64)
        for label in range(self.classes):
            real_rows = (numbers == label).nonzero()[:, 0]
            if not len(real_rows):
                raise RecipeError(
                    f"{type(self).__name__}: init is real, but among {count} real {self.samples_name} none is of "
                    f"class {label}: use more real data, or init: noise"
                )
            own_rows = rows[label :: self.classes]
            own_rows.copy_(real_rows[torch.arange(len(own_rows)) % len(real_rows)])
        return rows

    def forward(self, request: TeacherInput) -> Batch:
        """Return the samples at the request's index; see the base class. The noise is ignored."""
        return next(self.batches([request]))

    def batches(self, requests: Sequence[TeacherInput]) -> Iterator[Batch]:
        """Gather the samples of all inner steps at once.

        The gradient of every gather is a tensor as large as the pool, so there is one gather per meta-step.
        """
        if not requests:
            return
        index = torch.stack([request.index for request in requests])
        gathered = {key: tensor[index].unbind() for key, tensor in self.tensors.items()}
        for step, request in enumerate(requests):
            batch = {}
            labels = self._labels(request)
            for key, field in self.fields.items():
                if field.kind == "real":
                    batch[key] = gathered[key][step]
                else:
                    assert labels is not None
                    batch[key] = self._probabilities(gathered[key][step], labels) if key in gathered else labels
            yield batch if labels is None else batch | {LABELS: labels}

    def _labels(self, request: TeacherInput) -> Tensor | None:
        if self.classes is None or request.labels is not None:
            return request.labels
        return request.index % self.classes

    def _probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        one_hot = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return (logits + SHARPNESS * one_hot).softmax(dim=1)


class Pixels(FreeTensors):
    """Free images, one class each: `FreeTensors` for the classification of images.

    Args:
        image_shape: ``(channels, height, width)`` of the images; a recipe may omit it, the task then sets it.
        classes: number of classes; a recipe may omit it, the task then sets it.
        images: number of images, a curriculum's steps times its batch size; a recipe may omit it, the curriculum then
            sets it.
        soft_labels: whether to learn the label probabilities of every image.
        init: initial images: ``"noise"``, or ``"real"`` for copies of real training images of the same classes, with
            which learners learn from the first meta-step on.

    Raises:
        RecipeError: if a size is out of range or ``init`` is neither.

    Examples:
        >>> import torch
        >>> from gtn_lightning.curricula import Full
        >>> from gtn_lightning.teachers import Pixels
        >>> teacher = Pixels(image_shape=(1, 8, 8), classes=10, images=60)
        >>> requests = Full(steps=3, batch_size=20, classes=10).requests(torch.Generator(), torch.device("cpu"))
        >>> batch = teacher(requests[0])
        >>> batch["inputs"].shape, batch["targets"].shape
        (torch.Size([20, 1, 8, 8]), torch.Size([20]))
    """

    samples_name = "images"

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        classes: int | None = None,
        images: int | None = None,
        soft_labels: bool = False,
        init: Literal["noise", "real"] = "noise",
    ) -> None:
        fields = image_fields("Pixels", image_shape, given(classes, "Pixels.classes"))
        super().__init__(fields, given(images, "Pixels.images"), soft_labels, init)
        self.image_shape = fields["inputs"].sample_shape
        self.images = self.samples

    @property
    def pixels(self) -> Tensor:
        """The images, ``[images, C, H, W]``."""
        return self.tensors["inputs"]

    @property
    def label_logits(self) -> Tensor | None:
        """Logits relative to each image's class, ``[images, classes]``; None without soft labels."""
        return self.tensors["targets"] if self.soft_labels else None


def _checked(name: str, fields: Mapping[str, Any], soft_labels: bool) -> Fields:
    """Return fields, converted from the plain data of a teacher file if necessary, with soft labels if wanted.

    Raises:
        RecipeError: if the fields are not such as free tensors can be.
    """
    made = restored(fields)
    if not made:
        raise RecipeError(f"{name}: fields must name at least one field, got none")
    for key in made:
        if not key.isidentifier() or key == LABELS:
            raise RecipeError(f"{name}: fields: expected names such as inputs, other than {LABELS}, got {key!r}")
    classified = [key for key, field in made.items() if field.classes]
    if len(classified) > 1:
        raise RecipeError(f"{name}: fields must have classes in one field at most, got {' and '.join(classified)}")
    if soft_labels and not classified:
        raise RecipeError(f"{name}: soft_labels needs a field of classes, got {', '.join(map(str, made.values()))}")
    if soft_labels:
        made |= {key: Field("probabilities", classes=made[key].classes) for key in classified}
    return made
