"""A multilayer perceptron: the learner that knows nothing of neighbouring pixels."""

from collections.abc import Sequence

from torch import Tensor, nn

from gtn_lightning.learners.activations import activation_layer
from gtn_lightning.learners.classifier import ImageClassifier, check_positive
from gtn_lightning.learners.norms import classifier, feature_norm, linear


class MLP(ImageClassifier):
    """Linear layers with normalisation and activation between them, on the flattened image.

    Args:
        image_shape: (channels, height, width).
        classes: number of classes.
        hidden: widths of the hidden layers, first to last; empty makes a linear classifier.
        norm: ``"batch"``, ``"batch_running"``, ``"group"``, ``"layer"``, ``"weight"`` or ``"none"``, as in
            `ConvNet`.
        activation: ``"relu"``, ``"leaky_relu"`` (slope 0.1), ``"gelu"``, ``"tanh"`` or ``"sigmoid"``.

    Raises:
        RecipeError: an unknown name or a size below 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        hidden: Sequence[int] = (256, 128),
        norm: str = "none",
        activation: str = "relu",
    ) -> None:
        super().__init__(image_shape, classes)
        if hidden:
            check_positive("hidden", *hidden)
        self.hidden = list(hidden)
        self.norm = norm
        self.activation = activation

        channels, rows, columns = self.image_shape
        features = channels * rows * columns
        layers: list[nn.Module] = []
        for width in self.hidden:
            act = activation_layer(activation)
            layers += [linear(features, width, norm, activation), feature_norm(norm, width), act]
            features = width
        self.features = nn.Sequential(*layers)
        self.classifier = classifier(features, classes, norm)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes] of images [B, C, H, W]."""
        logits: Tensor = self.classifier(self.features(images.flatten(1)))
        return logits
