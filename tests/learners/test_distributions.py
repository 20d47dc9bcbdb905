"""What is drawn, how often, from which randomness; and recipes that cannot work."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jsonargparse
import pytest
import torch
from torch import nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.learners import (
    MLP,
    ConvNet,
    Fixed,
    GTNMnistNet,
    LearnerDistribution,
    LearnerFactory,
    Mixture,
    RandomWidth,
    ResNet,
    check_learner,
)
from tests.tiny import make_gtn

SMALL: dict[str, Any] = {"image_shape": (1, 8, 8), "classes": 10}
small_convnet = partial(ConvNet, **SMALL)
small_mlp = partial(MLP, shape=(1, 8, 8), outputs=10)
small_resnet = partial(ResNet, **SMALL, width=4, blocks=[1])


def draw(distribution: LearnerDistribution, seed: int, *, parameters: int = 0) -> nn.Module:
    torch.manual_seed(parameters)
    return distribution.sample(torch.Generator().manual_seed(seed))


def flat(learner: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(learner.parameters())


@pytest.mark.parametrize(
    "distribution",
    [
        Fixed(small_convnet),
        RandomWidth(small_convnet, {"width": [4, 30]}),
        Mixture({"conv": small_convnet, "mlp": small_mlp}),
    ],
    ids=["Fixed", "RandomWidth", "Mixture"],
)
def test_same_seeds_repeat_a_learner_and_each_call_makes_a_fresh_one(
    distribution: LearnerDistribution,
) -> None:
    first = draw(distribution, 3, parameters=5)
    assert torch.equal(flat(first), flat(draw(distribution, 3, parameters=5)))
    other = draw(distribution, 3, parameters=6)
    assert flat(first).shape == flat(other).shape, "the architecture must not depend on the global random state"
    assert not torch.equal(flat(first), flat(other))
    generator = torch.Generator().manual_seed(0)
    learners = [distribution.sample(generator) for _ in range(2)]
    assert learners[0] is not learners[1]
    assert flat(learners[0]).data_ptr() != flat(learners[1]).data_ptr()


def test_random_widths_cover_their_range_and_stay_in_it() -> None:
    distribution = RandomWidth(small_convnet, {"width": [3, 7], "depth": [1, 3]})
    generator = torch.Generator().manual_seed(0)
    learners = [distribution.sample(generator) for _ in range(100)]
    sizes = {tuple(getattr(learner, name) for name in distribution.ranges) for learner in learners}
    assert sizes == {(width, depth) for width in range(3, 7) for depth in range(1, 3)}


def test_random_widths_of_the_papers_mnist_network() -> None:
    distribution = RandomWidth(
        partial(GTNMnistNet, **SMALL), {"conv1": [32, 128], "conv2": [64, 256], "linear": [64, 256]}
    )
    learner = draw(distribution, 0)
    assert isinstance(learner, GTNMnistNet)
    assert 32 <= learner.conv1 < 128
    assert 64 <= learner.conv2 < 256
    assert 64 <= learner.linear < 256
    assert learner(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [(None, [1 / 3, 1 / 3, 1 / 3]), ({"resnet": 1.0, "mlp": 6.0, "conv": 3.0}, [0.3, 0.6, 0.1])],
)
def test_mixture_draws_families_by_weight(weights: dict[str, float] | None, shares: list[float]) -> None:
    families: dict[str, LearnerFactory] = {
        "conv": small_convnet,
        "mlp": partial(MLP, (1, 8, 8), 10, hidden=[2]),
        "resnet": small_resnet,
    }
    mixture = Mixture(families, weights)
    generator = torch.Generator().manual_seed(0)
    draws = 1000
    counts = Counter(type(mixture.sample(generator)).__name__ for _ in range(draws))
    for name, share in zip(["ConvNet", "MLP", "ResNet"], shares, strict=True):
        deviation = (share * (1 - share) / draws) ** 0.5
        assert counts[name] / draws == pytest.approx(share, abs=4 * deviation)


def test_families_are_named_and_hold_their_own_learners_only() -> None:
    assert list(Fixed(small_convnet).families()) == ["ConvNet"]
    widths = RandomWidth(small_mlp, {"outputs": [4, 6]}).families()
    assert list(widths) == ["MLP"]
    assert {draw(widths["MLP"], seed).outputs for seed in range(20)} == {4, 5}
    families = Mixture({"small": small_convnet, "flat": small_mlp}).families()
    assert list(families) == ["small", "flat"]
    assert {type(draw(families["flat"], seed)) for seed in range(10)} == {MLP}


def test_checking_and_naming_learners_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    distribution = RandomWidth(small_convnet, {"width": [4, 8]})
    distribution.families()
    Fixed(small_convnet).families()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: RandomWidth(small_convnet, {"widht": [2, 4]}),
            "ranges: expected keyword arguments of the learner, got widht .*'widht'",
        ),
        (
            lambda: RandomWidth(lambda: MLP((1, 8, 8), 10), {"width": [2, 4]}),
            "ranges: expected keyword arguments of the learner, got width",
        ),
        (lambda: RandomWidth(small_convnet, {"width": [4, 4]}), r"ranges\.width must be .*low < high .*, got \[4, 4\]"),
        (lambda: RandomWidth(small_convnet, {"width": [4]}), r"ranges\.width must be .*, got \[4\]"),
        (lambda: RandomWidth(small_convnet, {"width": [4, 8.5]}), r"ranges\.width must be .*, got \[4, 8\.5\]"),  # type: ignore[list-item]
        (lambda: RandomWidth(small_convnet, {"width": [0, 4]}), "width must be .*, got 0"),
        (lambda: RandomWidth(small_convnet, {"depth": [1, 5]}), "depth must be .*, got 4"),
        (lambda: RandomWidth(small_convnet, {}), "ranges must .*, got none"),
        (lambda: Mixture({}), "learners must .*, got none"),
        (lambda: Mixture({"a": small_mlp, "b": small_mlp}, {"a": 1.0}), "weights must .* has b"),
        (lambda: Mixture({"a": small_mlp}, {"a": 1.0, "c": 1.0}), "weights must .* has c"),
        (lambda: Mixture({"a": small_mlp}, {"a": 0.0}), r"weights\.a must be above 0 .*, got 0\.0"),
        (lambda: Mixture({"a": small_mlp}, {"a": float("nan")}), r"weights\.a must be .*, got nan"),
        (lambda: Fixed(dict).sample(torch.Generator()), "learner must make a torch.nn.Module, got a dict"),  # type: ignore[arg-type]
        (lambda: Fixed(small_mlp()), r"Fixed: learner must be a class.* a network, MLP: give partial\(MLP, \.\.\.\)"),
        (lambda: Fixed(3), r"Fixed: learner must be a class, or a function, .*got a int"),  # type: ignore[arg-type]
        (
            lambda: Fixed(nn.Linear),
            r"Fixed: .*Linear needs in_features, out_features: give partial\(Linear, in_features",
        ),
        (lambda: RandomWidth(small_convnet(), {"width": [2, 4]}), r"RandomWidth: learner must be .*partial\(ConvNet, "),
        (lambda: Mixture({"a": small_mlp, "b": small_mlp()}), r"Mixture: learners\.b must be .*partial\(MLP, "),
    ],
)
def test_bad_values_are_named_in_one_line(build: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_distributions_can_be_written_in_a_recipe() -> None:
    """The factories' type must stay one that jsonargparse turns into a class path with its arguments."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LearnerDistribution, "learners")
    shape = {"image_shape": [1, 8, 8], "classes": 10}

    def build(name: str, **init_args: Any) -> LearnerDistribution:
        recipe = {"learners": {"class_path": f"gtn_lightning.learners.{name}", "init_args": init_args}}
        distribution: LearnerDistribution = parser.instantiate(parser.parse_object(recipe)).learners
        return distribution

    convnet = {"class_path": "gtn_lightning.learners.ConvNet", "init_args": {**shape, "norm": "group"}}
    mlp = {"class_path": "gtn_lightning.learners.MLP", "init_args": {"shape": [1, 8, 8], "outputs": 10, "hidden": [7]}}
    assert draw(build("Fixed", learner=convnet), 0).norm == "group"
    assert draw(build("RandomWidth", learner=convnet, ranges={"width": [5, 6]}), 0).width == 5
    mixture = build("Mixture", learners={"a": convnet, "b": mlp}, weights={"a": 1, "b": 1e6})
    assert draw(mixture, 0).hidden == [7]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (small_mlp(), r"got a network, MLP: give Fixed\(partial\(MLP, \.\.\.\)\), which makes a new one"),
        (MLP, r"got the class MLP: give Fixed\(partial\(MLP, \.\.\.\)\)"),
        (small_mlp, r"got a partial: give Fixed\(partial\(MyNet, \.\.\.\)\)"),
        (None, r"got a NoneType: give Fixed"),
    ],
)
def test_what_is_no_distribution(given: object, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^model.learners must be a distribution over learners, {message}"):
        make_gtn(learners=given)


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), r"Sequential has a LazyLinear, .*as in Linear"),
        (nn.Sequential(nn.LazyBatchNorm2d(affine=False)), r"Sequential has a LazyBatchNorm2d, .*as in BatchNorm2d"),
        (torch.jit.script(nn.Linear(2, 3)), r"is or contains a TorchScript module.*use the class"),
        (
            nn.Sequential(torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2))),
            r"Sequential is or contains a TorchScript",
        ),
    ],
)
def test_networks_that_cannot_be_taught(learner: nn.Module, message: str) -> None:
    check_learner(small_convnet())
    with pytest.raises(RecipeError, match=rf"^the learner .*{message}") as caught:
        check_learner(learner)
    assert "\n" not in str(caught.value)
