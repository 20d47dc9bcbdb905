"""Proxies without training against what can be computed by hand."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from gtn_lightning.data import TensorData
from gtn_lightning.errors import RecipeError
from gtn_lightning.learners import MLP, ConvNet
from gtn_lightning.nas.proxies.base import Proxy
from gtn_lightning.nas.proxies.flops import forward_flops
from gtn_lightning.nas.proxies.zero_cost import NASWOT, FLOPs, NumParameters, SynFlow, naswot, synflow
from gtn_lightning.nas.spaces import Architecture, Choice, ConvNetGrid, SearchSpace

PROXIES: dict[str, Callable[[], Proxy]] = {
    "parameters": NumParameters,
    "FLOPs": FLOPs,
    "synflow": SynFlow,
    "naswot": NASWOT,
}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return ConvNetGrid((1, 8, 8), 10, widths=[4, 8], depths=[1, 2])


class Given(SearchSpace):
    """A space of given networks, made by functions."""

    def __init__(self, **networks: Callable[[], nn.Module]) -> None:
        self.networks = networks
        self.decisions = {"network": list(networks)}

    def name(self, choices: Mapping[str, Choice]) -> str:
        return str(choices["network"])

    def choices(self, name: str) -> dict[str, Choice]:
        return {"network": name}

    def build(self, architecture: Architecture) -> nn.Module:
        return self.networks[architecture.name]()


class Constant(nn.Module):
    """Codes that no image has a part in, whatever the network."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.ones_like(images)


def small_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6, 10),
    )


def test_parameters_and_flops_are_those_counted_by_hand(data: TensorData) -> None:
    space = Given(small=small_network)
    values = {}
    for proxy in (NumParameters(), FLOPs()):
        values[proxy.name] = proxy.bind(space, data)("small")
    # 8x8 pixels, 4x4 after the pooling, 1x1 after the second convolution
    assert values["parameters"] == (4 * 9 + 4) + (4 + 4) + 6 * 4 * 9 + (6 * 10 + 10)
    assert values["FLOPs"] == 2 * (64 * 4 * 9 + 1 * 6 * 4 * 9 + 6 * 10)


def test_shared_parameters_count_once(data: TensorData) -> None:
    def tied() -> nn.Module:
        layer = nn.Linear(64, 64)
        return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)

    assert NumParameters().bind(Given(tied=tied), data)("tied") == 64 * 64 + 64


def test_counting_flops_leaves_the_network_as_it_was() -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.inference_mode():
        flops = forward_flops(network, (1, 8, 8))
    assert flops == forward_flops(network, (1, 8, 8)) > 0
    assert network.training
    for name, tensor in network.state_dict().items():
        assert tensor.device.type == "cpu"
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_flops_are_counted_where_batch_statistics_of_one_vector_do_not_exist() -> None:
    assert forward_flops(MLP((1, 8, 8), 10, hidden=[5], norm="batch"), (1, 8, 8)) == 2 * (64 * 5 + 5 * 10)


def test_flops_of_a_network_that_looks_at_values_are_counted_on_its_own_device() -> None:
    class Looking(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            vectors = images.flatten(1)
            return super().forward(vectors if vectors.sum().item() < 1 else -vectors)

    assert forward_flops(Looking(64, 10), (1, 8, 8)) == 2 * 64 * 10


def test_synflow_of_a_linear_network_is_its_product() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).double()
    weights = [parameter.detach().abs() for parameter in network.parameters()]
    before = [parameter.detach().clone() for parameter in network.parameters()]
    # Every layer passes on all of R, so that the sum over all parameters is R as often as there are layers.
    response = float((weights[1] @ weights[0]).sum())
    assert synflow(network, (1, 2, 2)) == pytest.approx(math.log(2 * response), rel=1e-12)
    for parameter, value in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.grad is None


def test_synflow_takes_norms_out_and_leaves_their_weights_where_they_start() -> None:
    plain = ConvNet((1, 8, 8), 10, width=4, depth=2, norm="none", pooling="average")
    expected = synflow(plain, (1, 8, 8))
    weights = [part.weight for part in plain.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    for norm in ("batch", "batch_running", "group", "layer", "instance", "weight"):
        network = ConvNet((1, 8, 8), 10, width=4, depth=2, norm=norm, pooling="average")
        parts = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        with torch.no_grad():
            for part, weight in zip(parts, weights, strict=True):
                part.weight.copy_(weight)
                if norm == "weight":
                    part.get_parameter("scale").copy_(weight.flatten(1).norm(dim=1).view_as(part.scale))
        before = {name: type(part) for name, part in network.named_modules()}
        assert synflow(network, (1, 8, 8)) == pytest.approx(expected, rel=1e-6), norm
        assert {name: type(part) for name, part in network.named_modules()} == before
    torchs = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 3, bias=False)))
    assert synflow(torchs, (1, 2, 2)) == pytest.approx(math.log(float(torchs[1].weight.detach().abs().sum())), rel=1e-6)


def test_synflow_has_room_for_many_layers_and_is_lowest_where_nothing_flows() -> None:
    deep = nn.Sequential(nn.Flatten(), *[nn.Linear(64, 64, bias=False) for _ in range(60)])
    for layer in deep[1:]:
        nn.init.constant_(layer.weight, 1.0)  # R is 64^61: too much for float32
    assert synflow(deep, (1, 8, 8)) == pytest.approx(61 * math.log(64) + math.log(60), rel=1e-12)
    dead = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    nn.init.zeros_(dead[1].weight)
    assert synflow(dead, (1, 8, 8)) == -math.inf
    assert synflow(nn.Flatten(), (1, 8, 8)) == -math.inf


