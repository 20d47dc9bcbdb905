"""The pictures: what they show, and that files and loggers get them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gtn_lightning.callbacks import LearningCurve, SampleGrid
from gtn_lightning.callbacks.curve import draw_curve, write_curve
from gtn_lightning.callbacks.samples import MAX_ROWS, draw_images, draw_points, evenly_chosen
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.evaluation import EvaluationResult
from gtn_lightning.task import Images, Points
from gtn_lightning.tasks import Classification

ACCURACY = Classification(2).metrics()[0]
COLUMNS = ["steps", "synthetic_mean", "synthetic_std", "real_mean", "real_std"]

NAMES = ["samples", "learning_curve", "test_learning_curve"]


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_is_a_png_with_something_on_it(run, name):
    picture = Image.open(run.folder / "pictures" / f"{name}.png")
    assert picture.format == "PNG"
    assert 400 <= picture.width <= 1600
    assert 300 <= picture.height <= 1600
    colors = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colors) > 100
    background = max(count for count, _ in colors) / (picture.width * picture.height)
    assert 0.05 < background < 0.98


def test_no_unfinished_file_is_left(run):
    assert not list(run.folder.rglob("*.part"))


def test_wandb_has_every_picture_with_its_meta_step(run):
    logged = wandb_history(run.wandb_folder)
    assert [path.name for path in run.folder.glob("wandb/offline-run-*")] == [run.wandb_folder.name]
    for name, steps in (("samples", [3, 6]), ("learning_curve", [3, 6]), ("test_learning_curve", [6])):
        key = f"pictures/{name}"
        rows = [row for row in logged if f"{key}.filenames" in row]
        assert [row["trainer/global_step"] for row in rows] == steps
        assert [row[f"{key}.captions"] for row in rows] == [[f"meta-step {step}"] for step in steps]
        latest = run.wandb_folder / "files" / rows[-1][f"{key}.filenames"][0]
        assert latest.read_bytes() == (run.folder / "pictures" / f"{name}.png").read_bytes()


def wandb_history(folder: Path) -> list[dict]:
    """Read back what an offline run logged."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    records = [json.loads(line) for line in printed.splitlines()]
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def test_tensorboard_has_every_picture(run):
    events = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == sorted(f"pictures/{name}" for name in NAMES)
    assert [event.step for event in events.Images("pictures/samples")] == [3, 6]


@pytest.mark.parametrize(("name", "which"), [("learning_curve", "curve"), ("test_learning_curve", "test_curve")])
def test_the_csv_holds_the_curve(run, name, which):
    with (run.folder / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    curve = getattr(run, which)
    assert list(rows[0]) == COLUMNS
    assert [int(row["steps"]) for row in rows] == curve.steps
    for kind, scores in (("synthetic", curve.synthetic), ("real", curve.baseline)):
        read = torch.tensor([[float(row[f"{kind}_mean"]), float(row[f"{kind}_std"])] for row in rows])
        expected = torch.stack([scores.mean(0), scores.std(0, correction=0)], 1).to(read)
        torch.testing.assert_close(read, expected)


def test_a_curve_without_real_data(tmp_path):
    result = EvaluationResult([1, 2], {"accuracy": torch.tensor([[0.1, 0.9]])}, None, torch.zeros(1))
    write_curve(tmp_path / "curve.csv", result)
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == COLUMNS
    assert [row[2:] for row in rows[1:]] == [
        ["0.0", "", ""],
        ["0.0", "", ""],
    ]  # a single learner has no spread
    (axes,) = draw_curve(result, ACCURACY, "title").axes
    assert [line.get_label() for line in axes.lines] == ["synthetic data"]


def test_the_curve_shows_means_and_bands():
    synthetic, real = torch.tensor([[0.2, 0.8], [0.4, 1.0]]), torch.tensor([[0.1, 0.5], [0.1, 0.7]])
    result = EvaluationResult([1, 4], {"accuracy": synthetic}, {"accuracy": real}, torch.zeros(2))
    (axes,) = draw_curve(result, ACCURACY, "title").axes
    assert [line.get_label() for line in axes.lines] == ["synthetic data", "real data"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.3, 0.9], rtol=1e-6)
    band = axes.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [0.2, 1.0], rtol=1e-6)
    assert axes.get_ylim()[0] >= 0
    assert axes.get_legend() is not None


