"""Open a dataset from a local folder, from the Hugging Face hub, or from the cached copy of the hub's."""

import math
import os
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlparse

from gtn_lightning.data.folders import folder_cache, local_cache, open_image_folder, without_pattern
from gtn_lightning.errors import RecipeError

if TYPE_CHECKING:
    from datasets import DatasetDict

HUB_TIMEOUT = 5.0
"""Seconds to wait for the hub before the cached copy on this machine is tried."""

CARDS = ("README.md", ".huggingface.yaml")
"""The files in which a dataset may assign its files to splits."""

CARD_LIMIT = 1_000_000
"""Maximum number of values in such a file; more than any dataset has files."""

FORMATS = frozenset({"arrow", "cache", "csv", "imagefolder", "json", "parquet", "text", "webdataset"})
"""Supported file formats: those that hold labeled images and whose readers open no other files."""


class Opened(NamedTuple):
    """An opened dataset and the folders of its files."""

    splits: "DatasetDict"
    """All splits, not yet decoded."""
    folders: tuple[Path, ...]
    """The folders that may hold image files named by a row."""


def open_dataset(path: str, config: str | None = None) -> Opened:
    """Open a folder, or a dataset on the hub, or its copy in the cache if the hub cannot be reached.

    Only files of the folder or of the dataset's own repository are opened, whatever the dataset's files refer to.

    Args:
        path: a folder, or a name on the hub.
        config: the configuration, if the dataset has several.

    Raises:
        RecipeError: if there is no such dataset, it cannot be read, or it refers to files outside of it.
    """
    try:
        folder = Path(path).expanduser()
        if folder.is_dir():
            # Resolved, so that the cache entry depends neither on the working folder nor on links.
            return _loaded(lambda: _open_folder(folder.resolve(), config, path), path)
        if folder.is_symlink():
            raise RecipeError(
                f"data.path: {path!r} is a link to {os.readlink(folder)!r}, which is not a folder: correct the link or "
                "set data.path to the folder itself"
            )
        exists = folder.exists()
    except (OSError, RuntimeError) as error:  # no permission, name too long, no home folder
        raise RecipeError(f"data.path: cannot access the folder {path!r}: {error}") from error
    if exists:
        raise RecipeError(f"data.path: {path!r} is a file, expected a folder with train and test in the hub's layout")
    if path in file_formats():
        raise RecipeError(f"data.path: {path!r} is a file format, expected a folder or a name on the hub")
    name = hub_name(path)
    if name is None:
        return _open_hub_copy(path, config)
    return _loaded(lambda: _open_on_hub(name, config), path)


def file_formats() -> frozenset[str]:
    """Return names that ``datasets`` interprets as file formats, to read below the working folder, not as datasets."""
    from datasets import packaged_modules

    return frozenset(module.name for module in pkgutil.iter_modules(packaged_modules.__path__))


