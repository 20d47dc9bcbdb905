"""Proxies that teach."""

import math
import os
import warnings
from pathlib import Path

import pytest
import torch

from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import SGD, Adam
from gtn_lightning.nas import ConvNetGrid, GTNProxy, RealDataProxy, SpaceLearners
from gtn_lightning.nas.proxies.flops import forward_flops
from gtn_lightning.nas.proxies.taught import GTNScorer, LiveGTNProxy, RealDataScorer
from gtn_lightning.nas.proxies.training import Plan
from gtn_lightning.randomness import keyed_rng
from gtn_lightning.teachers import Pixels
from gtn_lightning.teaching import teach
from tests.tiny import BATCH, SHAPE, STEPS, make_gtn, make_trainer

GRID = ConvNetGrid(SHAPE, 10, widths=[4, 8], depths=[1, 2])
ONE, OTHER = GRID.parse("w4-d1-relu-batch-max"), GRID.parse("w8-d2-sigmoid-none-none")


def real(data: DigitsData, steps: int = 40, **options: object) -> RealDataScorer:
    proxy = RealDataProxy(steps, batch_size=32, images=200, **options)  # type: ignore[arg-type]
    scorer = proxy.bind(GRID, data)
    assert isinstance(scorer, RealDataScorer)
    return scorer


def test_real_data_teaches_and_a_scorer_is_a_plain_callable(data: DigitsData) -> None:
    scorer = real(data)
    assert scorer(ONE) > 0.6
    assert scorer(ONE) == scorer(ONE.name) == scorer.evaluate(ONE).value
    assert scorer.evaluate(ONE, seed=1).value != scorer(ONE)
    with pytest.raises(RecipeError, match="'w5' is not an architecture of this space"):
        scorer("w5")


def test_scores_do_not_hang_on_their_order_and_leave_the_random_state(data: DigitsData) -> None:
    proxy = real(data, 5)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    forward = [score.value for score in proxy.evaluate_all([ONE, OTHER])]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [score.value for score in real(data, 5).evaluate_all([OTHER, ONE])] == forward[::-1]


def test_the_cost_is_counted(data: DigitsData) -> None:
    score = real(data, 5, rates=[0.01, 0.1], learners=3).evaluate(ONE)
    assert score.cost.steps == 2 * 3 * 5
    assert score.cost.images == 2 * 3 * (5 * 32 + 200)
    assert score.cost.flops == forward_flops(GRID.build(ONE), SHAPE) * 2 * 3 * (3 * 5 * 32 + 200)
    assert score.cost.seconds > 0


def test_the_best_rate_counts(data: DigitsData) -> None:
    alone = [real(data, 10, rates=[rate]).evaluate(ONE).value for rate in (1e-6, 0.03)]
    assert real(data, 10, rates=[1e-6, 0.03]).evaluate(ONE).value == max(alone) > min(alone)


def test_a_family_is_tuned_once_and_pays_for_it(data: DigitsData) -> None:
    scorer = real(data, 10, rates=[1e-6, 0.03], tune="family")
    assert scorer.overhead().steps == 0
    assert scorer.rates.candidates(ONE) == [0.03]
    assert scorer.evaluate(ONE).value == real(data, 10, rates=[0.03]).evaluate(ONE).value
    assert scorer.evaluate(GRID.parse("w8-d2-sigmoid-batch-max")).cost.steps == 10
    tuned = scorer.overhead()
    assert tuned.steps == 2 * 3 * 10  # two rates, three members, ten steps
    assert tuned.seconds > 0
    scorer.evaluate(OTHER)
    assert scorer.overhead().steps == 2 * tuned.steps
    assert scorer.proxy.bind(GRID, data).overhead().steps == 0


def test_families_are_tuned_alike_whoever_comes_first(data: DigitsData) -> None:
    orders = ["w4-d1-relu-none-max", "w8-d2-sigmoid-none-max"], ["w8-d2-sigmoid-none-max", "w4-d1-relu-none-max"]
    scorers = [real(data, 3, rates=[0.001, 0.01, 0.1], tune="family") for _ in orders]
    found = [{name: scorer(name) for name in order} for scorer, order in zip(scorers, orders, strict=True)]
    assert found[0] == found[1]


