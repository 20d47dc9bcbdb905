"""Where a dataset comes from: a local folder, the Hugging Face hub, or the hub's copy in the cache."""

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
"""Seconds to wait for the hub before a copy on this machine is looked for."""

CARDS = ("README.md", ".huggingface.yaml")
"""The files in which a dataset may say which of its files belong to which split."""

CARD_LIMIT = 1_000_000
"""Values that such a file may hold; more than any dataset has files."""


FORMATS = frozenset({"arrow", "cache", "csv", "imagefolder", "json", "parquet", "text", "webdataset"})
"""The formats of files that are read: those that hold labeled images, by readers that open no other files."""


class Opened(NamedTuple):
    """A dataset that has been opened, and where its own files are."""

    splits: "DatasetDict"
    """All splits, not yet decoded."""
    folders: tuple[Path, ...]
    """The folders in which a row may name an image file."""


def open_dataset(path: str, config: str | None = None) -> Opened:
    """Open a folder, or a dataset on the hub, or its copy in the cache if the hub cannot be reached.

    Whatever the dataset's files say, nothing is opened but the folder, or the dataset's own repository.

    Args:
        path: a folder, or a name on the hub.
        config: which configuration of the dataset, if it has several.

    Raises:
        RecipeError: if there is no such dataset, it cannot be read, or it refers to files that are not its own; one
            line that says what to do.
    """
    try:
        folder = Path(path).expanduser()
        if folder.is_dir():
            # Resolved, so that neither the working folder nor a link decides which folder a copy in the cache is of.
            return _loaded(lambda: _open_folder(folder.resolve(), config, path), path)
        if folder.is_symlink():
            raise RecipeError(
                f"data.path: {path!r} is a link to {os.readlink(folder)!r}, which is no folder: correct the link, or "
                "point data.path to the folder itself"
            )
        exists = folder.exists()
    except (OSError, RuntimeError) as error:  # no permission, too long a name, no home folder
        raise RecipeError(f"data.path: cannot look for the folder {path!r}: {error}") from error
    if exists:
        raise RecipeError(f"data.path: {path!r} is a file, expected a folder with train and test in the hub's layout")
    if path in file_formats():
        raise RecipeError(f"data.path: {path!r} is a file format, expected a folder or a name on the hub")
    name = hub_name(path)
    if name is None:
        return _open_hub_copy(path, config)
    return _loaded(lambda: _open_on_hub(name, config), path)


def file_formats() -> frozenset[str]:
    """Return what ``datasets`` takes for an order to read all such files below the working folder, not for a name."""
    from datasets import packaged_modules

    return frozenset(module.name for module in pkgutil.iter_modules(packaged_modules.__path__))