def hub_name(name: str) -> str | None:
    """Return a dataset's full name on the hub, ``owner/name``, or None if the hub cannot be reached.

    Raises:
        RecipeError: if the name is not valid on the hub, or has no owner and the hub has no such dataset.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        full = str(HfApi().dataset_info(name, timeout=HUB_TIMEOUT).id)
    except HfHubHTTPError:
        # The hub has answered; `datasets` has the better error message.
        full = name
    except HFValidationError:
        raise RecipeError(
            f"data.path: there is no folder {name!r}, and it cannot be a name on the Hugging Face hub"
        ) from None
    except Exception:  # no network, no name server, a proxy that refuses, offline mode
        return None
    if "/" not in full:
        # `datasets` would use any folder of that name that it has ever read.
        raise RecipeError(
            f"data.path: there is no folder {name!r}, and the Hugging Face hub has no dataset of this name: set "
            f"data.path to a folder, or to the full name on the hub, OWNER/{name}"
        )
    return full


def _open_folder(folder: Path, config: str | None, path: str) -> Opened:
    names_files = reject_foreign_files((folder / name for name in CARDS if (folder / name).is_file()), path)
    folders = (folder, local_cache())
    # A README and a configuration can assign files to splits, which only `datasets` reads.
    if config is None and not names_files and (splits := open_image_folder(folder, path)) is not None:
        return Opened(splits, folders)
    cache = folder_cache(folder)
    return Opened(_load(str(without_pattern(folder, cache)), config, path, cache_dir=str(cache)), folders)


def _open_on_hub(name: str, config: str | None) -> Opened:
    reject_foreign_files(_cards_on_hub(name), name)
    return Opened(_load(name, config, name), _hub_folders(name))


def _load(source: str, config: str | None, path: str, cache_dir: str | None = None) -> "DatasetDict":
    """Load a dataset as ``load_dataset`` does, if its format is in ``FORMATS``."""
    from datasets import load_dataset_builder

    builder = load_dataset_builder(source, config, cache_dir=cache_dir)
    file_format = type(builder).__module__.rpartition(".")[2]
    if file_format not in FORMATS:
        raise RecipeError(
            f"data.path: {path!r} holds files of the format {file_format}, expected one of {', '.join(sorted(FORMATS))}"
        )
    builder.download_and_prepare()
    return builder.as_dataset()


def _cards_on_hub(name: str) -> Iterator[Path]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    for card in CARDS:
        try:
            yield Path(HfApi().hf_hub_download(name, card, repo_type="dataset"))
        except LocalEntryNotFoundError:  # the connection is lost
            raise
        except (EntryNotFoundError, HfHubHTTPError):
            # No such file, no such dataset, or a private one: the error message of `datasets` says which.
            continue


def _open_hub_copy(path: str, config: str | None) -> Opened:
    """Open the cached copy that an earlier ``load_dataset`` has written of a dataset on the hub."""
    from datasets.packaged_modules.cache.cache import Cache

    if "/" not in path:
        raise RecipeError(
            f"data.path: there is no folder {path!r}, and the Hugging Face hub cannot be reached: set data.path to a "
            f"folder, or to the full name on the hub, OWNER/{path}, of which the cache may have a copy"
        )
    try:
        # `load_dataset` would do the same, but it tries the hub first, for half a minute, even if its
        # `download_config` says `local_files_only`; only a setting of the whole process prevents that.
        copy = Cache(
            repo_id=path, dataset_name=path.rpartition("/")[2], config_name=config, version="auto", hash="auto"
        )
        return Opened(copy.as_dataset(), _hub_folders(path))
    except Exception as error:
        raise RecipeError(
            f"data.path: there is no folder {path!r}, the Hugging Face hub cannot be reached, and its cache has no "
            f"copy: set data.path to a local copy, made elsewhere by 'hf download {path} --repo-type dataset "
            "--local-dir FOLDER'"
        ) from error


def _hub_folders(name: str) -> tuple[Path, ...]:
    """Return the cache folders of a dataset on the hub."""
    from datasets import config
    from huggingface_hub import constants

    repository = "--".join(("datasets", *name.split("/")))
    return (
        Path(constants.HF_HUB_CACHE).absolute() / repository,
        Path(config.DOWNLOADED_DATASETS_PATH).absolute(),
        Path(config.EXTRACTED_DATASETS_PATH).absolute(),
    )


def reject_foreign_files(cards: Iterable[Path], path: str) -> bool:
    """Check that a dataset's cards name files of the dataset only, and return whether they name any.

    Args:
        cards: the existing files among the dataset's ``CARDS``.
        path: the dataset as the user wrote it, for error messages.

    Raises:
        RecipeError: if a card names a file by a URL, an absolute path, or a path that leads out of the dataset.
    """
    names_files = False
    for card in cards:
        configs = _configs(card)
        names_files = names_files or bool(configs)
        for entry in configs if isinstance(configs, list) else ():
            if not isinstance(entry, dict):
                continue
            for pattern in _texts([entry.get("data_files"), entry.get("data_dir")]):
                if _leads_out(pattern):
                    raise RecipeError(
                        f"data.path: {card.name} of {path!r} names the file {pattern!r}, expected a path below the "
                        "dataset's own folder: a dataset may not name files elsewhere, so put them into the folder"
                    )
    return names_files


def _configs(card: Path) -> Any:
    """Return the configurations in a card, read as ``datasets`` does."""
    import yaml
    from huggingface_hub import DatasetCard

    if card.suffix == ".md":
        content = DatasetCard.load(card).data.to_dict()
    else:
        content = yaml.safe_load(card.read_text(encoding="utf-8"))
    if _expanded_size(content, {}) > CARD_LIMIT:
        # `datasets` prints it in a message, with all aliases expanded.
        raise RecipeError(f"data.path: {card} has YAML aliases that expand without end: write it without aliases")
    return content.get("configs") if isinstance(content, dict) else None


def _expanded_size(value: Any, sizes: dict[int, float]) -> float:
    """Return the number of values in nested lists and dictionaries, counting shared ones at every place."""
    if not isinstance(value, list | tuple | dict):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = math.inf  # found again only by a value that contains itself
        parts = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_expanded_size(part, sizes) for part in parts)
    return sizes[id(value)]


def _texts(value: Any) -> Iterator[str]:
    """Yield all strings in nested lists and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _leads_out(pattern: str) -> bool:
    return (
        urlparse(pattern).scheme != ""
        or "::" in pattern
        or pattern.startswith(("/", "\\", "~"))
        or ".." in pattern.replace("\\", "/").split("/")
    )


def _loaded(load: Callable[[], Opened], path: str) -> Opened:
    """Return what ``load`` returns; raise any of its errors as ``RecipeError`` with a message of one line."""
    from datasets import DatasetDict

    try:
        opened = load()
    except RecipeError:
        raise
    except Exception as error:
        reason: BaseException = error
        # "An error occurred while generating the dataset" hides the actual error, its cause.
        while reason.__cause__ is not None:
            reason = reason.__cause__
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        advice = f": choose one with data.config ({lines[1]})" if "Config name is missing" in lines[0] else ""
        if "contain any data files" in lines[0]:
            advice = ": expected a folder of images for each class, CLASS/IMAGE or train/CLASS/IMAGE, or Parquet files"
        raise RecipeError(f"data.path: cannot read {path!r}: {lines[0].removesuffix(':')}{advice}") from error
    assert isinstance(opened.splits, DatasetDict)
    return opened