def test_measures_of_a_learning_curve(data: DigitsData) -> None:
    steps = (2, 5, 8, 10, 12, 15, 18, 20)  # eight looks at twenty steps
    curve = list(real(data, 20).curve(ONE, 0, steps))
    assert [point.step for point in curve] == list(steps)
    assert real(data, 20).evaluate(ONE).value == curve[-1].accuracy
    assert real(data, 20, measure="loss").evaluate(ONE).value == -curve[-1].loss
    area = real(data, 20, measure="area").evaluate(ONE).value
    assert area == pytest.approx(sum(point.accuracy for point in curve) / 8)
    losses = curve[-1].training_losses
    assert len(losses) == 20
    assert real(data, 20, measure="training_loss").evaluate(ONE).value == pytest.approx(-sum(losses[10:]) / 10)
    assert real(data, 10, optimizer=SGD(lr=1e38), measure="training_loss").evaluate(ONE).value == -float("inf")
    with pytest.raises(RecipeError, match="steps must be at least 2 with measure 'training_loss', got 1"):
        real(data, 1, measure="training_loss")


def test_a_training_may_be_ended_early(data: DigitsData) -> None:
    heard: list[tuple[int, float]] = []

    def report(step: int, value: float) -> bool:
        heard.append((step, value))
        return len(heard) == 3

    score = real(data, 40).evaluate(ONE, report=report)
    assert [step for step, _ in heard] == [5, 10, 15]
    assert score.value == heard[-1][1]
    assert score.cost.steps == 15


def test_a_learner_that_diverges_is_the_worst(data: DigitsData) -> None:
    assert real(data, 10, optimizer=SGD(lr=1e12), measure="loss")("w8-d2-relu-none-none") == -float("inf")


