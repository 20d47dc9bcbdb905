"""Meta-steps that are captured and replayed, against the same meta-steps computed as usual.

Without a GPU a replay is a call of the captured function on its static tensors; only the capture itself needs one.
"""

import copy
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gtn_lightning import GTN
from gtn_lightning.captures import settings
from gtn_lightning.curricula import NoCurriculum, ShuffledAll
from gtn_lightning.data import DigitsData
from gtn_lightning.fields import Batch
from gtn_lightning.inner_loop import LARS, Adam, cuda_graphs
from gtn_lightning.inner_loop.capture import recorded
from gtn_lightning.inner_loop.cuda_graphs import CudaGraphs, Results
from gtn_lightning.inner_loop.replay import AutocastState
from gtn_lightning.inner_loop.torch_internals import tree_leaves
from gtn_lightning.learners import MLP, ConvNet, Fixed, Mixture, RandomWidth
from gtn_lightning.meta_training import EvolutionStrategies
from gtn_lightning.meta_training.captured import captured_losses
from gtn_lightning.meta_training.computation import Drawn
from gtn_lightning.tasks import Classification
from gtn_lightning.teachers import Augmented, Pixels, Teacher, TeacherInput
from gtn_lightning.teaching import teach
from tests.recipes.test_recipes import instantiate
from tests.tiny import BATCH, NOISE, SHAPE, STEPS, Captures, make_gtn, make_trainer, same, with_generator

CPU = torch.device("cpu")


class InTheRun:
    """What a training step takes from a trainer: its place in the run, and what a single process gathers."""

    global_rank = 0
    strategy: Any = None

    def __init__(self) -> None:
        self.global_step = 0


class Alone:
    @staticmethod
    def all_gather(tensor: Tensor) -> Tensor:
        return tensor[None]


def standing(graphs: CudaGraphs | None, **changes: Any) -> GTN:
    """A GTN whose training step can be called without a trainer."""
    gtn = make_gtn(**changes)
    gtn.log = lambda *_, **__: None  # type: ignore[method-assign]
    gtn._trainer = InTheRun()  # type: ignore[assignment]
    gtn._graphs = graphs
    return gtn


def real(count: int = 20) -> list[Tensor]:
    return [torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(2)), torch.arange(count) % 10]


def meta_steps(gtn: GTN, steps: Sequence[int]) -> list[list[Tensor]]:
    """The loss and the gradient of some meta-steps, without updates between them."""
    found = []
    for step in steps:
        gtn.trainer.global_step = step  # type: ignore[misc]
        loss = gtn.training_step([tensor.to(gtn.device) for tensor in real()], 0)
        found.append([loss.detach(), *torch.autograd.grad(loss, list(gtn.parameters()))])
    return found


def mlp(**options: Any) -> partial[nn.Module]:
    return partial(MLP, shape=SHAPE, outputs=10, **{"hidden": [8], "activation": "tanh"} | options)


def conv() -> partial[nn.Module]:
    return partial(ConvNet, image_shape=SHAPE, classes=10, width=4, depth=1)


class Waves(Pixels):
    """A teacher without a shortcut: one batch per request, computed again in the backward pass."""

    gain = 1.0

    def batches(self, requests: Sequence[TeacherInput]) -> Iterator[Batch]:
        return Teacher.batches(self, requests)

    def forward(self, request: TeacherInput) -> Batch:
        return {"inputs": (self.gain * self.pixels[request.index]).sin(), "targets": request.index % 10}


SITUATIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "pixels with soft labels": lambda: {"teacher": Pixels(SHAPE, 10, STEPS * BATCH, True)},
    "a generator, a meta-loss at every step": lambda: (
        with_generator(soft_labels=True) | {"task": Classification(10, meta_every=1)}
    ),
    "a teacher without a shortcut": lambda: {"teacher": Waves(SHAPE, 10, STEPS * BATCH)},
    "changed at random": lambda: {
        "teacher": Augmented(Pixels(SHAPE, 10, STEPS * BATCH), crop=1, flip=True, rotate=10.0)
    },
    "new noise": lambda: with_generator() | {"curriculum": NoCurriculum(STEPS, BATCH, 10, NOISE)},
    "shuffled, Adam": lambda: (
        with_generator()
        | {
            "curriculum": ShuffledAll(STEPS, BATCH, 10, NOISE),
            "inner_optimizer": Adam(lr=0.01, learned=["beta1"], learned_per_step=["lr"], steps=STEPS),
            "inner_loop": {"mode": "mixed"},
        }
    ),
    "a convolutional learner, LARS": lambda: {
        "learners": Fixed(conv()),
        "inner_optimizer": LARS(lr=0.1, learned=["lr"]),
        "inner_loop": {"mode": "reverse"},
    },
    "running statistics": lambda: {
        "learners": Fixed(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)))
    },
    "random windows": lambda: with_generator() | {"inner_loop": {"truncation": 2, "random_window": True}},
    "segments": lambda: with_generator() | {"inner_loop": {"segment": 2, "mode": "mixed"}},
    "a population, in segments": lambda: {"population": 3, "inner_loop": {"segment": 2}},
    "a population of convolutional learners": lambda: {"population": 2, "learners": Fixed(conv())},
    "a mixture of architectures": lambda: {
        "learners": Mixture({"tanh": mlp(), "relu": mlp(activation="relu"), "conv": conv()})
    },
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("situation", SITUATIONS)
def test_replays_have_the_loss_and_the_gradient_of_ordinary_meta_steps(situation: str) -> None:
    graphs = CudaGraphs(CPU)
    usual, captured = (standing(each, **SITUATIONS[situation]()) for each in (None, graphs))
    captured.load_state_dict(usual.state_dict())
    several = situation in ("random windows", "a mixture of architectures")
    steps = range(9 if several else 5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="a meta-step launches")
        found = meta_steps(captured, steps)
    for one, other in zip(found, meta_steps(usual, steps), strict=True):
        for part, expected in zip(one, other, strict=True):
            torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-12)
    assert graphs.captures == (2 if situation == "random windows" else 3 if "mixture" in situation else 1)
    assert graphs.replays >= (1 if several else 3)  # the third is not compared


class Moves(TorchDispatchMode):
    """Refuses operations between a host and a device other than copies of a whole argument."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)}
        assert devices <= {"meta"}, f"{func} uses {devices}"
        return found


class OnlyRecorded(CudaGraphs):
    """Computes everything as a capture does, on a device that has no values."""

    def run(
        self,
        what: str,
        key: Hashable,
        networks: Sequence[nn.Module],
        given: Sequence[Tensor],
        prepare: Callable[[], Callable[[Sequence[Tensor]], Results]],
    ) -> Results:
        function, moved = prepare(), [tensor.to(self.device) for tensor in given]
        with recorded(), Moves():
            return function(moved)


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> OnlyRecorded:
    off = AutocastState.current(CPU)  # the device has no autocast setting of its own
    monkeypatch.setattr(AutocastState, "current", lambda device: off)
    return OnlyRecorded(torch.device("meta"))


def shapes_of_the_gradient(gtn: GTN, graphs: OnlyRecorded, data: Sequence[Tensor]) -> list[torch.Size]:
    """The shapes of the gradient of a recorded meta-step, by teacher, curriculum and inner hyperparameters."""
    networks = gtn.learners.population(torch.Generator().manual_seed(0), gtn.population)
    gtn.to("meta")
    requests = gtn.curriculum.requests(torch.Generator(), graphs.device)
    tensors, window = gtn.teacher.draw(requests), gtn.inner_loop.window(torch.Generator().manual_seed(0))
    drawn = Drawn(networks, requests, tensors, window, gtn.inner_loop.mode)
    found = captured_losses(gtn._parts, drawn, [tensor.to("meta") for tensor in data], graphs)
    assert found is not None
    return [part.shape for part in torch.autograd.grad(found[0], list(gtn.parameters()))]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_captured_meta_step_reads_no_value_and_uses_no_tensor_of_the_host(
    situation: str, without_values: OnlyRecorded
) -> None:
    gtn = make_gtn(**SITUATIONS[situation]())
    shapes = [parameter.shape for parameter in gtn.parameters()]
    assert shapes_of_the_gradient(gtn, without_values, real()) == shapes


@pytest.mark.parametrize("recipe", ["mnist", "cifar10_distil_10"])
def test_nor_does_that_of_a_recipe_for_a_gpu(
    recipe: str, without_values: OnlyRecorded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gtn"])
    short = ["--model.inner_loop.steps=2", "--model.inner_loop.mode=mixed", "--trainer.accelerator=cpu"]
    if recipe == "cifar10_distil_10":
        short += ["--model.inner_loop.truncation=2", "--model.evaluation.steps=null"]
    gtn = instantiate("--config", recipe, *short).model
    shapes = [parameter.shape for parameter in gtn.parameters()]
    data = [torch.zeros(16, *gtn.teacher.fields["inputs"].sample_shape), torch.arange(16) % 10]
    assert shapes_of_the_gradient(gtn, without_values, data) == shapes


@pytest.mark.parametrize("situation", SITUATIONS)
def test_captured_teaching_reads_no_value_either(situation: str, without_values: OnlyRecorded) -> None:
    gtn = make_gtn(**SITUATIONS[situation]()).eval()
    network = gtn.learners.sample(torch.Generator().manual_seed(0))
    gtn.to("meta")
    with torch.no_grad():
        requests = gtn.curriculum.requests(torch.Generator(), without_values.device)
    steps = [1, STEPS]
    taught = teach(network, gtn.task, gtn.teacher, requests, gtn.inner_optimizer, steps, "remat", without_values)
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    assert {name: value.shape for name, value in taught[STEPS].params.items()} == shapes


# ------------------------------------------------------------------------------------------------------------ Lightning


class Disturbs(pl.Callback):
    """Makes the gradient of one meta-step infinite, and saves a checkpoint after three."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 1:
            next(iter(pl_module.parameters())).grad.fill_(float("inf"))  # type: ignore[union-attr]

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 3 and not (self.folder / "after3.ckpt").exists():
            trainer.save_checkpoint(self.folder / "after3.ckpt")


