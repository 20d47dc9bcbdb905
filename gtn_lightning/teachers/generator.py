"""The paper's generator: noise and a label in, an image out."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from gtn_lightning.errors import RecipeError
from gtn_lightning.teachers.base import SyntheticBatch, Teacher, check_sizes

SHARPNESS = 5.0
"""Initial logit of the true class of learned soft labels: 94 % of the mass among ten classes."""


class Generator(Teacher):
    """A class-conditional convolutional generator (Such et al., arXiv 1912.07768, appendix A).

    Noise and one-hot label pass two linear layers and two convolutions, each after a two-fold upsampling; between
    them stand batch normalisation, with the statistics of the inner batch, and LeakyReLU(0.1). All weights are
    normalised (Salimans and Kingma, arXiv 1602.07868). The image is ``2 tanh(x)``: real images are normalised to zero
    mean and unit variance.

    Args:
        image_shape: ``(channels, height, width)`` of the images, at least 4 pixels each way.
        classes: number of classes.
        noise: size of the noise vector.
        hidden: units of the first linear layer.
        channels: channels before the first and before the second convolution.
        soft_labels: whether to learn, for every class, the probabilities that its images are labelled with.

    Raises:
        RecipeError: if a size cannot work.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        noise: int = 128,
        hidden: int = 1024,
        channels: tuple[int, int] = (128, 64),
        soft_labels: bool = False,
    ) -> None:
        super().__init__()
        check_sizes("Generator", image_shape, classes)
        depth, height, width = image_shape
        if min(height, width) < 4:
            raise RecipeError(
                f"Generator: image_shape {list(image_shape)} is too small: it upsamples twice and needs images of at "
                "least 4 x 4 pixels; use the Pixels teacher for smaller ones"
            )
        if min(noise, hidden, *channels) < 1:
            raise RecipeError(
                f"Generator: noise, hidden and channels must be at least 1; got noise {noise}, hidden {hidden}, "
                f"channels {list(channels)}"
            )
        self.image_shape = image_shape
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
        # Weight normalisation by hand: the normalised weights are computed once per meta-step and shared by all inner
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
        """Return the normalised weight of every linear and convolutional layer, by its name in ``network``."""
        weights = {}
        for name, gain in self.gains.items():
            direction = self.network.get_submodule(name).weight
            assert isinstance(direction, Tensor)
            scale = gain.view(-1, *[1] * (direction.ndim - 1)) / _norm(direction)
            weights[f"{name}.weight"] = direction * scale
        return weights

    def forward(
        self, index: Tensor, labels: Tensor, noise: Tensor | None, weights: dict[str, Tensor] | None = None
    ) -> SyntheticBatch:
        """Make one inner batch.

        Args:
            index: ignored: what tells images apart is their noise.
            labels: int64 ``[B]``.
            noise: float ``[B, noise]``.
            weights: what ``weights()`` returned, to share it between batches.
        """
        if noise is None:
            raise RecipeError("Generator: the curriculum gives no noise; set its noise to the generator's")
        inputs = torch.cat([noise, F.one_hot(labels, self.classes).to(noise.dtype)], dim=1)
        images = 2 * functional_call(self.network, weights or self.weights(), (inputs,)).tanh()
        if self.label_logits is None:
            return SyntheticBatch(images, labels, labels)
        return SyntheticBatch(images, self.label_logits[labels].softmax(dim=1), labels)

    def shared(self) -> tuple[dict[str, Tensor]]:
        """Return the normalised weights."""
        return (self.weights(),)


def _norm(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
