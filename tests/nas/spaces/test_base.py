"""Drawing from search spaces, walking through them, and keeping a part of them back."""

from collections import Counter
from collections.abc import Mapping
from itertools import islice

import pytest
import torch
from torch import nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.spaces import Architecture, Choice, ConvNetGrid, MicroSpace, NASBench201, SearchSpace


class TwoLayers(SearchSpace):
    """A space of one's own: two layers, each of some width; which of them comes first does not matter."""

    def __init__(self, widths: int = 5) -> None:
        self.widths = widths
        self.decisions = {"first": list(range(1, widths + 1)), "second": list(range(1, widths + 1))}

    def name(self, choices: Mapping[str, Choice]) -> str:
        return "{first}x{second}".format(**choices)

    def choices(self, name: str) -> dict[str, Choice]:
        first, second = name.split("x")
        return {"first": int(first), "second": int(second)}

    def build(self, architecture: Architecture) -> nn.Module:
        first, second = map(int, architecture.choices.values())
        return nn.Sequential(nn.Linear(4, first), nn.Tanh(), nn.Linear(first, second))

    def canonical(self, architecture: Architecture) -> str:
        return "x".join(sorted(architecture.name.split("x")))


SPACES: list[SearchSpace] = [
    TwoLayers(),
    ConvNetGrid((1, 28, 28), 10),
    NASBench201((3, 8, 8), 10),
    MicroSpace((3, 8, 8), 10),
]
every_space = pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_space_of_ones_own_enumerates_and_builds() -> None:
    space = TwoLayers(2)
    assert [str(member) for member in space] == ["1x1", "1x2", "2x1", "2x2"]
    assert len(space) == 4
    assert space.build(space.parse("2x1"))(torch.zeros(3, 4)).shape == (3, 1)
    assert space.family(space.parse("2x1")) == "all"


def test_an_architecture_is_its_name_with_its_choices() -> None:
    space = TwoLayers(2)
    parsed, made = space.parse("2x1"), space.architecture({"second": 1, "first": 2})
    assert parsed == made != space.parse("1x2")
    assert {parsed: "found"}[made] == "found"
    assert list(made.choices.items()) == [("first", 2), ("second", 1)]


@pytest.mark.parametrize("name", ["", "2", "2x1x1", "3x1", "2xtwo", "02x1"])
def test_what_is_not_a_name_of_the_space_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(RecipeError, match=f"^TwoLayers: '{name}' is not an architecture of this space") as error:
        TwoLayers(2).parse(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "space", [TwoLayers(), ConvNetGrid((1, 28, 28), 10), NASBench201((3, 8, 8), 10)], ids=lambda s: type(s).__name__
)
def test_enumeration_meets_every_member_once(space: SearchSpace) -> None:
    members = list(space)
    assert len(members) == len(set(members)) == len(space)


def test_a_space_too_large_for_len_still_enumerates() -> None:
    space = MicroSpace((3, 8, 8), 10)
    assert len(set(islice(space, 1000))) == 1000
    assert len(space) > 10**18


@every_space
def test_samples_follow_the_generator(space: SearchSpace) -> None:
    one, same, other = seeded(), seeded(), seeded(1)
    drawn = [space.sample(one) for _ in range(20)]
    assert drawn == [space.sample(same) for _ in range(20)]
    assert drawn != [space.sample(other) for _ in range(20)]


@every_space
def test_samples_leave_torchs_own_random_state_alone(space: SearchSpace) -> None:
    before = torch.get_rng_state()
    space.mutate(space.sample(seeded()), seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_are_uniform() -> None:
    space, generator = TwoLayers(5), seeded()
    counts = Counter(space.sample(generator) for _ in range(5000))
    assert len(counts) == 25
    # 200 are expected of each, with a standard deviation of 14.
    assert min(counts.values()) > 140
    assert max(counts.values()) < 260


@every_space
def test_a_mutation_changes_one_decision(space: SearchSpace) -> None:
    generator = seeded()
    changed = Counter[str]()
    for _ in range(300):
        member = space.sample(generator)
        before, after = member.choices, space.mutate(member, generator).choices
        different = [key for key in space.decisions if before[key] != after[key]]
        assert len(different) == 1
        changed.update(different)
    assert set(changed) == set(space.decisions)


def test_a_mutation_leaves_decisions_without_alternative() -> None:
    space, generator = ConvNetGrid((1, 8, 8), 10, widths=[8], depths=[2]), seeded()
    member = space.sample(generator)
    for _ in range(50):
        member = space.mutate(member, generator)
        assert member.name.startswith("w8-d2-")


@every_space
def test_what_is_drawn_differs_and_is_held_out(space: SearchSpace) -> None:
    drawn = space.draw(6, seeded(), held_out=0.5)
    assert len({space.canonical(member) for member in drawn}) == 6
    assert all(space.is_held_out(member, 0.5) for member in drawn)
    assert space.draw(6, seeded(), held_out=0.5) == drawn


def test_what_is_not_wanted_is_not_drawn() -> None:
    space = TwoLayers(5)
    first = space.draw(10, seeded())
    rest = space.draw(5, seeded(1), without=first)
    # 25 members are 15 when the order of layers does not matter.
    assert len({space.canonical(member) for member in [*first, *rest]}) == 15


def test_an_exhausted_space_says_so_in_one_line() -> None:
    space = TwoLayers(5)
    with pytest.raises(RecipeError, match=r"TwoLayers: 16 architectures wanted, 15 found.*ask for fewer") as error:
        space.draw(16, seeded())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_share_held_out_is_about_what_was_asked(share: float) -> None:
    space = ConvNetGrid((1, 28, 28), 10)
    held_out = sum(space.is_held_out(member, share) for member in space) / len(space)
    assert held_out == pytest.approx(share, abs=0.06)  # three standard deviations at 0.5


def test_what_is_held_out_never_changes() -> None:
    space = ConvNetGrid((1, 28, 28), 10)
    # Written down once: teachers that exist were made without these.
    held_out = [member.name for member in space if space.is_held_out(member, 0.005)]
    assert held_out == [
        "w16-d1-leaky_relu-layer-none",
        "w16-d4-leaky_relu-batch-average",
        "w32-d1-relu-group-max",
        "w32-d3-relu-layer-none",
        "w32-d4-sigmoid-group-none",
    ]
    assert {member.name for member in space if space.is_held_out(member, 0.3)} > {*held_out}


def test_isomorphic_members_are_held_out_together() -> None:
    space = TwoLayers(5)
    assert all(
        space.is_held_out(member, 0.5) == space.is_held_out(space.parse(member.name[::-1]), 0.5) for member in space
    )
