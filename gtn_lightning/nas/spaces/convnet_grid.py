"""The grid of plain ConvNets on which dataset condensation is compared."""

from collections.abc import Mapping, Sequence

from torch import nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.learners import ConvNet
from gtn_lightning.learners.classifier import image_sizes
from gtn_lightning.nas.spaces.base import Architecture, Choice, SearchSpace


class ConvNetGrid(SearchSpace):
    """Width, depth, activation, norm and pooling of a `ConvNet`: 720 networks.

    Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching" (arXiv 2006.05929), section 4.3, with widths
    from 32 to 256; the default widths are an eighth of theirs, so that a CPU can train every network.

    Members are named as in ``w16-d3-relu-batch-max``; a family has one norm and one pooling.

    Args:
        image_shape: (channels, height, width) of the images; the recipe of a GTN may leave it to its task.
        classes: number of classes; the recipe of a GTN may leave it to its task.
        widths: channels of the convolutions.
        depths: numbers of blocks.

    Examples:
        >>> from gtn_lightning.nas import ConvNetGrid
        >>> space = ConvNetGrid(image_shape=(1, 8, 8), classes=10, depths=[1, 2])
        >>> architecture = space.parse("w16-d2-relu-batch-max")
        >>> architecture.choices["width"], type(space.build(architecture)).__name__
        (16, 'ConvNet')
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        classes: int | None = None,
        widths: Sequence[int] = (4, 8, 16, 32),
        depths: Sequence[int] = (1, 2, 3, 4),
    ) -> None:
        self.image_shape, self.classes = image_sizes("ConvNetGrid", image_shape, classes)
        self.widths = list(widths)
        self.depths = list(depths)
        for key, options in (("widths", self.widths), ("depths", self.depths)):
            if not options or len({*options}) < len(options):
                raise RecipeError(f"ConvNetGrid: {key} must be different whole numbers, at least one, got {options}")
        self.decisions: Mapping[str, Sequence[Choice]] = {
            "width": self.widths,
            "depth": self.depths,
            "activation": ["sigmoid", "relu", "leaky_relu"],
            "norm": ["none", "batch", "layer", "instance", "group"],
            "pooling": ["none", "max", "average"],
        }
        for depth in (min(self.depths), max(self.depths)):  # images too small for a depth are refused here
            ConvNet(self.image_shape, self.classes, width=min(self.widths), depth=depth, norm="instance", pooling="max")

    def name(self, choices: Mapping[str, Choice]) -> str:
        """Return for instance ``w16-d3-relu-batch-max``."""
        return "w{width}-d{depth}-{activation}-{norm}-{pooling}".format(**choices)

    def choices(self, name: str) -> dict[str, Choice]:
        choices: dict[str, Choice] = dict(zip(self.decisions, name.split("-"), strict=False))
        for key in ("width", "depth"):
            number = str(choices.get(key, ""))[1:]
            if number.isdecimal():
                choices[key] = int(number)
        return choices

    def build(self, architecture: Architecture) -> nn.Module:
        return ConvNet(self.image_shape, self.classes, **architecture.choices)  # type: ignore[arg-type]

    def family(self, architecture: Architecture) -> str:
        """Return norm and pooling, for instance ``batch-max``."""
        return "{norm}-{pooling}".format(**architecture.choices)
