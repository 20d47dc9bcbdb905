"""Stratified choices of rows, of classes common and rare."""

import pytest
import torch
from torch import Tensor

from gtn_lightning.data.hold_back import choose, hold_back
from gtn_lightning.errors import RecipeError

RARE = torch.tensor([0] * 500 + [1] * 30 + [2, 3])


def by_class(labels: Tensor, rows: Tensor) -> list[int]:
    return labels[rows].bincount(minlength=int(labels.max()) + 1).tolist()


@pytest.mark.parametrize("size", [1, 100, 300, 500, 528])
def test_every_class_keeps_a_row_and_exactly_as_many_are_held_back(size: int) -> None:
    stay, held = hold_back(RARE, size, "validation")
    assert len(held) == size
    assert torch.cat([stay, held]).sort().values.equal(torch.arange(len(RARE)))
    assert min(by_class(RARE, stay)) >= 1


def test_what_rare_classes_keep_the_others_give() -> None:
    # Their shares are 281.95, 16.92, 0.56 and 0.56.
    assert by_class(RARE, hold_back(RARE, 300, "validation")[1]) == [283, 17, 0, 0]


def test_class_probabilities_are_stratified_by_class() -> None:
    one_hot = torch.nn.functional.one_hot(RARE).float()
    for one, other in zip(hold_back(RARE, 300, "test"), hold_back(one_hot, 300, "test"), strict=True):
        assert one.equal(other)


def test_balanced_classes_are_held_back_as_ever() -> None:
    labels = torch.arange(20) % 4
    # What this function has always answered: results are told by it.
    assert hold_back(labels, 6, "validation")[1].tolist() == BALANCED
    assert choose(labels, 6, "validation").tolist() == BALANCED


BALANCED = [1, 2, 4, 9, 12, 15]


def test_more_than_the_classes_can_give_is_refused() -> None:
    message = r"^529 of 532 images to hold back for validation, expected 0 to 528, so that each of the 4 classes keeps"
    with pytest.raises(RecipeError, match=message):
        hold_back(RARE, 529, "validation")


@pytest.mark.parametrize("size", [4, 10, 100, 532])
def test_of_every_class_some_are_chosen(size: int) -> None:
    rows = choose(RARE, size, "training")
    assert len(rows) == size
    assert min(by_class(RARE, rows)) >= 1


def test_fewer_rows_than_classes_go_to_the_common_ones() -> None:
    assert by_class(RARE, choose(RARE, 2, "training")) == [2, 0, 0, 0]
