"""A picture of synthetic states of CartPole."""

import math
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from gtn_lightning.callbacks.figures import save_figure
from gtn_lightning.callbacks.samples import evenly_chosen
from gtn_lightning.data import EnvironmentData
from gtn_lightning.lightning import Callback, LightningModule, Trainer
from gtn_lightning.task import Points

COLUMNS, ROWS = 6, 3
CELL_INCHES = 1.45
TRACK = 2.4
"""The position, in meters to either side, at which an episode ends."""
POLE, CART_WIDTH, CART_HEIGHT = 1.0, 0.5, 0.22
"""Lengths in meters; the cart's are those of the environment's own drawing."""
PUSH = 0.45
"""Length of the arrow of an action."""
PER_SPEED = 0.2
"""Meters of an arrow per meter per second."""
LONGEST = 0.6
"""Length of the longest arrow of a velocity."""


class PolePicture(Callback):
    """Draws synthetic states of ``CartPole-v1`` as carts with poles, with the best action in each.

    States are evenly chosen by the pole's angle among all that the teacher makes, and drawn in the environment's own
    units. The picture is written to ``<run folder>/pictures/poles.png`` and to the logger at the end of ``fit`` and
    after a test. Nothing is drawn for other environments.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from gtn_lightning.callbacks import PolePicture
        >>> trainer = pl.Trainer(max_steps=600, callbacks=[PolePicture()])
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the states."""
        self._draw(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the states."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, gtn: Any) -> None:
        data = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or not isinstance(data, EnvironmentData) or "CartPole" not in data.env_id:
            return
        rows = []
        for step in range(gtn.inner_loop.steps):
            batch = gtn.synthetic_batch(step)
            states, shown = batch["states"].double(), gtn.task.shown(batch)
            # Other values than actions, such as rewards, are not drawn.
            chosen = shown.values if isinstance(shown, Points) and shown.noun == "action" else None
            rows.append(states if chosen is None else torch.cat([states, chosen.double()[:, None]], 1))
        # The same state comes in many steps, with the same action.
        distinct = torch.unique(torch.cat(rows).detach().cpu(), dim=0)
        distinct = distinct[distinct.isfinite().all(1)]
        states, actions = distinct[:, :4], distinct[:, 4:].flatten().long()
        normal = {name: value.double().cpu() for name, value in data.normalization().items()}
        states = states * normal["normalize_scale"] + normal["normalize_center"]
        by_angle = states[:, 2].argsort()
        picked = by_angle[evenly_chosen(len(states), ROWS * COLUMNS)] if len(states) else by_angle
        title = f"{len(picked)} synthetic states of CartPole, by the pole's angle"
        if trainer.global_step:  # 0 if the teacher was loaded from a file
            title += f", after {trainer.global_step} meta-steps"
        figure = draw_poles(states[picked], actions[picked] if len(actions) else None, title)
        save_figure(trainer, figure, "poles", trainer.global_step)


def draw_poles(states: Tensor, actions: Tensor | None, title: str) -> Figure:
    """Draw carts with poles.

    Args:
        states: position (m), velocity (m/s), angle (rad) and angular velocity (rad/s) of each, ``[N, 4]``, of which
            the first ``ROWS * COLUMNS`` are drawn.
        actions: 0 for a push to the left and 1 for one to the right, int64 ``[N]``; None for no arrows of pushes.
        title: title of the figure.
    """
    shown = states[: ROWS * COLUMNS].tolist()
    rows = max(math.ceil(len(shown) / COLUMNS), 1)
    width, height = COLUMNS * CELL_INCHES, rows * CELL_INCHES
    figure = Figure(figsize=(width + 0.2, height + 0.85), dpi=120)
    total = height + 0.85
    figure.text(0.5, 1 - 0.08 / total, title, ha="center", va="top", fontsize=10)
    for number, (position, velocity, angle, turning) in enumerate(shown):
        row, column = divmod(number, COLUMNS)
        left, bottom = 0.1 + column * CELL_INCHES, 0.5 + (rows - 1 - row) * CELL_INCHES
        share = 0.9 * CELL_INCHES
        axes = figure.add_axes((left / (width + 0.2), bottom / total, share / (width + 0.2), share / total))
        axes.set(xlim=(-1.0, 1.0), ylim=(-0.7, 1.3), aspect="equal")
        axes.axis("off")
        _draw_cart(axes, velocity, angle, turning)
        _draw_track(axes, position)
        if actions is not None:
            action = int(actions[number])
            side = 1 if action else -1
            start = side * CART_WIDTH / 2
            _arrow(axes, (start, 0), (start + side * PUSH, 0), colormaps["tab10"](action / 10), 2.2)
        axes.set_title(f"{math.degrees(angle):.0f}°", fontsize=8, pad=-2, color="dimgray")
    key = [Line2D([], [], color="gray", linewidth=1.0), Line2D([], [], color="gray", marker="o", markersize=3)]
    names = ["velocities of cart and pole", f"position on the track of ±{TRACK} m"]
    if actions is not None:
        key += [Line2D([], [], color=colormaps["tab10"](action / 10), linewidth=2.2) for action in (0, 1)]
        names += ["action 0, push to the left", "action 1, push to the right"]
    figure.legend(key, names, loc="lower center", ncols=len(key), fontsize=7, frameon=False)
    return figure


def _draw_cart(axes: Axes, velocity: float, angle: float, turning: float) -> None:
    """Draw a cart at the origin with its pole, and arrows of their velocities."""
    half_width, half_height = CART_WIDTH / 2, CART_HEIGHT / 2
    axes.plot([-0.95, 0.95], [-half_height] * 2, color="lightgray", linewidth=0.8, zorder=0)
    axes.add_patch(Rectangle((-half_width, -half_height), CART_WIDTH, CART_HEIGHT, color="black"))
    tip = POLE * math.sin(angle), POLE * math.cos(angle)
    axes.plot([0, tip[0]], [0, tip[1]], color="peru", linewidth=4, solid_capstyle="round")
    pushed = _limited(PER_SPEED * velocity)
    _arrow(axes, (0, -0.25), (pushed, -0.25), "gray", 1.0)
    # A positive angle leans to the right; the tip moves at a right angle to the pole.
    moved = _limited(PER_SPEED * POLE * turning)
    _arrow(axes, tip, (tip[0] + moved * math.cos(angle), tip[1] - moved * math.sin(angle)), "gray", 1.0)


def _draw_track(axes: Axes, position: float) -> None:
    """Draw the track, at whose ends an episode ends, and on it the cart's place; a triangle for one outside."""
    axes.plot([-0.8, 0.8], [-0.5, -0.5], color="gray", linewidth=0.8, marker="|", markersize=4)
    outside = abs(position) > TRACK
    marker = ("<" if position < 0 else ">") if outside else "o"
    place = math.copysign(0.88, position) if outside else 0.8 * position / TRACK
    axes.plot([place], [-0.5], color="gray", marker=marker, markersize=4)


def _limited(length: float) -> float:
    return math.copysign(min(abs(length), LONGEST), length)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: Any, width: float) -> None:
    if math.dist(start, end) < 0.05:  # shorter than its own head
        return
    style = {"arrowstyle": "-|>", "color": color, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style | {"mutation_scale": 5 + 2 * width})