def test_a_subset_is_the_same_images_for_every_architecture(data: DigitsData) -> None:
    scorer = real(data, 5, subset=50)
    assert scorer.name == "50 real images"
    plans = [scorer.plan(torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    seen = [{int(i) for request in plan.requests for i in request.index} for plan in plans]
    assert seen[0] == seen[1] == set(range(50))


class Watched(RealDataScorer):
    """Keeps the numbers of the images that every network was trained on."""

    seen: list[list[int]]

    def plan(self, generator: torch.Generator) -> Plan:
        plan = super().plan(generator)
        self.seen.append([int(number) for request in plan.requests for number in request.index])
        return plan


def test_all_architectures_are_taught_with_the_same_images(data: DigitsData) -> None:
    scorer = Watched(RealDataProxy(5, batch_size=32, images=200), GRID, data, torch.device("cpu"))
    scorer.seen = []
    for architecture, seed in ((ONE, 0), (OTHER, 0), (ONE, 1)):
        scorer.evaluate(architecture, seed)
    assert scorer.seen[0] == scorer.seen[1] != scorer.seen[2]


def test_synthetic_data_scores_as_teaching_does(data: DigitsData, tmp_path: Path) -> None:
    gtn = make_gtn()
    scorer = LiveGTNProxy(gtn, images=100).bind(GRID, data)
    with keyed_rng(0, "GTN", ONE.name, device=torch.device("cpu")):
        network = GRID.build(ONE)
    requests = gtn.curriculum.requests(torch.Generator(), torch.device("cpu"))
    taught = teach(network, gtn.task, gtn.teacher, requests, gtn.inner_optimizer, [STEPS])[STEPS]
    images, labels = data.splits.val
    logits = torch.func.functional_call(network.eval(), taught.params, data.normalize(images[:100]))
    assert scorer(ONE) == pytest.approx(float((logits.argmax(1) == labels[:100]).float().mean()))


def test_a_teacher_file_is_a_proxy_that_knows_what_it_cost(data: DigitsData, tmp_path: Path) -> None:
    gtn = make_gtn(teacher=Pixels(SHAPE, 10, STEPS * BATCH, init="real"), inner_optimizer=Adam(lr=0.03))
    trainer = make_trainer(tmp_path, max_steps=3)
    trainer.fit(gtn, data)
    path = tmp_path / "teacher.safetensors"
    gtn.save_teacher(path)
    with pytest.warns(UserWarning, match="was meta-trained on one architecture alone .* nas_digits") as warned:
        trained = GTNProxy(str(path)).bind(GRID, data)
    assert len([line for line in warned if "one architecture" in str(line.message)]) == 1
    untrained = GTNProxy(str(path), untrained=True).bind(GRID, data)
    assert trained.overhead().steps == 3 * STEPS
    assert trained.overhead().images == 3 * STEPS * BATCH
    assert trained.overhead().seconds == gtn.meta_training()["seconds"]
    assert untrained.overhead().seconds == 0
    assert untrained.name == "untrained teacher"
    # It begins as real images, which meta-training has changed.
    assert isinstance(trained, GTNScorer)
    assert isinstance(untrained, GTNScorer)
    assert not torch.equal(untrained.gtn.teacher.pixels, trained.gtn.teacher.pixels)
    assert untrained.evaluate(ONE).value != trained.evaluate(ONE).value
    assert trained.settings() != untrained.settings()
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(path.read_bytes())
    assert GTNProxy(str(moved)).bind(GRID, data).settings() == trained.settings()


def test_a_teacher_that_met_a_space_is_bound_without_a_warning(data: DigitsData, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    make_gtn(learners=SpaceLearners(GRID)).save_teacher(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GTNProxy(str(path)).bind(GRID, data)


def test_the_newest_teacher_of_a_folder_of_runs_counts(
    data: DigitsData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RecipeError, match="no teacher file in the runs of runs/nas_digits: run `gtn fit --config nas_d"
    ):
        GTNProxy("runs/nas_digits")
    for number, run in enumerate(("later", "earlier")):
        (tmp_path / "runs" / "nas_digits" / run).mkdir(parents=True)
        file = tmp_path / "runs" / "nas_digits" / run / "teacher.safetensors"
        make_gtn(seed=number).save_teacher(file)
        os.utime(file, (number, 100 - number))
    assert GTNProxy("runs/nas_digits").file == Path("runs/nas_digits/later/teacher.safetensors")


def test_binding_leaves_the_proxy_as_it_is(data: DigitsData, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    make_gtn(teacher=Pixels(SHAPE, 10, STEPS * BATCH, init="real")).save_teacher(path)
    proxy = GTNProxy(str(path), untrained=True)
    before = {name: tensor.clone() for name, tensor in proxy.gtn.state_dict().items()}
    first, again = proxy.bind(GRID, data)(ONE), proxy.bind(GRID, data)(ONE)
    assert first == again
    assert all(torch.equal(tensor, before[name]) for name, tensor in proxy.gtn.state_dict().items())


def test_what_cannot_work_is_refused_in_one_line(data: DigitsData, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    make_gtn().save_teacher(path)
    with pytest.raises(RecipeError, match="steps must be at most 3, as many as the teacher is meta-trained for, got 4"):
        GTNProxy(str(path), steps=4)
    with pytest.raises(RecipeError, match="there is no teacher file"):
        GTNProxy(str(tmp_path / "none"))
    with pytest.raises(RecipeError, match="measure must be one of accuracy, loss, area, training_loss, got 'f1'"):
        RealDataProxy(5, measure="f1")
    with pytest.raises(RecipeError, match=r"rates must be positive numbers, at least one, got \[\]"):
        RealDataProxy(5, rates=[])
    with pytest.raises(RecipeError, match="tune must be one of architecture, family, got 'space'"):
        RealDataProxy(5, rates=[0.1], tune="space")
    with pytest.raises(RecipeError, match="tune 'family' chooses one of several rates, but there are none"):
        RealDataProxy(5, tune="family")
    with pytest.raises(RecipeError, match="subset must be at most 1197, the number of training images, got 5000"):
        RealDataProxy(5, subset=5000).bind(GRID, data)


def test_the_features_of_a_training_are_its_losses(data: DigitsData) -> None:
    curve = list(real(data, 16).curve(ONE, 0, [2, 4, 8, 16]))
    losses = curve[-1].training_losses
    assert len(losses) == 16
    assert losses[:4] == curve[1].training_losses
    features = real(data, 16).features(ONE)
    assert features.values[1::2] == pytest.approx([math.log(point.loss) for point in curve])
    assert features.values[0] == pytest.approx(sum(math.log(loss) for loss in losses[:2]) / 2)
    assert features.values[6] == pytest.approx(sum(math.log(loss) for loss in losses[8:]) / 8)
    assert features.cost.steps == 16
    assert len(real(data, 16, rates=[0.01, 0.1], learners=2).features(ONE).values) == 2 * 8
    diverged = real(data, 16, optimizer=SGD(lr=1e12)).features(GRID.parse("w8-d2-relu-none-none"))
    assert all(map(math.isfinite, diverged.values))
