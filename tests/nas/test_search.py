"""`gtn search`, from a recipe to the comparison of the best."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
import wandb
from pytorch_lightning.loggers import CSVLogger

from gtn_lightning.cli import main
from gtn_lightning.data import DigitsData, Splits
from gtn_lightning.errors import RecipeError
from gtn_lightning.loggers import WandbLogger
from gtn_lightning.nas import (
    Architecture,
    ConvNetGrid,
    FullTraining,
    MeasuredReference,
    NumParameters,
    RealDataProxy,
    TableReference,
)
from gtn_lightning.nas.proxies.base import Cost, Proxy, Report, Score, Scorer
from gtn_lightning.nas.search import Search
from tests.tiny import SHAPE, make_gtn

SMALL = [
    "--config=search_digits",
    *("--candidates=6", "--best=2", "--training_seeds=1", "--training.steps=20"),
    *("--rival.init_args.steps=3", "--proxy.init_args.images=100", "--space.init_args.widths=[4,8]"),
]


GRID = ConvNetGrid(SHAPE, 10, widths=[4, 8], depths=[1])


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    make_gtn().save_teacher(tmp_path / "teacher.safetensors")
    return f"--proxy.init_args.teacher={tmp_path / 'teacher.safetensors'}"


def test_a_search_from_the_command_line_and_again(
    teacher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *SMALL, teacher]) == 0
    folder = tmp_path / "runs" / "search" / "digits"
    said = capfd.readouterr().out
    assert "best 2 by GTN" in said
    assert "2 at random" in said
    assert "best 2 by real data, equal cost" in said
    assert said.rstrip().splitlines()[-1] == "search: runs/search/digits"
    board = json.loads((folder / "leaderboard.json").read_text())
    assert len(board["leaderboard"]) == 6
    values = [row["value"] for row in board["leaderboard"]]
    assert values == sorted(values, reverse=True)
    assert len(board["trained"]) == 3
    rows = list(csv.DictReader((folder / "leaderboard.csv").open()))
    assert [row["architecture"] for row in rows] == [row["architecture"] for row in board["leaderboard"]]
    assert all(row["test_accuracy"] for row in rows[:2])
    assert (folder / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    # What is found is chosen by its score, whatever its accuracy on the test split.
    assert f"found: {rows[0]['architecture']}, the best by GTN, {100 * float(rows[0]['test_accuracy']):.2f} %" in said

    # Once more: nothing is scored or trained again, so that even the measured seconds are the same.
    assert main(["search", *SMALL, teacher]) == 0
    again = json.loads((folder / "leaderboard.json").read_text())
    assert again["leaderboard"] == board["leaderboard"]
    assert again["trained"] == board["trained"]


def test_a_search_by_places_predicted_from_known_accuracies(teacher: str, tmp_path: Path) -> None:
    grid = ConvNetGrid(SHAPE, 10, widths=[4, 8], depths=[1, 2])
    known = [one for one in grid if not grid.is_held_out(one, 0.5)][::4]
    rows = [f"{one},{0.5 + 0.04 * int(one.choices['width'])},7.0" for one in known]
    (tmp_path / "table.csv").write_text("\n".join(["architecture,accuracy,seconds", *rows]))
    proxies = [{"class_path": "GTNProxy", "init_args": {"teacher": teacher.partition("=")[2], "images": 100}}]
    arguments = [
        *("--config=search_mnist", "--data=DigitsData", "--data.init_args.batch_size=32"),
        *("--space.init_args.image_shape=[1,8,8]", "--space.init_args.widths=[4,8]", "--space.init_args.depths=[1,2]"),
        *("--proxy.init_args.reference.init_args.path=table.csv", f"--proxy.init_args.proxies={json.dumps(proxies)}"),
        *("--candidates=20", "--best=0"),
    ]
    assert main(["search", *arguments]) == 0
    board = json.loads((tmp_path / "runs" / "search" / "mnist" / "leaderboard.json").read_text())
    widths = [grid.parse(row["architecture"]).choices["width"] for row in board["leaderboard"]]
    assert widths == sorted(widths, reverse=True)
    assert board["spent"]["seconds"] > 7.0 * len(known)


def published(folder: Path, every: int = 1) -> TableReference:
    """Return a table in which wide networks are better."""
    rows = [f"{one},{0.5 + 0.04 * int(one.choices['width'])}" for one in GRID][::every]
    (folder / "table.csv").write_text("\n".join(["architecture,accuracy", *rows]))
    return TableReference(str(folder / "table.csv"))


def test_a_table_answers_in_place_of_trainings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reference = published(tmp_path)
    found = search(tmp_path, training=None, reference=reference, best=3, candidates=12).run()
    ours, chance = found.trained
    assert list(ours.accuracies) == [candidate.architecture for candidate in found.leaderboard[:3]]
    assert ours.means() == [0.5 + 0.04 * int(one.choices["width"]) for one in ours.accuracies]
    assert len(chance.accuracies) == 3
    assert not (tmp_path / "search" / "trainings.sqlite").exists()
    assert f"the best by parameters among those in {reference.path}, " in capfd.readouterr().out
    with pytest.raises(RecipeError, match="training has no effect with reference"):
        search(tmp_path, reference=reference)


def test_what_a_table_does_not_have_is_left_out(tmp_path: Path) -> None:
    reference = published(tmp_path, every=2)
    found = search(tmp_path, training=None, reference=reference, candidates=12, best=3).run()
    known = [one.architecture for one in found.leaderboard if one.architecture.name in reference.names]
    assert list(found.trained[0].accuracies) == known[:3]
    few = published(tmp_path, every=4)
    with pytest.raises(RecipeError, match=r"table.csv has \d of the 6 candidates, and best is 6: lower"):
        search(tmp_path, training=None, reference=few, candidates=6, best=6, study="few").run()


def test_a_table_that_does_not_suit_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    file.write_text("architecture,accuracy\nw99-d1-relu-batch-max,0.5\n")
    with pytest.raises(RecipeError, match=r"other.csv does not suit the space: .*width must be one of 4, 8, got 99"):
        search(tmp_path, training=None, reference=TableReference(str(file)))
    file.write_text("architecture,accuracy\nw4-d1-relu-batch-max,0.5\n")
    with pytest.raises(RecipeError, match=r"best must be at most 1, the number of architectures in .*other.csv, got 2"):
        search(tmp_path, training=None, reference=TableReference(str(file)), best=2)
    with pytest.raises(RecipeError, match="reference must be a TableReference, got a MeasuredReference"):
        search(tmp_path, training=None, reference=MeasuredReference(FullTraining(5)))


class Wide(ConvNetGrid):
    """More architectures than Python's `len` can say."""

    def __init__(self) -> None:
        super().__init__(SHAPE, 10, depths=[1])
        self.decisions = {f"digit {number}": list(range(10)) for number in range(30)}


