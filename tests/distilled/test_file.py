"""The file of synthetic data and its card."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gtn_lightning.distilled import DistilledSet, read_distilled, write_distilled
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import LARS
from tests.distilled.sets import small_set


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole file."""
    write_distilled(tmp_path / "synthetic.safetensors", small_set(LARS()))
    return tmp_path / "synthetic.safetensors"


def test_what_is_written_is_read(path: Path) -> None:
    data = small_set(LARS())
    read = read_distilled(path)
    assert read.tensors.keys() == data.tensors.keys()
    assert all(torch.equal(tensor, data.tensors[name]) for name, tensor in read.tensors.items())
    assert replace(read.card, checksum="") == data.card
    assert (read.steps, read.batch_size, read.classes) == (4, 6, 2)


def test_raw_data_becomes_inputs_and_back(path: Path) -> None:
    data = read_distilled(path)
    raw = torch.tensor([[[[100, 150]]]], dtype=torch.uint8)
    torch.testing.assert_close(data.prepare(raw), torch.tensor([[[[0.0, 1.0]]]]))
    torch.testing.assert_close(data.raw(data.prepare(raw)), raw.float())


def changed(path: Path, card: Callable[[dict[str, Any]], Any] = dict, **tensors: torch.Tensor) -> None:
    """Write the file again with a changed card and tensors, but the old checksum."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    content = card(json.loads(metadata["card"]))
    save_file(load_file(path) | tensors, path, metadata | {"card": json.dumps(content)})


def with_optimizer(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """Return what changes entries of the optimizer in a card."""
    return lambda card: card | {"optimizer": card["optimizer"] | changes}


@pytest.mark.parametrize(
    ("card", "tensors", "message"),
    [
        (dict, {"inputs": torch.ones(4, 6, 1, 4, 4)}, "its tensors do not have the checksum of its card"),
        (dict, {"inputs": torch.full((4, 6, 1, 4, 4), float("nan"))}, "inputs has values that are not finite"),
        (dict, {"inputs": torch.ones(4, 5, 1, 4, 4)}, "inputs and targets must be"),
        (dict, {"lr": torch.ones(3)}, "lr must have one value for each of 4 steps, got"),
        (lambda card: [card], {}, "its card is not a mapping"),
        (lambda card: card | {"loss": "os.system"}, {}, "loss must be one of cross_entropy, mse_loss, got 'os.system'"),
        (lambda card: card | {"fields": ["inputs", 3]}, {}, "its card must name two fields"),
        (lambda card: card | {"fields": ["inputs", "labels"]}, {}, "it has no tensor 'labels'"),
        (lambda card: card | {"more": 1}, {}, "its card has the unknown entry 'more'"),
        (lambda card: card | {"scores": 1}, {}, "its card has scores of another kind"),
        (lambda card: {"loss": "mse_loss"}, {}, "its card has no fields"),
        (lambda card: card | {"task": {"init_args": {"classes": 10**12}}}, {}, "or a probability of each"),
        (lambda card: card | {"task": {"init_args": {"classes": "2"}}}, {}, "its card has classes of another kind"),
        (lambda card: card | {"task": {"init_args": [3]}}, {}, "its card has task of another kind"),
        (with_optimizer(hyperparameters=[["lr"]]), {}, "its card has optimizer of another kind"),
        (with_optimizer(nesterov=None), {}, "its card has optimizer of another kind"),
        (with_optimizer(hyperparameters=["momentum", "eps"]), {}, "its card has no lr of LARS"),
        (dict, {"normalize_scale": torch.ones(3, 5, 5)}, "normalize_center and normalize_scale do not fit inputs"),
        (dict, {"inputs": torch.ones(4, 6, 1, 4, 4, dtype=torch.int64)}, "inputs must be float"),
        (lambda card: card | {"optimizer": {"name": "RMSprop"}}, {}, "optimizer must be one of SGD, Adam, LARS"),
    ],
)
def test_damaged_files_are_refused(path: Path, card: Any, tensors: dict[str, torch.Tensor], message: str) -> None:
    changed(path, card, **tensors)
    with pytest.raises(RecipeError, match=message) as error:
        read_distilled(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such file"):
        read_distilled(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(RecipeError, match="is not a complete safetensors file"):
        read_distilled(tmp_path / "text.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(RecipeError, match=r"expected a file of synthetic data, .* got None"):
        read_distilled(tmp_path / "other.safetensors")


def test_scores_are_kept_with_the_data(path: Path) -> None:
    data: DistilledSet = read_distilled(path).with_scores({"metric": "accuracy", "mean": 0.9})
    write_distilled(path, data)
    assert read_distilled(path).card.scores == {"metric": "accuracy", "mean": 0.9}
