"""Ground-truth accuracies: from tables, or measured and cached."""

import math
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from gtn_lightning.data import DigitsData, Splits, TensorData
from gtn_lightning.errors import RecipeError
from gtn_lightning.nas import Architecture, ConvNetGrid, FullTraining, MeasuredReference, TableReference
from gtn_lightning.nas.reference import MeasuredAccuracies
from gtn_lightning.nas.spaces import NASBench201, SearchSpace
from tests import processes
from tests.tiny import SHAPE

GRID = ConvNetGrid(SHAPE, 10, widths=[4, 8], depths=[1])
ONE, OTHER = GRID.parse("w4-d1-relu-batch-max"), GRID.parse("w8-d1-sigmoid-none-none")


def measured(folder: Path, data: DigitsData, steps: int = 60, seeds: int = 2) -> MeasuredAccuracies:
    training = FullTraining(steps, batch_size=32, lr=0.03)
    return MeasuredReference(training, seeds, str(folder / "cache.sqlite")).bind(data)


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


def test_scripts_may_attach_and_measure_by_name_until_version_0_2(data: DigitsData, tmp_path: Path) -> None:
    bound = measured(tmp_path, data)
    reference = MeasuredReference(bound.training, bound.seeds, bound.cache)
    reference.attach(data)
    assert reference.measure(GRID, ONE.name, 0) == bound.measure(GRID, ONE, 0)


CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"


class Wavering(FullTraining):
    """A way of training of a user's own."""


class Negative(DigitsData):
    """The digits, of which those to test on are in negative: the labels are the same."""

    def load(self) -> Splits:
        splits = super().load()
        return splits._replace(test=splits.test._replace(images=16 - splits.test.images))