def hub_name(name: str) -> str | None:
    """Return a dataset's full name on the hub, ``owner/name``, or None if the hub cannot be asked.

    Raises:
        RecipeError: if the hub has no such names, or the name has no owner and the hub knows none.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        full = str(HfApi().dataset_info(name, timeout=HUB_TIMEOUT).id)
    except HfHubHTTPError:
        # The hub has answered. Whatever is wrong, `datasets` says it better.
        full = name
    except HFValidationError:
        raise RecipeError(
            f"data.path: there is no folder {name!r}, and it cannot be a name on the Hugging Face hub"
        ) from None
    except Exception:  # No network, no name server, a proxy that refuses, offline mode: every one is a no.
        return None
    if "/" not in full:
        # `datasets` would go on to take any folder of that name that it has ever read.
        raise RecipeError(
            f"data.path: there is no folder {name!r}, and the Hugging Face hub knows no dataset of this name: point "
            f"data.path to a folder, or write the full name on the hub, OWNER/{name}"
        )
    return full


def _open_folder(folder: Path, config: str | None, path: str) -> Opened:
    names_files = reject_foreign_files((folder / name for name in CARDS if (folder / name).is_file()), path)
    own = (folder, local_cache())
    # A README may say which files are meant, and a configuration does.
    if config is None and not names_files and (found := open_image_folder(folder, path)) is not None:
        return Opened(found, own)
    cache = folder_cache(folder)
    return Opened(_load(str(without_pattern(folder, cache)), config, path, cache_dir=str(cache)), own)


def _open_on_hub(name: str, config: str | None) -> Opened:
    reject_foreign_files(_cards_on_hub(name), name)
    return Opened(_load(name, config, name), _hub_folders(name))


def _load(source: str, config: str | None, path: str, cache_dir: str | None = None) -> "DatasetDict":
    """Do what ``load_dataset`` does, for the formats in ``FORMATS``."""
    from datasets import load_dataset_builder

    builder = load_dataset_builder(source, config, cache_dir=cache_dir)
    found = type(builder).__module__.rpartition(".")[2]
    if found not in FORMATS:
        raise RecipeError(
            f"data.path: {path!r} holds files of the format {found}, expected one of {', '.join(sorted(FORMATS))}"
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
            # There is no such file, or no such dataset, or one that is not for everybody: `datasets` says which.
            continue


def _open_hub_copy(path: str, config: str | None) -> Opened:
    """Open what an earlier ``load_dataset`` has left of a dataset on the hub."""
    from datasets.packaged_modules.cache.cache import Cache

    if "/" not in path:
        raise RecipeError(
            f"data.path: there is no folder {path!r}, and the Hugging Face hub cannot be reached: point data.path to a "
            f"folder, or write the full name on the hub, OWNER/{path}, of which the cache may have a copy"
        )
    try:
        # What `load_dataset` comes to in the end. But it asks the hub first, for half a minute, even if its
        # `download_config` says `local_files_only`; only a setting of the whole process keeps it from that.
        copy = Cache(
            repo_id=path, dataset_name=path.rpartition("/")[2], config_name=config, version="auto", hash="auto"
        )
        return Opened(copy.as_dataset(), _hub_folders(path))
    except Exception as error:
        raise RecipeError(
            f"data.path: there is no folder {path!r}, the Hugging Face hub cannot be reached, and its cache has no "
            f"copy: point data.path to a local copy, made elsewhere by 'hf download {path} --repo-type dataset "
            "--local-dir FOLDER'"
        ) from error


def _hub_folders(name: str) -> tuple[Path, ...]:
    """Return the folders in which the files of a dataset on the hub are kept."""
    from datasets import config
    from huggingface_hub import constants

    repository = "--".join(("datasets", *name.split("/")))
    return (
        Path(constants.HF_HUB_CACHE).absolute() / repository,
        Path(config.DOWNLOADED_DATASETS_PATH).absolute(),
        Path(config.EXTRACTED_DATASETS_PATH).absolute(),
    )


def reject_foreign_files(cards: Iterable[Path], path: str) -> bool:
    """Check that what a dataset says of its files leads to its own, and return whether it says anything.

    Args:
        cards: those of the dataset's ``CARDS`` that there are.
        path: what the user calls the dataset.

    Raises:
        RecipeError: if a file is given by an address or an absolute path, or by one that leads out of the dataset.
    """
    found = False
    for card in cards:
        configs = _configs(card)
        found = found or bool(configs)
        for entry in configs if isinstance(configs, list) else ():
            if not isinstance(entry, dict):
                continue
            for pattern in _texts([entry.get("data_files"), entry.get("data_dir")]):
                if _leads_out(pattern):
                    raise RecipeError(
                        f"data.path: {card.name} of {path!r} names the file {pattern!r}, expected a path below the "
                        "dataset's own folder: a dataset may not name files elsewhere, so put them into the folder"
                    )
    return found


def _configs(card: Path) -> Any:
    """Return what a card says of the dataset's configurations, as ``datasets`` reads it."""
    import yaml
    from huggingface_hub import DatasetCard

    if card.suffix == ".md":
        content = DatasetCard.load(card).data.to_dict()
    else:
        content = yaml.safe_load(card.read_text(encoding="utf-8"))
    if _written_out(content, {}) > CARD_LIMIT:
        # `datasets` writes it out, for one of its messages.
        raise RecipeError(f"data.path: {card} refers to itself until it is endless: write it without aliases")
    return content.get("configs") if isinstance(content, dict) else None


def _written_out(value: Any, known: dict[int, float]) -> float:
    """Return how many values there are in nested lists and dictionaries if none of them were shared."""
    if not isinstance(value, list | tuple | dict):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # until it is known: what holds itself is endless
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(value)]


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in nested lists and dictionaries."""
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
    """Return what ``load`` returns, or turn whatever it raises into one line for the user."""
    from datasets import DatasetDict

    try:
        opened = load()
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
    assert isinstance(opened.splits, DatasetDict)
    return opened
