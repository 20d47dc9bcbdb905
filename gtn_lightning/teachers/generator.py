"""The paper's generator, a network from noise and a label to an image."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Field, Fields
from gtn_lightning.teachers.base import LABELS, Teacher, TeacherInput, image_fields, requested_labels
from gtn_lightning.teachers.free import SHARPNESS

CHUNK_BYTES = 2**26
"""Approximate limit of the memory for the activations of one chunk of images, in bytes."""


class Generator(Teacher):
    """A class-conditional convolutional generator (Such et al., arXiv 1912.07768, appendix A).

    Two linear layers, then two convolutions, each after twofold upsampling; between the layers, batch normalization
    with the statistics of the inner batch and LeakyReLU(0.1). All weights are normalized (Salimans and Kingma,
    arXiv 1602.07868). The image is ``2 tanh(x)``, the range of real images with zero mean and unit variance.

    Args:
        image_shape: ``(channels, height, width)`` of the images, at least 4x4 pixels; a recipe may omit it, the task
            then sets it.
        classes: number of classes; a recipe may omit it, the task then sets it.
        noise: size of the noise vector.
        hidden: units of the first linear layer.
        channels: channels before the first and before the second convolution.
        soft_labels: whether to learn label probabilities for every class.

    Raises:
        RecipeError: if a size is out of range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        classes: int | None = None,
        noise: int = 128,
        hidden: int = 1024,
        channels: tuple[int, int] = (128, 64),
        soft_labels: bool = False,
    ) -> None:
        super().__init__()
        self.fields: Fields = image_fields("Generator", image_shape, classes)
        depth, height, width = self.fields["inputs"].sample_shape
        classes = self.fields["targets"].classes
        assert classes is not None
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
        first, second = channels
        half = ((height + 1) // 2, (width + 1) // 2)
        quarter = ((height + 3) // 4, (width + 3) // 4)
        self.network = nn.Sequential(
            nn.Linear(noise + classes, hidden),
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
        self.label_logits = nn.Parameter(SHARPNESS * torch.eye(classes)) if soft_labels else None

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
        """Make one inner batch from the request's labels and noise; the index is ignored."""
        labels = requested_labels(self, request)
        return self._batch(self._images(labels, _requested_noise(request), self.weights(), 1), labels)

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
        chunk_size = max(1, CHUNK_BYTES // (size * height * width * self.channels[1] * 16)) if same_size else 1
        for start in range(0, len(requests), chunk_size):
            chunk = requests[start : start + chunk_size]
            labels = torch.cat([requested_labels(self, request) for request in chunk])
            noise = torch.cat([_requested_noise(request) for request in chunk])
            if torch.is_grad_enabled() and len(requests) > chunk_size:
                images = checkpoint(self._images, labels, noise, weights, len(chunk), use_reentrant=False)
            else:
                images = self._images(labels, noise, weights, len(chunk))
            for request, batch_images in zip(chunk, images.chunk(len(chunk)), strict=True):
                yield self._batch(batch_images, requested_labels(self, request))

    def _images(self, labels: Tensor, noise: Tensor, weights: dict[str, Tensor], batches: int) -> Tensor:
        """Return the images of several inner batches of one size, one batch after the other."""
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
        return 2 * values.tanh()

    def _batch(self, images: Tensor, labels: Tensor) -> Batch:
        targets = labels if self.label_logits is None else self.label_logits[labels].softmax(dim=1)
        return {"inputs": images, "targets": targets, LABELS: labels}


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