def search(folder: Path, **options: object) -> Search:
    arguments: dict[str, object] = {
        "space": GRID,
        "proxy": NumParameters(),
        "data": DigitsData(32),
        "candidates": 5,
        "best": 1,
        "training": FullTraining(5),
        "training_seeds": 1,
        "folder": str(folder),
    }
    return Search(**arguments | options)  # type: ignore[arg-type]


def test_the_rival_searches_for_as_long(tmp_path: Path) -> None:
    rival = RealDataProxy(5, batch_size=16, images=50)
    found = search(tmp_path, proxy=RealDataProxy(20, batch_size=16, images=50), rival=rival).run()
    (ours, chance, theirs) = found.trained
    assert (ours.candidates, chance.candidates) == (5, 5)
    assert theirs.candidates > 5  # its scores are cheaper
    assert found.spent.steps == 5 * 20


def test_what_happens_is_logged(tmp_path: Path) -> None:
    search(tmp_path, logger=CSVLogger(str(tmp_path / "log"), name="", version="")).run()
    rows = list(csv.DictReader((tmp_path / "log" / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["search/score"]] == ["0", "1", "2", "3", "4"]
    assert float(rows[-1]["search/best"]) == max(float(row["search/score"]) for row in rows if row["search/score"])


def test_the_leaderboard_is_a_table_in_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # W&B reads the environment once in a process
    found = search(tmp_path, logger=WandbLogger(save_dir=str(tmp_path / "log"))).run()
    wandb.finish()
    wandb.teardown()  # waits until everything is on the disk
    (run,) = (tmp_path / "log").glob("wandb/offline-run-*")
    (file,) = run.rglob("*.table.json")
    table = json.loads(file.read_text())
    assert table["columns"] == ["architecture", "score", "seconds", "pruned"]
    assert [row[0] for row in table["data"]] == [candidate.architecture.name for candidate in found.leaderboard]
    (record,) = run.glob("*.wandb")
    assert b"search/best_k_accuracy" in record.read_bytes()


def test_pruning_gives_candidates_up(tmp_path: Path) -> None:
    found = search(tmp_path, proxy=RealDataProxy(24, batch_size=16, images=50), candidates=16, prune=True, best=0).run()
    assert any(candidate.pruned for candidate in found.leaderboard)
    assert all(candidate.cost.steps < 24 for candidate in found.leaderboard if candidate.pruned)


class Drawer(DigitsData):
    """Digits of one class and one set of arguments, with other contents in another drawer."""

    drawer = 0

    def load(self) -> Splits:
        splits = super().load()
        return splits._replace(val=splits.val._replace(images=splits.val.images + self.drawer))


def drawer(number: int) -> Drawer:
    data = Drawer(32)
    data.drawer = number
    return data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": drawer(1)}, "started with other data .data.contents was"),
        (
            {"data": Drawer(32, rotate=3.0)},
            r"started with other data .data.init_args.rotate was 0.0, and now it is 3.0",
        ),
        ({"prune": True}, "started with prune false, and now it is true"),
        ({"seed": 1}, "started with seed 0, and now it is 1"),
    ],
)
def test_a_worker_with_other_data_or_options_does_not_join(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    search(tmp_path, best=0, data=drawer(0)).run()
    before = (tmp_path / "search" / "leaderboard.csv").read_bytes()
    with pytest.raises(RecipeError, match=message):
        search(tmp_path, **{"best": 0, "candidates": 8, "data": drawer(0)} | options).run()
    assert (tmp_path / "search" / "leaderboard.csv").read_bytes() == before


def test_a_worker_with_the_same_data_joins_however_it_evaluates(tmp_path: Path) -> None:
    search(tmp_path, best=0).run()
    found = search(tmp_path, best=0, candidates=8, data=DigitsData(32, eval_batch_size=100)).run()
    assert len(found.leaderboard) == 8


class FickleScorer(Scorer):
    proxy: "Fickle"

    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        value = next(self.proxy.left)
        if isinstance(value, type):
            raise value
        return Score(value, Cost(seconds=1.0))


class Fickle(Proxy):
    """Returns given values, one for each architecture."""

    name = "fickle"
    scorer = FickleScorer

    def __init__(self, values: list[Any]) -> None:
        self.values = values
        self.left = iter(values)


def test_scores_that_are_no_numbers_are_shown_and_not_chosen(tmp_path: Path) -> None:
    values = [math.inf, 0.5, math.nan, None, -math.inf]
    found = search(tmp_path, proxy=Fickle(values), best=2).run()
    assert found.leaderboard[0].value == 0.5
    assert found.trained[0].name == "best 1 by fickle"
    assert list(found.trained[0].accuracies) == [found.leaderboard[0].architecture]
    text = (tmp_path / "search" / "leaderboard.json").read_text(encoding="utf-8")
    shown = [row["value"] for row in json.loads(text, parse_constant=pytest.fail)["leaderboard"]]
    assert shown[0] == 0.5
    assert sorted(shown[1:]) == ["-inf", "inf", "nan", "nan"]
    rows = list(csv.DictReader((tmp_path / "search" / "leaderboard.csv").open(encoding="utf-8")))
    assert [row["score"] for row in rows] == [str(value) for value in shown]


def test_a_search_without_a_single_number_says_so_once_all_is_written(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RecipeError, match=r"fickle gave none of the 5 candidates a finite number.*leaderboard.csv"):
            search(tmp_path, proxy=Fickle([math.nan] * 5)).run()
        assert len((tmp_path / "search" / "leaderboard.csv").read_text().splitlines()) == 6


def test_a_rival_without_a_single_number_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = search(tmp_path, proxy=Fickle([1.0] * 5), rival=Fickle([math.nan] * 5)).run()
    assert len(found.trained) == 2
    assert "fickle gave none of 5 candidates a finite number" in capsys.readouterr().out


@pytest.mark.parametrize("phase", ["search", "rival"])
def test_whoever_is_interrupted_gives_the_claim_back(phase: str, tmp_path: Path) -> None:
    proxies = {"search": Fickle([1.0, 2.0, 3.0, 4.0, 5.0]), "rival": Fickle([6.0] * 5)}
    broken = Fickle([1.0, KeyboardInterrupt])
    broken.values = proxies[phase].values
    options: dict[str, object] = {"proxy": proxies["search"], "rival": proxies["rival"]}
    options["proxy" if phase == "search" else "rival"] = broken
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, **options).run()
    name = "search" if phase == "search" else "search, rival"
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path / 'search' / 'study.sqlite'}")
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE", "FAIL"]
    proxies = {"search": Fickle([1.0, 2.0, 3.0, 4.0, 5.0]), "rival": Fickle([6.0] * 5)}
    found = search(tmp_path, proxy=proxies["search"], rival=proxies["rival"]).run()
    assert len(found.leaderboard) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"best": 6}, "best must be from 0 to 5, the number of candidates, got 6"),
        ({"candidates": 0, "best": 0}, "candidates must be from 1 to 90, .*, got 0"),
        ({"candidates": 91}, "candidates must be from 1 to 90, the number of architectures in the space, got 91"),
        ({"candidates": 10**30}, "candidates must be from 1 to 90, .*, got 10+"),
        (
            {"space": Wide(), "candidates": 10**8},
            "candidates must be from 1 to 100000, the most that a study can hold, got 100000000",
        ),
        ({"training_seeds": 0}, "training_seeds must be at least 1, got 0"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, got -1"),
        ({"seed": 2**64}, "seed must be from .*, got 18446744073709551616"),
        ({"device": "cuda:99"}, r"device 'cuda:99' cannot be used \(.*\): give cpu"),
        ({"device": "nonsense"}, r"device 'nonsense' cannot be used"),
        ({"device": ""}, r"device '' cannot be used"),
        ({"device": "meta"}, r"device 'meta' cannot be used \(nothing is computed there\)"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"^search: {message}") as caught:
        search(tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidates=many"], "candidates: expected int, got 'many'"),
        (["--proxy.init_args.stepz=3"], "takes no 'stepz'; did you mean steps?"),
        (["--proxy=NoProxy"], "there is no class NoProxy"),
        (["--sampler=grid"], "sampler must be one of random, evolution, tpe, got 'grid'"),
        (["--space.init_args.widths=[4,4]"], "widths must be different whole numbers"),
        (["--candidatez=3"], "candidatez: there is no such key"),
        (["--folder=a\0b"], "command line: expected a text in UTF-8, without null bytes"),
        (["--storage=nothing://here"], "the storage nothing://here cannot be used"),
        (["--best=100"], "best must be from 0 to 6, the number of candidates, got 100"),
        (["--proxy.init_args.images=null"], "proxy.init_args.images: null given, expected int"),
        (["--proxy.init_args.teacher=nowhere.safetensors"], "there is no teacher file nowhere.safetensors"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, teacher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *SMALL, teacher, *arguments]) == 2
    said = capfd.readouterr().err.strip()
    assert said.startswith("gtn: error: ")
    assert "\n" not in said
    assert re.search(message, said), said
    assert not (tmp_path / "runs").exists()


def test_a_space_with_other_decisions_is_refused_though_its_arguments_are_the_same(tmp_path: Path) -> None:
    search(tmp_path, best=0).run()
    less = ConvNetGrid(SHAPE, 10, widths=[4, 8], depths=[1])
    less.decisions = {**less.decisions, "pooling": ["max"]}
    with pytest.raises(RecipeError, match="started with other space"):
        search(tmp_path, best=0, candidates=6, space=less).run()


class LengthScorer(Scorer):
    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        return Score(float(len(architecture.name)), Cost(math.nan))


class Bracketed(Proxy):
    """Has a name that is markup to Rich, and an unknown cost."""

    name = "mine [/b]"
    scorer = LengthScorer


def test_names_are_printed_as_they_are_and_the_json_file_is_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    search(tmp_path, proxy=Bracketed()).run()
    assert "best 1 by mine [/b]" in capfd.readouterr().out
    text = (tmp_path / "search" / "leaderboard.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse)["spent"]["seconds"] == "nan"
