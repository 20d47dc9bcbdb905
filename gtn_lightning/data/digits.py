"""The handwritten digits bundled with scikit-learn, which need no download."""

from typing import Any

import torch

from gtn_lightning.data.base import Split, Splits, TensorData
from gtn_lightning.data.hold_back import hold_back
from gtn_lightning.data.reports import Documents


class DigitsData(TensorData, Documents):
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn bundles.

    1,197 images are for training, 300 for validation and 300 for testing: a stratified split that never changes.
    Pixels have the values 0 to 16 before normalization.

    Args:
        batch_size: real images per meta-loss, in each process.
        eval_batch_size: images in a batch of validation and testing.
        seed: seed of the order of the training images and of their augmentation.
        rotate: maximum random rotation of training images, in degrees.
        scale: maximum fraction by which training images are stretched or shrunk at random.
        shift: maximum random shift of training images, in pixels; may be a fraction.
        whiten, whiten_regularization: see `TensorData`.

    Examples:
        >>> from gtn_lightning.data import DigitsData
        >>> data = DigitsData(batch_size=256)
        >>> data.setup()
        >>> data.image_shape, data.classes
        ((1, 8, 8), 10)
    """

    image_shape = (1, 8, 8)
    classes = 10

    def __init__(
        self,
        batch_size: int = 256,
        eval_batch_size: int = 512,
        seed: int = 0,
        rotate: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
        whiten: str | None = None,
        whiten_regularization: float = 0.1,
    ) -> None:
        super().__init__(
            batch_size,
            eval_batch_size,
            seed,
            rotate=rotate,
            scale=scale,
            shift=shift,
            whiten=whiten,
            whiten_regularization=whiten_regularization,
        )

    def load(self) -> Splits:
        """Read and split the digits."""
        from sklearn.datasets import load_digits  # takes a second to import

        digits = load_digits()
        everything = Split(
            torch.from_numpy(digits.images).to(torch.uint8)[:, None], torch.from_numpy(digits.target).long()
        )
        rest, test = (everything.take(rows) for rows in hold_back(everything.labels, 300, "test"))
        train, val = (rest.take(rows) for rows in hold_back(rest.labels, 300, "validation"))
        return Splits(train, val, test, self.classes)

    def document(self) -> dict[str, Any]:
        """Return source, license and classes of the data."""
        return {
            "source": "Optical Recognition of Handwritten Digits (UCI), the test set bundled with scikit-learn",
            "license": "CC BY 4.0",
            "raw": "gray pixels from 0 to 16, [N, 1, 8, 8]",
            "class_names": [str(digit) for digit in range(self.classes)],
        }