def trained(folder: Path, captures: bool, resume: Path | None = None, **options: Any) -> dict[str, Tensor]:
    """The state and the last scores after accumulated and clipped meta-training with one spoilt meta-step."""
    gtn = make_gtn(
        **with_generator(),
        outer_optimizer=partial(torch.optim.Adam, lr=0.02),
        evaluation={"learners": 4},
    )
    seen = Captures()
    trainer = make_trainer(
        folder,
        **{
            "max_steps": 6,
            "val_check_interval": 4,
            "accumulate_grad_batches": 2,
            "gradient_clip_val": 0.01,
            "gradient_clip_algorithm": "norm",
        }
        | options,
        callbacks=[Disturbs(folder), *[seen] * captures],
    )
    trainer.fit(gtn, DigitsData(32), ckpt_path=resume)
    assert gtn.recovery.skipped == 1
    assert not captures or (seen.graphs is not None and seen.graphs.captures == 2 and seen.graphs.replays > 3)
    assert not captures or (seen.ahead is not None and seen.ahead.taken >= 5)
    assert gtn.result is not None
    return {name: tensor.clone() for name, tensor in gtn.state_dict().items()} | {"scores": gtn.result.synthetic}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_meta_training_is_that_of_ordinary_meta_steps_bit_for_bit(precision: Any, tmp_path: Path) -> None:
    usual = trained(tmp_path / "usual", False, precision=precision)
    captured = trained(tmp_path / "captured", True, precision=precision)
    assert same(captured, usual)
    if precision != "32-true":
        return
    resumed = trained(tmp_path / "resumed", True, tmp_path / "captured" / "after3.ckpt", precision=precision)
    assert same(resumed, captured)


def test_evolution_strategies_replay_the_values_of_the_meta_loss() -> None:
    graphs = CudaGraphs(CPU)
    usual, captured = (standing(each, outer_gradient=EvolutionStrategies(pairs=3)) for each in (None, graphs))
    for gtn in (usual, captured):
        gtn.trainer.strategy = Alone()  # type: ignore[misc]
    for one, other in zip(meta_steps(captured, range(3)), meta_steps(usual, range(3)), strict=True):
        assert all(torch.equal(part, expected) for part, expected in zip(one, other, strict=True))
    assert (graphs.captures, graphs.replays) == (1, 3 * 6 - 2)


