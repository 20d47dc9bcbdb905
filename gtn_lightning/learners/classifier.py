"""What the networks of this package have in common: images in, logits out, checked sizes."""

from torch import nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import given


class ImageClassifier(nn.Module):
    """The base of a network from images [B, C, H, W] to logits [B, classes].

    A learner need not derive from it: any module with that signature will do.

    Args:
        image_shape: (channels, height, width) of the images; a recipe may leave it to its task.
        classes: number of classes, checked against the task's; a recipe may leave it to its task.

    Raises:
        RecipeError: a size is not a positive whole number.
    """

    def __init__(self, image_shape: tuple[int, int, int] | None, classes: int | None) -> None:
        super().__init__()
        self.image_shape, self.classes = image_sizes(type(self).__name__, image_shape, classes)


def image_sizes(
    name: str, image_shape: tuple[int, int, int] | None, classes: int | None
) -> tuple[tuple[int, int, int], int]:
    """Return the shape of images and the number of classes, which a recipe may leave to its task.

    Args:
        name: the class that takes them, for messages.
        image_shape: (channels, height, width).
        classes: number of classes.

    Raises:
        RecipeError: one is missing, or is not a positive whole number.
    """
    image_shape, classes = given(image_shape, f"{name}.image_shape"), given(classes, f"{name}.classes")
    if len(image_shape) != 3:
        raise RecipeError(f"image_shape: got {list(image_shape)}; give [channels, height, width]")
    check_positive("image_shape", *image_shape)
    check_positive("classes", classes)
    channels, height, width = image_shape
    return (channels, height, width), classes


def check_positive(key: str, *sizes: int) -> None:
    """Raise a RecipeError that names `key` unless there are sizes and all are whole and at least 1."""
    if not sizes or not all(isinstance(size, int) and size >= 1 for size in sizes):
        given = sizes[0] if len(sizes) == 1 else list(sizes)
        raise RecipeError(f"{key}: got {given!r}; give whole numbers of at least 1")
