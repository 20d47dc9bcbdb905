"""The work that engines are measured on: GPT-2, small, runs in every mode, and its gradient is exact."""

import pytest
import torch

from benchmarks.cases import ON_CUDA, Sequences
from benchmarks.clock import Clock
from benchmarks.engine import central_error, checked_gradient

pytest.importorskip("transformers", reason="it comes with the extra bench")

CPU = torch.device("cpu")
(GPT2,) = (case for case in ON_CUDA if isinstance(case, Sequences))


def test_the_gradient_of_the_weights_of_sequences_is_that_of_central_differences() -> None:
    assert central_error(GPT2, CPU) < 1e-5


@pytest.mark.parametrize("mode", ["remat", "mixed"])
def test_modes_agree_on_gpt2(mode: str) -> None:
    expected = checked_gradient(GPT2, "reverse", CPU)
    torch.testing.assert_close(checked_gradient(GPT2, mode, CPU), expected, rtol=1e-9, atol=1e-15)


def test_a_clock_sees_the_memory_that_a_computation_adds() -> None:
    assert 90 < Clock(CPU).megabytes(lambda: torch.ones(100 * 2**18)) < 130
