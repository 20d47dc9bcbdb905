"""GTN through Lightning's Trainer: the meta-gradient, resuming, evaluation, the teacher file."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from gtn_lightning import GTN
from gtn_lightning.curricula import Curriculum, Full, NoCurriculum, ShuffledAll, ShuffledBatches
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import SGD
from gtn_lightning.learners import MLP, Fixed
from gtn_lightning.tasks import Classification
from gtn_lightning.teacher_file import save_teacher
from gtn_lightning.teachers import Generator, Pixels, Teacher

SHAPE = (1, 8, 8)
STEPS, BATCH = 3, 10


def tiny(teacher: Teacher | None = None, curriculum: Curriculum | None = None, **changes: Any) -> GTN:
    arguments: dict[str, Any] = {
        "learners": Fixed(partial(MLP, image_shape=SHAPE, classes=10, hidden=[8], norm="none", activation="gelu")),
        "optimizer": SGD(lr=0.1, momentum=0.5, learned_per_step=["lr", "momentum"], steps=STEPS),
        "task": Classification(10, meta_every=1),
        "inner_steps": STEPS,
        "eval_learners": 2,
        "real_rates": [0.1],
    }
    return GTN(
        teacher or Pixels(SHAPE, 10, STEPS * BATCH), curriculum or Full(STEPS, BATCH, 10), **{**arguments, **changes}
    )


def generator() -> tuple[Teacher, Curriculum]:
    return Generator(SHAPE, 10, noise=4, hidden=12, channels=(4, 4), soft_labels=True), Full(STEPS, BATCH, 10, noise=4)


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}
    return pl.Trainer(default_root_dir=folder, num_sanity_val_steps=0, check_val_every_n_epoch=None, **quiet, **options)


@pytest.mark.parametrize("with_generator", [False, True])
def test_the_meta_gradient_of_a_training_step(with_generator: bool) -> None:
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        gtn = tiny(*generator()) if with_generator else tiny()
        gtn.log = lambda *_, **__: None  # type: ignore[method-assign]  # no trainer here to log to
        gtn._trainer = type("Unattached", (), {"global_rank": 0, "global_step": 0})()  # type: ignore[assignment]
        real = torch.randn(20, *SHAPE), torch.arange(20) % 10
        parameters = [parameter for parameter in gtn.parameters() if parameter.requires_grad]
        exact = torch.autograd.grad(gtn.training_step(real, 0), parameters)
        directions = [torch.randn_like(parameter) for parameter in parameters]
        slope = sum(float((g * d).sum()) for g, d in zip(exact, directions, strict=True))

        def moved(distance: float) -> float:
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter += distance * direction
            loss = gtn.training_step(real, 0).item()
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter -= distance * direction
            return loss

        step = 1e-5
        quotient = (moved(step) - moved(-step)) / (2 * step)
    finally:
        torch.set_default_dtype(default)
    assert slope == pytest.approx(quotient, rel=1e-5)


def test_a_resumed_run_repeats_the_next_meta_steps_bit_for_bit(tmp_path: Path) -> None:
    def weights(gtn: GTN) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in gtn.state_dict().items()}

    torch.manual_seed(0)
    undisturbed = tiny(*generator())
    initial = weights(undisturbed)
    trainer(tmp_path / "a", max_steps=6, val_check_interval=6, enable_checkpointing=False).fit(
        undisturbed, DigitsData(64)
    )
    first = tiny(*generator())
    first.load_state_dict(initial)
    begun = trainer(tmp_path / "b", max_steps=4, val_check_interval=4)
    begun.fit(first, DigitsData(64))
    begun.save_checkpoint(tmp_path / "middle.ckpt")
    second = tiny(*generator())
    trainer(tmp_path / "c", max_steps=6, val_check_interval=6, enable_checkpointing=False).fit(
        second, DigitsData(64), ckpt_path=tmp_path / "middle.ckpt"
    )
    for name, tensor in weights(second).items():
        assert torch.equal(tensor, undisturbed.state_dict()[name]), name
        assert not torch.equal(tensor, initial[name]), name


def test_meta_training_teaches_better_than_real_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gtn = tiny(
        outer_optimizer=partial(torch.optim.Adam, lr=0.05),
        learners=Fixed(partial(MLP, image_shape=SHAPE, classes=10, hidden=[32], norm="batch")),
    )
    run = trainer(tmp_path, max_steps=60, val_check_interval=60, enable_checkpointing=False)
    run.fit(gtn, DigitsData(256))
    tested = run.test(gtn, DigitsData(256), verbose=False)[0]
    assert tested["test/accuracy"] > tested["test/accuracy_real"] + 0.1
    assert gtn.learning_curve is not None
    assert gtn.learning_curve.synthetic.shape == (2, len(gtn.scored_steps()))
    assert float(gtn.learning_curve.synthetic[:, -1].mean()) == pytest.approx(tested["test/accuracy"])


def test_a_teacher_file_brings_back_the_same_teacher(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gtn = tiny(*generator())
    save_teacher(gtn, tmp_path / "teacher.safetensors")
    again = GTN.from_teacher(tmp_path / "teacher.safetensors")
    for step in range(STEPS):
        for mine, its in zip(gtn.synthetic_batch(step), again.synthetic_batch(step), strict=True):
            assert torch.equal(mine, its)
    before = trainer(tmp_path).test(gtn, DigitsData(64), verbose=False)
    assert trainer(tmp_path).test(again, DigitsData(64), verbose=False) == before
    (tmp_path / "short").write_bytes((tmp_path / "teacher.safetensors").read_bytes()[:100])
    with pytest.raises(RecipeError, match=r"short is not a complete safetensors file"):
        GTN.from_teacher(tmp_path / "short")


def test_predict_gives_every_inner_step(tmp_path: Path) -> None:
    gtn = tiny()
    batches = trainer(tmp_path).predict(gtn, DigitsData(64))
    assert batches is not None
    assert [int(batch["step"]) for batch in batches] == list(range(STEPS))  # type: ignore[call-overload]
    assert isinstance(gtn.teacher, Pixels)
    assert torch.equal(torch.cat([batch["inputs"] for batch in batches]), gtn.teacher.pixels)  # type: ignore[call-overload]


def test_a_gradient_that_is_not_finite_skips_the_meta_step(tmp_path: Path) -> None:
    gtn = tiny(optimizer=SGD(lr=1e10, momentum=0.5, learned=["lr"]))
    before = {name: tensor.clone() for name, tensor in gtn.state_dict().items()}
    run = trainer(tmp_path, max_steps=2, val_check_interval=2, enable_checkpointing=False)
    run.fit(gtn, DigitsData(64))
    assert run.callback_metrics["train/skipped"] == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in gtn.state_dict().items())


class PixelGradients(pl.Callback):
    """Keeps, for every meta-step, the size of the gradient at each inner step's images."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module.teacher, Pixels)
        gradient = pl_module.teacher.pixels.grad
        assert gradient is not None
        self.seen.append(gradient.view(STEPS, BATCH, -1).abs().sum(dim=(1, 2)))


@pytest.mark.parametrize("random_window", [False, True])
def test_truncation(tmp_path: Path, random_window: bool) -> None:
    gtn, gradients = tiny(truncation=1, random_window=random_window), PixelGradients()
    run = trainer(tmp_path, max_steps=8, val_check_interval=8, enable_checkpointing=False, callbacks=[gradients])
    run.fit(gtn, DigitsData(64))
    touched = [(sizes > 0).nonzero().flatten().tolist() for sizes in gradients.seen]
    assert all(len(steps) == 1 for steps in touched), "one inner step is differentiated through"
    assert len({steps[0] for steps in touched}) == (STEPS if random_window else 1)
    if not random_window:
        assert touched[0] == [STEPS - 1]


@pytest.mark.parametrize("curriculum", [Full, ShuffledBatches, ShuffledAll, NoCurriculum])
def test_curricula_ask_for_even_labels(curriculum: type[Curriculum]) -> None:
    asked = curriculum(4, 25, 10, noise=3).requests(torch.Generator().manual_seed(1), torch.device("cpu"))
    again = curriculum(4, 25, 10, noise=3).requests(torch.Generator().manual_seed(1), torch.device("cpu"))
    other = curriculum(4, 25, 10, noise=3).requests(torch.Generator().manual_seed(2), torch.device("cpu"))
    index, labels = torch.cat([one.index for one in asked]), torch.cat([one.labels for one in asked])
    assert labels.bincount(minlength=10).tolist() == [10] * 10
    assert torch.equal(index, torch.cat([one.index for one in again]))
    moved = not torch.equal(index, torch.cat([one.index for one in other]))
    assert moved == (curriculum is not Full)
    if curriculum is not NoCurriculum:
        assert sorted(index.tolist()) == list(range(100))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_steps": 0}, r"model.inner_steps must be at least 1"),
        ({"inner_steps": 4}, r"inner_steps is 4 but model.curriculum.steps is 3"),
        ({"teacher": Pixels(SHAPE, 10, 20)}, r"holds 20 images but model.curriculum asks for 30"),
        ({"teacher": Generator(SHAPE, 10, noise=5)}, r"takes noise of size 5 but model.curriculum gives 0"),
        ({"teacher": Pixels(SHAPE, 7, 30)}, r"7 classes but model.curriculum 10"),
        ({"mode": "forward"}, r"'forward' is unknown: use one of remat, reverse"),
        ({"truncation": 9}, r"between 1 and inner_steps 3; got 9"),
        ({"random_window": True}, r"needs model.truncation"),
        ({"eval_steps": [7]}, r"eval_steps must lie between 0 and inner_steps 3; got 7"),
        ({"real_rates": []}, r"real_rates must be positive"),
    ],
)
def test_parts_that_do_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(("shape", "parameters"), [((1, 28, 28), 6.66e6), ((3, 32, 32), 8.63e6)])
def test_the_papers_generator_has_the_papers_size(shape: tuple[int, int, int], parameters: float) -> None:
    made = Generator(shape, 10)
    assert sum(parameter.numel() for parameter in made.parameters()) == pytest.approx(parameters, rel=2e-3)


def test_a_generator_makes_any_size() -> None:
    made = Generator((2, 5, 11), 3, noise=4, hidden=8, channels=(4, 4))
    batch = made(torch.arange(6), torch.arange(6) % 3, torch.randn(6, 4))
    assert batch.inputs.shape == (6, 2, 5, 11)
    assert float(batch.inputs.detach().abs().max()) <= 2
    with pytest.raises(RecipeError, match=r"at least 4 x 4"):
        Generator((1, 3, 8), 3)
