"""The embedded dataset, and through it what all datasets have in common."""

import math

import pytest
import torch
from torch import Tensor

from gtn_lightning.data import DigitsData, RealBatches, Split, Splits, TensorData
from gtn_lightning.errors import RecipeError


@pytest.fixture(scope="module")
def digits() -> DigitsData:
    data = DigitsData()
    data.setup()
    return data


def as_rows(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_shape_and_classes_are_known_before_the_data_is_read() -> None:
    assert DigitsData().image_shape == (1, 8, 8)
    assert DigitsData().classes == 10


def test_splits_are_disjoint_and_complete(digits: DigitsData) -> None:
    sizes = [len(split.labels) for split in digits.splits[:3]]
    assert sizes == [1197, 300, 300]
    # All 1,797 images differ from each other.
    assert len(set.union(*(as_rows(split.images) for split in digits.splits[:3]))) == 1797
    for images, labels in digits.splits[:3]:
        assert images.shape[1:] == digits.image_shape
        assert images.dtype == torch.uint8
        assert int(images.max()) == 16
        assert labels.dtype == torch.int64


def test_splits_are_stratified(digits: DigitsData) -> None:
    for _, labels in digits.splits[1:3]:
        counts = labels.bincount(minlength=10)
        assert int(counts.min()) >= 29
        assert int(counts.max()) <= 31


def test_splits_do_not_depend_on_the_seed(digits: DigitsData) -> None:
    other = DigitsData(seed=7)
    other.setup()
    for split, same in zip(digits.splits[:3], other.splits[:3], strict=True):
        assert torch.equal(split.images, same.images)
        assert torch.equal(split.labels, same.labels)
    ours, theirs = next(iter(digits.train_dataloader())), next(iter(other.train_dataloader()))
    assert not torch.equal(ours[1], theirs[1])


def test_training_images_are_normalized(digits: DigitsData) -> None:
    images = digits.normalize(digits.splits.train.images)
    assert images.dtype == torch.float32
    assert float(images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(images.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_the_hook_tells_batches_apart_without_a_trainer(digits: DigitsData) -> None:
    training, evaluation = next(iter(digits.train_dataloader())), next(iter(digits.val_dataloader()))
    for batch in (training, evaluation):
        images, labels = digits.on_after_batch_transfer(batch)
        assert torch.equal(images, digits.normalize(batch[0]))
        assert torch.equal(labels, batch[1])
    finished = (torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3]))
    assert digits.on_after_batch_transfer(finished) is finished
    steps = torch.tensor([4])
    assert digits.on_after_batch_transfer(steps) is steps


def test_evaluation_loaders_hold_their_split(digits: DigitsData) -> None:
    for loader, split in (
        (digits.val_dataloader(), digits.splits.val),
        (digits.test_dataloader(), digits.splits.test),
    ):
        assert torch.equal(torch.cat([labels for _, labels in loader]), split.labels)


def test_setup_reads_once() -> None:
    data = DigitsData()
    data.setup("fit")
    splits = data.splits
    data.setup("test")
    assert data.splits is splits


def test_arguments_are_stored_under_their_names() -> None:
    arguments = {"batch_size": 32, "eval_batch_size": 64, "seed": 5, "rotate": 3.0, "scale": 0.2, "shift": 0.5}
    data = DigitsData(**arguments)
    assert {name: getattr(data, name) for name in arguments} == arguments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("eval_batch_size", 0),
        ("seed", -1),
        ("rotate", -1),
        ("shift", -0.5),
        ("scale", -0.1),
        ("scale", 1),
        ("rotate", math.nan),
        ("shift", math.inf),
    ],
)
def test_values_out_of_range(name: str, value: int) -> None:
    with pytest.raises(RecipeError, match=rf"data.{name} must be .*, got {value}"):
        DigitsData(**{name: value})


def test_batch_larger_than_the_training_split_is_refused_before_training() -> None:
    with pytest.raises(RecipeError, match=r"data.batch_size must be at most 1197, .*, got 1198"):
        DigitsData(batch_size=1198).setup()


