"""What loaders of one's own hand over, through a trainer: what works, and what is refused in one line."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from gtn_lightning.errors import RecipeError
from gtn_lightning.learners import MLP, Fixed
from tests.tiny import SHAPE, make_gtn, make_trainer

CLASSES = torch.arange(40) % 10
IMAGES = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(0)) + CLASSES.view(-1, 1, 1, 1)
ONE_HOT = nn.functional.one_hot(CLASSES)

Make = Callable[[], Any]


def of(*tensors: Tensor, **options: Any) -> Make:
    return lambda: DataLoader(TensorDataset(*tensors), **{"batch_size": 20} | options)


def collated(change: Callable[[Tensor, Tensor], Any]) -> Make:
    def collate(rows: list[tuple[Tensor, Tensor]]) -> Any:
        return change(torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]))

    return of(IMAGES, CLASSES, collate_fn=collate)


class Pair(NamedTuple):
    image: Tensor
    label: Tensor


class Rows(Dataset[Any]):
    def __init__(self, image: Callable[[int], Any]) -> None:
        self.image = image

    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.image(row), row % 10


class Stream(IterableDataset[Any]):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.images, CLASSES, strict=True)


def run(how: str, make: Make, folder: Path, **changes: Any) -> pl.Trainer:
    gtn = make_gtn(**changes)
    trainer = make_trainer(folder, max_steps=1, num_sanity_val_steps=0, val_check_interval=1)
    match how:
        case "fit":
            trainer.fit(gtn, make(), of(IMAGES, CLASSES)())
        case "fit, validation":
            trainer.fit(gtn, of(IMAGES, CLASSES)(), make())
        case "sanity check":
            make_trainer(folder, max_steps=1, num_sanity_val_steps=1).fit(gtn, of(IMAGES, CLASSES)(), make())
        case "validate":
            trainer.validate(gtn, make(), verbose=False)
        case "test":
            trainer.test(gtn, make(), verbose=False)
    return trainer


WRONG: dict[str, tuple[Make, str]] = {
    "a dict": (
        collated(lambda images, labels: {"image": images, "label": labels}),
        r"a dict with the keys 'image', 'label', expected a pair .*return \(row\['image'\], row\['label'\]\)",
    ),
    "another dict": (collated(lambda images, labels: {"a": images}), r"keys 'a', .*return the image and its label"),
    "three": (of(IMAGES, CLASSES, CLASSES), r"a list of 3, expected a pair .*return nothing else"),
    "one": (of(IMAGES), r"a list of 1, expected a pair"),
    "a tensor": (collated(lambda images, labels: images[:2]), r"a single tensor of shape \[2, 1, 8, 8\], expected"),
    "a list of images": (
        collated(lambda images, labels: (list(images), labels)),
        r"images that are a list of 20, expected a tensor: convert them",
    ),
    "arrays": (
        collated(lambda images, labels: (images, labels.numpy())),
        r"labels that are a ndarray, expected a tensor: convert them",
    ),
    "pictures": (
        lambda: DataLoader(Rows(lambda row: Image.fromarray(np.zeros((8, 8), np.uint8)))),
        r"loader cannot make a batch .*\(PIL.Image.Image\): return each image as a tensor",
    ),
    "sizes": (
        lambda: DataLoader(Rows(lambda row: torch.zeros(1, 8, 8 + row % 2)), batch_size=2),
        r"loader cannot make a batch of images of several sizes",
    ),
    "float64": (of(IMAGES.double(), CLASSES), r"images that are float64, expected float32, .*with \.float\(\)$"),
    "float16": (of(IMAGES.half(), CLASSES), r"images that are float16, expected float32, .*with \.float\(\)$"),
    "uint8": (of(IMAGES.byte(), CLASSES), r"images that are uint8, expected float32, .*normalize them, .*/ 255"),
    "a float64 stream": (lambda: DataLoader(Stream(IMAGES.double()), batch_size=20), r"images that are float64"),
    "channels last": (of(IMAGES.permute(0, 2, 3, 1), CLASSES), r"shape \[8, 8, 1\] .*\.permute\(0, 3, 1, 2\)"),
    "no channel": (of(IMAGES[:, 0], CLASSES), r"images have shape \[8, 8\] .*\.unsqueeze\(1\)"),
    "flat": (of(IMAGES.flatten(1), CLASSES), r"images have shape \[64\] .*\.view\(-1, 1, 8, 8\)"),
    "NaN": (of(IMAGES.where(CLASSES.view(-1, 1, 1, 1) > 0, torch.nan), CLASSES), r"NaN .* [24] of [24]0 that"),
    "int32 labels": (of(IMAGES, CLASSES.int()), r"labels that are int32 .*with \.long\(\)"),
    "column of labels": (of(IMAGES, CLASSES[:, None]), r"labels that are int64 \[\d+, 1\].*\.squeeze\(1\)"),
    "one-hot integers": (of(IMAGES, ONE_HOT), r"labels that are int64 .*with \.float\(\)"),
    "labels of another batch": (collated(lambda images, labels: (images, labels[1:])), r"labels .* for \d+ images"),
    "no probabilities": (of(IMAGES, 3.0 * ONE_HOT), r"no class probabilities, such as \[3, 0, 0, 0, 0, \.\.\.\]"),
}  # fmt: skip


@pytest.mark.parametrize("how", ["fit", "fit, validation", "sanity check", "validate", "test"])
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_before_anything_is_taught(
    case: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = WRONG[case]
    steps = []
    monkeypatch.setattr("gtn_lightning.module.GTN.training_step", lambda *_: steps.append(1))
    if case == "a float64 stream" and how in ("validate", "test"):
        how = "validate"
    with pytest.raises(RecipeError, match=message) as caught:
        run(how, make, tmp_path)
    assert "\n" not in str(caught.value)
    assert not steps


@pytest.mark.parametrize("how", ["fit, validation", "sanity check", "validate", "test"])
def test_one_loader_to_a_split(how: str, tmp_path: Path) -> None:
    one = of(IMAGES, CLASSES)
    with pytest.raises(RecipeError, match=r"^there are 2 (validation|test) loaders, expected one: join"):
        run(how, lambda: [one(), one()], tmp_path)
    run(how, lambda: [one()], tmp_path)
    run(how, lambda: {"all": one()}, tmp_path)


def test_no_list_of_loaders_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^the training loader is a list, expected a DataLoader"):
        run("fit", lambda: [of(IMAGES, CLASSES)()], tmp_path)


def test_an_empty_validation_loader(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^the validation loader has no batch: .*drop_last"):
        run("fit, validation", of(IMAGES[:5], CLASSES[:5], drop_last=True), tmp_path)


@pytest.mark.parametrize("how", ["fit", "fit, validation", "sanity check", "validate", "test"])
@pytest.mark.parametrize(
    "make",
    [
        collated(Pair),
        of(IMAGES, CLASSES, batch_size=1),
        lambda: DataLoader(Stream(IMAGES), batch_size=20),
        of(IMAGES, ONE_HOT.half()),
    ],
    ids=["named tuples", "single images", "a stream", "one-hot halves"],
)
def test_what_is_right_passes(make: Make, how: str, tmp_path: Path) -> None:
    run(how, make, tmp_path)


@pytest.mark.parametrize("make", [of(IMAGES, CLASSES), lambda: DataLoader(Stream(IMAGES), batch_size=20)])
def test_a_learner_that_does_not_fit_is_said_on_any_loader(make: Make, tmp_path: Path) -> None:
    class Lazy(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.LazyLinear(10))

    with pytest.raises(RecipeError, match=r"^the learner Lazy has a LazyLinear, .*as in Linear"):
        run("test", make, tmp_path, learners=Fixed(Lazy))


def test_no_image_of_a_stream_is_lost_to_the_check(tmp_path: Path) -> None:
    class Once(IterableDataset[Any]):
        """Goes on where it was, as a file that is read does."""

        def __init__(self) -> None:
            self.rows = iter(zip(IMAGES, CLASSES, strict=True))

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return self.rows

    seen = run("test", lambda: DataLoader(Once(), batch_size=20), tmp_path).callback_metrics
    every = run("test", of(IMAGES, CLASSES), tmp_path).callback_metrics
    assert seen["test/loss"] == every["test/loss"]


def test_checking_a_loader_draws_no_random_numbers(tmp_path: Path) -> None:
    def shuffled() -> DataLoader[Any]:
        return DataLoader(Rows(lambda row: torch.full(SHAPE, float(row))), batch_size=7, shuffle=True)

    torch.manual_seed(4)
    expected = next(iter(shuffled()))[1]

    class FirstBatch(pl.Callback):
        def on_test_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, number: int, *_: Any) -> None:
            first.append(batch[1]) if number == 0 else None

    first: list[Tensor] = []
    gtn = make_gtn()
    trainer = make_trainer(tmp_path, callbacks=[FirstBatch()])
    torch.manual_seed(4)
    trainer.test(gtn, shuffled(), verbose=False)
    assert first[0].equal(expected)


class Hooked(pl.LightningDataModule):
    """Images of bytes, which whoever trains on them converts."""

    def train_dataloader(self) -> DataLoader[Any]:
        return of((IMAGES * 20 + 100).clamp(0, 255).byte(), CLASSES)()

    val_dataloader = test_dataloader = train_dataloader


def test_the_modules_own_hook_converts_what_a_data_module_leaves(tmp_path: Path) -> None:
    gtn = make_gtn()
    gtn.__class__ = type(
        "Converting",
        (type(gtn),),
        {"on_after_batch_transfer": lambda self, batch, _: ((batch[0].float() - 100) / 20, batch[1])},
    )
    trainer = make_trainer(tmp_path, max_steps=1, val_check_interval=1)
    trainer.fit(gtn, Hooked())
    assert "val/accuracy_real" in trainer.callback_metrics


def test_one_hot_labels_and_classes_have_the_same_scores(tmp_path: Path) -> None:
    def scores(labels: Tensor) -> dict[str, float]:
        learners = Fixed(lambda: MLP(SHAPE, 10, hidden=[]))
        metrics = run("fit, validation", of(IMAGES, labels), tmp_path, learners=learners).callback_metrics
        return {name: float(value) for name, value in metrics.items() if name.startswith("val/")}

    expected = scores(CLASSES)
    assert min(expected["val/accuracy"], expected["val/accuracy_real"]) > 0.05
    assert scores(ONE_HOT.float()) == pytest.approx(expected, rel=1e-5)
    softer = scores(0.5 * ONE_HOT + 0.05)
    assert softer["val/accuracy"] == expected["val/accuracy"]
