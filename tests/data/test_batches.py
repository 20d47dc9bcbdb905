"""The training stream, keyed and dealt out to ranks; the evaluation loader, everything in order."""

import itertools

import pytest
import torch
from torch import Tensor

from gtn_lightning.data import EvaluationBatches, RealBatches
from gtn_lightning.errors import RecipeError

# Every image carries its own number, so that a batch says which rows it is made of.
IMAGES = torch.arange(23, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
LABELS = torch.arange(23)


def stream(rank: int = 0, world_size: int = 1, seed: int = 0, batch_size: int = 5) -> RealBatches:
    return RealBatches(IMAGES, LABELS, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)


def rows(batches: RealBatches, count: int) -> list[list[int]]:
    return [labels.tolist() for _, labels, _ in itertools.islice(batches, count)]


def test_images_labels_and_key_belong_together() -> None:
    for images, labels, key in itertools.islice(stream(), 9):
        assert images.shape == (5, 1, 2, 2)
        assert images.dtype == torch.uint8
        assert torch.equal(images[:, 0, 0, 0].long(), labels)
        assert isinstance(key, int)


def test_every_pass_has_each_image_once_and_its_own_order() -> None:
    labels = torch.tensor(rows(stream(), 8))
    first, second = labels[:4].flatten().tolist(), labels[4:].flatten().tolist()
    assert len(set(first)) == len(set(second)) == 20
    assert first != second
    assert set(first) != set(second), "the ragged end should be other images in every pass"


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_out_one_sequence(world_size: int) -> None:
    whole = rows(stream(), 4 * world_size)
    dealt = [rows(stream(rank, world_size), 4) for rank in range(world_size)]
    assert [batch for turn in zip(*dealt, strict=True) for batch in turn] == whole


def test_more_ranks_than_batches_in_a_pass_still_see_different_data() -> None:
    dealt = [rows(stream(rank, 8, batch_size=20), 3) for rank in range(8)]
    assert len({str(batch) for batches in dealt for batch in batches}) == 24
    assert len(stream(0, 8, batch_size=20)) == 1


def test_a_batch_depends_on_seed_and_position_alone() -> None:
    one, other, third = stream(), stream(), stream(seed=1)
    forwards = [one.batch(position) for position in range(12)]
    backwards = [other.batch(position) for position in reversed(range(12))][::-1]
    for (images, labels, key), (same_images, same_labels, same_key) in zip(forwards, backwards, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)
        assert key == same_key
    assert len({key for _, _, key in forwards}) == 12
    assert rows(third, 4) != rows(one, 4)


def test_global_random_state_has_no_say() -> None:
    torch.manual_seed(1)
    before = rows(stream(), 6)
    torch.manual_seed(2)
    assert rows(stream(), 6) == before


def test_length_is_a_ranks_share_of_a_pass() -> None:
    assert [len(stream(0, world_size)) for world_size in (1, 2, 3, 4, 5)] == [4, 2, 1, 1, 1]


@pytest.mark.parametrize("batch_size", [0, 24])
def test_batch_size_must_fit(batch_size: int) -> None:
    with pytest.raises(RecipeError, match=rf"data.batch_size must be between 1 and 23, .*, got {batch_size}"):
        stream(batch_size=batch_size)


def test_evaluation_sees_everything_in_order_each_time() -> None:
    batches = EvaluationBatches(IMAGES, LABELS, batch_size=5)
    for _ in range(2):
        parts: list[tuple[Tensor, Tensor]] = list(batches)
        assert len(parts) == len(batches) == 5
        assert torch.equal(torch.cat([images for images, _ in parts]), IMAGES)
        assert torch.equal(torch.cat([labels for _, labels in parts]), LABELS)
