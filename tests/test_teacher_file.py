"""The teacher file: small, self-describing, without pickle; and what is refused in its place."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gtn_lightning import GTN
from gtn_lightning.curricula import NoCurriculum
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import SGD
from gtn_lightning.learners import MLP, Fixed
from gtn_lightning.teacher_file import FORMAT, load_weights, read_recipe
from gtn_lightning.teachers import Pixels, RealData
from tests.tiny import BATCH, SHAPE, STEPS, make_gtn, make_trainer, with_generator

KINDS: dict[str, Any] = {
    "generator": lambda: with_generator(soft_labels=True),
    "pixels": dict,
    "real data": lambda: {"teacher": RealData(), "curriculum": NoCurriculum(STEPS, BATCH, 10)},
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.safetensors"
    make_gtn().save_teacher(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_teaches_the_same_after_the_round_trip(kind: str, tmp_path: Path) -> None:
    gtn = make_gtn(**KINDS[kind](), seed=3, evaluation={"steps": [1]})
    with torch.no_grad():
        for parameter in gtn.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    path = tmp_path / "new" / "teacher.safetensors"
    gtn.save_teacher(path)
    again = GTN.from_teacher(path)
    results = []
    for each in (gtn, again):
        torch.manual_seed(99)
        results.append(make_trainer(tmp_path).test(each, DigitsData(32), verbose=False)[0])
    assert results[0] == results[1]
    assert {"test/accuracy", "test/accuracy_real", "test/loss"} <= results[0].keys()
    for step in range(STEPS):
        mine, its = gtn.synthetic_batch(step), again.synthetic_batch(step)
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[name], its[name]) for name in mine)
    for name, schedule in gtn.inner_optimizer.schedules(STEPS).items():
        assert torch.equal(schedule, again.inner_optimizer.schedules(STEPS)[name])


def test_the_file_explains_itself(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    make_gtn().save_teacher(path, data={"class_path": "gtn_lightning.data.DigitsData", "init_args": {}})
    assert load_file(path).keys() == make_gtn().state_dict().keys()
    recipe = read_recipe(path)
    assert recipe.data == {"class_path": "gtn_lightning.data.DigitsData", "init_args": {}}
    assert recipe.model["inner_loop"] == {"steps": STEPS}
    assert recipe.model["learners"]["init_args"]["learner"]["init_args"]["hidden"] == [8]
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == FORMAT


def test_learned_rates_are_the_files_whatever_the_recipe_begins_with(saved: Path) -> None:
    gtn = make_gtn(inner_optimizer=SGD(lr=0.7, momentum=0.9, learned_per_step=["lr", "momentum"], steps=STEPS))
    load_weights(gtn, saved)
    for name, schedule in make_gtn().inner_optimizer.schedules(STEPS).items():
        assert torch.equal(gtn.inner_optimizer.schedules(STEPS)[name], schedule)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor > 0, "expected a tensor of torch.float32, got torch.bool"),
        (lambda tensor: tensor.long(), "expected a tensor of torch.float32, got torch.int64"),
        (lambda tensor: tensor.to(torch.complex64), "expected a tensor of torch.float32, got torch.complex64"),
        (lambda tensor: tensor * math.nan, "expected finite numbers, got NaN or infinity"),
    ],
)
def test_tensors_that_no_run_has_written(change: Callable[[Tensor], Tensor], message: str, saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(saved)
    save_file({**tensors, "teacher.free_inputs": change(tensors["teacher.free_inputs"])}, saved, metadata)
    with pytest.raises(RecipeError, match=rf"teacher.safetensors: teacher.free_inputs: {message}"):
        GTN.from_teacher(saved)


def test_a_part_that_is_a_class_and_not_one_of_its_objects(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    recipe = json.loads(metadata["recipe"])
    recipe["model"]["teacher"] = {"$class": "gtn_lightning.learners.MLP"}
    save_file(load_file(saved), saved, {**metadata, "recipe": json.dumps(recipe)})
    with pytest.raises(RecipeError, match="teacher"):
        GTN.from_teacher(saved)


def test_a_loaded_teacher_can_be_trained_further(saved: Path, tmp_path: Path) -> None:
    gtn = GTN.from_teacher(saved)
    before = gtn.teacher.state_dict()["free_inputs"].clone()
    make_trainer(tmp_path).fit(gtn, DigitsData(32))
    assert not torch.equal(gtn.teacher.state_dict()["free_inputs"], before)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r"cannot write") as caught:
        make_gtn().save_teacher(tmp_path / "file" / "teacher.safetensors")
    assert "\n" not in str(caught.value)


def test_a_part_that_cannot_be_described_leaves_no_file(tmp_path: Path) -> None:
    gtn = make_gtn(learners=Fixed(lambda: MLP(SHAPE, 10)))
    with pytest.raises(RecipeError, match=r"give the learner's class, or a functools.partial of it"):
        gtn.save_teacher(tmp_path / "teacher.safetensors")
    assert not list(tmp_path.iterdir())


def refused(path: Path, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        GTN.from_teacher(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_file(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    refused(saved, "is not a complete safetensors file")


def test_what_is_no_teacher_file(saved: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nothing.safetensors", "there is no teacher file .*give the path of a teacher.safetensors")
    refused(tmp_path, "there is no teacher file")
    pickled = tmp_path / "checkpoint.ckpt"
    torch.save({"state_dict": {}}, pickled)
    refused(pickled, "is not a complete safetensors file")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    refused(foreign, "has format 'gtn-lightning teacher 4', got None: meta-train it again")
    save_file({"weight": torch.zeros(3)}, foreign, {"format": "pt"})
    refused(foreign, "got 'pt'")


def test_a_file_of_another_architecture(saved: Path) -> None:
    wider = make_gtn(teacher=Pixels((1, 8, 9), 10, STEPS * BATCH))
    with pytest.raises(
        RecipeError, match=r"teacher.free_inputs is \[30, 1, 8, 8\] in the file and \[30, 1, 8, 9\] in the mod"
    ):
        load_weights(wider, saved)
    with pytest.raises(RecipeError, match=r"free_targets is nothing in the file and \[30, 10\] in the model"):
        load_weights(make_gtn(teacher=Pixels(SHAPE, 10, STEPS * BATCH, soft_labels=True)), saved)


def test_a_recipe_that_its_tensors_do_not_fit(saved: Path) -> None:
    model = read_recipe(saved).model
    model["teacher"]["init_args"]["soft_labels"] = True
    save_file(load_file(saved), saved, {"format": FORMAT, "recipe": json.dumps({"model": model, "data": None})})
    refused(saved, "belongs to another architecture: teacher.free_targets is nothing in the file")


def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(make_gtn(), DigitsData(32))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    other = make_gtn(**with_generator())
    with pytest.raises(
        RecipeError, match=r"the checkpoint belongs to another architecture: curriculum.vectors is nothing"
    ):
        make_trainer(tmp_path).test(other, DigitsData(32), ckpt_path=tmp_path / "last.ckpt")


def test_learners_are_no_part_of_the_file(tmp_path: Path) -> None:
    small, large = (
        make_gtn(learners=Fixed(partial(MLP, shape=SHAPE, outputs=10, hidden=[width]))) for width in (4, 400)
    )
    for name, gtn in (("small", small), ("large", large)):
        gtn.save_teacher(tmp_path / name)
    assert abs((tmp_path / "large").stat().st_size - (tmp_path / "small").stat().st_size) < 100
