"""The paper's generator, a network from noise, and a label if there are classes, to an image."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Field, Fields
from gtn_lightning.teachers.base import LABELS, Teacher, TeacherInput, image_fields, recomputed, requested_labels
from gtn_lightning.teachers.free import SHARPNESS

CHUNK_BYTES = 2**26
"""Approximate limit of the memory for the activations of one chunk of images on a CPU, in bytes."""

CHUNK_SHARE = 1 / 32
"""The same limit on a GPU, as a share of its memory: many small chunks would leave it idle."""


FIRST_UNITS = "2"
"""The layer of the network whose values are the first layer's units, from which targets are made."""


class Generator(Teacher):
    """A convolutional generator, class-conditional if there are classes (Such et al., arXiv 1912.07768, appendix A).

    Two linear layers, then two convolutions, each after twofold upsampling; between the layers, batch normalization
    with the statistics of the inner batch and LeakyReLU(0.1). All weights are normalized (Salimans and Kingma,
    arXiv 1602.07868). The image is ``2 tanh(x)``, the range of real images with zero mean and unit variance.

    Without classes, noise alone makes an image, and a linear layer on the first layer's units makes its targets, if
    there are any.

    Args:
        image_shape: ``(channels, height, width)`` of the images, at least 4x4 pixels; a recipe may omit it, the task
            then sets it.
        classes: number of classes, None for a task without; a recipe may omit it, the task then sets it.
        noise: size of the noise vector.
        hidden: units of the first linear layer.
        channels: channels before the first and before the second convolution.
        soft_labels: whether to learn label probabilities for every class.
        targets: number of real values to make for every image, without classes; None for none. A recipe may omit it,
            the task then sets it.

    Raises:
        RecipeError: if a size is out of range, or there are both classes and values to make.

    Examples:
        >>> import torch
        >>> from gtn_lightning.curricula import Full
        >>> from gtn_lightning.teachers import Generator
        >>> teacher = Generator((1, 8, 8), classes=10, noise=16, hidden=32, channels=(8, 8))
        >>> curriculum = Full(steps=3, batch_size=20, classes=10, noise=16)
        >>> batches = teacher.batches(curriculum.requests(torch.Generator(), torch.device("cpu")))
        >>> [batch["inputs"].shape for batch in batches]
        [torch.Size([20, 1, 8, 8]), torch.Size([20, 1, 8, 8]), torch.Size([20, 1, 8, 8])]
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        classes: int | None = None,
        noise: int = 128,
        hidden: int = 1024,
        channels: tuple[int, int] = (128, 64),
        soft_labels: bool = False,
        targets: int | None = None,
    ) -> None:
        super().__init__()
        self.fields: Fields = image_fields("Generator", image_shape, classes)
        depth, height, width = self.fields["inputs"].sample_shape
        if classes is None and soft_labels:
            raise RecipeError("Generator: soft_labels needs classes, got none")
        if targets is not None:
            if classes is not None:
                raise RecipeError(f"Generator: targets must be left out with classes, got {targets}")
            if targets < 1:
                raise RecipeError(f"Generator: targets must be at least 1, got {targets}")
            self.fields["targets"] = Field("real", (targets,))
        if min(height, width) < 4:
            raise RecipeError(
                f"Generator: image_shape must be at least 4 x 4 pixels for two upsamplings, got "
                f"{[depth, height, width]}: use the teacher Pixels for smaller images"
            )
        if min(noise, hidden, *channels) < 1:
            raise RecipeError(
                f"Generator: noise, hidden and channels must be at least 1, got noise {noise}, hidden {hidden}, "
                f"channels {list(channels)}"
            )
        self.image_shape = (depth, height, width)
        self.classes = classes
        self.noise = noise
        self.hidden = hidden
        self.channels = channels
        self.soft_labels = soft_labels
        self.targets = targets
        first, second = channels
        half = ((height + 1) // 2, (width + 1) // 2)
        quarter = ((height + 3) // 4, (width + 3) // 4)
        self.network = nn.Sequential(
            nn.Linear(noise + (classes or 0), hidden),
            nn.BatchNorm1d(hidden, track_running_stats=False),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden, first * quarter[0] * quarter[1]),
            nn.BatchNorm1d(first * quarter[0] * quarter[1], track_running_stats=False),
            nn.LeakyReLU(0.1),
            nn.Unflatten(1, (first, *quarter)),
            nn.Upsample(size=half),
            nn.Conv2d(first, second, 3, padding=1),
            nn.BatchNorm2d(second, track_running_stats=False),
            nn.LeakyReLU(0.1),
            nn.Upsample(size=(height, width)),
            nn.Conv2d(second, depth, 3, padding=1),
        )
        # Weight normalization without torch's parametrization, which would compute the normalized weights again for
        # each inner batch: here they are computed once per meta-step.
        self.gains = nn.ParameterDict()
        for name, layer in self.network.named_children():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.1)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
                self.gains[name] = nn.Parameter(_norm(layer.weight.detach()).flatten())
        if soft_labels:
            self.fields["targets"] = Field("probabilities", classes=classes)
        self.head = None if targets is None else nn.Linear(hidden, targets)
        self.label_logits = None if classes is None or not soft_labels else nn.Parameter(SHARPNESS * torch.eye(classes))

    def weights(self) -> dict[str, Tensor]:
        """Return the normalized weight of every linear and convolutional layer, by the layer's name in ``network``."""
        weights = {}
        for name, gain in self.gains.items():
            direction = self.network.get_submodule(name).weight
            assert isinstance(direction, Tensor)
            scale = gain.view(-1, *[1] * (direction.ndim - 1)) / _norm(direction)
            weights[name] = direction * scale
        return weights

    def forward(self, request: TeacherInput) -> Batch:
        """Make one inner batch from the request's noise, and its labels if there are classes; the index is ignored."""
        labels = self._requested_labels(request)
        made = self._made(labels, _requested_noise(request), self.weights(), 1)
        return self._batch(made, labels)

    def batches(self, requests: Sequence[TeacherInput]) -> Iterator[Batch]:
        """Yield the batches of an inner loop, computed in chunks of several batches if they are small.

        Batch normalization uses the statistics of each inner batch separately. With more than one chunk, the backward
        pass computes each chunk again, so that memory does not grow with the activations of all inner steps.
        """
        if not requests or type(self).forward is not Generator.forward:  # a subclass has its own forward
            yield from super().batches(requests)
            return
        weights = self.weights()
        size = len(requests[0].index)
        _, height, width = self.image_shape
        same_size = all(len(request.index) == size for request in requests)
        # The activations of an image take about four times the memory of the last hidden layer in float32.
        limit = _chunk_bytes(requests[0].index.device)
        chunk_size = max(1, limit // (size * height * width * self.channels[1] * 16)) if same_size else 1
        for start in range(0, len(requests), chunk_size):
            chunk = requests[start : start + chunk_size]
            asked = [self._requested_labels(request) for request in chunk]
            labels = None if self.classes is None else torch.cat([label for label in asked if label is not None])
            noise = torch.cat([_requested_noise(request) for request in chunk])
            if torch.is_grad_enabled() and len(requests) > chunk_size:
                made = recomputed(self._made, noise.device, labels, noise, weights, len(chunk))
            else:
                made = self._made(labels, noise, weights, len(chunk))
            for label, *parts in zip(asked, *(part.chunk(len(chunk)) for part in made), strict=True):
                yield self._batch(parts, label)

    def _requested_labels(self, request: TeacherInput) -> Tensor | None:
        return None if self.classes is None else requested_labels(self, request)

    def _made(
        self, labels: Tensor | None, noise: Tensor, weights: dict[str, Tensor], batches: int
    ) -> tuple[Tensor, ...]:
        """Return images, and targets if they are made, of several inner batches of one size, one after the other."""
        values, targets = noise, []
        if labels is not None:
            assert self.classes is not None
            values = torch.cat([noise, F.one_hot(labels, self.classes).to(noise.dtype)], dim=1)
        for name, layer in self.network.named_children():
            if isinstance(layer, nn.Linear):
                values = F.linear(values, weights[name], layer.bias)
            elif isinstance(layer, nn.Conv2d):
                values = F.conv2d(values, weights[name], layer.bias, padding=1)
            elif isinstance(layer, _BatchNorm):  # or SyncBatchNorm, to which a Trainer may have converted it
                values = _normalized(values, layer, batches)
            else:
                values = layer(values)
            if self.head is not None and name == FIRST_UNITS:
                targets.append(self.head(values))
        return 2 * values.tanh(), *targets

    def _batch(self, made: Sequence[Tensor], labels: Tensor | None) -> Batch:
        if labels is None:
            return dict(zip(self.fields, made, strict=True))
        targets = labels if self.label_logits is None else self.label_logits[labels].softmax(dim=1)
        return {"inputs": made[0], "targets": targets, LABELS: labels}


def _chunk_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return CHUNK_BYTES
    return int(CHUNK_SHARE * torch.cuda.get_device_properties(device).total_memory)


def _requested_noise(request: TeacherInput) -> Tensor:
    if request.noise is None:
        raise RecipeError("Generator: the curriculum gives no noise: set its noise to the generator's")
    return request.noise


def _normalized(values: Tensor, layer: _BatchNorm, batches: int) -> Tensor:
    """Normalize every inner batch by its own statistics; values ``[batches * B, C, ...]``."""
    # As one batch ``[B, batches * C, ...]``, with separate channels for every inner batch.
    stacked = values.unflatten(0, (batches, -1)).transpose(0, 1).flatten(1, 2)
    weight, bias = layer.weight.repeat(batches), layer.bias.repeat(batches)
    stacked = F.batch_norm(stacked, None, None, weight, bias, training=True, eps=layer.eps)
    return stacked.unflatten(1, (batches, -1)).transpose(0, 1).flatten(0, 1)


def _norm(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
