"""A self-supervised target network: VICReg on images without labels."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.component import Component
from gtn_lightning.data.augment import augment, check_changes
from gtn_lightning.errors import RecipeError
from gtn_lightning.randomness import keyed_generator, keyed_rng, keyed_seed

FLOOR = 1e-4
"""What is added to a variance inside its root, whose derivative would be infinite at zero."""


class SelfSupervision(Component, ABC):
    """How a target network is made and trained, without labels.

    Attributes:
        dimension: number of its features.
    """

    dimension: int

    def settings(self) -> dict[str, Any]:
        """Return all that a training depends on beside inputs and seed, as plain data; by default, the attributes."""
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **vars(self)}

    @abstractmethod
    def network(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a new network from normalized inputs ``[B, *shape]`` to features ``[B, dimension]``."""

    @abstractmethod
    def train(self, network: nn.Module, inputs: Tensor, normalize: Callable[[Tensor], Tensor], seed: int) -> int:
        """Train a network in place.

        Args:
            network: the network, on its device.
            inputs: raw inputs ``[N, *shape]`` on the CPU.
            normalize: normalizes raw inputs for the network.
            seed: seed of all random choices.

        Returns:
            How many inputs it has seen, each as often as it was seen.
        """


class VICReg(SelfSupervision):
    """Variance-invariance-covariance regularization (Bardes et al., arXiv 2105.04906).

    Two random views of each image get similar features, the features of different images spread, and features are
    decorrelated; see `vicreg_loss`. Views are made by `augment` and normal noise. The network has convolutions of
    stride 2 with batch normalization, and a linear layer. The loss is taken behind an expander of two linear layers,
    which is dropped, or on the features themselves. The optimizer is AdamW with a one-cycle schedule.

    Args:
        dimension: number of features.
        width: channels of the first convolution, which double with each further one.
        depth: number of convolutions, each of which halves the image.
        expander: units of the expander's layers, 0 for none.
        steps: number of training steps.
        batch_size: images per step, at most all training images.
        lr: maximum learning rate.
        crop, flip, rotate, scale, shift: random changes of a view, as in `TensorData`.
        noise: standard deviation of the normal noise of a view, in units of normalized pixels.
        invariance, variance, covariance: weights of the terms of the loss.

    Raises:
        RecipeError: if a value is out of range.

    Examples:
        >>> from gtn_lightning.data import VICReg
        >>> VICReg(dimension=16, steps=100, rotate=10.0, shift=1.0).dimension
        16
    """

    def __init__(
        self,
        dimension: int = 64,
        width: int = 16,
        depth: int = 2,
        expander: int = 0,
        steps: int = 300,
        batch_size: int = 128,
        lr: float = 0.002,
        crop: int = 0,
        flip: bool = False,
        rotate: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
        noise: float = 0.0,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        for name, value, least in (
            ("dimension", dimension, 2),
            ("width", width, 1),
            ("depth", depth, 1),
            ("expander", expander, 0),
            ("steps", steps, 2),
            ("batch_size", batch_size, 2),
        ):
            if value < least:
                raise RecipeError(f"VICReg: {name} must be at least {least}, got {value}")
        amounts = {"noise": noise, "invariance": invariance, "variance": variance, "covariance": covariance}
        check_changes("VICReg: ", crop, rotate, scale, shift, **amounts)
        if not 0 < lr < math.inf:
            raise RecipeError(f"VICReg: lr must be above 0 and finite, got {lr}")
        if not (crop or flip or rotate or scale or shift or noise):
            raise RecipeError(
                "VICReg: views must differ, but crop, flip, rotate, scale, shift and noise are 0: give one"
            )
        self.dimension = dimension
        self.width = width
        self.depth = depth
        self.expander = expander
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.crop = crop
        self.flip = flip
        self.rotate = rotate
        self.scale = scale
        self.shift = shift
        self.noise = noise
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance

    def network(self, shape: tuple[int, ...]) -> nn.Module:
        """Return a new network from normalized images to features ``[B, dimension]``."""
        channels, height, width = shape
        layers: list[nn.Module] = []
        for block in range(self.depth):
            wider = self.width * 2**block
            layers += [
                nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.ReLU(),
            ]
            channels, height, width = wider, (height + 1) // 2, (width + 1) // 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, self.dimension))

    def train(self, network: nn.Module, inputs: Tensor, normalize: Callable[[Tensor], Tensor], seed: int) -> int:
        """Train a network in place; see the base class.

        Raises:
            RecipeError: if there are fewer images than in a batch, or training diverges.
        """
        if self.batch_size > len(inputs):
            raise RecipeError(
                f"VICReg: batch_size must be at most {len(inputs)}, the number of training images, got "
                f"{self.batch_size}"
            )
        device = next(network.parameters()).device
        with keyed_rng(seed, "vicreg", "expander", device=torch.device("cpu")):
            expander = self._expander().to(device)
        parameters = [*network.parameters(), *expander.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.steps)
        network.train()
        for step in range(self.steps):
            generator = keyed_generator(seed, "vicreg", step)
            images = inputs[torch.randperm(len(inputs), generator=generator)[: self.batch_size]].to(device)
            one, other = (
                expander(network(self._view(images, normalize, keyed_seed(seed, "vicreg", step, view))))
                for view in range(2)
            )
            loss = vicreg_loss(one, other, self.invariance, self.variance, self.covariance)
            if not loss.isfinite():
                raise RecipeError(f"VICReg: the loss is {float(loss)} after {step} steps: lower its lr, {self.lr}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return self.steps * self.batch_size

    def _view(self, images: Tensor, normalize: Callable[[Tensor], Tensor], key: int) -> Tensor:
        view = augment(images, key, self.crop, self.flip, self.rotate, self.scale, self.shift)
        view = normalize(view)
        if self.noise:
            # On the CPU, so that a key gives the same noise on every device.
            noise = torch.randn(view.shape, generator=keyed_generator(key, "noise"), dtype=view.dtype)
            view = view + self.noise * noise.to(view.device)
        return view

    def _expander(self) -> nn.Module:
        if not self.expander:
            return nn.Identity()
        return nn.Sequential(
            nn.ReLU(),
            nn.Linear(self.dimension, self.expander),
            nn.BatchNorm1d(self.expander),
            nn.ReLU(),
            nn.Linear(self.expander, self.expander),
        )


def vicreg_loss(
    one: Tensor, other: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> Tensor:
    """Return the loss of VICReg (equation 6 of Bardes et al., arXiv 2105.04906).

    Args:
        one, other: features of two views of the same inputs, ``[B, D]``.
        invariance: weight of the mean squared difference of the views.
        variance: weight of the mean, over the features and the views, of how far a standard deviation is below 1.
        covariance: weight of the sum of squared covariances of different features, divided by ``D``, of both views.

    Returns:
        A scalar.
    """
    loss = invariance * F.mse_loss(one, other)
    for view in (one, other):
        centered = view - view.mean(0)
        spread = (centered.square().sum(0) / (len(view) - 1) + FLOOR).sqrt()
        products = centered.T @ centered / (len(view) - 1)
        between = products.square().sum() - products.diagonal().square().sum()
        loss = loss + variance / 2 * F.relu(1 - spread).mean() + covariance * between / view.shape[1]
    return loss
