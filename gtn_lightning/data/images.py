"""Any image classification dataset that Hugging Face ``datasets`` can load, from the hub or from a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gtn_lightning.data.base import Split, Splits, TensorData, choose, hold_back
from gtn_lightning.data.folders import open_image_folder, without_pattern
from gtn_lightning.errors import RecipeError

if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset, DatasetDict, Image, Value
    from PIL.Image import Image as Picture

HUB_TIMEOUT = 5.0
"""Seconds to wait for the hub before a copy on this machine is looked for."""

GREY_MODES = frozenset({"1", "L", "LA"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})
LABEL_NAMES = ("label", "labels", "fine_label")
FILE_FORMATS = frozenset({"arrow", "csv", "imagefolder", "json", "pandas", "parquet", "text", "webdataset"})
"""What ``datasets`` takes for an order to read all such files below the working folder, not for a name."""


class ImageData(TensorData):
    """Images and labels of any dataset on the Hugging Face hub, or of a folder in the same layout.

    The test split is the dataset's own (``test``, or else ``validation`` or ``valid``); the validation split
    is held back from ``train``, stratified and always the same, and leaves at least one image of every class
    to train on. Grey images have one channel, all others three. Everything is decoded once and stays in memory.

    Args:
        path: name on the hub, such as ``ylecun/mnist``, or a local folder, such as ``~/data/mnist``; a folder
            comes first.
        batch_size: real images that a meta-loss is computed on, in each process.
        eval_batch_size: images in a batch of validation and testing.
        val_size: images held back from ``train`` to validate on.
        train_size: use this many of the training images that remain, stratified, for quick trials; all if not
            given.
        crop: random crop of training images, pixels of black padding; 0 for none.
        flip: mirror training images left to right at random.
        seed: the order of the training images, and their augmentation.
        config: which configuration of a dataset that has several.
        image_column: found by its type where there is only one.
        label_column: found by its type, and failing that by its name.

    Raises:
        RecipeError: if a value is out of range; from ``prepare_data`` or ``setup``, if the dataset cannot be
            read or used.
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
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed, crop, flip)
        for name, value in (("val_size", val_size), ("train_size", train_size)):
            if value is not None and value < 1:
                raise RecipeError(f"data.{name}: {value} given, expected 1 or more")
        self.path = path
        self.val_size = val_size
        self.train_size = train_size
        self.config = config
        self.image_column = image_column
        self.label_column = label_column

    def prepare_data(self) -> None:
        """Download what is on the hub into the cache of ``datasets``, in one process for all."""
        open_dataset(self.path, self.config)

    def load(self) -> Splits:
        """Decode all images, check them, and hold back the validation split."""
        dataset = open_dataset(self.path, self.config)
        test_name = next((name for name in ("test", "validation", "valid") if name in dataset), None)
        if "train" not in dataset or test_name is None:
            raise RecipeError(
                f"data.path: {self.path!r} has the splits {', '.join(dataset)}, expected train and test (or validation)"
            )
        image_column = self._image_column(dataset["train"])
        label_column = self._label_column(dataset["train"])
        whole, test = self._alike(
            *(
                Split(
                    decode(dataset[name], image_column, f"{self.path!r}, split {name!r}"),
                    read_labels(dataset[name], label_column, f"{self.path!r}, split {name!r}"),
                )
                for name in ("train", test_name)
            )
        )
        classes = self._count_classes(dataset["train"].features[label_column], whole, test)
        if self.val_size >= len(whole.labels):
            raise RecipeError(
                f"data.val_size: {self.val_size} given, expected less than {len(whole.labels)}, "
                "the number of images in split 'train'"
            )
        present = len(whole.labels.unique())
        if self.val_size > len(whole.labels) - present:
            raise RecipeError(
                f"data.val_size: {self.val_size} given, expected at most {len(whole.labels) - present}, so that each "
                f"of {present} classes keeps one of the {len(whole.labels)} images in split 'train'"
            )
        train, val = (whole.take(rows) for rows in hold_back(whole.labels, self.val_size, "validation"))
        if self.train_size is not None:
            if self.train_size > len(train.labels):
                raise RecipeError(
                    f"data.train_size: {self.train_size} given, expected at most {len(train.labels)}, what "
                    "data.val_size leaves of split 'train'"
                )
            train = train.take(choose(train.labels, self.train_size, "training"))
        return Splits(train, val, test, classes)

    def _image_column(self, dataset: "Dataset") -> str:
        from datasets import Image

        candidates = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
        return self._one_column("image_column", self.image_column, candidates, dataset)

    def _label_column(self, dataset: "Dataset") -> str:
        from datasets import ClassLabel, Value

        features = dataset.features
        classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        integers = [name for name, feature in features.items() if isinstance(feature, Value) and "int" in feature.dtype]
        if self.label_column is not None:
            return self._one_column("label_column", self.label_column, classes + integers, dataset)
        named = [name for name in classes or integers if name in LABEL_NAMES]
        return self._one_column("label_column", None, classes if len(classes) == 1 else named, dataset)

    def _one_column(self, key: str, wanted: str | None, candidates: list[str], dataset: "Dataset") -> str:
        """Return the wanted column if it is a candidate, or the only candidate if none is wanted."""
        from datasets import Value

        if wanted in candidates:
            return str(wanted)
        if wanted is None and len(candidates) == 1:
            return candidates[0]
        given = "not given" if wanted is None else f"{wanted!r} given"
        expected = "an image" if key == "image_column" else "an integer or class label"
        columns = ", ".join(
            f"{name} ({feature.dtype if isinstance(feature, Value) else type(feature).__name__})"
            for name, feature in dataset.features.items()
        )
        raise RecipeError(
            f"data.{key}: {given}, expected the name of {expected} column; {self.path!r} has the columns {columns}"
        )

    def _alike(self, train: Split, test: Split) -> tuple[Split, Split]:
        """Return both splits with the same number of channels, once their images have the same size."""
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
        """Return the number of classes, once every label is one of them."""
        known = getattr(feature, "num_classes", None)
        classes = len(train.labels.unique()) if known is None else int(known)
        if classes == 1:
            name = getattr(feature, "names", [str(int(train.labels[0]))])[0]
            raise RecipeError(
                f"data.path: {self.path!r}: a classification needs at least two classes, found one class {name!r}"
            )
        for purpose, labels in (("train", train.labels), ("test", test.labels)):
            lowest, highest = int(labels.min()), int(labels.max())
            if lowest < 0 or highest >= classes:
                raise RecipeError(
                    f"data.path: {self.path!r} has the labels {lowest} to {highest} to {purpose} on, "
                    f"expected 0 to {classes - 1} for {classes} classes"
                )
        return classes


def open_dataset(path: str, config: str | None = None) -> "DatasetDict":
    """Open a folder, or a dataset on the hub, or where the hub cannot be reached its copy in the cache.

    Args:
        path: a folder, or a name on the hub.
        config: which configuration of the dataset, where it has several.

    Raises:
        RecipeError: if there is no such dataset, or it cannot be read; one line that says what to do.
    """
    from datasets import DatasetDict, load_dataset
    from datasets import config as settings

    folder = Path(path).expanduser()
    if folder.is_dir():
        dataset = _loaded(lambda: _open_folder(folder.absolute(), config, path), path)
    elif folder.exists():
        raise RecipeError(f"data.path: {path!r} is a file, expected a folder with train and test in the hub's layout")
    elif path in FILE_FORMATS:
        raise RecipeError(f"data.path: {path!r} is a file format, expected a folder or a name on the hub")
    elif hub_answers(path):
        dataset = _loaded(lambda: load_dataset(path, config), path)
    else:
        # Left to itself, `datasets` retries for half a minute before it looks into its cache.
        offline, settings.HF_HUB_OFFLINE = settings.HF_HUB_OFFLINE, True
        try:
            dataset = load_dataset(path, config)
        except Exception as error:
            raise RecipeError(
                f"data.path: there is no folder {path!r}, the Hugging Face hub cannot be reached, and its "
                "cache has no copy: point data.path to a local copy, made elsewhere by "
                f"'hf download {path} --repo-type dataset --local-dir FOLDER'"
            ) from error
        finally:
            settings.HF_HUB_OFFLINE = offline
    assert isinstance(dataset, DatasetDict)
    return dataset


def _open_folder(folder: Path, config: str | None, path: str) -> Any:
    from datasets import load_dataset

    # A README may say which files are meant, and a configuration does.
    if config is None and not _names_files(folder) and (dataset := open_image_folder(folder, path)) is not None:
        return dataset
    return load_dataset(str(without_pattern(folder)), config)


