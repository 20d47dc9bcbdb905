"""Folders of image files: which split and which class a file belongs to is read from its path."""

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
"""What stands in the name of a split's folder, as ``datasets`` has it: ``train``, ``seg_train``, ``test-2``."""

PATTERN = re.compile(r"[*?\[\]{}]|::")
"""What makes ``datasets`` take a path for a pattern, or for an address."""


def open_image_folder(folder: Path, path: str) -> "DatasetDict | None":
    """Open a folder ``train/CLASS/IMAGE``, ``test/CLASS/IMAGE``, or return None if it is none.

    The first folder alone decides on the split, whatever the classes are called; the last one is the class. Classes
    are numbered in the order of their names, over all splits together. Links are followed. Where there are files
    ``metadata.csv`` (or ``.jsonl``, ``.parquet``) they say what the classes are, as ``datasets`` reads them.

    Args:
        folder: the folder, absolute and without links.
        path: what the user calls it.

    Raises:
        RecipeError: if classes cannot be told, or there is only one.
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
            f"data.path: {path!r}: a classification needs at least two classes, found one class {classes[0]!r}: give "
            "every class a folder of its own, as in train/CLASS/IMAGE"
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
    """Return the folders of each split, those at the top or in the only folder that is there."""
    inside = [entry for entry in _visible(folder) if entry.is_dir()]
    if len(inside) == 1:
        deeper = split_folders(inside[0])
        if len(deeper) > 1:
            return deeper
    splits: dict[str, list[Path]] = {}
    for entry in inside:
        words = set(re.split(r"[-._ 0-9]+", entry.name))
        meant = [name for name, keywords in SPLIT_NAMES.items() if words & keywords]
        if len(meant) == 1:
            splits.setdefault(meant[0], []).append(entry)
    return {name: splits[name] for name in SPLIT_NAMES if name in splits}


def local_cache() -> Path:
    """Return the folder in the cache of ``datasets`` that holds what was read from local folders."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE).absolute() / "gtn-lightning"


def folder_cache(folder: Path) -> Path:
    """Return where ``datasets`` may keep what it reads from a local folder: a place for this folder as it is now.

    Left to itself, ``datasets`` keeps it under the folder's own name, where it also looks for names on the hub, and
    takes a file for unchanged if its time is.

    Args:
        folder: the folder, absolute and without links.
    """
    state = hashlib.sha256(os.fsencode(folder))
    for file in _files([folder], hidden=True):
        found = file.stat()
        # Beside the time of the content, which copying and unpacking set, that of the entry, which they cannot.
        state.update(b"\0" + os.fsencode(file) + f"\0{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}".encode())
    return local_cache() / state.hexdigest()[:32]


def without_pattern(folder: Path, cache: Path) -> Path:
    """Return a folder with the same files whose path ``datasets`` does not take for a pattern: itself, or links.

    Args:
        folder: the folder.
        cache: its ``folder_cache``, in which the links stay, as what is read is kept by their paths.
    """
    if not PATTERN.search(str(folder)):
        return folder
    plain = cache / "linked"
    plain.mkdir(parents=True, exist_ok=True)
    for file in _files([folder], hidden=True):
        link = plain / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # from before, or another process of this run
            link.symlink_to(file)
    return plain


def _visible(folder: Path) -> list[Path]:
    """Return what ``datasets`` sees in a folder: what is hidden, or made by a program for itself, it passes over."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and not (entry.name.startswith("__") and entry.is_dir())
    )


def _files(folders: list[Path], hidden: bool = False) -> Iterator[Path]:
    """Yield all files in folders and theirs, through links too, in the order of their paths."""

    def within(folder: Path, above: frozenset[str]) -> Iterator[Path]:
        itself = os.path.realpath(folder)
        if itself in above:  # a link to a folder that it lies in
            return
        for entry in folder.iterdir() if hidden else _visible(folder):
            if entry.is_dir():
                yield from within(entry, above | {itself})
            elif entry.is_file():
                yield entry

    for folder in folders:
        yield from sorted(within(folder, frozenset()), key=str)


def _check_depth(splits: dict[str, list[Path]], images: dict[str, list[Path]], path: str) -> None:
    """Raise ``RecipeError`` unless all images lie equally deep, and in a folder of a class."""
    examples: dict[int, str] = {}
    for name, found in images.items():
        for file in found:
            top = next(folder for folder in splits[name] if file.is_relative_to(folder))
            examples.setdefault(len(file.relative_to(top).parts), str(file.relative_to(top.parent)))
    if 1 in examples:
        raise RecipeError(
            f"data.path: {path!r} has an image in no folder of a class, {examples[1]!r}: expected a folder for every "
            "class, as in train/CLASS/IMAGE, or a metadata.csv beside the images"
        )
    if len(examples) > 1:
        one, other = list(examples.values())[:2]
        raise RecipeError(
            f"data.path: {path!r} has images at different depths, such as {one!r} and {other!r}, so that their classes "
            "cannot be told: put all of them into train/CLASS/IMAGE"
        )
