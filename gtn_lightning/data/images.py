"""Image classification datasets loaded by Hugging Face ``datasets``, from the hub or from a folder."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from gtn_lightning.data.base import Split, Splits, TensorData
from gtn_lightning.data.decoding import decode, read_labels
from gtn_lightning.data.hold_back import choose, hold_back
from gtn_lightning.data.reports import Documents
from gtn_lightning.data.sources import open_dataset
from gtn_lightning.errors import RecipeError

if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset, Value

TEST_NAMES = ("test", "validation", "valid")
"""Names of the split to test on, the first that there is."""

LABEL_NAMES = ("label", "labels", "fine_label")


class ImageData(TensorData, Documents):
    """Images and labels of a dataset on the Hugging Face hub, or of a folder in the same layout.

    The test split is the dataset's own (``test``, else ``validation`` or ``valid``), or held back from ``train``. The
    validation split is held back from ``train``. What is held back is stratified, the same in every run, and leaves at
    least one image of every class to train on.
    Grayscale images have one channel, all others three. All images are decoded once and stay in memory.

    Args:
        path: name on the hub, such as ``ylecun/mnist``, or a local folder, such as ``~/data/mnist``. A folder has
            precedence; a path that begins with ``./``, ``../``, ``/`` or ``~`` is never a name on the hub.
        batch_size: real images per meta-loss, in each process.
        eval_batch_size: images in a batch of validation and testing.
        val_size: number of images of ``train`` held back for validation.
        test_size: number of images of ``train`` held back for testing, for a dataset without a test split, such as a
            folder ``CLASS/IMAGE``.
        size: height and width to which all images are scaled and cropped; None for images of one size.
        train_size: number of the remaining training images to use, stratified, for quick trials; None for all.
        crop: random crop of training images, pixels of black padding; 0 for none.
        flip: mirror training images left to right at random.
        seed: seed of the order of the training images and of their augmentation.
        config: the configuration, for a dataset that has several.
        image_column: by default, the only column of images.
        label_column: by default, the only column of class labels, else the column with a usual name.
        rotate, scale, shift, whiten, whiten_regularization: see `TensorData`.

    Raises:
        RecipeError: if a value is out of range; from ``prepare_data`` or ``setup``, if the dataset cannot be
            read or used.

    Examples:
        >>> from gtn_lightning.data import ImageData
        >>> data = ImageData("ylecun/mnist", batch_size=256, val_size=5000)  # read by the trainer, or by data.setup()
        >>> data.batch_size
        256
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 256,
        eval_batch_size: int = 1000,
        val_size: int = 5000,
        train_size: int | None = None,
        crop: int = 0,
        flip: bool = False,
        seed: int = 0,
        config: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        test_size: int | None = None,
        size: int | None = None,
        rotate: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
        whiten: str | None = None,
        whiten_regularization: float = 0.1,
    ) -> None:
        super().__init__(
            batch_size, eval_batch_size, seed, crop, flip, rotate, scale, shift, whiten, whiten_regularization
        )
        sizes = {"val_size": val_size, "train_size": train_size, "test_size": test_size, "size": size}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise RecipeError(f"data.{name} must be at least 1, got {value}")
        self.path = path
        self.val_size = val_size
        self.train_size = train_size
        self.config = config
        self.image_column = image_column
        self.label_column = label_column
        self.test_size = test_size
        self.size = size
        self._document: dict[str, Any] = {"source": path}

    def prepare_data(self) -> None:
        """Download a dataset of the hub into the cache of ``datasets``, in one process for all."""
        open_dataset(self.path, self.config)

    def load(self) -> Splits:
        """Decode all images, check them, and hold back the validation split."""
        dataset, folders = open_dataset(self.path, self.config)
        test_name = next((name for name in TEST_NAMES if name in dataset), None)
        if "train" not in dataset or (test_name is None and self.test_size is None):
            raise RecipeError(
                f"data.path: {self.path!r} has the splits {', '.join(dataset)}, expected train and test (or "
                "validation): set data.test_size to hold back images of train"
            )
        if test_name is not None and self.test_size is not None:
            raise RecipeError(f"data.test_size: {self.path!r} has the split {test_name!r} to test on: leave it out")
        image_column = self.image_column_of(dataset["train"])
        label_column = self.label_column_of(dataset["train"])

        def read(name: str) -> Split:
            where = f"{self.path!r}, split {name!r}"
            images = decode(dataset[name], image_column, where, folders, self.size)
            return Split(images, read_labels(dataset[name], label_column, where))

        if test_name is not None:
            whole, test = self._alike(read("train"), read(test_name))
        else:
            everything = read("train")
            assert self.test_size is not None
            self._check_share("test_size", self.test_size, everything.labels)
            rows = hold_back(everything.labels, self.test_size, "test")
            whole, test = (everything.take(part) for part in rows)
        feature, info = dataset["train"].features[label_column], dataset["train"].info
        classes = self._count_classes(feature, whole, test)
        self._document = {
            "source": self.path,
            "license": info.license or None,
            "raw": self._raw(whole.images),
            "class_names": list(getattr(feature, "names", map(str, range(classes)))),
        }
        self._check_share("val_size", self.val_size, whole.labels)
        train, val = (whole.take(rows) for rows in hold_back(whole.labels, self.val_size, "validation"))
        if self.train_size is not None:
            if self.train_size > len(train.labels):
                raise RecipeError(
                    f"data.train_size must be at most {len(train.labels)}, the images of split 'train' that "
                    f"data.val_size leaves, got {self.train_size}"
                )
            train = train.take(choose(train.labels, self.train_size, "training"))
        return Splits(train, val, test, classes)

    def _raw(self, images: Tensor) -> str:
        _, channels, height, width = images.shape
        scaled = ""
        if self.size is not None:
            scaled = f"; of an image, the shorter side is scaled to {self.size} pixels (bicubic) and the middle cropped"
        kind = "gray" if channels == 1 else "RGB"
        return f"{kind} pixels from 0 to 255, [N, {channels}, {height}, {width}]{scaled}"

    def document(self) -> dict[str, Any]:
        """Return source, license and classes of the data, as far as the dataset names them."""
        return self._document

    @staticmethod
    def _check_share(key: str, size: int, labels: Tensor) -> None:
        """Raise ``RecipeError`` unless ``size`` images can be held back."""
        if size >= len(labels):
            raise RecipeError(
                f"data.{key} must be below {len(labels)}, the number of images in split 'train', got {size}"
            )
        present = len(labels.unique())
        if size > len(labels) - present:
            raise RecipeError(
                f"data.{key} must be at most {len(labels) - present}, so that each of {present} classes keeps one of "
                f"the {len(labels)} images in split 'train', got {size}"
            )

    def image_column_of(self, dataset: "Dataset") -> str:
        """Return the column of images of a split.

        Raises:
            RecipeError: if there is none, or several and none is named.
        """
        from datasets import Image

        candidates = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
        return self._one_column("image_column", self.image_column, candidates, dataset)

    def label_column_of(self, dataset: "Dataset") -> str:
        """Return the column of classes of a split.

        Raises:
            RecipeError: if there is none, or several and none is named.
        """
        from datasets import ClassLabel, Value

        features = dataset.features
        classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        integers = [name for name, feature in features.items() if isinstance(feature, Value) and "int" in feature.dtype]
        if self.label_column is not None:
            return self._one_column("label_column", self.label_column, classes + integers, dataset)
        named = [name for name in classes or integers if name in LABEL_NAMES]
        return self._one_column("label_column", None, classes if len(classes) == 1 else named, dataset)

    def _one_column(self, key: str, name: str | None, candidates: list[str], dataset: "Dataset") -> str:
        """Return the named column if it is a candidate, or the only candidate if ``name`` is None."""
        from datasets import Value

        if name in candidates:
            return str(name)
        if name is None and len(candidates) == 1:
            return candidates[0]
        kind = "an image" if key == "image_column" else "an integer or class label"
        columns = ", ".join(
            f"{column} ({feature.dtype if isinstance(feature, Value) else type(feature).__name__})"
            for column, feature in dataset.features.items()
        )
        raise RecipeError(
            f"data.{key} must be the name of {kind} column, got {name!r}: {self.path!r} has the columns {columns}"
        )

    def _alike(self, train: Split, test: Split) -> tuple[Split, Split]:
        """Return both splits with the same number of channels; raise ``RecipeError`` if their images differ in size."""
        if train.images.shape[2:] != test.images.shape[2:]:
            sizes = [f"{split.images.shape[2]}x{split.images.shape[3]}" for split in (train, test)]
            raise RecipeError(
                f"data.path: {self.path!r} has images of {sizes[0]} pixels (height x width) to train and "
                f"{sizes[1]} to test on, expected one size: resize them first"
            )
        channels = max(train.images.shape[1], test.images.shape[1])
        train, test = (
            Split(split.images.expand(-1, channels, -1, -1).contiguous(), split.labels) for split in (train, test)
        )
        return train, test

    def _count_classes(self, feature: "ClassLabel | Value", train: Split, test: Split) -> int:
        """Return the number of classes; raise ``RecipeError`` if there is only one, or a label is out of range."""
        declared = getattr(feature, "num_classes", None)
        classes = len(train.labels.unique()) if declared is None else int(declared)
        if classes == 1:
            name = getattr(feature, "names", [str(int(train.labels[0]))])[0]
            raise RecipeError(f"data.path: {self.path!r}: expected at least two classes, found one class {name!r}")
        for purpose, labels in (("train", train.labels), ("test", test.labels)):
            lowest, highest = int(labels.min()), int(labels.max())
            if lowest < 0 or highest >= classes:
                raise RecipeError(
                    f"data.path: {self.path!r} has the labels {lowest} to {highest} to {purpose} on, "
                    f"expected 0 to {classes - 1} for {classes} classes"
                )
        return classes
