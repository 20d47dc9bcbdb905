"""Learners from a search space, and those of known accuracy."""

from pathlib import Path

import pytest
import torch

from gtn_lightning import GTN
from gtn_lightning.data import DigitsData
from gtn_lightning.description import build, describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.nas import ConvNetGrid, RankedLearners, SpaceLearners, TableReference
from gtn_lightning.nas.objective import RankingObjective
from gtn_lightning.teacher_file import read_meta_training, record_meta_training
from tests.tiny import SHAPE, make_gtn, make_trainer

GRID = ConvNetGrid(SHAPE, 10, widths=[4, 8], depths=[1, 2])


def table(folder: Path) -> TableReference:
    """Accuracies of every member of the grid: the wider and deeper, the better."""
    path = folder / "table.csv"
    choices = {one.name: one.choices for one in GRID}
    rows = [f"{name},{0.5 + 0.01 * int(c['width']) + 0.1 * int(c['depth'])}" for name, c in choices.items()]
    path.write_text("\n".join(["architecture,accuracy", *rows]))
    return TableReference(str(path))


def test_architectures_that_are_held_out_are_never_taught() -> None:
    learners = SpaceLearners(GRID, held_out=0.5, only={"width": [4]}, without_families=["batch-max"])
    drawn = {learners.draw(torch.Generator().manual_seed(seed)) for seed in range(300)}
    assert len(drawn) > 30
    for architecture in drawn:
        assert not GRID.is_held_out(architecture, 0.5)
        assert architecture.choices["width"] == 4
        assert GRID.family(architecture) != "batch-max"


def test_every_family_that_is_taught_can_be_sampled() -> None:
    families = SpaceLearners(GRID, held_out=0.3, without_families=["none-none"]).families()
    assert len(families) == 14
    for name, family in families.items():
        made = family.sample(torch.Generator().manual_seed(0))
        assert {"none": "none", "batch": "batch"}.get(name.split("-")[0], made.norm) == made.norm
        assert made.pooling == name.split("-")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 1.0}, "held_out must be at least 0 and below 1, got 1.0"),
        ({"only": {"width": [5]}}, r"only.width must be of 4, 8, as ConvNetGrid has them, got \[5\]"),
        ({"only": {"size": [5]}}, "only.size must be of width, depth, .*, as ConvNetGrid has them"),
        ({"without_families": ["all"]}, "the space has no family all"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        SpaceLearners(GRID, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_learners_of_a_space_are_described_and_built() -> None:
    learners = SpaceLearners(GRID, held_out=0.25, only={"depth": [1]})
    again = build(describe(learners))
    drawn = [each.draw(torch.Generator().manual_seed(3)) for each in (learners, again)]
    assert drawn[0] == drawn[1]
    assert list(again.space) == list(GRID)


def test_a_population_has_different_known_architectures(tmp_path: Path) -> None:
    learners = RankedLearners(GRID, table(tmp_path), held_out=0.5)
    made = learners.population(torch.Generator().manual_seed(0), 4)
    assert len({(m.width, m.depth, m.norm, m.pooling, m.activation) for m in made}) == 4
    expected = [0.5 + 0.01 * network.width + 0.1 * network.depth for network in made]
    assert learners.known_accuracies(made).tolist() == pytest.approx(expected)
    assert learners.known_accuracies(made[::-1]).tolist() == pytest.approx(expected[::-1])


def test_the_meta_loss_of_a_population_is_the_ranking_objective(tmp_path: Path) -> None:
    learners = RankedLearners(GRID, table(tmp_path), weight=3.0, temperature=0.5, tie=0.01, held_out=0.5)
    made = learners.population(torch.Generator().manual_seed(0), 4)
    losses = torch.tensor([0.5, 1.0, 0.2, 2.0])
    objective = RankingObjective(weight=3.0, temperature=0.5, tie=0.01)
    assert torch.equal(learners.meta_loss(made, losses), objective(losses, learners.known_accuracies(made)))


def test_the_meta_gradient_asks_for_the_right_order(tmp_path: Path) -> None:
    reference = table(tmp_path)
    plain = make_gtn(learners=RankedLearners(GRID, reference, weight=1e-9, held_out=0.5), population=3)
    ranked = make_gtn(learners=RankedLearners(GRID, reference, weight=10.0, held_out=0.5), population=3)
    for gtn in (plain, ranked):
        make_trainer(tmp_path, max_steps=2).fit(gtn, DigitsData(32))
        assert all(parameter.isfinite().all() for parameter in gtn.parameters())
    assert not torch.equal(plain.teacher.pixels, ranked.teacher.pixels)


def test_a_teacher_file_needs_no_table(tmp_path: Path) -> None:
    reference = table(tmp_path)
    gtn = make_gtn(learners=RankedLearners(GRID, reference, held_out=0.5), population=2)
    gtn.save_teacher(tmp_path / "teacher.safetensors")
    Path(reference.path).unlink()
    again = GTN.from_teacher(tmp_path / "teacher.safetensors")
    assert type(again.learners) is SpaceLearners
    assert again.learners.held_out == 0.5


def test_a_table_without_enough_taught_architectures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text(f"architecture,accuracy\n{next(iter(GRID))},0.5\n")
    with pytest.raises(RecipeError, match="must hold at least 2 architectures that may be taught, got 1"):
        RankedLearners(GRID, TableReference(str(path)))


def test_a_teacher_file_says_what_its_meta_training_cost(tmp_path: Path) -> None:
    gtn = make_gtn()
    trainer = make_trainer(tmp_path, max_steps=4)
    trainer.fit(gtn, DigitsData(32))
    spent = gtn.meta_training()
    assert spent["meta_steps"] == 4
    assert spent["processes"] == 1
    assert spent["seconds"] > 0
    assert gtn.meta_training() == spent  # the clock stands still by now
    path = tmp_path / "teacher.safetensors"
    gtn.save_teacher(path)
    assert read_meta_training(path) == spent
    record_meta_training(path, {**spent, "meta_steps": 8})
    assert read_meta_training(path) == {**spent, "meta_steps": 8}
    assert torch.equal(GTN.from_teacher(path).teacher.pixels, gtn.teacher.pixels)


def test_a_resumed_run_counts_what_was_spent_before(tmp_path: Path) -> None:
    first = make_gtn()
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(first, DigitsData(32))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    again = make_gtn()
    make_trainer(tmp_path, max_steps=3).fit(again, DigitsData(32), ckpt_path=tmp_path / "two.ckpt")
    assert again.meta_training()["meta_steps"] == 3
    assert again.meta_training()["seconds"] > first.meta_training()["seconds"]
