"""Memory does not grow with the number of meta-steps."""

from pathlib import Path

import pytest

from gtn_lightning.inner_loop import MODES
from tests import memory_run, processes

COMPILED = ("compiled", "linearized", "auto")
"""Modes that compile programs, which takes most of the time."""


@pytest.mark.slow
@pytest.mark.parametrize("mode", [pytest.param(mode, marks=[pytest.mark.long] * (mode in COMPILED)) for mode in MODES])
def test_memory_stays_flat_over_many_meta_steps_with_sampled_architectures(mode: str, tmp_path: Path) -> None:
    grown = int(processes.run(memory_run.main, mode, folder=tmp_path).split("grew by")[1])
    assert grown < 4 * 2**20  # a learner kept in every one of them would take more than 6 MB, a graph far more