# ------------------------------------------------------------------------------------------------- what is not captured


class Noisy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 10))


def hooked() -> dict[str, Any]:
    teacher = Pixels(SHAPE, 10, STEPS * BATCH)
    teacher.register_forward_hook(lambda *_: None)
    return {"teacher": teacher}


def gradient_hooked() -> dict[str, Any]:
    teacher = Pixels(SHAPE, 10, STEPS * BATCH)
    teacher.pixels.register_hook(lambda gradient: 2 * gradient)
    return {"teacher": teacher}


REFUSED: dict[str, Callable[[], dict[str, Any]]] = {
    "random numbers are drawn that the backward pass has to draw again": lambda: {"learners": Fixed(Noisy)},
    "teacher has a hook, which a graph would not call": hooked,
    "the parameter teacher.free_inputs has a gradient hook": gradient_hooked,
    "inner_loop.offload keeps states outside of the GPU": lambda: {"inner_loop": {"segment": 2, "offload": "host"}},
    "the task Shown makes the real data from the taught learners": lambda: {"task": Shown(10)},
}


class Shown(Classification):
    def experience(self, *arguments: Any, **options: Any) -> Any:
        return super().experience(*arguments, **options)


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_captured_is_computed_as_usual_and_said_once(reason: str) -> None:
    graphs = CudaGraphs(CPU)
    usual, captured = (standing(each, **REFUSED[reason]()) for each in (None, graphs))
    captured.load_state_dict(usual.state_dict())
    with pytest.warns(UserWarning, match=f"a meta-step launches its kernels one by one, because {reason}") as caught:
        found = meta_steps(captured, range(4))
    assert len([each for each in caught if "a meta-step launches" in str(each.message)]) == 1
    for one, other in zip(found, meta_steps(usual, range(4)), strict=True):
        assert all(torch.equal(part, expected) for part, expected in zip(one, other, strict=True))
    assert graphs.captures == 0


def test_more_architectures_than_graphs_are_computed_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 1)
    graphs = CudaGraphs(CPU)
    usual, captured = (standing(each, **SITUATIONS["a mixture of architectures"]()) for each in (None, graphs))
    with pytest.warns(UserWarning, match="1 graphs are kept, and there are more architectures or windows"):
        found = meta_steps(captured, range(9))
    for one, other in zip(found, meta_steps(usual, range(9)), strict=True):
        assert all(torch.equal(part, expected) for part, expected in zip(one, other, strict=True))
    assert graphs.captures == 1
    assert graphs.replays > 0


def test_architectures_that_never_come_again_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_CANDIDATES", 3)
    graphs = CudaGraphs(CPU)
    learners = RandomWidth(partial(ConvNet, image_shape=SHAPE, classes=10, depth=1), {"width": [4, 999]})
    with pytest.warns(UserWarning, match="of 3 in a row, no two had the same architecture, shapes and settings"):
        meta_steps(standing(graphs, learners=learners), range(4))
    assert (graphs.captures, len(graphs._known)) == (0, 3)


def test_a_changed_setting_and_a_moved_parameter_are_captured_anew() -> None:
    graphs = CudaGraphs(CPU)
    usual, captured = (standing(each, teacher=Waves(SHAPE, 10, STEPS * BATCH)) for each in (None, graphs))
    captured.load_state_dict(usual.state_dict())
    for part in range(3):
        for gtn in (usual, captured):
            assert isinstance(gtn.teacher, Waves)
            gtn.teacher.gain = 2.0 if part else 1.0
            if part == 2:
                gtn.teacher.pixels.data = gtn.teacher.pixels.data * 0.5
        for one, other in zip(meta_steps(captured, range(7)), meta_steps(usual, range(7)), strict=True):
            assert all(torch.equal(found, expected) for found, expected in zip(one, other, strict=True))
        assert (graphs.captures, graphs.replays) == (part + 1, 5 * (part + 1))


