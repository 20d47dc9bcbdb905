"""How an inner loop is run: what cannot work, and the window that is differentiated."""

from typing import Any

import pytest
import torch

from gtn_lightning.inner_loop import InnerLoop


def window(loop: InnerLoop, seed: int = 0) -> tuple[int, int]:
    return loop.window(torch.Generator().manual_seed(seed))


def test_all_steps_are_differentiated_unless_truncated() -> None:
    assert window(InnerLoop(8)) == (0, 8)
    assert window(InnerLoop(8, truncation=3)) == (5, 8)


def test_a_random_window_has_its_length_and_ends_anywhere() -> None:
    windows = {window(InnerLoop(5, truncation=3, random_window=True), seed) for seed in range(50)}
    assert windows == {(0, 3), (1, 4), (2, 5)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, r"steps must be at least 1, got 0"),
        ({"mode": "forward"}, r"mode must be one of .*remat, reverse, got 'forward'"),
        ({"truncation": 0}, r"truncation must be from 1 to inner_loop.steps, 3, got 0"),
        ({"truncation": 4}, r"truncation must be from 1 to inner_loop.steps, 3, got 4"),
        ({"random_window": True}, r"random_window needs inner_loop.truncation"),
        ({"segment": 0}, r"segment must be at least 1, got 0"),
        ({"segment": [2, 3]}, r"segment must be one number of steps, or several with the outermost and largest first"),
        ({"segment": 2, "offload": True}, r"offload must be host or disk, got True"),
        ({"offload": "disk"}, r"offload needs inner_loop.segment"),
    ],
)
def test_what_cannot_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^inner_loop.{message}"):
        InnerLoop(**{"steps": 3} | arguments)
