"""GTN through Lightning's Trainer, as a user runs it."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from benchmarks.shares import PARTS
from gtn_lightning import GTN
from gtn_lightning.callbacks import SyntheticData
from gtn_lightning.curricula import Full, NoCurriculum, ShuffledAll, ShuffledBatches, ShuffledPasses
from gtn_lightning.data import DigitsData, Split, Splits, TensorData
from gtn_lightning.errors import RecipeError
from gtn_lightning.evaluation import Evaluation
from gtn_lightning.fields import Batch
from gtn_lightning.inner_loop import SGD, Functional, InnerLoopError
from gtn_lightning.learners import MLP, ConvNet, Fixed, LearnerDistribution, Mixture, RandomWidth
from gtn_lightning.tasks import Classification
from gtn_lightning.teachers import Generator, Pixels, RealData, TeacherInput
from tests import ddp_run, processes
from tests.inner_loop.test_unroll import LiveBytes
from tests.tiny import BATCH, NOISE, SHAPE, STEPS, make_gtn, make_trainer, same, with_generator


def weights(gtn: GTN) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in gtn.state_dict().items()}


def mlp(**options: Any) -> partial[nn.Module]:
    return partial(MLP, shape=SHAPE, outputs=10, **options)


class Recorder(pl.Callback):
    """Keeps the meta-loss of every meta-step and the gradients that the outer optimizer got."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.gradients.append({name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None})

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(trainer.callback_metrics["train/meta_loss"]))


# --------------------------------------------------------------------------------------------------- the meta-gradient


class InDoublePrecision:
    """The one thing that a training step takes from a trainer, its place in the run; and float64 learners."""

    global_rank = 0
    global_step = 0


SITUATIONS: dict[str, dict[str, Any]] = {
    "last step": {},
    "a meta-loss at every step": {"task": Classification(10, meta_every=1)},
    "a learner with batch norm": {"learners": Fixed(mlp(hidden=[8], norm="batch", activation="tanh"))},
    "mode reverse": {"inner_loop": {"mode": "reverse"}},
    "a population, in segments": {"population": 3, "inner_loop": {"segment": 2}},
    "nested segments on a disk": {"inner_loop": {"segment": [2, 1], "offload": "disk"}},
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("generator", [False, True], ids=["pixels", "generator"])
def test_the_meta_gradient_of_a_whole_meta_step(generator: bool, situation: str) -> None:
    teacher = with_generator(soft_labels=True) if generator else {"teacher": Pixels(SHAPE, 10, STEPS * BATCH, True)}
    gtn = make_gtn(**teacher, **SITUATIONS[situation])
    gtn.log = lambda *_, **__: None  # type: ignore[method-assign]
    gtn._trainer = InDoublePrecision()  # type: ignore[assignment]
    torch.manual_seed(2)
    real = torch.randn(20, *SHAPE), torch.arange(20) % 10
    parameters = dict(gtn.named_parameters())
    gradient = torch.autograd.grad(gtn.training_step(real, 0), list(parameters.values()))
    direction = [torch.randn_like(parameter) for parameter in parameters.values()]

    def moved(part: str, distance: float) -> float:
        with torch.no_grad():
            before = weights(gtn)
            for (name, parameter), along in zip(parameters.items(), direction, strict=True):
                if name.startswith(part):
                    parameter += distance * along
            loss = float(gtn.training_step(real, 0))
            gtn.load_state_dict(before)
        return loss

    parts = [
        "teacher.",
        "inner_optimizer.logs.lr",
        "inner_optimizer.logs.momentum",
        *(["curriculum."] if generator else []),
    ]
    for part in parts:
        slope = sum(
            float((g * d).sum())
            for name, g, d in zip(parameters, gradient, direction, strict=True)
            if name.startswith(part)
        )
        quotient = (moved(part, 1e-5) - moved(part, -1e-5)) / 2e-5
        print(f"{part}: relative error {abs(slope - quotient) / abs(quotient):.1e}")
        assert abs(quotient) > 1e-5
        assert slope == pytest.approx(quotient, rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ training


def watched(learners: LearnerDistribution) -> list[nn.Module]:
    """Return a list that every learner drawn from the distribution is put into."""
    drawn: list[nn.Module] = []
    sample = learners.sample

    def sampled(generator: torch.Generator) -> nn.Module:
        drawn.append(sample(generator))
        return drawn[-1]

    learners.sample = sampled  # type: ignore[method-assign]
    return drawn


def test_every_meta_step_meets_another_learner_which_is_never_a_part_of_the_module(tmp_path: Path) -> None:
    learners = Fixed(mlp(hidden=[8]))
    drawn = watched(learners)
    gtn = make_gtn(learners=learners)
    make_trainer(tmp_path, max_steps=4, val_check_interval=2).fit(gtn, DigitsData(32))
    first_weights = {float(next(learner.parameters()).detach().sum()) for learner in drawn}
    # One to check against the data, four meta-steps, and two never-seen learners, the same at both validations.
    assert len(drawn) == 1 + 4 + 2 * 2
    assert len(first_weights) == 1 + 4 + 2
    assert not any(isinstance(module, MLP) for module in gtn.modules())
    assert {name.split(".")[0] for name, _ in gtn.named_parameters()} == {"teacher", "inner_optimizer"}


def test_a_population_has_one_architecture_and_parameters_of_its_own(tmp_path: Path) -> None:
    learners = RandomWidth(partial(ConvNet, image_shape=SHAPE, classes=10, depth=1), {"width": [4, 99]})
    drawn = watched(learners)
    gtn = make_gtn(learners=learners, population=3)
    make_trainer(tmp_path, max_steps=4).fit(gtn, DigitsData(32))
    taught = drawn[-12:]
    widths = [learner.width for learner in taught]
    assert [widths[start : start + 3] for start in range(0, 12, 3)] == [[width] * 3 for width in widths[::3]]
    assert len(set(widths)) > 1
    assert len({float(next(learner.parameters()).detach().sum()) for learner in taught}) == 12


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    gtn = make_gtn(learners=Fixed(mlp(hidden=[8])))
    trainer = make_trainer(tmp_path, max_steps=2, val_check_interval=1)
    torch.manual_seed(11)
    expected = torch.randn(3)
    torch.manual_seed(11)
    trainer.fit(gtn, DigitsData(32))
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("kind", ["generator", "no curriculum, random widths, a random window, accumulated"])
def test_a_resumed_run_repeats_the_next_meta_steps_bit_for_bit(kind: str, tmp_path: Path) -> None:
    if kind == "generator":
        options, accumulate = with_generator(soft_labels=True), 1
    else:
        options = {
            "teacher": Generator(SHAPE, 10, noise=NOISE, hidden=12, channels=(4, 4)),
            "curriculum": NoCurriculum(STEPS, BATCH, 10, NOISE),
            "learners": RandomWidth(partial(ConvNet, image_shape=SHAPE, classes=10, depth=1), {"width": [4, 9]}),
            "inner_loop": {"truncation": 1, "random_window": True},
        }
        accumulate = 2
    initial: dict[str, Tensor] | None = None

    def run(name: str, resume: Path | None = None) -> tuple[GTN, Recorder]:
        nonlocal initial
        gtn, recorder = (
            make_gtn(
                **options,
                outer_optimizer=partial(torch.optim.Adam, lr=0.02),
                outer_lr_scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=6),
            ),
            Recorder(),
        )
        initial = initial or weights(gtn)
        gtn.load_state_dict(initial)
        if resume is not None:
            gtn.load_state_dict({key: torch.zeros_like(tensor) for key, tensor in initial.items()})
        trainer = make_trainer(
            tmp_path / name,
            max_steps=6,
            val_check_interval=3,
            accumulate_grad_batches=accumulate,
            callbacks=[recorder, SaveAfter(3, tmp_path / f"{name}.ckpt")],
        )
        trainer.fit(gtn, DigitsData(32), ckpt_path=resume)
        return gtn, recorder

    undisturbed, all_losses = run("undisturbed")
    resumed, later_losses = run("resumed", tmp_path / "undisturbed.ckpt")
    assert len(all_losses.losses) == 6 * accumulate
    assert later_losses.losses == all_losses.losses[3 * accumulate :]
    assert same(weights(resumed), weights(undisturbed))
    assert initial is not None
    assert not same(weights(resumed), initial)


def test_a_run_that_is_resumed_with_more_meta_steps_follows_their_schedule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(length: int, steps: int, resume: Path | None = None) -> pl.Trainer:
        schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=length)
        gtn = make_gtn(outer_optimizer=partial(torch.optim.Adam, lr=0.02), outer_lr_scheduler=schedule)
        trainer = make_trainer(tmp_path, max_steps=steps, callbacks=[SaveAfter(3, tmp_path / f"{length}.ckpt")])
        trainer.fit(gtn, DigitsData(32), ckpt_path=resume)
        return trainer

    run(3, 3)
    with caplog.at_level("INFO"):
        longer = run(8, 6, tmp_path / "3.ckpt")
    assert "T_max 8 instead of 3, from meta-step 3 on" in caplog.text
    # Where it is after six of eight meta-steps, and not where a schedule of three begins again.
    assert longer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * (1 + math.cos(math.pi * 6 / 8)))


