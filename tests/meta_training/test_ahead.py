"""Learners that are sampled before their meta-step."""

from functools import partial

import torch
from torch import Tensor, nn

from gtn_lightning.learners import ConvNet, RandomWidth
from gtn_lightning.meta_training.ahead import Ahead
from gtn_lightning.randomness import keyed_generator, keyed_rng
from tests.tiny import SHAPE, make_gtn, same

CPU, PLACE, OTHER = torch.device("cpu"), (0, 3, 1), (0, 4, 1)


def tensors(networks: list[nn.Module]) -> dict[str, Tensor]:
    return {f"{n} {name}": value for n, each in enumerate(networks) for name, value in each.state_dict().items()}


def test_they_and_all_random_numbers_after_them_are_the_same() -> None:
    widths = RandomWidth(partial(ConvNet, image_shape=SHAPE, classes=10, depth=1), {"width": [4, 99]})
    parts, ahead = make_gtn(learners=widths)._parts, Ahead(CPU)
    torch.manual_seed(7)
    ahead.sample(parts, 2, PLACE)
    before = torch.get_rng_state()
    torch.manual_seed(7)
    assert torch.equal(torch.get_rng_state(), before)
    found = []
    for source in (ahead, None):
        generator = keyed_generator(parts.seed, "train", *PLACE)
        with keyed_rng(parts.seed, "train", *PLACE, device=CPU):
            sampled = None if source is None else source.take(widths, PLACE, generator)
            networks = sampled or widths.population(generator, 2)
            found.append((tensors(list(networks)), torch.rand(3), torch.rand(3, generator=generator)))
    assert ahead.taken == 1
    (one, *drawn), (other, *expected) = found
    assert same(one, other)
    assert all(torch.equal(part, wanted) for part, wanted in zip(drawn, expected, strict=True))


def test_they_are_taken_once_for_their_place_and_the_settings_then() -> None:
    gtn, ahead, generator = make_gtn(), Ahead(CPU), torch.Generator()
    ahead.sample(gtn._parts, 1, PLACE)
    assert ahead.take(gtn.learners, OTHER, generator) is None
    assert ahead.take(gtn.learners, PLACE, generator) is None
    ahead.sample(gtn._parts, 1, PLACE)
    gtn.learners.learner = partial(ConvNet, image_shape=SHAPE, classes=10)  # type: ignore[attr-defined]
    assert ahead.take(gtn.learners, PLACE, generator) is None
