"""Random numbers that depend on their key alone."""

import pytest
import torch

from gtn_lightning.randomness import keyed_generator, keyed_rng, keyed_seed

CPU = torch.device("cpu")


def test_a_key_is_every_part_of_it_in_order_and_by_type() -> None:
    keys = [
        (0,), (1,), (0, 0), (0, 1), (1, 0), (0, "train"), (0, "train", 1), (0, "train", 11), (0, "train", 1, 1),
        (0, "val", 1), (0, "1"), (0, "ab", "c"), (0, "a", "bc"), (0, "abc"), (0, 12, 3), (0, 1, 23), (0, ""), (0, -1),
        (0, 10**30),
    ]  # fmt: skip
    seeds = [keyed_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_numbers_of_a_key_stay_the_same_over_releases() -> None:
    # Learners that a published number was measured on are drawn with these.
    assert keyed_seed(0, "val", 3) == 2898426872339165431
    assert torch.randint(1000, (3,), generator=keyed_generator(0, "val", 3)).tolist() == [422, 342, 14]


def test_a_keyed_generator_does_not_care_what_was_drawn_before() -> None:
    first = torch.randn(5, generator=keyed_generator(7, "train", 0))
    torch.randn(100)
    assert torch.equal(first, torch.randn(5, generator=keyed_generator(7, "train", 0)))
    assert not torch.equal(first, torch.randn(5, generator=keyed_generator(7, "train", 1)))


def test_keyed_rng_leaves_the_global_state_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    with keyed_rng(0, "learner", 1, device=CPU):
        inside = torch.randn(4)
    assert torch.equal(torch.randn(4), expected)
    with keyed_rng(0, "learner", 1, device=CPU):
        assert torch.equal(torch.randn(4), inside)


def test_keyed_rng_restores_the_state_after_an_error_too() -> None:
    def fail() -> None:
        with keyed_rng(0, "learner", 1, device=CPU):
            raise ZeroDivisionError

    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)
