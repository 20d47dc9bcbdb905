"""Tables, from files, data frames and scikit-learn's bundled sets."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gtn_lightning.data import TableData
from gtn_lightning.errors import RecipeError


def frame(rows: int = 60) -> pd.DataFrame:
    numbers = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "row": [f"r{number}" for number in range(rows)],
            "height": numbers.normal(170, 10, rows),
            "age": numbers.integers(20, 70, rows),
            "city": numbers.choice(["Bern", "Lyon", "Turin"], rows),
            "member": numbers.integers(0, 2, rows).astype(bool),
            "constant": 7.0,
            "kind": numbers.choice(["b", "a"], rows),
            "income": numbers.normal(5e4, 1e4, rows),
        }
    )


def read(data: TableData) -> TableData:
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_and_frames_are_read_alike(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"table.{suffix}"
    frame().to_csv(path, index=False) if suffix == "csv" else frame().to_parquet(path)
    from_file = read(TableData(str(path), batch_size=30, target="kind", ignore=["row", "income"]))
    from_frame = read(TableData(frame(), batch_size=30, target="kind", ignore=["row", "income"]))
    assert from_file.columns == from_frame.columns
    assert from_file.digest() == from_frame.digest()


def test_numbers_are_standardised_and_categories_become_columns_of_their_own() -> None:
    data = read(TableData(frame(), batch_size=30, target="kind", ignore=["row", "income"]))
    names = ["height", "age", "city=Bern", "city=Lyon", "city=Turin", "member=False", "member=True", "constant"]
    assert data.columns == names
    assert data.shape == (8,)
    assert data.classes == 2
    inputs, targets = data.split("train")
    assert targets.dtype == torch.int64
    torch.testing.assert_close(inputs[:, :2].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs[:, :2].std(0, correction=0), torch.ones(2))
    assert torch.equal(inputs[:, 2:5].sum(1), torch.ones(len(inputs)))
    assert set(inputs[:, 2:7].unique().tolist()) == {0.0, 1.0}
    assert not inputs[:, 7].any()


def test_classes_are_numbered_in_the_order_of_their_names() -> None:
    data = read(TableData(frame(), batch_size=30, target="kind", ignore=["row", "income"]))
    every = torch.cat([data.split(name)[1] for name in ("train", "val", "test")])
    assert every.bincount().tolist() == frame()["kind"].value_counts().sort_index().tolist()


def test_the_splits_share_no_row_and_miss_none() -> None:
    table = frame()
    data = read(TableData(table, batch_size=30, target="income", ignore=["row"], val_share=0.25, test_share=0.1))
    parts = [data.split(name)[0] for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [39, 15, 6]
    heights = torch.cat(parts)[:, 0].sort().values
    expected = torch.tensor(sorted(table["height"]), dtype=torch.float32)
    torch.testing.assert_close(
        (heights - heights[0]) / (heights[-1] - heights[0]), (expected - expected[0]) / (expected[-1] - expected[0]),
        atol=1e-5, rtol=0,
    )  # fmt: skip
    again = read(
        TableData(table, batch_size=30, target="income", ignore=["row"], val_share=0.25, test_share=0.1, seed=7)
    )
    assert again.digest() == data.digest(), "the seed is that of the order"


def test_numbers_to_predict_are_standardised_too() -> None:
    data = read(TableData(frame(), batch_size=30, target=["income", "height"], ignore=["row"]))
    assert data.classes is None
    targets = data.split("train")[1]
    assert targets.shape == (36, 2)
    torch.testing.assert_close(targets.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.std(0, correction=0), torch.ones(2))


def test_a_column_that_numbers_the_rows_is_said_to_be_an_input(recwarn: pytest.WarningsRecorder) -> None:
    table = changed(patient=range(1, 61))
    with pytest.warns(UserWarning, match="'patient' numbers the rows, and is an input: .* data.ignore to 'patient'"):
        data = read(TableData(table, batch_size=30, target="kind", ignore=["row"]))
    assert "patient" in data.columns
    read(TableData(table, batch_size=30, target="kind", ignore=["row", "patient"]))
    assert not recwarn.list


@pytest.mark.parametrize(
    ("predicts", "classes"), [("auto", 2), ("classes", 2), ("numbers", None)], ids=["auto", "classes", "numbers"]
)
def test_whole_numbers_are_classes_unless_told_otherwise(predicts: Any, classes: int | None) -> None:
    table = frame().assign(kind=lambda t: (t["kind"] == "b").astype(int) + 4)
    assert read(TableData(table, batch_size=30, target="kind", predicts=predicts, ignore=["row"])).classes == classes


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("wine", 13, 3), ("iris", 4, 3), ("breast_cancer", 30, 2), ("diabetes", 10, None)],
)
def test_bundled_tables(name: str, shape: int, classes: int | None) -> None:
    data = read(TableData(name))
    assert (data.shape, data.classes) == ((shape,), classes)
    batch = next(iter(data.train_dataloader()))
    inputs, targets = data.on_after_batch_transfer(batch)
    assert inputs.shape == (64, shape)
    assert len(targets) == 64


def test_numbers_to_predict_are_exported_with_their_scale() -> None:
    data = read(TableData("diabetes", predicts="numbers"))
    scale = data.normalization()
    _, targets = data.split("test")
    from sklearn.datasets import load_diabetes

    everything = load_diabetes().target
    amounts = targets * scale["target_scale"] + scale["target_center"]
    assert all(abs(everything - float(amount)).min() < 1e-3 for amount in amounts)
    assert "target_scale" not in read(TableData("wine")).normalization()


def changed(**columns: Any) -> pd.DataFrame:
    return frame().assign(**columns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "no_such_table"}, "data.path must be a file that ends in .csv or .parquet, .*, got 'no_such_table'"),
        ({"path": "https://example.invalid/t.csv", "target": "a"}, "must be a file that ends in"),
        ({"path": frame()}, "data.target must name the column to predict; the DataFrame has row, height"),
        ({"path": frame(), "target": "no"}, "data.target: the DataFrame has no column 'no'; it has row"),
        ({"path": frame(), "target": "kind", "ignore": ["no"]}, "data.ignore: the DataFrame has no column 'no'"),
        ({"path": frame(200), "target": "kind"}, "column 'row' has 200 different values, .*data.ignore"),
        ({"path": changed(age=np.nan), "target": "kind"}, "column 'age' has 60 of 60 values missing"),
        ({"path": changed(age=np.inf), "target": "kind", "ignore": ["row"]}, "'age' has 60 of 60 values that are inf"),
        ({"path": changed(kind="a"), "target": "kind", "ignore": ["row"]}, "'kind' of the DataFrame has 1 values"),
        ({"path": frame(), "target": "kind", "predicts": "numbers"}, "data.predicts is numbers, but the column 'kind'"),
        ({"path": frame(), "target": ["kind", "city"]}, "expected one column of classes, got 2"),
        ({"path": changed(age=pd.Timestamp("2020-01-01")), "target": "kind", "ignore": ["row"]}, "'age' holds times"),
        ({"path": frame(2), "target": "kind", "ignore": ["row"]}, "2 rows, too few|1 values|2 of"),
        ({"path": frame(), "target": "kind", "ignore": ["row"], "batch_size": 100}, "data.batch_size must be at most"),
        ({"path": frame()[["kind"]], "target": "kind"}, "has no columns to predict from"),
        ({"path": changed(age=[*range(59), "?"]), "target": "kind", "ignore": ["row"]}, "'age' holds numbers, but"),
        ({"path": changed(age=list(map(str, range(60)))), "target": "kind", "ignore": ["row"]}, "numbers as text"),
        ({"path": changed(**{"Unnamed: 0": range(60)}), "target": "kind", "ignore": ["row"]}, "numbers the rows"),
        ({"path": pd.concat([frame(), frame()], axis=1), "target": "kind"}, "has several columns 'row'"),
        ({"path": changed(age=[[1]] * 60), "target": "kind", "ignore": ["row"]}, "neither numbers nor text"),
        ({"path": changed(age=1j), "target": "kind", "ignore": ["row"]}, "holds complex numbers"),
        ({"path": frame(), "target": "kind", "ignore": ["row", "kind"]}, "data.ignore must not name the target"),
        ({"path": frame(), "target": "constant", "predicts": "numbers", "ignore": "row"}, "is 7 in every row"),
        ({"path": frame().assign(n=range(60)), "target": "n", "ignore": ["row"]}, "too many classes"),
        ({"path": frame(20), "target": "income", "ignore": ["row"], "test_share": 0.05}, "at least 2 to validate"),
    ],
)  # fmt: skip
def test_what_cannot_be_used(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        read(TableData(**arguments))
    assert "\n" not in str(caught.value)


def test_names_of_columns_need_not_be_text() -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)))
    data = read(TableData(table, target=0, batch_size=20))  # type: ignore[arg-type]
    assert (data.shape, data.columns) == ((2,), ["1", "2"])


def test_a_column_that_only_rounding_changes_is_constant() -> None:
    data = read(TableData(frame().assign(constant=0.1), batch_size=30, target="kind", ignore=["row", "income"]))
    assert float(data.std[data.columns.index("constant")]) == 1


def test_what_it_takes_to_read_a_row_as_a_network_does() -> None:
    data = read(TableData(frame(), batch_size=30, target="kind", ignore=["row", "income"]))
    assert data.class_names == ["a", "b"]
    heights = torch.cat([data.split(name)[0] for name in ("train", "val", "test")])[:, 0] * data.std[0] + data.mean[0]
    assert sorted(heights.tolist()) == pytest.approx(sorted(frame()["height"]), rel=1e-5)


def test_a_file_that_commas_do_not_separate(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    frame().to_csv(path, index=False, sep=";")
    with pytest.raises(RecipeError, match=r"has no column 'kind'; .*is it separated by commas\?"):
        read(TableData(str(path), target="kind"))


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 no such thing")
    with pytest.raises(RecipeError, match="cannot be read"):
        read(TableData(str(path), target="a"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predicts": "words"}, "data.predicts must be auto, classes or numbers, got 'words'"),
        ({"val_share": 0.0}, "data.val_share and data.test_share must be above 0"),
        ({"val_share": 0.6, "test_share": 0.5}, "below 1 together, got 0.6 and 0.5"),
    ],
)
def test_options_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TableData("wine", **arguments)