def _names_files(folder: Path) -> bool:
    """Return whether a data set's README says where its files are."""
    from huggingface_hub import DatasetCard

    readme = folder / "README.md"
    return readme.is_file() and bool(DatasetCard.load(readme).data.to_dict().get("configs"))


def hub_answers(name: str) -> bool:
    """Return whether the hub can be asked about a dataset, whatever its answer is.

    Raises:
        RecipeError: if the hub has no such names.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().dataset_info(name, timeout=HUB_TIMEOUT)
    except HfHubHTTPError:
        return True
    except HFValidationError:
        raise RecipeError(
            f"data.path: there is no folder {name!r}, and it cannot be a name on the Hugging Face hub"
        ) from None
    except Exception:  # No network, no name server, a proxy that refuses, offline mode: every one is a no.
        return False
    return True


def _loaded(load: Callable[[], Any], path: str) -> Any:
    """Return what ``load`` returns, or turn whatever it raises into one line for the user."""
    try:
        return load()
    except RecipeError:
        raise
    except Exception as error:
        reason: BaseException = error
        # "An error occurred while generating the dataset" hides the actual one.
        while reason.__cause__ is not None:
            reason = reason.__cause__
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        advice = f": choose one with data.config ({lines[1]})" if "Config name is missing" in lines[0] else ""
        raise RecipeError(f"data.path: cannot read {path!r}: {lines[0].removesuffix(':')}{advice}") from error


def decode(dataset: "Dataset", column: str, where: str) -> Tensor:
    """Return the images of a split, uint8 ``[N, C, H, W]``: three channels if any has colour, else one.

    Args:
        dataset: one split.
        column: name of an image column.
        where: the dataset and split, in words for an error.

    Raises:
        RecipeError: if there are no images, or one is missing, broken, of another size or over 8 bits.
    """
    feature: Image = dataset.features[column]
    pixels: np.ndarray[Any, np.dtype[np.uint8]] | None = None
    row = 0
    for table in dataset.select_columns([column]).with_format("arrow").iter(1000):
        for value in table.column(column).to_pylist():
            image = to_eight_bits(feature, value, f"{where}, row {row}")
            array = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
            if pixels is None:
                pixels = np.empty((len(dataset), *array.shape), dtype=np.uint8)
            if array.shape[1:] != pixels.shape[2:]:
                sizes = [f"{height}x{width}" for height, width in (pixels.shape[2:], array.shape[1:])]
                raise RecipeError(
                    f"data.path: {where} has images of {sizes[0]} and, in row {row}, of {sizes[1]} pixels "
                    "(height x width), expected one size: resize them first"
                )
            if len(array) > pixels.shape[1]:
                pixels = pixels.repeat(len(array), axis=1)
            pixels[row] = array
            row += 1
    if pixels is None:
        raise RecipeError(f"data.path: {where} has no rows, expected images")
    return torch.from_numpy(pixels)


def to_eight_bits(feature: "Image", value: dict[str, Any] | None, where: str) -> "Picture":
    """Decode one image to either grey or RGB, 8 bits a channel.

    Args:
        feature: the column's type, which knows how to decode.
        value: what the column holds: an image file's bytes or its path.
        where: the dataset, split and row, in words for an error.
    """
    if value is None:
        raise RecipeError(f"data.path: {where} has no image, expected one in every row")
    try:
        image: Picture = feature.decode_example(value)
    except Exception as error:
        raise RecipeError(f"data.path: {where} has an image that cannot be decoded: {error}") from error
    if image.mode in GREY_MODES:
        return image.convert("L")
    if image.mode in COLOUR_MODES:
        return image.convert("RGB")
    raise RecipeError(f"data.path: {where} has an image of mode {image.mode!r}, expected 8 bits a channel")


def read_labels(dataset: "Dataset", column: str, where: str) -> Tensor:
    """Return the labels of a split, int64 ``[N]``.

    Args:
        dataset: one split.
        column: name of a column of class labels or integers.
        where: the dataset and split, in words for an error.

    Raises:
        RecipeError: if a label is missing.
    """
    values = dataset.select_columns([column]).with_format("arrow")[:].column(column)
    if values.null_count:
        raise RecipeError(f"data.path: {where} lacks {values.null_count} labels, expected one in every row")
    return torch.from_numpy(values.to_numpy().astype(np.int64))
