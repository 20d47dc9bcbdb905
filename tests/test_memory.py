"""Memory does not grow with the number of meta-steps."""

import pytest

from gtn_lightning.inner_loop import MODES
from tests.tiny import run_processes


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_memory_stays_flat_over_a_thousand_meta_steps_with_sampled_architectures(mode: str) -> None:
    grown = int(run_processes("tests.memory_run", mode).split("grew by")[1])
    assert grown < 8 * 2**20  # a learner kept in every one of them would take more than 10 MB, a graph far more
