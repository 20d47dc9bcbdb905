"""Base class of image classifiers, and checks of their sizes."""

from torch import nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import given


class ImageClassifier(nn.Module):
    """Base class of networks from images ``[B, C, H, W]`` to logits ``[B, classes]``.

    A learner need not derive from it: any module with that signature can be taught.

    Args:
        image_shape: ``(channels, height, width)`` of the images; a recipe may omit it, its task then sets it.
        classes: number of classes, checked against the task's; a recipe may omit it, its task then sets it.

    Raises:
        RecipeError: if a size is missing or not a positive whole number.
    """

    def __init__(self, image_shape: tuple[int, int, int] | None, classes: int | None) -> None:
        super().__init__()
        self.image_shape, self.classes = image_sizes(type(self).__name__, image_shape, classes)


def image_sizes(
    name: str, image_shape: tuple[int, int, int] | None, classes: int | None
) -> tuple[tuple[int, int, int], int]:
    """Check the shape of images and the number of classes, and return them.

    Args:
        name: the class whose arguments they are, for messages.
        image_shape: ``(channels, height, width)``.
        classes: number of classes.

    Raises:
        RecipeError: if one is missing or not a positive whole number.
    """
    image_shape, classes = given(image_shape, f"{name}.image_shape"), given(classes, f"{name}.classes")
    if len(image_shape) != 3:
        raise RecipeError(f"image_shape must be [channels, height, width], got {list(image_shape)}")
    check_positive("image_shape", *image_shape)
    check_positive("classes", classes)
    channels, height, width = image_shape
    return (channels, height, width), classes


def check_positive(key: str, *sizes: int) -> None:
    """Raise a `RecipeError` that names `key` unless there are sizes and all are whole numbers of at least 1."""
    if not sizes or not all(isinstance(size, int) and size >= 1 for size in sizes):
        value = sizes[0] if len(sizes) == 1 else list(sizes)
        raise RecipeError(f"{key} must be whole and at least 1, got {value!r}")