def test_naswot_is_the_determinant_of_the_kernel_of_codes() -> None:
    network = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(4, 1, bias=False), nn.Sigmoid())
    nn.init.constant_(network[2].weight, 1.0)
    images = torch.tensor([[1.0, 1, -3, -1], [1, -1, 3, -1], [-1, -1, -1, -1]])[:, None, None]
    # Codes before the ReLU: 1100, 1010, 0000. After it all sums are positive but the last, which is 0: 1, 1, 0.
    kernel = torch.tensor([[5.0, 3, 2], [3, 5, 2], [2, 2, 5]])
    assert naswot(network, images) == pytest.approx(math.log(float(torch.det(kernel))), rel=1e-6)


def test_naswot_tells_a_random_network_from_one_whose_codes_are_constant(data: TensorData) -> None:
    def network(*first: nn.Module) -> Callable[[], nn.Module]:
        return lambda: nn.Sequential(*first, nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))

    space = Given(
        random=network(),
        constant=network(Constant()),
        linear=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        few=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU()),  # 9 codes cannot tell 16 images apart
    )
    scorer = NASWOT(16).bind(space, data)
    assert math.isfinite(scorer("random"))
    assert [scorer(name) for name in ("constant", "linear", "few")] == [-math.inf] * 3


def test_naswot_is_lowest_where_rounding_hides_that_the_kernel_is_singular() -> None:
    # All codes of five activations differ, but the kernel of 32 has no more than rank 6.
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 5)
    kernel = (codes @ codes.T + 5).double() / 2
    assert math.isfinite(float(torch.linalg.slogdet(kernel).logabsdet))
    assert naswot(nn.Sequential(nn.Flatten(), nn.ReLU()), codes[:, None, None]) == -math.inf


def test_naswot_has_the_statistics_of_the_batch_and_leaves_running_ones_alone() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.ReLU())
    images = torch.tensor([[1.0, 2], [5, 6], [2, 8]])[:, None, None]
    # Less the mean of 4, signs are --, ++ and -+; as they are, all are positive.
    kernel = torch.tensor([[2.0, 0, 1], [0, 2, 1], [1, 1, 2]])
    assert naswot(network, images) == pytest.approx(math.log(float(torch.det(kernel))), rel=1e-6)
    assert float(network[0].num_batches_tracked) == 0
    assert not network[1]._forward_pre_hooks


def test_naswot_shows_every_architecture_the_same_images_of_the_training_split(data: TensorData) -> None:
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 100)
            torch.rand(1)

        def forward(self, images: Tensor) -> Tensor:
            if images.device.type == "cpu":
                seen.append(images)
            return self.layer(images.flatten(1)).relu()

    scorer = NASWOT(20).bind(Given(one=Watching, two=Watching), data)
    for name, seed in (("one", 0), ("two", 0), ("one", 1)):
        scorer.evaluate(scorer.space.parse(name), seed)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    train = data.normalize(data.splits.train.images).flatten(1)
    assert (torch.cdist(seen[0].flatten(1), train).min(dim=1).values < 1e-2).all()


@pytest.mark.parametrize("make", PROXIES.values(), ids=PROXIES)
def test_scores_hang_on_architecture_and_seed_alone(
    make: Callable[[], Proxy], space: SearchSpace, data: TensorData
) -> None:
    names = ["w8-d2-relu-batch-none", "w8-d2-sigmoid-none-average", "w4-d2-leaky_relu-instance-none"]
    scorer, again = make().bind(space, data), make().bind(space, data)
    state = torch.get_rng_state()
    values = [scorer(name) for name in names]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert [again(name) for name in reversed(names)] == values[::-1]
    assert len({*values}) == 3
    if scorer.name in ("synflow", "naswot"):
        assert scorer.evaluate(space.parse(names[0]), seed=1).value != values[0]


@pytest.mark.parametrize(
    ("make", "images", "passes"), [(NumParameters, 0, 0), (FLOPs, 0, 0), (SynFlow, 1, 3), (lambda: NASWOT(7), 7, 1)]
)
def test_cost_counts_images_and_their_passes(
    make: Callable[[], Proxy], images: int, passes: int, space: SearchSpace, data: TensorData
) -> None:
    scorer, flops = make().bind(space, data), FLOPs().bind(space, data)
    architecture = space.parse("w8-d2-relu-none-max")
    cost = scorer.evaluate(architecture).cost
    assert (cost.images, cost.steps) == (images, 0)
    assert cost.flops == passes * images * flops(architecture)
    assert cost.seconds > 0
    assert scorer.overhead().seconds == 0


def test_proxies_work_within_inference_mode(space: SearchSpace, data: TensorData) -> None:
    for make in PROXIES.values():
        scorer = make().bind(space, data)
        name = "w4-d2-relu-batch-max"
        with torch.inference_mode():
            value = scorer(name)
        assert value == scorer(name)


def test_a_number_of_images_that_there_are_not_is_refused(space: SearchSpace, data: TensorData) -> None:
    with pytest.raises(RecipeError, match="images must be at least 2, got 1"):
        NASWOT(1)
    with pytest.raises(RecipeError, match="images must be at most 1197, the number of training images, got 5000"):
        NASWOT(5000).bind(space, data)
