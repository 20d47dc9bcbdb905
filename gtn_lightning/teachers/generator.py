"""The paper's generator: noise and a label in, an image out."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Fields
from gtn_lightning.teachers.base import Teacher, TeacherInput, asked_labels, image_fields
from gtn_lightning.teachers.free import SHARPNESS

CHUNK_BYTES = 2**26
"""About how much memory the activations of the images that are made at once may take."""


class Generator(Teacher):
    """A class-conditional convolutional generator (Such et al., arXiv 1912.07768, appendix A).

    Noise and one-hot label pass two linear layers and two convolutions, each after a two-fold upsampling; between
    them stand batch normalization, with the statistics of the inner batch, and LeakyReLU(0.1). All weights are
    normalized (Salimans and Kingma, arXiv 1602.07868). The image is ``2 tanh(x)``: real images are normalized to zero
    mean and unit variance.

    Args:
        image_shape: ``(channels, height, width)`` of the images, at least 4 pixels each way; a recipe may leave it to
            its task.
        classes: number of classes; a recipe may leave it to its task.
        noise: size of the noise vector.
        hidden: units of the first linear layer.
        channels: channels before the first and before the second convolution.
        soft_labels: whether to learn, for every class, the probabilities that its images are labeled with.

    Raises:
        RecipeError: if a size cannot work.
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
                f"Generator: image_shape {[depth, height, width]} is too small: it upsamples twice and needs images of "
                "at least 4 x 4 pixels; use the Pixels teacher for smaller ones"
            )
        if min(noise, hidden, *channels) < 1:
            raise RecipeError(
                f"Generator: noise, hidden and channels must be at least 1; got noise {noise}, hidden {hidden}, "
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
        # Weight normalization by hand: the normalized weights are computed once per meta-step and shared by all inner
        # batches, where a parametrization would compute them again for each of them.
        self.gains = nn.ParameterDict()
        for name, layer in self.network.named_children():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.1)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
                self.gains[name] = nn.Parameter(_norm(layer.weight.detach()).flatten())
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
        """Make one inner batch; images are told apart by their noise, and the index is ignored."""
        labels = asked_labels(self, request)
        return self._batch(self._images(labels, _given(request.noise), self.weights(), 1), labels)

    def batches(self, requests: Sequence[TeacherInput]) -> Iterator[Batch]:
        """Make the batches of an inner loop, several at once where they are small.

        The statistics of batch normalization are those of each inner batch all the same. What does not fit into one
        chunk is computed again in the backward pass, chunk by chunk, so that memory does not grow with the activations
        of all inner steps.
        """
        if not requests or type(self).forward is not Generator.forward:  # a subclass has its own way
            yield from super().batches(requests)
            return
        weights = self.weights()
        size = len(requests[0].index)
        _, height, width = self.image_shape
        alike = all(len(request.index) == size for request in requests)
        # Four images' worth of the last hidden layer, in float32, for all that is kept of an image.
        together = max(1, CHUNK_BYTES // (size * height * width * self.channels[1] * 16)) if alike else 1
        for start in range(0, len(requests), together):
            chunk = requests[start : start + together]
            labels = torch.cat([asked_labels(self, request) for request in chunk])
            noise = torch.cat([_given(request.noise) for request in chunk])
            if torch.is_grad_enabled() and len(requests) > together:
                images = checkpoint(self._images, labels, noise, weights, len(chunk), use_reentrant=False)
            else:
                images = self._images(labels, noise, weights, len(chunk))
            for request, made in zip(chunk, images.chunk(len(chunk)), strict=True):
                yield self._batch(made, asked_labels(self, request))

    def _images(self, labels: Tensor, noise: Tensor, weights: dict[str, Tensor], batches: int) -> Tensor:
        """Return the images of several inner batches of one size, one batch after the other."""
        values = torch.cat([noise, F.one_hot(labels, self.classes).to(noise.dtype)], dim=1)
        for name, layer in self.network.named_children():
            if isinstance(layer, nn.Linear):
                values = F.linear(values, weights[name], layer.bias)
            elif isinstance(layer, nn.Conv2d):
                values = F.conv2d(values, weights[name], layer.bias, padding=1)
            elif isinstance(layer, _BatchNorm):  # SyncBatchNorm too, into which a Trainer may have turned it
                values = _normalized(values, layer, batches)
            else:
                values = layer(values)
        return 2 * values.tanh()

    def _batch(self, images: Tensor, labels: Tensor) -> Batch:
        targets = labels if self.label_logits is None else self.label_logits[labels].softmax(dim=1)
        return {"inputs": images, "targets": targets, "labels": labels}


def _given(noise: Tensor | None) -> Tensor:
    if noise is None:
        raise RecipeError("Generator: the curriculum gives no noise; set its noise to the generator's")
    return noise


def _normalized(values: Tensor, layer: _BatchNorm, batches: int) -> Tensor:
    """Normalize every inner batch by its own statistics; values ``[batches * B, C, ...]``."""
    # The channels of every inner batch are channels of their own.
    apart = values.unflatten(0, (batches, -1)).transpose(0, 1).flatten(1, 2)
    weight, bias = layer.weight.repeat(batches), layer.bias.repeat(batches)
    apart = F.batch_norm(apart, None, None, weight, bias, training=True, eps=layer.eps)
    return apart.unflatten(1, (batches, -1)).transpose(0, 1).flatten(0, 1)


def _norm(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
