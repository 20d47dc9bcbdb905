"""The mode that measures and chooses."""

import logging

import pytest
import torch

from gtn_lightning.inner_loop.modes import fastest
from gtn_lightning.inner_loop.modes.compiled import Compiled
from gtn_lightning.inner_loop.modes.fastest import SAMPLES, Fastest
from gtn_lightning.inner_loop.modes.mixed import Mixed
from gtn_lightning.inner_loop.modes.remat import Remat
from tests.inner_loop.test_gradients import quadratic


def step(mode: Fastest, size: int = 4) -> None:
    w, inputs = torch.randn(size, requires_grad=True), torch.randn(size, requires_grad=True)
    found = mode.differentiable(quadratic, {"w": w}, {}, (inputs,))
    by_w, by_inputs = torch.autograd.grad(found.grads["w"].sum(), (w, inputs))
    torch.testing.assert_close(by_w, inputs.detach())
    torch.testing.assert_close(by_inputs, w.detach())


def test_it_measures_every_uncompiled_mode_and_compiles_only_when_that_can_pay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mode = Fastest({"remat": Remat(), "mixed": Mixed()}, Compiled())
    for _ in range(3 * SAMPLES):
        step(mode)
    (record,) = mode._records.values()
    assert set(record.seconds) == {"remat", "mixed"}
    assert record.choice in record.seconds
    assert not record.final

    monkeypatch.setattr(fastest, "COMPILE_AFTER", 0.0)
    with caplog.at_level(logging.INFO, logger=fastest.__name__):
        for _ in range(3 * SAMPLES):
            step(mode)
    assert record.final
    assert set(record.seconds) == {"remat", "mixed", "compiled"}
    assert f"in mode {record.choice!r}" in caplog.text
    assert caplog.text.count("per inner step") == 1
    step(mode, size=5)  # another architecture starts anew
    assert len(mode._records) == 2