@pytest.mark.parametrize("schedule", [None, partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=8)])
def test_a_run_that_is_resumed_with_another_outer_rate_follows_it(
    schedule: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(rate: float, resume: Path | None = None) -> pl.Trainer:
        outer = partial(torch.optim.Adam, lr=rate, betas=(rate, 0.999))
        gtn = make_gtn(outer_optimizer=outer, outer_lr_scheduler=schedule)
        saves = SaveAfter(3 if resume is None else 5, tmp_path / f"{rate}.ckpt")
        trainer = make_trainer(tmp_path, max_steps=3 if resume is None else 6, callbacks=[saves])
        trainer.fit(gtn, DigitsData(32), ckpt_path=resume)
        return trainer

    run(0.02)
    with caplog.at_level("INFO"):
        resumed = run(0.5, tmp_path / "0.02.ckpt")
    said = "goes on with lr 0.5 instead of 0.02, betas (0.5, 0.999) instead of (0.02, 0.999), from meta-step 3 on"
    assert said in caplog.text
    wanted = 0.5 if schedule is None else 0.25 * (1 + math.cos(math.pi * 6 / 8))
    for group in resumed.optimizers[0].param_groups:
        assert group["lr"] == pytest.approx(wanted)
        assert group["betas"] == (0.5, 0.999)
    # What was said once is not said again.
    caplog.clear()
    with caplog.at_level("INFO"):
        run(0.5, tmp_path / "0.5.ckpt")
    assert "goes on with" not in caplog.text


@pytest.mark.parametrize(
    ("before", "now"), [("StepLR", None), (None, "StepLR"), ("StepLR", "LambdaLR"), ("LambdaLR", "StepLR")]
)
def test_a_run_that_is_resumed_with_another_schedule_follows_it(
    before: str | None, now: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    schedules: dict[str | None, Any] = {
        None: None,
        "StepLR": partial(torch.optim.lr_scheduler.StepLR, step_size=2),
        "LambdaLR": partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    }

    def run(schedule: str | None, steps: int, resume: Path | None = None) -> pl.Trainer:
        gtn = make_gtn(outer_optimizer=partial(torch.optim.Adam, lr=0.02), outer_lr_scheduler=schedules[schedule])
        trainer = make_trainer(tmp_path, max_steps=steps, callbacks=[SaveAfter(3, tmp_path / "3.ckpt")])
        trainer.fit(gtn, DigitsData(32), ckpt_path=resume)
        return trainer

    run(before, 3)
    with caplog.at_level("INFO"):
        resumed = run(now, 6, tmp_path / "3.ckpt")
    assert f"goes on with {now or 'no schedule'} instead of {before or 'no schedule'}, from meta-step 3" in caplog.text
    wanted = {None: 0.02, "StepLR": 0.02 * 0.1**3, "LambdaLR": 0.02 / 7}[now]
    assert resumed.optimizers[0].param_groups[0]["lr"] == pytest.approx(wanted)


def test_another_outer_optimizer_cannot_go_on(tmp_path: Path) -> None:
    make_trainer(tmp_path, max_steps=3, callbacks=[SaveAfter(3, tmp_path / "3.ckpt")]).fit(make_gtn(), DigitsData(32))
    other = make_gtn(outer_optimizer=partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(RecipeError, match=r"must be torch.optim.adam.Adam, .*; got torch.optim.sgd.SGD.*--teacher"):
        make_trainer(tmp_path).fit(other, DigitsData(32), ckpt_path=tmp_path / "3.ckpt")
    # To be tested, it needs none.
    make_trainer(tmp_path).test(other, DigitsData(32), ckpt_path=tmp_path / "3.ckpt", verbose=False)


def test_every_part_is_a_group_of_the_outer_optimizer() -> None:
    gtn = make_gtn(
        **with_generator(),
        outer_optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.2),
        outer_groups={"inner_optimizer": {"lr": 0.01}},
    )
    optimizer: Any = gtn.configure_optimizers()
    assert {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {
        "teacher": (0.1, 0.2), "curriculum": (0.1, 0.0), "inner_optimizer": (0.01, 0.0),
    }  # fmt: skip
    for group in optimizer.param_groups:
        assert group["params"] == list(getattr(gtn, group["name"]).parameters())


class SaveAfter(pl.Callback):
    """Writes a checkpoint when a number of meta-steps is done, and lets the run go on."""

    def __init__(self, steps: int, path: Path) -> None:
        self.steps = steps
        self.path = path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("random_window", [False, True])
@pytest.mark.parametrize("generator", [False, True], ids=["pixels", "generator"])
def test_truncation_differentiates_a_window(generator: bool, random_window: bool, tmp_path: Path) -> None:
    recorder = Recorder()
    teacher = with_generator() if generator else {}
    gtn = make_gtn(**teacher, inner_loop={"truncation": 1, "random_window": random_window})
    initial = weights(gtn)
    make_trainer(tmp_path, max_steps=8, callbacks=[recorder]).fit(gtn, DigitsData(32))
    per_image = "curriculum.vectors" if generator else "teacher.free_inputs"
    reached = []
    for gradients in recorder.gradients:
        by_step = gradients[per_image].view(STEPS, BATCH, -1).abs().sum(dim=(1, 2))
        assert torch.equal(gradients["inner_optimizer.logs.lr"] != 0, by_step > 0)
        reached.append(by_step.nonzero().flatten().tolist())
        if generator:
            assert isinstance(gtn.teacher, Generator)
            assert all(gradients[f"teacher.network.{name}.weight"].any() for name in gtn.teacher.weights())
    assert all(len(steps) == 1 for steps in reached)
    assert {steps[0] for steps in reached} == (set(range(STEPS)) if random_window else {STEPS - 1})
    learned = {name for name, _ in gtn.named_parameters() if "bias" not in name}
    assert not any(torch.equal(tensor, initial[name]) for name, tensor in weights(gtn).items() if name in learned)


def test_a_gradient_that_is_not_finite_skips_its_meta_step_alone(tmp_path: Path) -> None:
    class NotANumber(pl.Callback):
        """Spoils the gradient of the second and of the fourth meta-step."""

        def __init__(self) -> None:
            self.weights: list[dict[str, Tensor]] = []

        def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.weights.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})
            if trainer.global_step in (1, 3):
                assert pl_module.inner_optimizer.logs["lr"].grad is not None
                pl_module.inner_optimizer.logs["lr"].grad[0] = (
                    float("nan") if trainer.global_step == 1 else float("inf")
                )

    seen = NotANumber()
    gtn = make_gtn(outer_optimizer=partial(torch.optim.SGD, lr=0.1))
    trainer = make_trainer(tmp_path, max_steps=5, callbacks=[seen], gradient_clip_val=1.0)
    trainer.fit(gtn, DigitsData(32))
    moved = [
        not same(before, after) for before, after in zip(seen.weights, [*seen.weights[1:], weights(gtn)], strict=True)
    ]
    assert moved == [True, False, True, False, True]
    assert trainer.callback_metrics["train/skipped"] == 2
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = make_gtn(outer_optimizer=partial(torch.optim.SGD, lr=0.1))
    resumed = make_trainer(tmp_path, max_steps=6)
    resumed.fit(again, DigitsData(32), ckpt_path=tmp_path / "last.ckpt")
    assert resumed.callback_metrics["train/skipped"] == 2, "the count goes on"


def test_a_learner_that_diverges_stops_nothing(tmp_path: Path) -> None:
    gtn = make_gtn(inner_optimizer=SGD(lr=1e12, learned=["lr"]), learners=Fixed(mlp(hidden=[8], activation="relu")))
    before = weights(gtn)
    trainer = make_trainer(tmp_path, max_steps=2, val_check_interval=2)
    trainer.fit(gtn, DigitsData(32))
    assert trainer.callback_metrics["train/skipped"] == 2
    assert same(weights(gtn), before)
    assert trainer.callback_metrics["val/accuracy"] < 0.3


@pytest.mark.parametrize("meta_steps", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_peak_memory_is_flat_after_the_third_meta_step(meta_steps: int, tmp_path: Path) -> None:
    class Peaks(pl.Callback):
        def __init__(self, live: LiveBytes) -> None:
            self.live = live
            self.seen: list[int] = []

        def on_train_batch_end(self, *_: Any) -> None:
            self.seen.append(self.live.peak)
            self.live.peak = self.live.now

    gtn = make_gtn(**with_generator(soft_labels=True))
    with LiveBytes() as live:
        peaks = Peaks(live)
        make_trainer(tmp_path, max_steps=meta_steps, callbacks=[peaks]).fit(gtn, DigitsData(32))
    print(f"live bytes at the peak of each meta-step: {peaks.seen[:5]} ... {peaks.seen[-1]}")
    assert len(peaks.seen) == meta_steps
    assert min(peaks.seen) > 100_000
    assert max(peaks.seen[3:]) <= peaks.seen[2]


def test_meta_training_beats_real_data(tmp_path: Path) -> None:
    gtn = make_gtn(
        learners=Fixed(mlp(hidden=[32], norm="batch")),
        outer_optimizer=partial(torch.optim.Adam, lr=0.05),
        evaluation={"learners": 4, "real_rates": [0.03, 0.1, 0.3, 1.0]},
    )
    trainer = make_trainer(tmp_path, max_steps=60)
    trainer.fit(gtn, DigitsData(256))
    tested = trainer.test(gtn, DigitsData(256), verbose=False)[0]
    assert tested["test/accuracy"] > tested["test/accuracy_real"] + 0.1


# ---------------------------------------------------------------------------------------------------------- evaluation


def test_what_is_logged(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, val_check_interval=2)
    gtn = make_gtn(evaluation={"learners": 3, "steps": [0, 2]})
    trainer.fit(gtn, DigitsData(32))
    training = {"train/meta_loss", "train/inner_loss", "train/skipped", "time/meta_step"}
    validation = {"val/accuracy", "val/accuracy_std", "val/accuracy_real", "val/accuracy_real_std", "val/loss"}
    assert trainer.callback_metrics.keys() == training | validation
    assert 0 < trainer.callback_metrics["time/meta_step"] < 60
    curve = gtn.result
    assert curve is not None
    assert curve.baseline is not None
    assert curve.steps == [0, 2, STEPS]
    assert curve.synthetic.shape == curve.baseline.shape == (3, 3)
    assert torch.equal(curve.synthetic[:, 0], curve.baseline[:, 0]), "untaught, they are the same learners"
    for curve_of, name in ((curve.synthetic, "val/accuracy"), (curve.baseline, "val/accuracy_real")):
        assert trainer.callback_metrics[name] == pytest.approx(float(curve_of[:, -1].mean()))
        assert trainer.callback_metrics[f"{name}_std"] == pytest.approx(float(curve_of[:, -1].std(correction=0)))
    tested = trainer.test(gtn, DigitsData(32), verbose=False)[0]
    assert tested.keys() == {name.replace("val/", "test/") for name in validation}


@pytest.mark.parametrize(
    ("steps", "eval_steps", "scored"),
    [
        (STEPS, None, [1, 2, 3]),
        (STEPS, [], [3]),
        (STEPS, [3, 0, 1], [0, 1, 3]),
    ],
)
def test_scored_steps(steps: int, eval_steps: list[int] | None, scored: list[int]) -> None:
    assert Evaluation(steps=eval_steps).scored_steps(steps) == scored


def test_the_score_is_the_accuracy_on_the_whole_split(tmp_path: Path) -> None:
    gtn, data = make_gtn(evaluation={"learners": 1, "steps": [0]}), DigitsData(32, eval_batch_size=77)
    drawn: list[nn.Module] = []
    sample = gtn.learners.sample
    gtn.learners.sample = lambda generator: drawn.append(sample(generator)) or drawn[-1]  # type: ignore[method-assign, func-returns-value]
    make_trainer(tmp_path).validate(gtn, data, verbose=False)
    learner = Functional(drawn[-1])
    images, labels = data.splits.val
    logits, _ = learner(*learner.init(), data.normalize(images), training=False)
    assert gtn.result is not None
    assert float(gtn.result.synthetic[0, 0]) == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


class ColorCoded(TensorData):
    """Every image of the three splits has the gray value 50, 100 or 150, so that one sees where it came from."""

    def __init__(self) -> None:
        super().__init__(batch_size=20, eval_batch_size=20)

    def load(self) -> Splits:
        labels = torch.arange(40) % 10
        made = []
        for value in (50, 100, 150):
            noise = torch.randint(-3, 4, (40, *SHAPE), generator=torch.Generator().manual_seed(value))
            made.append(Split((value + noise).to(torch.uint8), labels))
        return Splits(made[0], made[1], made[2], 10)

    def origin(self, images: Tensor) -> str:
        value = float((images * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)).mean())
        return {50: "train", 100: "val", 150: "test"}[round(value / 50) * 50]


def test_splits_never_mix(tmp_path: Path) -> None:
    data, seen = ColorCoded(), set()

    class Spy(Classification):
        def meta_loss(self, learner: Functional) -> Any:
            loss = super().meta_loss(learner)

            def watched(params: Any, buffers: Any, inputs: Tensor, targets: Tensor) -> Any:
                seen.add(("meta-loss", data.origin(inputs)))
                return loss(params, buffers, inputs, targets)

            return watched

        def inner_loss(self, learner: Functional) -> Any:
            loss = super().inner_loss(learner)

            def watched(params: Any, buffers: Any, inputs: Tensor, targets: Tensor) -> Any:
                if inputs.std() < 0.99 or (inputs.mean() > 1):  # not free pixels
                    seen.add(("inner loss", data.origin(inputs)))
                return loss(params, buffers, inputs, targets)

            return watched

        def score(self, learner: Any, params: Any, buffers: Any, batch: Any, metric: Any) -> Tensor:
            seen.add((stage, data.origin(batch[0])))
            return super().score(learner, params, buffers, batch, metric)

    gtn = make_gtn(task=Spy(10), evaluation={"real_rates": [0.1, 0.2]})
    trainer = make_trainer(tmp_path, val_check_interval=1)
    stage = "while fitting"
    trainer.fit(gtn, data)
    fitting = {entry for entry in seen if entry[0] != "inner loss"}
    assert fitting == {("meta-loss", "train"), ("while fitting", "val")}
    seen.clear()
    stage = "while testing"
    trainer.test(gtn, data, verbose=False)
    # The validation images decide on the baseline's rate, the test images report.
    assert {entry for entry in seen if entry[0] != "inner loss"} == {
        ("while testing", "val"),
        ("while testing", "test"),
    }


def test_the_baselines_rate_is_tuned_on_validation_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned_on: list[Tensor] = []
    taught_with: list[Tensor] = []
    import gtn_lightning.baselines as module

    tune = module.teach_at_best_rate

    def watched(*arguments: Any) -> Any:
        tuned_on.append(arguments[7][0])
        taught_with.extend(batch["inputs"] for batch in arguments[2].batches(arguments[3]))
        return tune(*arguments)

    monkeypatch.setattr(module, "teach_at_best_rate", watched)
    data = ColorCoded()
    gtn, trainer = make_gtn(), make_trainer(tmp_path, val_check_interval=1)
    trainer.fit(gtn, data)
    assert len(tuned_on) == 2, "two validations, two learners: the baseline is taught once"
    trainer.test(gtn, data, verbose=False)
    assert len(tuned_on) == 4
    assert {data.origin(images) for images in tuned_on} == {"val"}
    assert {data.origin(images) for images in taught_with} == {"train"}
    # Three batches of ten out of 40 images: as in an ordinary epoch, none of them twice, and each learner its own.
    loops = [torch.cat(taught_with[first : first + STEPS]) for first in range(0, len(taught_with), STEPS)]
    assert len(loops) == 4
    assert all(len(loop.unique(dim=0)) == STEPS * BATCH for loop in loops)
    assert not torch.equal(loops[0], loops[1])


def test_the_baseline_stays_the_same_over_validations(tmp_path: Path) -> None:
    class Curves(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[float, float]] = []

        def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None: ...

        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            metrics = trainer.callback_metrics
            self.seen.append((float(metrics["val/loss"]), float(metrics["val/accuracy_real"])))

    curves = Curves()
    make_trainer(tmp_path, max_steps=3, val_check_interval=1, callbacks=[curves]).fit(make_gtn(), DigitsData(32))
    losses, real = zip(*curves.seen, strict=True)
    assert len(set(losses)) == 3
    assert len(set(real)) == 1


def test_another_run_on_other_data_has_another_baseline(tmp_path: Path) -> None:
    """A baseline that was kept from the digits would be far above chance on images without any content."""
    rates: dict[str, Any] = {"evaluation": {"real_rates": [0.3]}}
    gtn = make_gtn(**rates, learners=Fixed(mlp(hidden=[32])))
    on_digits = make_trainer(tmp_path).test(gtn, DigitsData(32), verbose=False)[0]["test/accuracy_real"]
    on_grey = make_trainer(tmp_path).test(gtn, ColorCoded(), verbose=False)[0]["test/accuracy_real"]
    afresh = make_gtn(**rates, learners=Fixed(mlp(hidden=[32])))
    assert on_grey == make_trainer(tmp_path).test(afresh, ColorCoded(), verbose=False)[0]["test/accuracy_real"]
    assert on_digits != on_grey


def test_predict_gives_every_inner_step(tmp_path: Path) -> None:
    gtn = make_gtn(**with_generator(soft_labels=True))
    for batches in (make_trainer(tmp_path).predict(gtn), make_trainer(tmp_path).predict(gtn, DigitsData(32))):
        assert batches is not None
        for step, made in enumerate(batches):
            assert isinstance(made, dict)
            assert int(made["step"]) == step
            assert made["inputs"].shape == (BATCH, *SHAPE)
            assert made["targets"].shape == (BATCH, 10)
            for name, expected in gtn.synthetic_batch(step).items():
                assert torch.equal(made[name], expected)
        assert len(batches) == STEPS


def test_predict_of_a_teacher_that_begins_with_real_data(tmp_path: Path) -> None:
    teacher = Pixels(SHAPE, 10, STEPS * BATCH, init="real")
    data = DigitsData(32)
    made = make_trainer(tmp_path).predict(make_gtn(teacher=teacher), data)
    assert made is not None
    images = {tuple(row) for row in data.some("train", 2000, seed=0)[0].flatten(1).tolist()}
    assert {tuple(row) for row in made[0]["inputs"].flatten(1).tolist()} <= images
    with pytest.raises(RecipeError, match="the Pixels teacher needs a data module with a train_dataloader"):
        make_trainer(tmp_path).predict(make_gtn(teacher=Pixels(SHAPE, 10, STEPS * BATCH, init="real")))


def test_averaged_weights_at_a_sanity_check_do_not_replace_real_data(tmp_path: Path) -> None:
    """The average is a copy of the weights from before the real data: the check must not put it in their place."""
    teacher = Pixels(SHAPE, 10, STEPS * BATCH, init="real")
    gtn = make_gtn(teacher=teacher, outer_optimizer=partial(torch.optim.SGD, lr=0.0))
    data = DigitsData(32)
    trainer = make_trainer(tmp_path, max_steps=1, num_sanity_val_steps=1, callbacks=[EMAWeightAveraging()])
    trainer.fit(gtn, data)
    images = {tuple(row) for row in data.some("train", 2000, seed=0)[0].flatten(1).tolist()}
    assert {tuple(row) for row in teacher.pixels.flatten(1).tolist()} <= images


@pytest.mark.parametrize("curriculum", [ShuffledBatches, ShuffledAll, NoCurriculum])
def test_a_synthetic_batch_is_one_keyed_draw(curriculum: Any) -> None:
    gtn = make_gtn(**with_generator() | {"curriculum": curriculum(STEPS, BATCH, 10, NOISE)})
    first, again, other = gtn.synthetic_batch(1), gtn.synthetic_batch(1), gtn.synthetic_batch(2)
    assert torch.equal(first["inputs"], again["inputs"])
    assert not torch.equal(first["inputs"], other["inputs"])
    assert not first["inputs"].requires_grad


def test_real_data_as_the_teacher_learns_its_rates(tmp_path: Path) -> None:
    gtn = make_gtn(teacher=RealData(), curriculum=ShuffledPasses(STEPS, BATCH, 10, images=1197))
    before = gtn.inner_optimizer.schedules(STEPS)
    trainer = make_trainer(tmp_path, max_steps=3, val_check_interval=3)
    data = DigitsData(32)
    trainer.fit(gtn, data)
    assert not torch.equal(gtn.inner_optimizer.schedules(STEPS)["lr"], before["lr"])
    images = data.normalize(data.splits.train.images)
    made = trainer.predict(gtn, data)
    assert made is not None
    assert isinstance(made[0], dict)
    assert (made[0]["inputs"][0] == images).all(dim=(1, 2, 3)).any(), "a real training image"


# ------------------------------------------------------------------------------------------------------ two processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "make"), [(2, ddp_run.classification), (3, ddp_run.classification), (2, ddp_run.autoencoding)]
)
def test_processes_agree_with_each_other_and_with_one(devices: int, make: Callable[[], GTN], tmp_path: Path) -> None:
    processes.run(ddp_run.main, tmp_path, devices, make, folder=tmp_path, count=devices)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(devices)]

    one_process = make()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the two processes have: sums in another order differ in the last bit
    try:
        trainer = make_trainer(tmp_path / "one", callbacks=[SyntheticData()])
        validated = trainer.validate(one_process, DigitsData(32), verbose=False)[0]
        curve = one_process.result
        tested = trainer.test(one_process, DigitsData(32), verbose=False)[0]
        trainer.predict(one_process, return_predictions=False)
    finally:
        torch.set_num_threads(threads)
    assert curve is not None
    for rank in ranks:
        assert rank["validated"] == validated
        assert rank["tested"] == tested
        assert torch.equal(rank["curve"].synthetic, curve.synthetic)
        assert torch.equal(rank["curve"].baseline, curve.baseline)
    predicted = [load_file(folder / "synthetic.safetensors") for folder in (tmp_path, tmp_path / "one")]
    assert same(*predicted)

    for rank, other in combinations(ranks, 2):
        assert len(rank["learners"]) == len(other["learners"]) == 3
        assert not set(rank["learners"]) & set(other["learners"]), "each process teaches learners of its own"
        assert same(rank["weights"], other["weights"])
        assert same(rank["captured"], other["captured"])
    assert not same(ranks[0]["weights"], weights(one_process))
    for rank in ranks:
        assert "use_distributed_sampler=False" in rank["refused"]
        assert rank["replays"] == [3]
        # Three summands may be added in another order: DDP orders gradients as they arrive.
        assert devices == 3 or same(rank["captured"], rank["usual"])


# ---------------------------------------------------------------------------------------------------------- own data


def stripes(count: int) -> TensorDataset:
    labels = torch.arange(count) % 10
    images = 0.3 * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(count))
    images[torch.arange(count), 0, labels % 8] += 1
    return TensorDataset(images, labels)


class OwnData(pl.LightningDataModule):
    """As most people write theirs: DataLoaders, and a random split in setup."""

    def __init__(self, images: int = 200) -> None:
        super().__init__()
        self.images = images
        self.setups: list[str] = []

    def setup(self, stage: str) -> None:
        self.setups.append(stage)
        self.train, self.val = random_split(stripes(self.images), [0.75, 0.25])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=25, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=25)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(stripes(60), batch_size=25)


class OnlyTraining(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(stripes(100), batch_size=25)


class OnlyTesting(pl.LightningDataModule):
    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(stripes(100), batch_size=25)


def test_a_data_module_of_ones_own(tmp_path: Path) -> None:
    gtn, data = make_gtn(), OwnData()
    trainer = make_trainer(tmp_path, max_steps=12, val_check_interval=5, num_sanity_val_steps=1)
    trainer.fit(gtn, data)
    assert data.setups == ["fit"], "set up once: its random split stays as it is"
    assert trainer.callback_metrics["val/accuracy_real"] > 0.15
    tested = trainer.test(gtn, data, verbose=False)[0]
    assert {"test/accuracy", "test/accuracy_real"} <= tested.keys()
    fresh = make_trainer(tmp_path).test(gtn, OwnData(), verbose=False)[0]
    assert fresh["test/accuracy"] == tested["test/accuracy"]
    assert "test/accuracy_real" in fresh


@pytest.mark.parametrize("data", [OwnData, partial(DigitsData, 32)], ids=["own data", "digits"])
@pytest.mark.parametrize(
    ("precision", "parameters", "logits"),
    [
        ("64-true", torch.float64, torch.float64),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
        ("bf16-mixed", torch.float32, torch.bfloat16),
    ],
)
def test_the_trainers_precision_holds_for_evaluation_too(
    precision: str, parameters: torch.dtype, logits: torch.dtype, data: Any, tmp_path: Path
) -> None:
    dtypes = set()

    class Watched(Classification):
        def score(self, learner: Any, params: Any, buffers: Any, batch: Any, metric: Any) -> Tensor:
            made, _ = learner(params, buffers, batch[0])
            dtypes.add((next(iter(params.values())).dtype, made.dtype))
            return super().score(learner, params, buffers, batch, metric)

    gtn = make_gtn(task=Watched(10))
    trainer = make_trainer(tmp_path, val_check_interval=1, precision=precision)
    trainer.fit(gtn, data())
    trainer.test(gtn, data(), verbose=False)
    assert dtypes == {(parameters, logits)}


def test_without_a_data_module(tmp_path: Path) -> None:
    train, val = (DataLoader(stripes(count), batch_size=25) for count in (150, 50))
    gtn = make_gtn()
    trainer = make_trainer(tmp_path, max_steps=8, val_check_interval=4, num_sanity_val_steps=1)
    trainer.fit(gtn, train_dataloaders=train, val_dataloaders=val)
    assert "val/accuracy_real" in trainer.callback_metrics
    tested = trainer.test(gtn, DataLoader(stripes(60), batch_size=25), verbose=False)[0]
    assert "test/accuracy_real" in tested
    loaded = make_gtn()
    loaded.load_state_dict(gtn.state_dict())
    alone = make_trainer(tmp_path).test(loaded, DataLoader(stripes(60), batch_size=25), verbose=False)[0]
    assert alone["test/accuracy"] == tested["test/accuracy"]
    assert "test/accuracy_real" not in alone
    assert loaded.result is not None
    assert loaded.result.baseline is None


def test_no_split_but_the_one_at_hand_is_needed(tmp_path: Path) -> None:
    make_trainer(tmp_path).fit(make_gtn(), train_dataloaders=DataLoader(stripes(100), batch_size=25))
    make_trainer(tmp_path).fit(make_gtn(), OnlyTraining())
    tested = make_trainer(tmp_path).test(make_gtn(), OnlyTesting(), verbose=False)[0]
    assert tested.keys() == {"test/accuracy", "test/accuracy_std", "test/loss"}


# ------------------------------------------------------------------------------------------------- what cannot work


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_loop": {"steps": 4}}, r"inner_loop.steps is 4 but model.curriculum.steps is 3: make them agree"),
        (
            {"inner_optimizer": SGD(learned_per_step=["lr"], steps=5)},
            r"inner_loop.steps is 3 but model.inner_optimizer.steps is 5: make them agree",
        ),
        (
            {"teacher": Generator(SHAPE, 10, noise=5, hidden=4, channels=(2, 2))},
            r"teacher takes noise of size 5 but model.curriculum gives 0",
        ),
        (
            {"curriculum": Full(STEPS, BATCH, 10, noise=2)},
            r"teacher takes noise of size 0 but model.curriculum gives 2",
        ),
        ({"curriculum": Full(STEPS, BATCH, 7)}, r"task has 10 classes but model.curriculum 7"),
        ({"task": Classification(5)}, r"teacher has 10 classes but model.task 5: make them agree"),
        (
            {"teacher": Pixels(SHAPE, 10, 20)},
            r"teacher has 20 samples but model.curriculum requests 30: make them agree",
        ),
        (
            {"curriculum": NoCurriculum(STEPS, BATCH, 10)},
            r"teacher has 30 samples but model.curriculum requests an unbounded number: .*use a curriculum",
        ),
        ({"population": 0}, r"population must be at least 1, got 0"),
        ({"evaluation": {"steps": [1, 4]}}, r"evaluation.steps must be at most model.inner_loop.steps, 3, got 4"),
        ({"seed": -1}, r"seed must be at least 0, got -1"),
    ],
)
def test_parts_that_do_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^model.{message}") as caught:
        make_gtn(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teacher": Pixels((1, 8, 9), 10, 30)},
            r"the data's images have shape \[1, 8, 8\] but model.teacher makes \[1, 8, 9\]",
        ),
        (
            {"learners": Fixed(partial(MLP, shape=(1, 9, 8), outputs=10))},
            r"the learner MLP cannot take images of shape \[1, 8, 8\]",
        ),
        (
            {"learners": Mixture({"fits": mlp(), "does not": partial(MLP, shape=SHAPE, outputs=9)})},
            r"the learner MLP returns a tensor of shape \[2, 9\] for 2 images but the task has 10 classes",
        ),
        (
            {
                "teacher": Pixels(SHAPE, 5, 30),
                "curriculum": Full(STEPS, BATCH, 5),
                "task": Classification(5),
                "learners": Fixed(partial(MLP, shape=SHAPE, outputs=5)),
            },
            r"the data has labels from 0 to 9 but task.classes is 5, .*set classes to 10",
        ),
        (
            {"inner_optimizer": SGD(), "teacher": RealData()},
            r"there is nothing to meta-learn: .*learned_per_step",
        ),
    ],
)
def test_a_model_that_does_not_fit_the_data_fails_before_the_first_meta_step(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    recorder = Recorder()
    with pytest.raises(RecipeError, match=f"^{message}") as caught:
        make_trainer(tmp_path, callbacks=[recorder]).fit(make_gtn(**changes), DigitsData(32))
    assert "\n" not in str(caught.value)
    assert not recorder.losses


class Listed(LearnerDistribution):
    """The same learners at every meta-step."""

    def __init__(self, learners: list[nn.Module]) -> None:
        self.learners = learners

    def sample(self, generator: torch.Generator) -> nn.Module:
        return self.learners[0]

    def population(self, generator: torch.Generator, count: int) -> list[nn.Module]:
        return self.learners[:count]

    def families(self) -> dict[str, LearnerDistribution]:
        return {"listed": self}


def frozen() -> nn.Module:
    learner = MLP(SHAPE, 10, hidden=[8])
    next(learner.parameters()).requires_grad_(False)
    return learner


def slanted() -> nn.Module:
    learner = nn.Sequential(nn.Flatten(), nn.LeakyReLU(float(torch.rand(()))), nn.Linear(64, 10))
    return learner


@pytest.mark.parametrize("make", [frozen, slanted])
def test_learners_that_differ_in_more_than_parameters_are_each_taught_as_alone(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    learners = [make(), make()]

    def meta_loss(*taught: nn.Module) -> float:
        recorder = Recorder()
        gtn = make_gtn(learners=Listed(list(taught)), population=len(taught))
        make_trainer(tmp_path, max_steps=1, callbacks=[recorder]).fit(gtn, DigitsData(32))
        return recorder.losses[0]

    alone = [meta_loss(learner) for learner in learners]
    assert alone[0] != alone[1]
    assert meta_loss(*learners) == pytest.approx(sum(alone) / 2, rel=1e-6)


class Crooked(torch.autograd.Function):
    """The identity, with a backward that is no derivative of it."""

    @staticmethod
    def forward(ctx, inputs):  # type: ignore[no-untyped-def]
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx, cotangent):  # type: ignore[no-untyped-def]
        return -cotangent


def test_a_learner_with_a_wrong_meta_gradient_is_refused_unless_unchecked(tmp_path: Path) -> None:
    class Reversing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 10)

        def forward(self, images: Tensor) -> Tensor:
            outputs: Tensor = self.last(Crooked.apply(self.first(images.flatten(1))))
            return outputs

    with pytest.raises(InnerLoopError, match="autograd function Crooked"):
        make_trainer(tmp_path, max_steps=1).fit(make_gtn(learners=Fixed(Reversing)), DigitsData(32))
    make_trainer(tmp_path, max_steps=1).fit(
        make_gtn(learners=Fixed(Reversing), inner_loop={"checked": False}), DigitsData(32)
    )


def test_a_negative_clipping_threshold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^trainer.gradient_clip_val must be at least 0.*got -1"):
        make_trainer(tmp_path, gradient_clip_val=-1.0).fit(make_gtn(), DigitsData(32))


def test_a_real_data_teacher_with_fewer_images_than_are_asked_for(tmp_path: Path) -> None:
    gtn = make_gtn(teacher=RealData(), curriculum=ShuffledPasses(STEPS, BATCH, 10, images=1198))
    message = r"^model.curriculum must request at most 1197 different samples, .*, got 1198"
    with pytest.raises(RecipeError, match=message):
        make_trainer(tmp_path).fit(gtn, DigitsData(32))


def test_a_real_data_teacher_without_real_data(tmp_path: Path) -> None:
    gtn = make_gtn(teacher=RealData(), curriculum=NoCurriculum(STEPS, BATCH, 10))
    with pytest.raises(RecipeError, match=r"the RealData teacher needs .*train_dataloader"):
        make_trainer(tmp_path).test(gtn, OnlyTesting())


# ---------------------------------------------------------------------------------------------- Lightning's own ways


@pytest.mark.parametrize("kind", ["pixels", "generator"])
def test_a_checkpoint_is_loaded_with_the_parts_that_it_was_made_with(kind: str, tmp_path: Path) -> None:
    gtn = make_gtn(**with_generator() if kind == "generator" else {}, seed=3, evaluation={"steps": [1]})
    trainer = make_trainer(tmp_path)
    trainer.fit(gtn, DigitsData(32))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = GTN.load_from_checkpoint(tmp_path / "a.ckpt")
    assert same(weights(loaded), weights(gtn))
    assert loaded.description() == gtn.description() == loaded.hparams["model"]
    tested = [make_trainer(tmp_path).test(each, DigitsData(32), verbose=False)[0] for each in (gtn, loaded)]
    assert tested[0] == tested[1]


class Mine(Classification):
    """A task of the user's own."""


def test_a_checkpoint_with_classes_of_ones_own_is_loaded_where_they_are_allowed(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(make_gtn(task=Mine(10)), DigitsData(32))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(RecipeError, match=r"a.ckpt names tests.test_module.Mine, .*trust="):
        GTN.load_from_checkpoint(tmp_path / "a.ckpt")
    assert isinstance(GTN.load_from_checkpoint(tmp_path / "a.ckpt", trust=[Mine]).task, Mine)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"no checkpoint", "expected a checkpoint"),
        ({}, "it is no Lightning checkpoint"),
        ({"state_dict": {"a": torch.zeros(1)}, "pytorch-lightning_version": "2.6.0"}, "what it was made with"),
    ],
)
def test_what_is_no_checkpoint_of_a_gtn(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(RecipeError, match=message):
        GTN.load_from_checkpoint(path)


def test_a_profiler_sees_every_part_of_a_meta_step(tmp_path: Path) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        make_trainer(tmp_path, max_steps=1).fit(make_gtn(**with_generator()), DigitsData(32))
    counts = {event.key: event.count for event in profiler.key_averages()}
    assert {label: counts.get(label) for label in PARTS.values()} == {
        "learner": 1, "teacher": STEPS, "inner gradient": STEPS, "inner gradient, backward": STEPS,
        "inner optimizer": STEPS, "meta-loss": 1,
    }  # fmt: skip


class Short(Pixels):
    """A teacher that makes a batch less than it is asked for."""

    def batches(self, requests: Sequence[TeacherInput]) -> Iterator[Batch]:
        return super().batches(requests[1:])


def test_a_teacher_that_makes_too_few_batches(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs at least 3 steps but there were batches for 2"):
        make_trainer(tmp_path).fit(make_gtn(teacher=Short(SHAPE, 10, STEPS * BATCH)), DigitsData(32))