@pytest.mark.parametrize(("count", "at_most"), [(1, 10), (2, 10), (10, 10), (11, 10), (32, 10), (128, 2)])
def test_chosen_steps_are_distinct_and_include_the_ends(count, at_most):
    steps = evenly_chosen(count, at_most)
    assert len(steps) == len(set(steps)) == min(count, at_most)
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert steps[-1] == count - 1


def test_each_cell_shows_an_image_of_its_class_at_its_step():
    levels = torch.tensor([[0.0, 1.0], [0.5, 1.0]])  # [steps, classes]
    inputs = [level[:, None, None, None].expand(2, 1, 6, 6) for level in levels]
    labels = [torch.tensor([0, 1]), torch.tensor([0, 2])]
    figure = draw_images(list(map(Images, inputs, labels)), [1, 8], {"lr": torch.tensor([0.1, 0.1])}, "title")
    (axes,) = figure.axes
    picture = axes.images[0].get_array()
    columns, rows = axes.get_xticks().round().astype(int), axes.get_yticks().round().astype(int)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "8"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2"]
    blank = 0.9
    expected = [[0.0, 0.5], [1.0, blank], [blank, 1.0]]
    np.testing.assert_allclose(picture[np.ix_(rows, columns)][..., 0], expected, atol=1e-6)


def test_rows_have_the_names_of_their_classes():
    names = ["T-shirt", "costs $5 and $6", "a name that is longer than sixteen letters"]
    images = Images(torch.randn(4, 1, 6, 6), torch.arange(4))
    axes, *_ = draw_images([images], [1], {}, "title", names).axes
    assert [row.get_text() for row in axes.get_yticklabels()] == ["T-shirt", "costs $5 and $6", "a name that is …", "3"]
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()  # a dollar sign would begin a formula
    left = min(row.get_window_extent().x0 for row in axes.get_yticklabels())
    assert left > axes.yaxis.label.get_window_extent().x1 > 0