def kept_apart(folder: Path, one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Return whether a cache holds two trainings after an architecture was measured in two ways."""
    for space, training, data in (one, other):
        assert isinstance(data, DigitsData)
        data.setup()
        assert isinstance(space, SearchSpace)
        reference = MeasuredReference(training, 1, str(folder / "cache.sqlite")).bind(data)  # type: ignore[arg-type]
        reference.measure(space, space.parse(CELL if isinstance(space, NASBench201) else ONE.name), 0)
    with closing(sqlite3.connect(folder / "cache.sqlite")) as database:
        (rows,) = database.execute("SELECT count(*) FROM trainings").fetchone()
    assert rows in (1, 2)
    return bool(rows == 2)


TRAINING = FullTraining(2, batch_size=8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            (NASBench201(SHAPE, 10, cells=1, channels=2), TRAINING, DigitsData(32)),
            (NASBench201(SHAPE, 10, cells=1, channels=4), TRAINING, DigitsData(32)),
        ),
        ((GRID, TRAINING, DigitsData(32)), (GRID, FullTraining(2, batch_size=8, lr=0.1), DigitsData(32))),
        ((GRID, TRAINING, DigitsData(32)), (GRID, Wavering(2, batch_size=8), DigitsData(32))),
        ((GRID, TRAINING, DigitsData(32)), (GRID, TRAINING, Negative(32))),
        ((GRID, TRAINING, DigitsData(32)), (GRID, TRAINING, DigitsData(32, rotate=5.0))),
        # Norms take the statistics of the batch that is evaluated.
        ((GRID, TRAINING, DigitsData(32)), (GRID, TRAINING, DigitsData(32, eval_batch_size=100))),
    ],
)
def test_what_accuracies_depend_on_keeps_them_apart(
    one: tuple[object, ...], other: tuple[object, ...], tmp_path: Path
) -> None:
    assert kept_apart(tmp_path, one, other)


def test_what_accuracies_do_not_depend_on_is_shared(tmp_path: Path) -> None:
    assert not kept_apart(tmp_path, (GRID, TRAINING, DigitsData(32)), (GRID, TRAINING, DigitsData(64, seed=3)))


def test_the_precision_of_a_trainer_around_it_counts(tmp_path: Path) -> None:
    around = DigitsData(32)
    around.trainer = pl.Trainer(precision="bf16-true", logger=False, enable_checkpointing=False, accelerator="cpu")
    assert kept_apart(tmp_path, (GRID, TRAINING, DigitsData(32)), (GRID, TRAINING, around))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_leaves_no_accuracy(number: signal.Signals, data: DigitsData, tmp_path: Path) -> None:
    class Told(ConvNetGrid):
        def build(self, architecture: Architecture) -> nn.Module:
            network = super().build(architecture)
            calls = iter(range(10))
            network.register_forward_hook(lambda *_: signal.raise_signal(number) if next(calls) == 3 else None)
            return network

    reference = measured(tmp_path, data)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SIGTERMException):
        reference.measure(Told(SHAPE, 10, widths=[4], depths=[1]), ONE, 0)
    assert signal.getsignal(number) == before
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as database:
        assert database.execute("SELECT * FROM trainings").fetchall() == []


def work(folder: str) -> None:
    data = DigitsData(32)
    data.prepare_data()
    data.setup()
    measured(Path(folder), data, steps=3).accuracies(GRID, list(GRID)[:12])


@pytest.mark.slow
def test_several_processes_share_a_cache(data: DigitsData, tmp_path: Path) -> None:
    workers = [processes.start(work, str(tmp_path), folder=tmp_path / "workers") for _ in range(3)]
    for worker in workers:
        assert processes.finished(worker) == 0, processes.said(tmp_path / "workers")
    kept = measured(tmp_path, data, steps=3).accuracies(GRID, list(GRID)[:12])
    assert torch.equal(kept, measured(tmp_path / "alone", data, steps=3).accuracies(GRID, list(GRID)[:12]))


def test_a_cache_that_cannot_be_used_is_named(data: DigitsData, tmp_path: Path) -> None:
    (tmp_path / "cache.sqlite").write_text("something else, and long enough to be no empty database file at all")
    with pytest.raises(RecipeError, match=r"cache.sqlite cannot be used as a cache \(.*\): name another file"):
        measured(tmp_path, data).accuracies(GRID, [ONE])


def test_a_table_of_several_columns_or_of_several_rows(tmp_path: Path) -> None:
    wide, long = tmp_path / "wide.csv", tmp_path / "long.csv"
    wide.write_text(f"arch,first,second\n{ONE},90,92\n{OTHER},80,84\n")
    long.write_text(f"architecture,seed,accuracy\n{ONE},0,0.9\n{OTHER},0,0.8\n{ONE},1,0.92\n{OTHER},1,0.84\n")
    one = TableReference(str(wide), ["first", "second"], key="arch", percent=True)
    for reference in (one, TableReference(str(long))):
        expected = torch.tensor([[0.8, 0.84], [0.9, 0.92]], dtype=torch.float64)
        torch.testing.assert_close(reference.accuracies(GRID, [OTHER, ONE]), expected)
    assert one.names == [ONE.name, OTHER.name]


class Mirrored(ConvNetGrid):
    """A grid in which sigmoid and relu are the same."""

    def canonical(self, architecture: Architecture) -> str:
        return architecture.name.replace("sigmoid", "relu")


def test_isomorphs_are_found_in_a_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("architecture,accuracy\nw4-d1-sigmoid-batch-max,0.7\n")
    space: SearchSpace = Mirrored(SHAPE, 10, widths=[4], depths=[1])
    reference = TableReference(str(path))
    assert float(reference.accuracies(space, [ONE])) == 0.7
    with pytest.raises(RecipeError, match=f"has no accuracy of {OTHER}: add it"):
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
        ("name,more\na,0.5,9\n", "has no column 'architecture' in line 2; it has name, more"),
        ("architecture,accuracy\na,0.5\nb,nan\n", "line 3: accuracy nan, expected accuracies from 0 to 1$"),
        ("architecture,accuracy\na,inf\n", "line 2: accuracy inf, expected accuracies from 0 to 1"),
        ("architecture,accuracy\na,-0.1\n", "line 2: accuracy -0.1, expected accuracies from 0 to 1$"),
        ("architecture,accuracy\na,93.2\n", "accuracy 93.2, expected accuracies from 0 to 1; set percent to true"),
        ("architecture,accuracy,seconds\na,0.5,nan\n", "line 2: seconds nan, expected seconds, 0 or more"),
        ("architecture,accuracy,seconds\na,0.5,-1\n", "line 2: seconds -1, expected seconds, 0 or more"),
    ],
)
def test_a_faulty_table_is_refused_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message) as caught:
        TableReference(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("accuracy", ["100.5", "-1", "nan"])
def test_per_cent_end_at_a_hundred(accuracy: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"architecture,accuracy\na,100\nb,{accuracy}\n")
    with pytest.raises(RecipeError, match=rf"line 3: accuracy {accuracy}, expected accuracies from 0 to 100$"):
        TableReference(str(path), percent=True)


def test_a_table_is_utf_8_with_or_without_a_mark_at_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("\ufeffarchitecture,accuracy\nbreit-größer,0.5\n".encode())
    assert TableReference(str(path)).names == ["breit-größer"]


def test_a_digest_is_of_what_a_table_says(tmp_path: Path) -> None:
    texts = ("architecture,accuracy\na,0.5\n", "architecture,accuracy\na,0.50\n", "architecture,accuracy\na,0.6\n")
    digests = []
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.csv").write_text(text)
        digests.append(TableReference(str(tmp_path / f"{number}.csv")).digest())
    assert digests[0] == digests[1] != digests[2]


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read .*: give a CSV file"):
        TableReference(str(tmp_path / "none.csv"))


class Broken(FullTraining):
    """A training that returns what is no accuracy."""

    def accuracy(
        self, space: SearchSpace, architecture: Architecture, data: TensorData, seed: int, device: torch.device
    ) -> float:
        return math.nan


def test_what_is_no_accuracy_is_not_kept(data: DigitsData, tmp_path: Path) -> None:
    reference = MeasuredReference(Broken(1), 1, str(tmp_path / "cache.sqlite")).bind(data)
    for _ in range(2):
        with pytest.raises(RecipeError, match=f"Broken returned for {ONE} the accuracy nan, expected a number from 0"):
            reference.measure(GRID, ONE, 0)


def test_an_accuracy_in_the_cache_that_is_none_is_refused(data: DigitsData, tmp_path: Path) -> None:
    measured(tmp_path, data, steps=1, seeds=1).accuracies(GRID, [ONE])
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as database, database:
        database.execute("UPDATE trainings SET accuracy = 'high'")
    with pytest.raises(RecipeError, match=rf"cache.sqlite holds for {ONE} the accuracy 'high', .* name another file"):
        measured(tmp_path, data, steps=1, seeds=1).accuracies(GRID, [ONE])


class OnTheDatasBatches(FullTraining):
    """A training that takes the data module's own batches."""

    def accuracy(
        self, space: SearchSpace, architecture: Architecture, data: TensorData, seed: int, device: torch.device
    ) -> float:
        return data.batch_size / 100


def test_a_training_of_ones_own_may_depend_on_the_datas_batches(tmp_path: Path) -> None:
    for size in (16, 32):
        data = DigitsData(size)
        data.setup()
        reference = MeasuredReference(OnTheDatasBatches(1), 1, str(tmp_path / "cache.sqlite")).bind(data)
        assert reference.measure(GRID, ONE, 0) == size / 100


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("architecture,accuracy\na,0.5\n", {"columns": []}, "columns is empty: give at least one"),
        (
            "architecture,accuracy\na,0.5\nb,0.6\na,0.7\n",
            {},
            "has 'a' again in line 4: remove one, or add a column seed",
        ),
        (
            "architecture,accuracy\na,0.5\nb,0.6\n",
            {"percent": True},
            "no accuracy above 1 per cent: set percent to false",
        ),
    ],
)
def test_a_table_that_says_something_else_is_refused(
    text: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(RecipeError, match=message):
        TableReference(str(tmp_path / "table.csv"), **options)  # type: ignore[arg-type]
