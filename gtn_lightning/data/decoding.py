"""Decode the images and labels of a split to tensors, from files inside the dataset's own folders only."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gtn_lightning.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset, Image
    from PIL.Image import Image as Picture

GREY_MODES = frozenset({"1", "L", "LA"})
COLOR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})
POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")
"""First bytes of PostScript files, for which Pillow starts Ghostscript."""


def decode(dataset: "Dataset", column: str, where: str, folders: Sequence[Path], size: int | None = None) -> Tensor:
    """Return the images of a split, uint8 ``[N, C, H, W]``: three channels if any has color, else one.

    Args:
        dataset: one split.
        column: name of an image column.
        where: name of the dataset and split, for error messages.
        folders: folders that may hold image files named by a row; empty if the rows hold all images.
        size: height and width to which all images are scaled and cropped; None to leave them as they are.

    Raises:
        RecipeError: if there are no images, or one is missing, broken, of another size, over 8 bits, or outside the
            folders.
    """
    feature: Image = dataset.features[column]
    pixels: np.ndarray[Any, np.dtype[np.uint8]] | None = None
    row = 0
    for table in dataset.select_columns([column]).with_format("arrow").iter(1000):
        for value in table.column(column).to_pylist():
            image = to_eight_bits(feature, value, f"{where}, row {row}", folders)
            if size is not None:
                image = squared(image, size)
            array = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
            if pixels is None:
                pixels = np.empty((len(dataset), *array.shape), dtype=np.uint8)
            if array.shape[1:] != pixels.shape[2:]:
                sizes = [f"{height}x{width}" for height, width in (pixels.shape[2:], array.shape[1:])]
                raise RecipeError(
                    f"data.path: {where} has images of {sizes[0]} and, in row {row}, of {sizes[1]} pixels "
                    "(height x width), expected one size: set data.size, to which all are scaled and cropped"
                )
            if len(array) > pixels.shape[1]:
                pixels = pixels.repeat(len(array), axis=1)
            pixels[row] = array
            row += 1
    if pixels is None:
        raise RecipeError(f"data.path: {where} has no rows, expected images")
    return torch.from_numpy(pixels)


def squared(image: "Picture", size: int) -> "Picture":
    """Scale an image so that its shorter side has ``size`` pixels, and crop the middle, ``size`` times ``size``."""
    from PIL.Image import Resampling

    width, height = image.size
    ratio = size / min(width, height)
    scaled = image.resize((max(size, round(width * ratio)), max(size, round(height * ratio))), Resampling.BICUBIC)
    left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
    return scaled.crop((left, top, left + size, top + size))


def to_eight_bits(feature: "Image", value: dict[str, Any] | None, where: str, folders: Sequence[Path]) -> "Picture":
    """Decode one image to gray or RGB, 8 bits per channel.

    Args:
        feature: the column's type, which decodes its values.
        value: a value of the column: an image file's bytes or its path.
        where: name of the dataset, split and row, for error messages.
        folders: folders that may hold the file.

    Raises:
        RecipeError: if there is no image, it cannot be decoded, has more than 8 bits, or is outside the folders.
    """
    if value is None or (value["bytes"] is None and value["path"] is None):
        raise RecipeError(f"data.path: {where} has no image, expected one in every row")
    try:
        content = value["bytes"] if value["bytes"] is not None else own_file(value["path"], where, folders)
        if content.startswith(POSTSCRIPT):
            raise RecipeError(
                f"data.path: {where} has an image in PostScript, which can run programs: convert it to PNG first"
            )
        image: Picture = feature.decode_example({"bytes": content, "path": None})
    except RecipeError:
        raise
    except Exception as error:
        file = f" ({os.path.basename(str(value['path']))})" if value.get("path") else ""
        raise RecipeError(f"data.path: {where} has an image that cannot be decoded{file}: {error}") from error
    if image.mode in GREY_MODES:
        return image.convert("L")
    if image.mode in COLOR_MODES:
        return image.convert("RGB")
    raise RecipeError(
        f"data.path: {where} has an image of mode {image.mode!r}, expected 8 bits per channel: "
        "convert it to gray or RGB first"
    )


def own_file(path: str, where: str, folders: Sequence[Path]) -> bytes:
    """Read an image file named by a row, if it is inside the dataset's own folders.

    By itself, ``datasets`` would open any URL and any file.

    Args:
        path: an absolute path, or ``zip://INNER::ARCHIVE`` with the absolute path of an archive.
        where: name of the dataset, split and row, for error messages.
        folders: the folders of the dataset's files, absolute. Links inside them are followed.

    Raises:
        RecipeError: if the file is outside the folders, or not a file on this machine.
        OSError: if it cannot be read.
    """
    inner, hop, archive = path.removeprefix("zip://").partition("::") if path.startswith("zip://") else ("", "", path)
    file = PurePath(archive)
    inside = any(file.is_relative_to(folder) for folder in folders)
    if not inside or ".." in file.parts or not os.path.isfile(archive):
        raise RecipeError(
            f"data.path: {where} names the image {path!r}, expected a file in the dataset's own folder: a dataset may "
            "not name files elsewhere, so put the image into the folder, or its bytes into the row"
        )
    if not hop:
        return Path(archive).read_bytes()
    with zipfile.ZipFile(archive) as opened:
        return opened.read(inner)


def read_labels(dataset: "Dataset", column: str, where: str) -> Tensor:
    """Return the labels of a split, int64 ``[N]``.

    Args:
        dataset: one split.
        column: name of a column of class labels or integers.
        where: name of the dataset and split, for error messages.

    Raises:
        RecipeError: if a label is missing.
    """
    values = dataset.select_columns([column]).with_format("arrow")[:].column(column)
    if values.null_count:
        raise RecipeError(f"data.path: {where} lacks {values.null_count} labels, expected one in every row")
    return torch.from_numpy(values.to_numpy().astype(np.int64))