def test_changing_hyperparameters_are_lines_and_constant_ones_text():
    schedules = {"lr": torch.tensor([0.1, 0.2, 0.3]), "momentum": torch.full((3,), 0.5)}
    figure = draw_images([Images(torch.randn(2, 1, 4, 4), torch.tensor([0, 1]))], [1], schedules, "title")
    _, panel = figure.axes
    assert panel.get_title() == "learning rate"
    np.testing.assert_allclose(panel.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(panel.lines[0].get_ydata(), [0.1, 0.2, 0.3], rtol=1e-6)
    assert any("momentum\N{NO-BREAK SPACE}0.5" in text.get_text() for text in figure.texts)


@pytest.mark.parametrize("shape", [(1, 3, 5), (3, 32, 32), (2, 8, 4)])
def test_images_of_any_shape_and_many_classes(shape):
    labels = torch.arange(100)
    figure = draw_images([Images(torch.randn(100, *shape), labels)] * 2, [1, 2], {}, "title")
    rows = [int(label.get_text()) for label in figure.axes[0].get_yticklabels()]
    assert len(rows) == MAX_ROWS
    assert (rows[0], rows[-1]) == (0, 99)


def test_constants_are_broken_into_lines_that_fit_below_a_narrow_picture():
    names = ("lr", "beta1", "beta2", "eps", "weight_decay")
    schedules = {name: torch.tensor([0.00123, 0.00123]) for name in names}
    figure = draw_images([Images(torch.randn(2, 1, 4, 4), torch.tensor([0, 1]))], [1], schedules, "title")
    FigureCanvasAgg(figure).draw()
    for text in figure.texts:
        corners = text.get_window_extent().get_points()
        assert (figure.bbox.min < corners).all()
        assert (corners < figure.bbox.max).all()
    below = figure.texts[-1].get_window_extent()
    label = figure.axes[0].xaxis.label.get_window_extent()
    assert below.y1 < label.y0


def test_colors_stay_apart():
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 1
    figure = draw_images([Images(red, torch.tensor([0]))], [1], {}, "title")
    np.testing.assert_allclose(figure.axes[0].images[0].get_array()[0, 0], [1, 0, 0], atol=1e-6)


def test_samples_are_drawn_every_so_many_validations_and_at_the_end(make_gtn, make_trainer, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "gtn_lightning.callbacks.samples.save_figure", lambda trainer, figure, name, step: drawn.append(step)
    )
    trainer = make_trainer([SampleGrid(every_n_validations=2)], max_steps=7, val_check_interval=2)
    trainer.fit(make_gtn(evaluation={"learners": 1}), DigitsData(batch_size=64))
    assert drawn == [4, 7]


def test_images_without_classes_stand_in_a_grid_as_they_come():
    images = torch.arange(24.0).view(24, 1, 1, 1).expand(-1, 1, 4, 4)
    figure = draw_images([Images(images, None)], [1], {}, "title")
    (axes,) = figure.axes
    picture = axes.images[0].get_array()[axes.get_yticks().round().astype(int), 1, 0]
    assert len(picture) == 10
    assert (np.diff(picture) > 0).all()
    assert axes.get_ylabel() == "sample"


@pytest.mark.parametrize("values", [torch.tensor([0, 1, 2, 1]), torch.tensor([0.5, -1.0, 2.0, 0.0])])
def test_rows_are_points_in_the_plane_of_real_datas_principal_components(values):
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(200, 5, generator=generator) * torch.tensor([10.0, 5.0, 0.1, 0.1, 0.1]) + 7
    rows = torch.zeros(4, 5) + 7
    rows[:, 0] += torch.tensor([-10.0, 0.0, 10.0, 0.0])
    rows[:, 1] += torch.tensor([0.0, 5.0, 0.0, -5.0])
    behind = Points(real, values.repeat(50))
    figure = draw_points([Points(rows[:2], values[:2]), Points(rows[2:], values[2:])], behind, {}, "title")
    (axes,) = figure.axes
    real_points, synthetic = (points.get_offsets() for points in axes.collections)
    assert real_points.shape == (200, 2)
    # No more than a turn of the plane: distances are what they were.
    between = synthetic[:, None] - synthetic[None]
    expected = rows[:, None] - rows[None]
    np.testing.assert_allclose(np.linalg.norm(between, axis=-1), expected.norm(dim=-1), rtol=1e-2, atol=1e-2)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names[:2] == ["synthetic", "real"]
    assert ("class 2" in names) == (not values.is_floating_point())


def test_points_with_named_axes_are_drawn_as_they_are():
    rows, values = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    figure = draw_points([Points(rows, values, ("angle", "speed"), "action")], None, {}, "title")
    (axes,) = figure.axes
    (points,) = axes.collections
    np.testing.assert_allclose(points.get_offsets(), rows, rtol=1e-6)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("angle", "speed")
    assert "action 1" in [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize(
    "rows", [torch.randn(5, 1), torch.randn(1, 4), torch.full((3, 4), torch.inf)], ids=["a column", "a row", "nan"]
)
def test_points_that_span_no_plane_are_drawn_too(rows):
    figure = draw_points([Points(rows, torch.arange(len(rows)))], None, {}, "title")
    FigureCanvasAgg(figure).draw()


@pytest.mark.parametrize("options", [{"every_n_validations": 0}, {"max_columns": 1}])
def test_impossible_options(options):
    with pytest.raises(RecipeError, match=next(iter(options))):
        SampleGrid(**options)


def test_other_ranks_write_nothing(make_gtn, make_trainer, monkeypatch, tmp_path):
    gtn, data = make_gtn(evaluation={"learners": 1}), DigitsData(batch_size=64)
    make_trainer([]).validate(gtn, data, verbose=False)
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    trainer = make_trainer([])
    for callback in (SampleGrid(), LearningCurve()):
        assert isinstance(gtn, LightningModule)
        callback.on_validation_end(trainer, gtn)
    assert not list(tmp_path.iterdir())