class Schedule:
    """A setting that is an object of its own, and refers to itself."""

    def __init__(self, gain: float) -> None:
        self.gain = gain
        self.own = self


def test_objects_that_are_changed_or_replaced_are_other_settings() -> None:
    module = nn.Module()
    found = set()
    for number in range(5):
        module.gain = None  # so that the next one may take its place in memory
        module.gain = partial(torch.clamp, max=number)
        module.schedule = None
        module.schedule = Schedule(number)
        found.add(settings(module))
        assert settings(module) in found
        module.schedule.gain += 0.5
        found.add(settings(module))
    assert len(found) == 10


def test_a_replay_that_differs_from_an_ordinary_run_is_found() -> None:
    graphs = CudaGraphs(CPU)
    gtn = standing(graphs)
    meta_steps(gtn, range(2))
    assert graphs.captures == 1
    captured = next(iter(graphs._known.values()))[0].capture
    assert isinstance(captured, cuda_graphs.FunctionCall)
    captured._static = [tensor.clone() for tensor in captured._static]  # so it never sees what is filled in
    with pytest.warns(UserWarning, match="a replay had another result than an ordinary run"):
        found = meta_steps(gtn, [2, 3])
    for one, other in zip(found, meta_steps(standing(None, learners=gtn.learners), [2, 3]), strict=True):
        assert all(torch.equal(part, expected) for part, expected in zip(one, other, strict=True))


def test_a_copy_of_a_module_captures_its_own() -> None:
    graphs = CudaGraphs(CPU)
    gtn = standing(graphs)
    found = meta_steps(gtn, range(4))
    twin = copy.deepcopy(gtn)
    twin._trainer = InTheRun()  # type: ignore[assignment]
    assert twin._graphs is not None
    assert twin._graphs.captures == 0
    for one, other in zip(meta_steps(twin, range(4)), found, strict=True):
        assert all(torch.equal(part, expected) for part, expected in zip(one, other, strict=True))


# ------------------------------------------------------------------------------------------------------------- on a GPU


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("situation", [*SITUATIONS, "compiled"])
def test_replayed_cuda_graphs_have_the_loss_and_the_gradient_of_ordinary_meta_steps(situation: str) -> None:
    changes = {"inner_loop": {"mode": "compiled"}} if situation == "compiled" else SITUATIONS[situation]()
    device = torch.device("cuda", 0)
    graphs = CudaGraphs(device)
    usual, captured = (standing(each, **copy.deepcopy(changes)).to(device) for each in (None, graphs))
    captured.load_state_dict(usual.state_dict())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="a meta-step launches")
        found = meta_steps(captured, range(12))
    assert graphs.captures == (2 if situation == "random windows" else 3 if "mixture" in situation else 1)
    assert graphs.replays > 0
    for one, other in zip(found, meta_steps(usual, range(12)), strict=True):
        one, other = (torch.cat([part.flatten() for part in parts]) for parts in (one, other))
        assert float((one - other).norm() / other.norm()) <= 1e-9


class Replays(pl.Callback):
    """Keeps the numbers of captures and replays when meta-training ends."""

    found = (0, 0)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (graphs := pl_module._graphs) is not None:
            self.found = graphs.captures, graphs.replays


@needs_cuda
def test_meta_training_on_cuda_replays_meta_steps_and_evaluations(tmp_path: Path) -> None:
    states = []
    for wanted in (False, True):
        seen = Replays()
        gtn = make_gtn(
            **with_generator(),
            inner_loop={"cuda_graphs": wanted},
            evaluation={"learners": 4},
            outer_optimizer=partial(torch.optim.SGD, lr=0.1),
        )
        options = {"accelerator": "gpu", "max_steps": 8, "val_check_interval": 4, "accumulate_grad_batches": 2}
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*launches its kernels one by one")
            make_trainer(tmp_path, **options, callbacks=[seen]).fit(gtn, DigitsData(32))
        states.append(torch.cat([parameter.detach().flatten() for parameter in gtn.parameters()]))
        assert (seen.found[0] == 2 and seen.found[1] > 10) if wanted else seen.found == (0, 0)
    assert float((states[0] - states[1]).norm() / states[0].norm()) <= 1e-4
