"""A multilayer perceptron, for inputs of any shape."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from gtn_lightning.fields import given
from gtn_lightning.learners.activations import activation_layer
from gtn_lightning.learners.classifier import check_positive
from gtn_lightning.learners.norms import classifier, feature_norm, linear


class MLP(nn.Module):
    """Linear layers with normalization and activation between them, on the flattened input.

    Args:
        shape: shape of one input, such as ``[13]`` or ``[1, 28, 28]``; a recipe may omit it, its task then sets it.
        outputs: number of outputs, such as the number of classes; a recipe may omit it, its task then sets it.
        hidden: widths of the hidden layers, first to last; empty makes a linear classifier.
        norm: ``"batch"``, ``"batch_running"``, ``"group"``, ``"layer"``, ``"weight"`` or ``"none"``, as in
            `ConvNet`.
        activation: ``"relu"``, ``"leaky_relu"`` (slope 0.1), ``"gelu"``, ``"tanh"`` or ``"sigmoid"``.
        init: ``"kaiming"``, or ``"torch"`` for layers as `torch.nn` makes them.

    Raises:
        RecipeError: if a name is unknown or a size is below 1.

    Examples:
        >>> import torch
        >>> from gtn_lightning.learners import MLP
        >>> network = MLP(shape=(13,), outputs=3, hidden=[32])
        >>> network(torch.randn(8, 13)).shape
        torch.Size([8, 3])
    """

    def __init__(
        self,
        shape: tuple[int, ...] | None = None,
        outputs: int | None = None,
        hidden: Sequence[int] = (256, 128),
        norm: str = "none",
        activation: str = "relu",
        init: str = "kaiming",
    ) -> None:
        super().__init__()
        self.shape, self.outputs = tuple(given(shape, "MLP.shape")), given(outputs, "MLP.outputs")
        check_positive("shape", *self.shape)
        check_positive("outputs", self.outputs)
        if hidden:
            check_positive("hidden", *hidden)
        self.hidden = list(hidden)
        self.norm = norm
        self.activation = activation
        self.init = init

        features = math.prod(self.shape)
        layers: list[nn.Module] = []
        for width in self.hidden:
            act = activation_layer(activation)
            layers += [linear(features, width, norm, activation, init), feature_norm(norm, width), act]
            features = width
        self.features = nn.Sequential(*layers)
        self.classifier = classifier(features, self.outputs, norm, init)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs ``[B, outputs]`` of inputs ``[B, *shape]``."""
        outputs: Tensor = self.classifier(self.features(inputs.flatten(1)))
        return outputs
