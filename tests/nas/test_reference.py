"""What architectures are really worth."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.nas import ConvNetGrid, FullTraining, MeasuredReference, TableReference
from gtn_lightning.nas.spaces import SearchSpace
from tests.tiny import SHAPE

GRID = ConvNetGrid(SHAPE, 10, widths=[4, 8], depths=[1])
ONE, OTHER = "w4-d1-relu-batch-max", "w8-d1-sigmoid-none-none"


def measured(folder: Path, data: DigitsData, steps: int = 60, seeds: int = 2) -> MeasuredReference:
    reference = MeasuredReference(FullTraining(steps, batch_size=32, lr=0.03), seeds, str(folder / "cache.sqlite"))
    reference.attach(data)
    return reference


def test_full_training_learns_and_repeats(data: DigitsData, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    accuracies = measured(tmp_path, data).accuracies(GRID, [ONE, OTHER])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert accuracies.shape == (2, 2)
    assert accuracies[0].min() > 0.8
    assert accuracies[0, 0] != accuracies[0, 1]  # seeds differ
    assert torch.equal(measured(tmp_path / "again", data).accuracies(GRID, [OTHER, ONE]), accuracies.flip(0))


def test_what_was_measured_is_not_measured_again(data: DigitsData, tmp_path: Path) -> None:
    reference = measured(tmp_path, data)
    first = reference.accuracies(GRID, [ONE])
    spent = reference.seconds(GRID, [ONE])
    assert spent > 0
    again = measured(tmp_path, data)
    assert torch.equal(again.accuracies(GRID, [ONE]), first)
    assert again.seconds(GRID, [ONE]) == spent
    # Other settings are other trainings.
    assert not torch.equal(measured(tmp_path, data, steps=5).accuracies(GRID, [ONE]), first)


def work(folder: str) -> None:
    torch.set_num_threads(1)
    data = DigitsData(32)
    data.prepare_data()
    data.setup()
    measured(Path(folder), data, steps=3).accuracies(GRID, list(GRID)[:12])


@pytest.mark.slow
def test_several_processes_share_a_cache(data: DigitsData, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(str(tmp_path),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    kept = measured(tmp_path, data, steps=3).accuracies(GRID, list(GRID)[:12])
    assert torch.equal(kept, measured(tmp_path / "alone", data, steps=3).accuracies(GRID, list(GRID)[:12]))


def test_without_data_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no data to train on"):
        MeasuredReference(FullTraining(), cache=str(tmp_path / "cache")).accuracies(GRID, [ONE])


def test_a_cache_that_cannot_be_used_is_named(data: DigitsData, tmp_path: Path) -> None:
    (tmp_path / "cache.sqlite").write_text("something else, and long enough to be no empty database file at all")
    with pytest.raises(RecipeError, match=r"cache.sqlite cannot be used as a cache \(.*\); name another file"):
        measured(tmp_path, data).accuracies(GRID, [ONE])


def test_a_table_of_several_columns_or_of_several_rows(tmp_path: Path) -> None:
    wide, long = tmp_path / "wide.csv", tmp_path / "long.csv"
    wide.write_text(f"arch,first,second\n{ONE},90,92\n{OTHER},80,84\n")
    long.write_text(f"architecture,seed,accuracy\n{ONE},0,0.9\n{OTHER},0,0.8\n{ONE},1,0.92\n{OTHER},1,0.84\n")
    one = TableReference(str(wide), ["first", "second"], key="arch", percent=True)
    for reference in (one, TableReference(str(long))):
        expected = torch.tensor([[0.8, 0.84], [0.9, 0.92]], dtype=torch.float64)
        torch.testing.assert_close(reference.accuracies(GRID, [OTHER, ONE]), expected)
    assert one.architectures == [ONE, OTHER]


class Mirrored(ConvNetGrid):
    """A grid in which sigmoid and relu are the same."""

    def canonical(self, architecture: str) -> str:
        return architecture.replace("sigmoid", "relu")


def test_isomorphs_are_found_in_a_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("architecture,accuracy\nw4-d1-sigmoid-batch-max,0.7\n")
    space: SearchSpace = Mirrored(SHAPE, 10, widths=[4], depths=[1])
    reference = TableReference(str(path))
    assert float(reference.accuracies(space, [ONE])) == 0.7
    with pytest.raises(RecipeError, match=f"knows no accuracy of {OTHER}"):
        reference.accuracies(GRID, [OTHER])


def test_candidates_of_a_table_are_different_and_held_out(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["architecture,accuracy", *(f"{name},0.5" for name in GRID)]))
    reference = TableReference(str(path))
    drawn = reference.candidates(GRID, 20, torch.Generator().manual_seed(0), held_out=0.5)
    assert len({*drawn}) == 20
    assert all(GRID.is_held_out(name, 0.5) for name in drawn)
    with pytest.raises(RecipeError, match=r"1000 architectures wanted, but .* has 90 to rank"):
        reference.candidates(GRID, 1000, torch.Generator())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no accuracies"),
        ("name,accuracy\na,0.5\n", "has no column 'architecture' in line 2; it has name, accuracy"),
        ("architecture,accuracy\na,high\n", "line 2: could not convert"),
        ("architecture,accuracy\na\n", "has no column 'accuracy' in line 2"),
    ],
)
def test_a_faulty_table_is_refused_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message) as caught:
        TableReference(str(path))
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read .*; give a CSV file"):
        TableReference(str(tmp_path / "none.csv"))