class Stripes(TensorData):
    """A user's own dataset: two channels, one of them constant; bright images to train on, dark to test."""

    def load(self) -> Splits:
        bright = torch.stack([torch.arange(12) * 20, torch.full((12,), 9)], 1)
        images = bright[:, :, None, None].expand(-1, -1, 2, 4).to(torch.uint8).contiguous()
        labels = torch.arange(12) % 2
        dark = Split(images[:4] // 20, labels[:4])
        return Splits(Split(images, labels), dark, dark, classes=2)


IMAGES, LABELS = torch.zeros(12, 1, 4, 4, dtype=torch.uint8), torch.arange(12) % 2


class Given(TensorData):
    """Whatever a user's own ``load`` returns for one split."""

    def __init__(self, name: str, split: Split) -> None:
        super().__init__(batch_size=4, eval_batch_size=4)
        self.name, self.split = name, split

    def load(self) -> Splits:
        right = Split(IMAGES, LABELS)
        return Splits(right, right, right, classes=2)._replace(**{self.name: self.split})


@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.float(), LABELS, r"images that are float32 \[12, 1, 4, 4\], expected uint8 .*: return raw pixels"),
        (IMAGES[:, 0], LABELS, r"images that are uint8 \[12, 4, 4\], expected uint8 \[N, C, H, W\]"),
        (IMAGES, LABELS.int(), r"labels that are int32 \[12\] for 12 images, expected int64 \[12\].*\.long\(\)"),
        (IMAGES, LABELS[:-1], r"labels that are int64 \[11\] for 12 images"),
        (IMAGES, torch.nn.functional.one_hot(LABELS).float(), r"labels that are float32 \[12, 2\] .*\.argmax\(1\)"),
        (IMAGES, LABELS + 1, r"labels from 1 to 2, expected 0 to 1 for 2 classes"),
    ],
)  # fmt: skip
def test_what_load_may_not_return(name: str, images: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^Given.load: the split {name} has {message}") as caught:
        Given(name, Split(images, labels)).setup()
    assert "\n" not in str(caught.value)


def digest(name: str, images: Tensor, labels: Tensor = LABELS) -> str:
    data = Given(name, Split(images, labels))
    data.setup()
    return data.digest()


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_digest_tells_every_image_and_label_apart(name: str) -> None:
    same = digest(name, IMAGES)
    assert digest(name, IMAGES.clone()) == same
    assert digest(name, IMAGES.expand(12, 1, 4, 4).transpose(2, 3)) == same  # whatever the order in memory
    last_pixel, last_label = IMAGES.clone(), LABELS.clone()
    last_pixel[-1, -1, -1, -1] = 1
    last_label[-1] = 0
    others = {digest(name, last_pixel), digest(name, IMAGES, last_label), digest(name, IMAGES[:-2], LABELS[:-2])}
    assert len(others | {same}) == 4


def test_a_digest_is_of_the_contents_alone(digits: DigitsData) -> None:
    other = DigitsData(64, 128, seed=7, rotate=3.0)
    other.setup()
    assert other.digest() == digits.digest()


def test_splits_have_images_of_one_shape() -> None:
    with pytest.raises(RecipeError, match=r"^Given.load: the split test has images of shape \[1, 4, 3\] .*\[1, 4, 4\]"):
        Given("test", Split(IMAGES[..., :3], LABELS)).setup()


def test_statistics_come_from_the_training_split_alone_per_channel() -> None:
    data = Stripes(batch_size=4, eval_batch_size=4)
    data.setup()
    values = torch.arange(12).double() * 20
    assert data.mean.tolist() == pytest.approx([float(values.mean()), 9])
    # A channel that never changes is centered and not blown up.
    assert data.std.tolist() == pytest.approx([float(values.std(correction=0)), 1])
    assert data.image_shape == (2, 2, 4)
    assert data.classes == 2


def test_only_training_batches_are_augmented_by_their_key() -> None:
    data = Stripes(batch_size=4, eval_batch_size=4, crop=1)
    data.setup()
    images, labels, key = data.train_dataloader().batch(0)
    once, _ = data.on_after_batch_transfer((images, labels, key))
    again, _ = data.on_after_batch_transfer([images, labels, key])
    assert torch.equal(once, again)
    assert not torch.equal(once, data.on_after_batch_transfer((images, labels, key + 1))[0])
    assert torch.equal(data.on_after_batch_transfer((images, labels))[0], data.normalize(images))


def test_before_setup_the_error_says_what_to_call() -> None:
    data = Stripes(batch_size=4, eval_batch_size=4)
    assert not hasattr(data, "image_shape")
    with pytest.raises(AttributeError, match=r"Stripes has not read its data yet.*setup\(\)"):
        data.train_dataloader()


def test_it_says_what_it_holds(digits: DigitsData) -> None:
    assert str(digits) == "DigitsData: 1197 images to train, 300 to validate and 300 to test on"
    assert str(DigitsData()) == "DigitsData, not read yet"


def test_the_stream_is_endless(digits: DigitsData) -> None:
    stream = digits.train_dataloader()
    assert isinstance(stream, RealBatches)
    assert len(stream) == 1197 // 256
    for _, (_, labels, _) in zip(range(3 * len(stream)), stream, strict=False):
        assert len(labels) == 256
