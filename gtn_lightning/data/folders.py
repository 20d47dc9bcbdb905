"""Folders of image files, ``train/CLASS/IMAGE``: each file's split and class are read from its path."""

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gtn_lightning.errors import RecipeError

if TYPE_CHECKING:
    from datasets import DatasetDict

SPLIT_NAMES = {
    "train": frozenset({"train", "training"}),
    "validation": frozenset({"validation", "valid", "dev", "val"}),
    "test": frozenset({"test", "testing", "eval", "evaluation"}),
}
"""Words in folder names that mark a split, as in ``datasets``: ``train``, ``seg_train``, ``test-2``."""

PATTERN = re.compile(r"[*?\[\]{}]|::")
"""Characters in a path that ``datasets`` interprets as a glob pattern or a URL."""


def open_image_folder(folder: Path, path: str) -> "DatasetDict | None":
    """Open a folder ``train/CLASS/IMAGE``, ``test/CLASS/IMAGE``, or return None if it has another layout.

    The first folder of a path is the split, whatever the classes are called; the last one is the class. Classes are
    numbered in the order of their names, over all splits together. Links are followed. If there are files
    ``metadata.csv`` (or ``.jsonl``, ``.parquet``), ``datasets`` reads the classes from them.

    Args:
        folder: the folder, absolute and without links.
        path: the folder as the user wrote it, for error messages.

    Raises:
        RecipeError: if the class of an image is ambiguous, or there is only one class.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    splits = split_folders(folder)
    files = {name: list(_files(folders)) for name, folders in splits.items()}
    images = {
        name: [file for file in found if file.suffix.lower() in ImageFolder.EXTENSIONS] for name, found in files.items()
    }
    images = {name: found for name, found in images.items() if found}
    names = {file.name for found in files.values() for file in found}
    others = sum(map(len, files.values())) - sum(map(len, images.values()))
    if not images or others > sum(map(len, images.values())):
        return None
    if not names.isdisjoint(ImageFolder.METADATA_FILENAMES):
        cache = folder_cache(folder)
        splits = split_folders(without_pattern(folder, cache))
        patterns = {name: [f"{glob.escape(str(each))}/**" for each in splits[name]] for name in images}
        loaded = load_dataset("imagefolder", data_files=patterns, cache_dir=str(cache))
        assert isinstance(loaded, DatasetDict)
        return loaded
    _check_depth(splits, images, path)
    classes = sorted({file.parent.name for found in images.values() for file in found})
    if len(classes) == 1:
        raise RecipeError(
            f"data.path: {path!r}: expected at least two classes, found one class {classes[0]!r}: give every class a "
            "folder of its own, as in train/CLASS/IMAGE"
        )
    features = Features({"image": Image(), "label": ClassLabel(names=classes)})
    numbers = {name: number for number, name in enumerate(classes)}
    return DatasetDict(
        {
            name: Dataset.from_dict(
                {"image": [str(file) for file in found], "label": [numbers[file.parent.name] for file in found]},
                features=features,
            )
            for name, found in images.items()
        }
    )


def split_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the folders of each split, found in ``folder`` itself or in its only subfolder."""
    inside = [entry for entry in _visible(folder) if entry.is_dir()]
    if len(inside) == 1:
        deeper = split_folders(inside[0])
        if len(deeper) > 1:
            return deeper
    splits: dict[str, list[Path]] = {}
    for entry in inside:
        words = set(re.split(r"[-._ 0-9]+", entry.name))
        matches = [name for name, keywords in SPLIT_NAMES.items() if words & keywords]
        if len(matches) == 1:
            splits.setdefault(matches[0], []).append(entry)
    return {name: splits[name] for name in SPLIT_NAMES if name in splits}


def local_cache() -> Path:
    """Return the folder in the cache of ``datasets`` for data read from local folders."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE).absolute() / "gtn-lightning"


def folder_cache(folder: Path) -> Path:
    """Return the cache folder for ``datasets`` of a local folder in its present state.

    By itself, ``datasets`` caches a folder under the folder's name, where it also looks for names on the hub, and
    considers a file unchanged if its modification time is unchanged.

    Args:
        folder: the folder, absolute and without links.
    """
    state = hashlib.sha256(os.fsencode(folder))
    for file in _files([folder], hidden=True):
        status = file.stat()
        # Copying and unpacking can set the modification time but not the change time, so both count.
        times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        state.update(b"\0" + os.fsencode(file) + f"\0{status.st_size} {times}".encode())
    return local_cache() / state.hexdigest()[:32]


def without_pattern(folder: Path, cache: Path) -> Path:
    """Return the folder itself, or a folder of links to its files if its path contains pattern characters.

    Args:
        folder: the folder.
        cache: its ``folder_cache``; the links stay there, since ``datasets`` caches by their paths.
    """
    if not PATTERN.search(str(folder)):
        return folder
    plain = cache / "linked"
    plain.mkdir(parents=True, exist_ok=True)
    for file in _files([folder], hidden=True):
        link = plain / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # from an earlier run, or from another process of this run
            link.symlink_to(file)
    return plain


def _visible(folder: Path) -> list[Path]:
    """Return the entries of a folder that ``datasets`` reads: no hidden files, no folders such as ``__MACOSX``."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and not (entry.name.startswith("__") and entry.is_dir())
    )


def _files(folders: list[Path], hidden: bool = False) -> Iterator[Path]:
    """Yield all files in folders and their subfolders, following links, in the order of their paths."""

    def within(folder: Path, above: frozenset[str]) -> Iterator[Path]:
        itself = os.path.realpath(folder)
        if itself in above:  # a link to a parent folder
            return
        for entry in folder.iterdir() if hidden else _visible(folder):
            if entry.is_dir():
                yield from within(entry, above | {itself})
            elif entry.is_file():
                yield entry

    for folder in folders:
        yield from sorted(within(folder, frozenset()), key=str)


def _check_depth(splits: dict[str, list[Path]], images: dict[str, list[Path]], path: str) -> None:
    """Raise ``RecipeError`` unless all images are at the same depth and inside a class folder."""
    examples: dict[int, str] = {}
    for name, found in images.items():
        for file in found:
            top = next(folder for folder in splits[name] if file.is_relative_to(folder))
            examples.setdefault(len(file.relative_to(top).parts), str(file.relative_to(top.parent)))
    if 1 in examples:
        raise RecipeError(
            f"data.path: {path!r} has an image outside of a class folder, {examples[1]!r}, expected a folder for every "
            "class: use train/CLASS/IMAGE, or put a metadata.csv beside the images"
        )
    if len(examples) > 1:
        one, other = list(examples.values())[:2]
        raise RecipeError(
            f"data.path: {path!r} has images at different depths, such as {one!r} and {other!r}, so their classes are "
            "ambiguous: put all of them into train/CLASS/IMAGE"
        )
