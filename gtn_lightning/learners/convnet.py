"""A plain convolutional network with configurable width, depth, normalization, pooling and activation."""

from collections.abc import Sequence

from torch import Tensor, nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.learners.activations import activation_layer
from gtn_lightning.learners.classifier import ImageClassifier, check_positive
from gtn_lightning.learners.norms import classifier, conv, image_norm

LAYERS = ("pool", "norm", "activation")
"""The layers of a block after its convolution.

By default the pooling is first: a quarter of the computation, and the next layer sees normalized features. Max pooling
of activations gives features with a large positive mean, from which few steps learn little.
"""

POOLINGS = ("max", "average", "stride", "global", "none")


class ConvNet(ImageClassifier):
    """`depth` blocks of 3x3 convolution, halving, normalization and activation; then a linear layer.

    The default learner for small images. In a mixture with several orders, norms and poolings, it makes the teacher's
    data transfer to other networks. The order that most people write is ``[norm, activation, pool]``, with
    ``norm: batch_running`` and ``init: torch``; the default's advantage is that it learns more in few steps.

    Args:
        image_shape: ``(channels, height, width)``.
        classes: number of classes.
        width: channels of every convolution.
        depth: number of blocks.
        norm: ``"batch"`` (statistics of the batch, in evaluation too), ``"batch_running"`` (ordinary
            BatchNorm), ``"group"``, ``"layer"``, ``"instance"``, ``"weight"`` (weight normalization with
            mean-only batch normalization) or ``"none"``.
        pooling: how a block halves the image: ``"max"`` or ``"average"`` over 2x2 pixels, ``"stride"`` (the
            convolution has stride 2); ``"global"`` is max pooling between the blocks and the mean over all
            pixels after the last; ``"none"`` keeps the size. Odd sizes are rounded up.
        activation: ``"relu"``, ``"leaky_relu"`` (slope 0.1), ``"gelu"``, ``"tanh"`` or ``"sigmoid"``.
        order: the layers of a block after the convolution: ``"pool"``, ``"norm"`` and ``"activation"`` in any order.
        init: ``"kaiming"``, or ``"torch"`` for layers as `torch.nn` makes them.

    Raises:
        RecipeError: if a name is unknown, a size is below 1, or the image is too small for the number of halvings.

    Examples:
        >>> import torch
        >>> from gtn_lightning.learners import ConvNet
        >>> network = ConvNet(image_shape=(1, 8, 8), classes=10, width=16, depth=1)
        >>> network(torch.randn(8, 1, 8, 8)).shape
        torch.Size([8, 10])
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
        order: Sequence[str] = LAYERS,
        init: str = "kaiming",
    ) -> None:
        super().__init__(image_shape, classes)
        check_positive("width", width)
        check_positive("depth", depth)
        if pooling not in POOLINGS:
            raise RecipeError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        if sorted(order) != sorted(LAYERS):
            raise RecipeError(f"order must be {', '.join(LAYERS)} in some order, got {list(order)}")
        self.width = width
        self.depth = depth
        self.norm = norm
        self.pooling = pooling
        self.activation = activation
        self.order = list(order)
        self.init = init

        channels, rows, columns = self.image_shape
        blocks: list[nn.Module] = []
        for block in range(depth):
            halve = pooling != "none" and (pooling != "global" or block < depth - 1)
            if halve and min(rows, columns) < 2:
                raise RecipeError(
                    f"depth must be at most {block + (pooling == 'global')} for pooling {pooling!r} and image_shape "
                    f"{list(self.image_shape)}, got {depth}: more blocks shrink the image below 1 pixel"
                )
            stride = 2 if pooling == "stride" else 1
            act = activation_layer(activation)  # before conv(), which looks up the activation's gain
            blocks.append(conv(channels, width, norm, activation, stride=stride, init=init))
            channels = width
            halved = (rows + 1) // 2, (columns + 1) // 2
            if halve and pooling == "stride":
                rows, columns = halved
            for layer in self.order:
                if layer == "norm":
                    blocks.append(image_norm(norm, width, rows * columns))
                elif layer == "activation":
                    blocks.append(act)
                elif halve and pooling != "stride":
                    odd = rows % 2 == 1 or columns % 2 == 1
                    blocks.append((nn.AvgPool2d if pooling == "average" else nn.MaxPool2d)(2, ceil_mode=odd))
                    rows, columns = halved
        if pooling == "global":
            blocks.append(nn.AdaptiveAvgPool2d(1))
            rows, columns = 1, 1
        self.features = nn.Sequential(*blocks)
        self.classifier = classifier(width * rows * columns, self.classes, norm, init)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[B, classes]`` of images ``[B, C, H, W]``."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits
