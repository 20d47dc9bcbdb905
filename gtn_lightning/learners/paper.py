"""The learners of the Generative Teaching Networks paper (Such et al., arXiv 1912.07768)."""

from collections.abc import Sequence

from torch import Tensor, nn

from gtn_lightning.learners.activations import activation_layer
from gtn_lightning.learners.classifier import ImageClassifier, check_positive
from gtn_lightning.learners.norms import classifier, conv, feature_norm, image_norm
from gtn_lightning.learners.norms import linear as hidden_layer

_ACTIVATION = "leaky_relu"


class GTNMnistNet(ImageClassifier):
    """The paper's MNIST network: two convolutions, each with a max pool of stride 2, and two linear layers.

    1.68 million parameters by default. The paper's random widths, as ranges of `RandomWidth`, are
    ``{conv1: [32, 128], conv2: [64, 256], linear: [64, 256]}``.

    Args:
        image_shape: ``(channels, height, width)``.
        classes: number of classes.
        conv1: channels of the first convolution.
        conv2: channels of the second convolution.
        linear: width of the hidden linear layer.
        norm: as in `MLP`; the paper's is ``"weight"``.

    Raises:
        RecipeError: if the norm is unknown or a size is below 1.

    Examples:
        >>> import torch
        >>> from gtn_lightning.learners import GTNMnistNet
        >>> network = GTNMnistNet(conv1=4, conv2=8, linear=16)
        >>> network(torch.randn(8, 1, 28, 28)).shape
        torch.Size([8, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        classes: int = 10,
        conv1: int = 64,
        conv2: int = 128,
        linear: int = 256,
        norm: str = "weight",
    ) -> None:
        super().__init__(image_shape, classes)
        check_positive("conv1", conv1)
        check_positive("conv2", conv2)
        check_positive("linear", linear)
        self.conv1 = conv1
        self.conv2 = conv2
        self.linear = linear
        self.norm = norm

        channels, rows, columns = self.image_shape
        layers: list[nn.Module] = []
        for width in (conv1, conv2):
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
            layers += [
                conv(channels, width, norm, _ACTIVATION),
                nn.MaxPool2d(3, stride=2, padding=1),
                image_norm(norm, width, rows * columns),
                activation_layer(_ACTIVATION),
            ]
            channels = width
        layers += [
            nn.Flatten(),
            hidden_layer(channels * rows * columns, linear, norm, _ACTIVATION),
            feature_norm(norm, linear),
            activation_layer(_ACTIVATION),
        ]
        self.features = nn.Sequential(*layers)
        self.classifier = classifier(linear, self.classes, norm)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` of images ``[B, C, H, W]``."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


class GTNCifarNet(ImageClassifier):
    """The paper's CIFAR-10 network: convolutions, every second one with stride 2, and global average pooling.

    1.1 million parameters by default.

    Args:
        image_shape: ``(channels, height, width)``.
        classes: number of classes.
        widths: channels of the convolutions, first to last; the second, fourth, ... halve the image.
        norm: as in `ConvNet`; the paper's is ``"weight"``.

    Raises:
        RecipeError: if the norm is unknown or a size is below 1.

    Examples:
        >>> import torch
        >>> from gtn_lightning.learners import GTNCifarNet
        >>> network = GTNCifarNet(widths=[4, 8, 8, 16, 16])
        >>> network(torch.randn(8, 3, 32, 32)).shape
        torch.Size([8, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        widths: Sequence[int] = (64, 128, 128, 256, 256),
        norm: str = "weight",
    ) -> None:
        super().__init__(image_shape, classes)
        check_positive("widths", *widths)
        self.widths = list(widths)
        self.norm = norm

        channels, rows, columns = self.image_shape
        layers: list[nn.Module] = []
        for index, width in enumerate(self.widths):
            stride = 1 + index % 2
            if stride == 2:
                rows, columns = (rows + 1) // 2, (columns + 1) // 2
            layers += [
                conv(channels, width, norm, _ACTIVATION, stride=stride),
                image_norm(norm, width, rows * columns),
                activation_layer(_ACTIVATION),
            ]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = classifier(channels, self.classes, norm)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` of images ``[B, C, H, W]``."""
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits
