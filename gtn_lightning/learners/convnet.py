"""A plain convolutional network whose width, depth, normalization, pooling and activation are free."""

from torch import Tensor, nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.learners.activations import activation_layer
from gtn_lightning.learners.classifier import ImageClassifier, check_positive
from gtn_lightning.learners.norms import classifier, conv, image_norm

POOLINGS = ("max", "average", "stride", "global", "none")


class ConvNet(ImageClassifier):
    """`depth` blocks of 3x3 convolution, halving, normalization and activation; then a linear layer.

    The learner of choice for small images, and the family that mixtures are made of: teachers that have met
    several norms and poolings make data that transfers.

    Args:
        image_shape: (channels, height, width).
        classes: number of classes.
        width: channels of every convolution.
        depth: number of blocks.
        norm: ``"batch"`` (statistics of the batch, in evaluation too), ``"batch_running"`` (ordinary
            BatchNorm), ``"group"``, ``"layer"``, ``"instance"``, ``"weight"`` (weight normalization with
            mean-only batch normalization) or ``"none"``.
        pooling: how a block halves the image: ``"max"`` or ``"average"`` over 2x2 pixels, ``"stride"`` (the
            convolution has stride 2); ``"global"`` is max pooling between the blocks and the mean over all
            pixels after the last; ``"none"`` leaves the size as it is. Odd sizes are rounded up.
        activation: ``"relu"``, ``"leaky_relu"`` (slope 0.1), ``"gelu"``, ``"tanh"`` or ``"sigmoid"``.

    Raises:
        RecipeError: an unknown name, a size below 1, or more halvings than the image has room for.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        classes: int | None = None,
        width: int = 32,
        depth: int = 3,
        norm: str = "batch",
        pooling: str = "max",
        activation: str = "relu",
    ) -> None:
        super().__init__(image_shape, classes)
        check_positive("width", width)
        check_positive("depth", depth)
        if pooling not in POOLINGS:
            raise RecipeError(f"pooling: {pooling!r} is unknown; choose one of {', '.join(POOLINGS)}")
        self.width = width
        self.depth = depth
        self.norm = norm
        self.pooling = pooling
        self.activation = activation

        channels, rows, columns = self.image_shape
        blocks: list[nn.Module] = []
        for block in range(depth):
            halve = pooling != "none" and (pooling != "global" or block < depth - 1)
            if halve and min(rows, columns) < 2:
                raise RecipeError(
                    f"depth: {depth} blocks with pooling {pooling!r} shrink image_shape {list(self.image_shape)} "
                    f"below 1 pixel; give a depth of at most {block + (pooling == 'global')}"
                )
            stride = 2 if pooling == "stride" else 1
            act = activation_layer(activation)  # before conv(), which looks up the activation's gain
            blocks.append(conv(channels, width, norm, activation, stride=stride))
            channels = width
            if halve and pooling != "stride":
                odd = rows % 2 == 1 or columns % 2 == 1
                blocks.append((nn.AvgPool2d if pooling == "average" else nn.MaxPool2d)(2, ceil_mode=odd))
            if halve:
                rows, columns = (rows + 1) // 2, (columns + 1) // 2
            # After the pooling: a quarter of the work, and the next layer sees normalized features. Max pooling of
            # activations gives features of large positive mean, from which little is learned in a few steps.
            blocks += [image_norm(norm, width, rows * columns), act]
        if pooling == "global":
            blocks.append(nn.AdaptiveAvgPool2d(1))
            rows, columns = 1, 1
        self.features = nn.Sequential(*blocks)
        self.classifier = classifier(width * rows * columns, self.classes, norm)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes] of images [B, C, H, W]."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits
