"""Synthetic data in the formats of other programs: DD-Ranking, Hugging Face datasets, NumPy, and pictures."""

import csv
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gtn_lightning import replay
from gtn_lightning.distilled.data_card import data_card
from gtn_lightning.distilled.file import DistilledSet, write_distilled
from gtn_lightning.errors import RecipeError
from gtn_lightning.files import whole_file, whole_folder

DD_RANKING: dict[str, tuple[list[float], list[float]]] = {
    "cifar100": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    "tinyimagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
"""Mean and standard deviation of pixels from 0 to 1 by which DD-Ranking normalizes its real data."""

RANGES = (1.0, 16.0, 255.0)
"""Largest values of pixels: fractions, scikit-learn's digits, bytes."""


def export(data: DistilledSet, format: str, path: Path) -> list[Path]:
    """Write synthetic data in another format. Nothing is overwritten, and nothing is left after an error.

    The formats, with ``N = T * B`` samples:

    ``dd-ranking``
        A folder with ``images.pt``, float32 ``[N, C, H, W]``, ``labels.pt`` and ``lr.pt``, a scalar, for the evaluators
        of DD-Ranking (Li et al., arXiv 2505.13300), and a ``README.md`` with the arguments to give them. Images are
        normalized as DD-Ranking normalizes CIFAR-10, CIFAR-100 and TinyImageNet if the data was made from these;
        otherwise as for a network. Samples are sorted by class, since its hard labels count on that. ``labels.pt``
        holds classes, int64 ``[N]``, or the logarithms of probabilities, float32 ``[N, classes]``, since its losses
        take the softmax of soft labels. DD-Ranking trains by its own optimizer on samples in random order. So the order
        of the batches, the rates of the single steps (``lr.pt`` is their mean) and all other learned hyperparameters
        are lost, and networks may reach less than by `gtn_lightning.replay`.
    ``hugging-face``
        A folder that ``datasets.load_dataset`` reads: a Parquet file with a row per sample, a data-set card,
        ``synthetic.safetensors``, the exact data, and ``replay.py``, which trains on it without this package. Columns:
        ``image`` (PNG, as in the format ``png``) or ``inputs`` (as a network takes them); ``label``, and
        ``probabilities`` if labels are soft, or ``target``; and ``step``.
    ``npz``
        A file of NumPy with all tensors by their names, and ``card``, the card as JSON text.
    ``png``
        A folder with a picture ``CLASS/STEP-NUMBER.png`` of every sample in its own size, and ``labels.csv`` with
        ``file``, ``step``, ``class`` and a column per class for the probabilities, if labels are soft. Pixels are raw
        data, scaled from the range of the real data to 0 to 255 and clipped, see `pixel_range`.

    Args:
        data: the synthetic data.
        format: one of `FORMATS`.
        path: the folder, or the file for ``npz``; it must not exist, but a folder may be empty.

    Returns:
        The files, sorted.

    Raises:
        RecipeError: if the format is unknown or cannot hold this data, or the path exists or cannot be written.

    Example:
        >>> data = read_distilled("synthetic.safetensors")  # doctest: +SKIP
        >>> export(data, "png", Path("pictures"))  # doctest: +SKIP
    """
    if format not in FORMATS:
        raise RecipeError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    _check_free(path, format)
    if format == "npz":
        arrays = _arrays(data)
        # Not by numpy.savez, which takes names as keywords and so cannot take those of its own arguments.
        with whole_file(path) as part, zipfile.ZipFile(part, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        return [path]
    write = FOLDERS[format](data)
    with whole_folder(path) as folder:
        write(folder)
        files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return [path / file for file in sorted(files)]


def pixel_range(data: DistilledSet) -> tuple[float, float]:
    """Return the smallest and the largest value of raw pixels of the real data, as far as its normalization says.

    Pixels from 0 to M with mean ``m`` have a variance of at most ``m (M - m)`` (Bhatia and Davis, 2000), so M is at
    least ``m + variance / m``: the range ends at the first of `RANGES` that is large enough for every channel. Without
    a normalization, or for other data, it is the range of the synthetic data itself.
    """
    raw = data.raw(data.inputs)
    center, scale = (data.tensors.get(f"normalize_{name}") for name in ("center", "scale"))
    if center is not None and scale is not None and bool((center >= 0).all()):
        needed = float((center + scale.square() / center)[center > 0].max()) if bool((center > 0).any()) else 0.0
        for largest in RANGES:
            if needed <= 1.001 * largest:  # binary pixels reach the bound, up to rounding
                return 0.0, largest
    return float(raw.min()), float(raw.max())


@dataclass(frozen=True)
class _Labels:
    """Classes of all samples, int64 ``[T, B]``, the classes' names, and probabilities ``[T, B, classes]`` or None."""

    classes: Tensor
    names: list[str]
    probabilities: Tensor | None


def _labels(data: DistilledSet, format: str) -> _Labels:
    targets, count = data.targets, data.classes
    if count is None or targets.ndim > 3 or (targets.ndim == 3) != targets.is_floating_point():
        raise RecipeError(
            f"the format {format} needs classes [T, B] or class probabilities [T, B, classes] and the loss "
            f"cross_entropy, got {data.card.fields[1]} {_form(targets)} and {data.card.loss}: choose another format, "
            "such as npz"
        )
    classes = targets if targets.ndim == 2 else targets.argmax(2)
    # The class that a sample was made for; the largest probability may be another's.
    made_for = data.tensors.get("labels")
    if made_for is not None and made_for.shape == classes.shape and made_for.dtype == torch.int64:
        classes = made_for
    if int(classes.min()) < 0 or int(classes.max()) >= count or (targets.ndim == 3 and targets.shape[2] != count):
        raise RecipeError(
            f"classes must be from 0 to {count - 1}, got {data.card.fields[1]} {_form(targets)} with classes from "
            f"{int(classes.min())} to {int(classes.max())}: correct the file"
        )
    known = data.card.real.get("class_names")
    names = [str(name) for name in known] if isinstance(known, list) else []
    if len(set(names)) != count:
        names = [str(number) for number in range(count)]
    return _Labels(classes, names, targets if targets.ndim == 3 else None)


def _is_image(data: DistilledSet) -> bool:
    return data.inputs.ndim == 5 and data.inputs.shape[2] in (1, 3) and data.inputs.is_floating_point()


def _check_images(data: DistilledSet, format: str) -> None:
    if not _is_image(data):
        raise RecipeError(
            f"the format {format} needs images [T, B, C, H, W] with 1 or 3 channels C, got {data.card.fields[0]} "
            f"{_form(data.inputs)}: choose hugging-face or npz"
        )


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _check_free(path: Path, format: str) -> None:
    try:
        taken = path.exists() or path.is_symlink()
        if taken and format != "npz" and path.is_dir():
            taken = any(path.iterdir())
    except OSError as error:
        raise RecipeError(f"cannot write {path}: {error.strerror}: choose another path") from error
    if taken:
        raise RecipeError(f"{path} exists already, and nothing is overwritten: choose another path")


def _pixels(data: DistilledSet) -> np.ndarray:
    """Return pictures, uint8 ``[T, B, H, W, C]``."""
    low, high = pixel_range(data)
    pixels = (data.raw(data.inputs) - low) * (255 / max(high - low, 1e-12))
    return np.asarray(pixels.clamp(0, 255).round().to(torch.uint8).movedim(2, -1).numpy())


def _png(picture: np.ndarray) -> bytes:
    """Return the PNG file of a picture, uint8 ``[H, W, C]``."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(file, "PNG")
    return file.getvalue()


def _dd_ranking(data: DistilledSet) -> Callable[[Path], None]:
    _check_images(data, "dd-ranking")
    labels = _labels(data, "dd-ranking")
    classes = labels.classes.flatten()
    counts = classes.bincount(minlength=len(labels.names))
    if labels.probabilities is not None and int(counts.min()) != int(counts.max()):
        raise RecipeError(
            "the format dd-ranking needs as many samples of every class if labels are soft, since DD-Ranking numbers "
            f"hard labels by them, got from {int(counts.min())} to {int(counts.max())}: choose hugging-face or npz"
        )
    source = re.sub("[^a-z0-9]", "", str(data.card.real.get("source")).lower())
    known = next((name for name in DD_RANKING if name in source), None)
    if known and data.inputs.shape[2] == 3 and pixel_range(data) == (0.0, 255.0):
        mean, std = (torch.tensor(value)[:, None, None] for value in DD_RANKING[known])
        images = (data.raw(data.inputs) / 255 - mean) / std
        normalization = "as DD-Ranking normalizes the real data"
    else:
        images = data.inputs
        normalization = "as synthetic.safetensors has it, which may differ from DD-Ranking's normalization"
    if "lr" not in data.tensors:
        raise RecipeError("the format dd-ranking needs the tensor lr [T], got none: choose hugging-face or npz")
    rate = data.tensors["lr"].double().mean().float()
    order = classes.argsort(stable=True)
    if labels.probabilities is None:
        values = classes[order]
        use = "HardLabelEvaluator: compute_metrics(image_tensor=images, hard_labels=labels, syn_lr=lr)."
    else:
        # As the smallest positive number, zero has a finite logarithm.
        tiny = torch.finfo(torch.float32).tiny
        values = labels.probabilities.flatten(0, 1)[order].float().clamp(min=tiny).log()
        use = (
            "SoftLabelEvaluator with soft_label_mode='S', soft_label_criterion='sce', loss_fn_kwargs={'temperature': "
            "1.0}: compute_metrics(image_tensor=images, soft_labels=labels, syn_lr=lr)."
        )
    per_class = f"ipc={int(counts.max())}" if int(counts.min()) == int(counts.max()) else "classes of different sizes"
    text = (
        f"# Synthetic data for DD-Ranking\n\n`images.pt`, `labels.pt` and `lr.pt` are for {use}\n"
        f"{len(classes)} images of {len(labels.names)} classes, sorted by class: {per_class}.\n"
        f"Pixels are normalized {normalization}.\n"
        f"The data was made for {data.card.optimizer['name']} with a rate per step, on batches of {data.batch_size} in "
        "their order.\n"
        "The order, the rates of the single steps (`lr.pt` is their mean) and other learned hyperparameters are lost.\n"
    )

    def write(folder: Path) -> None:
        torch.save(images.flatten(0, 1)[order].float().contiguous(), folder / "images.pt")
        torch.save(values.contiguous(), folder / "labels.pt")
        torch.save(rate, folder / "lr.pt")
        (folder / "README.md").write_text(text, encoding="utf-8")

    return write


def _pictures(data: DistilledSet) -> Callable[[Path], None]:
    _check_images(data, "png")
    labels, pixels, (low, high) = _labels(data, "png"), _pixels(data), pixel_range(data)
    steps, numbers, classes = (len(str(count - 1)) for count in (data.steps, data.batch_size, len(labels.names)))

    def write(folder: Path) -> None:
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            soft = [] if labels.probabilities is None else [f"probability_{name}" for name in labels.names]
            table.writerow(["file", "step", "class", *soft])
            for step in range(data.steps):
                for number in range(data.batch_size):
                    kind = int(labels.classes[step, number])
                    picture = (
                        folder
                        / _folder(kind, labels.names[kind], classes)
                        / (f"{step:0{steps}}-{number:0{numbers}}.png")
                    )
                    picture.parent.mkdir(exist_ok=True)
                    picture.write_bytes(_png(pixels[step, number]))
                    shares = [] if labels.probabilities is None else labels.probabilities[step, number].tolist()
                    table.writerow([picture.relative_to(folder).as_posix(), step, kind, *shares])
        (folder / "README.md").write_text(
            "# Pictures of synthetic data\n\n"
            f"`CLASS/STEP-NUMBER.png`: raw pixels from {low:g} to {high:g}, scaled to 0 to 255 and clipped.\n"
            "Clipping and rounding lose a little: train on `synthetic.safetensors`, not on these.\n",
            encoding="utf-8",
        )

    return write


def _folder(number: int, name: str, digits: int) -> str:
    """Return the name of a class's folder, such that folders in alphabetical order are classes in order."""
    text = re.sub(r"\W+", "-", name).strip("-")[:40]
    return f"{number:0{digits}}" if text in ("", str(number)) else f"{number:0{digits}}-{text}"


def _hugging_face(data: DistilledSet) -> Callable[[Path], None]:
    columns: dict[str, tuple[str, list[Any]]] = {}  # name -> kind of its values, values
    low, high = pixel_range(data) if _is_image(data) else (0.0, 0.0)
    if _is_image(data):
        pictures = _pixels(data)
        pictures = pictures.reshape(-1, *pictures.shape[2:])
        columns["image"] = "image", [{"bytes": _png(picture), "path": None} for picture in pictures]
    else:
        columns["inputs"] = _numbers(data.inputs)
    names: list[str] = []
    if data.classes is None:
        columns["target"] = _numbers(data.targets)
    else:
        labels = _labels(data, "hugging-face")
        names = labels.names
        columns["label"] = "class", labels.classes.flatten().tolist()
        if labels.probabilities is not None:
            columns["probabilities"] = _numbers(labels.probabilities)
    columns["step"] = "int32", torch.arange(data.steps).repeat_interleave(data.batch_size).tolist()
    pixels = f"PNG, raw pixels from {low:g} to {high:g}, scaled to 0 to 255 and clipped" if "image" in columns else None

    def write(folder: Path) -> None:
        (folder / "data").mkdir()
        _write_parquet(folder / "data" / "train-00000-of-00001.parquet", columns, names)
        write_distilled(folder / "synthetic.safetensors", data)
        (folder / "README.md").write_text(data_card(data, names, pixels), encoding="utf-8")
        shutil.copyfile(replay.__file__, folder / "replay.py")

    return write


def _numbers(tensor: Tensor) -> tuple[str, list[Any]]:
    """Return the kind of a column's values, and the values of all samples of a tensor ``[T, B, ...]``."""
    number = "float32" if tensor.is_floating_point() else "int64"
    flat = tensor.flatten(0, 1)
    return "list " * (flat.ndim - 1) + number, flat.tolist()


def _write_parquet(path: Path, columns: dict[str, tuple[str, list[Any]]], names: list[str]) -> None:
    import datasets  # takes a second to import

    def feature(kind: str) -> Any:
        if kind.startswith("list "):
            return datasets.Sequence(feature(kind.removeprefix("list ")))
        if kind == "image":
            return datasets.Image()
        return datasets.ClassLabel(names=names) if kind == "class" else datasets.Value(kind)

    features = datasets.Features({name: feature(kind) for name, (kind, _) in columns.items()})
    rows = datasets.Dataset.from_dict({name: values for name, (_, values) in columns.items()}, features=features)
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        rows.to_parquet(path)
    finally:
        if shown:
            datasets.enable_progress_bars()


def _arrays(data: DistilledSet) -> dict[str, np.ndarray]:
    if "card" in data.tensors:
        raise RecipeError("the format npz cannot hold a tensor of the name 'card': rename it in the file")
    tensors = {
        name: tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # which NumPy does not have
        for name, tensor in data.tensors.items()
    }
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    return arrays | {"card": np.array(json.dumps(asdict(data.card)))}


FOLDERS: dict[str, Callable[[DistilledSet], Callable[[Path], None]]] = {
    "dd-ranking": _dd_ranking,
    "hugging-face": _hugging_face,
    "png": _pictures,
}
"""The formats that are folders: each checks the data and returns what writes it into a folder."""

FORMATS = ("dd-ranking", "hugging-face", "npz", "png")
"""The formats of `export`."""
