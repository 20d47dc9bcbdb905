"""The mode that measures and chooses."""

import logging
import time
from typing import Any

import pytest
import torch

from gtn_lightning.inner_loop import MODES, SGD, unroll
from gtn_lightning.inner_loop.compiler import program
from gtn_lightning.inner_loop.modes import auto
from gtn_lightning.inner_loop.modes.auto import SAMPLES, Auto
from gtn_lightning.inner_loop.modes.compiled import Compiled
from gtn_lightning.inner_loop.modes.fused import Fused
from gtn_lightning.inner_loop.modes.linearized import Linearized
from gtn_lightning.inner_loop.modes.mixed import Mixed
from gtn_lightning.inner_loop.modes.node import Products
from gtn_lightning.inner_loop.modes.remat import Remat
from tests.inner_loop.test_gradients import quadratic


def step(mode: Auto, size: int = 4) -> None:
    w, inputs = torch.randn(size, requires_grad=True), torch.randn(size, requires_grad=True)
    found = mode.differentiable(quadratic, {"w": w}, {}, (inputs,))
    by_w, by_inputs = torch.autograd.grad(found.grads["w"].sum(), (w, inputs))
    torch.testing.assert_close(by_w, inputs.detach())
    torch.testing.assert_close(by_inputs, w.detach())


class Slow(Mixed):
    """Takes a hundredth of a second longer."""

    def products(self, *args: Any) -> Products:
        time.sleep(0.01)
        return super().products(*args)


@pytest.fixture
def mode() -> Auto:
    compiled = Compiled()
    return Auto({"remat": Slow(), "mixed": Slow()}, {"compiled": compiled, "linearized": Linearized(compiled)})


def test_it_measures_every_uncompiled_mode_and_compiles_only_when_that_can_pay(
    mode: Auto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3 * SAMPLES):
        step(mode)
    (record,) = mode._records.values()
    assert set(record.seconds) == {"remat", "mixed"}
    assert record.choice in record.seconds
    assert not record.final

    monkeypatch.setattr(auto, "COMPILE_AFTER", 0.0)
    with caplog.at_level(logging.INFO, logger=auto.__name__):
        for _ in range(3 * SAMPLES):
            step(mode)
    assert record.final
    assert set(record.seconds) == {"remat", "mixed", "compiled", "linearized"}
    assert f"in mode {record.choice!r}" in caplog.text
    assert caplog.text.count("per inner step") == 1
    step(mode, size=5)  # another architecture starts anew
    assert len(mode._records) == 2


def test_steps_keep_as_much_as_there_is_room_for(mode: Auto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "COMPILE_AFTER", 0.0)
    for _ in range(5 * SAMPLES):
        step(mode)
    (record,) = mode._records.values()
    assert record.kept > 0
    assert mode._kept == 0  # all of it is released with the steps
    record.choice = "linearized"

    def inner_loop(steps: int) -> tuple[int, torch.Tensor]:
        w, inputs = torch.randn(4, requires_grad=True), torch.randn(4)
        found = [mode.differentiable(quadratic, {"w": w}, {}, (inputs,)) for _ in range(steps)]
        kept = mode._kept
        (by_w,) = torch.autograd.grad(sum(gradient.grads["w"].sum() for gradient in found), w)
        torch.testing.assert_close(by_w, steps * inputs)
        return kept, by_w

    assert inner_loop(6)[0] == 6 * record.kept
    monkeypatch.setattr(auto, "MAX_KEPT", 3 * record.kept)
    assert inner_loop(6)[0] == 3 * record.kept


@pytest.mark.parametrize("faster", [True, False])
def test_several_steps_at_once_where_that_is_faster(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "compile_graph", lambda graph, *_: graph)  # inductor takes seconds
    mode = Auto({"remat": Slow()}, {}, Fused(Remat()))
    monkeypatch.setitem(MODES, "auto", mode)
    monkeypatch.setattr(auto, "COMPILE_AFTER", 0.0)
    monkeypatch.setattr(auto, "SMALL", 1.0 if faster else 0.0)

    def meta_gradient() -> torch.Tensor:
        w = torch.ones(4, requires_grad=True)
        batches = [(torch.full((4,), 0.5),) for _ in range(3)]
        trained = unroll(quadratic, {"w": w}, {}, batches, SGD(0.1, 0.0), mode="auto")
        (found,) = torch.autograd.grad(trained.params["w"].sum(), w)
        return found

    first = meta_gradient()
    for _ in range(3 * SAMPLES):
        torch.testing.assert_close(meta_gradient(), first)
    (record,) = mode._records.values()
    assert record.final
    assert record.together is faster
    assert bool(record.seconds["fused"]) is faster
