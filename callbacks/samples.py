"""Pictures of the synthetic data and of the learned hyperparameters."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gtn_lightning.callbacks.figures import save_figure
from gtn_lightning.data import Documents, InMemoryData, Normalizes
from gtn_lightning.errors import RecipeError
from gtn_lightning.lightning import Callback, LightningModule, Trainer
from gtn_lightning.task import Images, Points

# More classes than this would make the picture taller than a screen.
MAX_ROWS = 20
UNLABELLED_ROWS = 10
CELL_INCHES = 0.46
POINTS_INCHES = 4.2
MAX_REAL_POINTS = 500
# Average width of the smallest letters, with a margin.
CHARACTER_INCHES = 0.068
# Longer names of classes are cut.
MAX_NAME = 16


class SampleGrid(Callback):
    """Draws the synthetic data in the form of ``Task.shown``, next to plots of the learned hyperparameters.

    Images form a grid. Each column is an inner step of the learner, from the first to the last; each row is a class,
    with the first image of that class in the step's batch, or a gray cell if there is none. All images share one gray
    scale. Rows of a table are points in the plane of the first two principal components of real training data, whose
    points are drawn behind them if the data module is an `InMemoryData`.

    The picture is written to ``<run folder>/pictures/samples.png`` and to the logger after validations and at the end
    of ``fit``.

    Args:
        every_n_validations: number of validations between two pictures.
        max_columns: maximum number of inner steps shown, evenly spaced, with the first and the last.

    Raises:
        RecipeError: if ``every_n_validations`` is below 1 or ``max_columns`` below 2.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from gtn_lightning.callbacks import SampleGrid
        >>> trainer = pl.Trainer(max_steps=600, callbacks=[SampleGrid(every_n_validations=2)])
    """

    def __init__(self, every_n_validations: int = 1, max_columns: int = 10) -> None:
        if every_n_validations < 1:
            raise RecipeError(f"SampleGrid.every_n_validations must be at least 1, got {every_n_validations}")
        if max_columns < 2:
            raise RecipeError(
                f"SampleGrid.max_columns must be at least 2, for the first and the last step, got {max_columns}"
            )
        self.every_n_validations = every_n_validations
        self.max_columns = max_columns
        self._validations = 0
        self._drawn_at = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw after every ``every_n_validations`` validations."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        if self._validations % self.every_n_validations == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, unless the last validation did."""
        if self._drawn_at != trainer.global_step:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, gtn: Any) -> None:
        self._drawn_at = trainer.global_step
        if not trainer.is_global_zero:
            return
        steps = evenly_chosen(gtn.inner_loop.steps, self.max_columns)
        batches = [gtn.synthetic_batch(step) for step in steps]
        title = "Synthetic data"
        if trainer.global_step:  # 0 if the teacher was loaded from a file
            title += f" after {trainer.global_step} meta-steps"
        metric = gtn.task.metrics()[0]
        if (value := trainer.callback_metrics.get(f"val/{metric.name}")) is not None:
            title += f", validation {metric.name} {metric.text(float(value))}"
        shown = [gtn.task.shown(batch) for batch in batches]
        shown = [
            Images(pictured(trainer, each.pixels), each.labels, each.noun) if isinstance(each, Images) else each
            for each in shown
        ]
        schedules = gtn.inner_optimizer.schedules(gtn.inner_loop.steps)
        names = _class_names(trainer)
        if all(isinstance(batch, Images) for batch in shown):
            figure = draw_images(shown, [step + 1 for step in steps], schedules, title, names)
        elif all(isinstance(batch, Points) for batch in shown):
            figure = draw_points(shown, _real_points(trainer, gtn), schedules, title, names)
        else:
            return
        save_figure(trainer, figure, "samples", trainer.global_step)


def pictured(trainer: Trainer, inputs: Tensor) -> Tensor:
    """Return a learner's inputs ``[B, ...]`` as pictures show them: without the data module's whitening."""
    data = getattr(trainer, "datamodule", None)
    return data.pictured(inputs) if isinstance(data, Normalizes) else inputs


def _class_names(trainer: Trainer) -> Sequence[str]:
    """Return the names of the classes if the data module knows them."""
    data = getattr(trainer, "datamodule", None)
    return (data.document().get("class_names") or ()) if isinstance(data, Documents) else ()


def _name(label: int, names: Sequence[str]) -> str:
    """Return the name of a class, or its number."""
    name = " ".join(names[label].split()) if label < len(names) else str(label)
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def evenly_chosen(count: int, at_most: int) -> list[int]:
    """Return at most ``at_most`` of the numbers below ``count``, evenly spread, with the first and the last."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, at_most)).round()]


def draw_images(
    columns: Sequence[Images],
    steps: Sequence[int | str],
    schedules: dict[str, Tensor],
    title: str,
    names: Sequence[str] = (),
) -> Figure:
    """Draw images in a grid, classes by inner steps, next to the schedules of the hyperparameters.

    Args:
        columns: one batch of images per column; without classes, the first few of each are drawn.
        steps: the columns' inner steps, counted from 1, or other names of them.
        schedules: each hyperparameter's value at every inner step, float ``[T]``, drawn as a line; a constant one is
            written below the images.
        title: title of the figure.
        names: names of the classes; those without one are numbered.
    """
    labeled = all(batch.labels is not None for batch in columns)
    labels = [
        batch.labels if labeled and batch.labels is not None else torch.arange(len(batch.pixels)) for batch in columns
    ]
    classes = [int(label) for label in torch.cat(labels).unique()]
    classes = [classes[i] for i in evenly_chosen(len(classes), MAX_ROWS)] if labeled else classes[:UNLABELLED_ROWS]
    mosaic, centres_x, centres_y = _mosaic([_as_pixels(batch.pixels) for batch in columns], labels, classes)
    cell_height, cell_width = columns[0].pixels.shape[-2:]
    size = CELL_INCHES * len(steps), CELL_INCHES * len(classes) * cell_height / cell_width
    rows = [_name(label, names) for label in classes] if labeled else [""] * len(classes)
    margin = CHARACTER_INCHES * max(0, *(len(row) for row in rows))
    figure, axes = _beside_schedules(size, schedules, title, margin)
    axes.imshow(mosaic, interpolation="nearest", aspect="auto")
    axes.set_xticks(centres_x, [str(step) for step in steps])
    # Names come from the user's data: a dollar sign is no formula.
    axes.set_yticks(centres_y, rows, parse_math=False)
    axes.set_xlabel("inner step", fontsize=9)
    axes.set_ylabel(columns[0].noun if labeled else "sample", fontsize=9)
    axes.tick_params(length=0, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def draw_points(
    batches: Sequence[Points],
    real: Points | None,
    schedules: dict[str, Tensor],
    title: str,
    names: Sequence[str] = (),
) -> Figure:
    """Draw rows as points in a plane, next to the schedules of the hyperparameters.

    The plane is that of the first two columns if the batches name them, else that of two principal components.

    Args:
        batches: the synthetic rows of some inner steps.
        real: real rows, which define the principal components and are drawn behind; None for the components of the
            synthetic rows.
        schedules: see `draw_images`.
        title: title of the figure.
        names: see `draw_images`.
    """
    rows = torch.cat([batch.rows for batch in batches]).detach().double().cpu()
    values = torch.cat([batch.values for batch in batches]).detach().cpu()
    finite = rows.isfinite().all(dim=1)
    rows, values = rows[finite], values[finite]
    behind = rows if real is None else real.rows.double().cpu()
    named_axes = batches[0].axes
    center, axes_of_plane = torch.zeros(rows.shape[1], dtype=rows.dtype), torch.eye(rows.shape[1], 2, dtype=rows.dtype)
    if named_axes is None:
        center = behind.mean(0) if len(behind) else center
        axes_of_plane = torch.linalg.svd(behind - center, full_matrices=False).Vh[:2].T
    axes_of_plane = F.pad(axes_of_plane, (0, 2 - axes_of_plane.shape[1]))  # a single column, or a single row
    figure, axes = _beside_schedules((POINTS_INCHES, POINTS_INCHES), schedules, title)
    every = values if real is None else torch.cat([values.double(), real.values.double().cpu()])
    if values.is_floating_point():
        shares = torch.tensor([0.02, 0.98], dtype=torch.float64)
        low, high = torch.quantile(every.double(), shares).tolist() if len(every) else (0.0, 1.0)
        colors: dict[str, Any] = {"cmap": "viridis", "vmin": low, "vmax": high}
    else:
        colors = {"cmap": "tab10", "vmin": 0, "vmax": max([9, *every.long().tolist()]) + 1}
    if real is not None:
        x, y = ((behind - center) @ axes_of_plane).numpy().T
        axes.scatter(x, y, c=real.values.cpu().numpy(), s=10, alpha=0.35, linewidths=0, **colors)
    x, y = ((rows - center) @ axes_of_plane).numpy().T
    axes.scatter(x, y, c=values.numpy(), s=36, marker="D", edgecolors="black", linewidths=0.6, **colors)
    x_name, y_name = named_axes or ("first principal component", "second principal component")
    axes.set_xlabel(x_name, fontsize=9)
    axes.set_ylabel(y_name, fontsize=9)
    axes.tick_params(labelsize=8)
    key = [Line2D([], [], marker="D", color="white", markerfacecolor="gray", markeredgecolor="black", markersize=6)]
    labels = ["synthetic"]
    if real is not None:
        key.append(Line2D([], [], marker="o", color="white", markerfacecolor="gray", markersize=5))
        labels.append("real")
    if values.is_floating_point():
        key.append(Line2D([], [], color="none"))
        labels.append("bright: a high value")
    else:
        for label in values.unique().tolist()[:MAX_ROWS]:
            color = colormaps["tab10"](label / colors["vmax"])
            key.append(Line2D([], [], marker="s", color="white", markerfacecolor=color, markersize=6))
            labels.append(_name(label, names) if label < len(names) else f"{batches[0].noun} {label}")
    for text in axes.legend(key, labels, fontsize=7, loc="best").get_texts():
        text.set_parse_math(False)
    return figure


def _real_points(trainer: Trainer, gtn: Any) -> Points | None:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, InMemoryData):
        return None
    # Data may have labels that the task does not take.
    real = dict(zip(gtn.task.real_fields or (), data.some("train", MAX_REAL_POINTS, gtn.seed), strict=False))
    shown = gtn.task.shown({name: real[name] for name in gtn.task.fields})
    return shown if isinstance(shown, Points) else None


def _beside_schedules(
    size: tuple[float, float], schedules: dict[str, Tensor], title: str, margin: float = 0.0
) -> tuple[Figure, Axes]:
    """Return a figure with the schedules on its right, and the axes to draw on at its left.

    Args:
        size: width and height of these axes in inches.
        schedules: see `draw_images`.
        title: title of the figure.
        margin: width in inches of what stands left of these axes, beside their label.
    """
    lines = {name: values for name, values in schedules.items() if float(values.max()) > float(values.min())}
    # A hyperparameter that is zero at every step is not used.
    constants = {name: float(values[0]) for name, values in schedules.items() if name not in lines and values.any()}

    # Positions in inches from the top left: the automatic layouts cut off labels next to a picture of fixed aspect.
    grid_width, grid_height = size
    edge = 0.5 + margin
    panel_left = edge + grid_width + 0.7
    content = max(grid_height, 1.7 * len(lines))
    # Wide enough for the title, even with a grid of two columns.
    width = max(panel_left + 3.2 if lines else edge + grid_width + 0.2, 5.0)
    grid_left = edge if lines else max(edge, (width - grid_width) / 2)
    # No line breaks between a name and its value.
    below = [
        f"{_spelled_out(name)} {value:.3g}".replace(" ", "\N{NO-BREAK SPACE}") for name, value in constants.items()
    ]
    below = wrap(",  ".join(below) + "  (the same at every step)", int(width / CHARACTER_INCHES)) if below else []
    height = 0.4 + content + 0.5 + (0.12 + 0.13 * len(below) if below else 0.0)
    figure = Figure(figsize=(width, height), dpi=120)

    def axes_at(left: float, top: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    figure.text(0.5, 1 - 0.1 / height, title, ha="center", va="top", fontsize=10)
    figure.text(0.5, 0.08 / height, "\n".join(below), ha="center", fontsize=8, color="dimgrey")
    axes = axes_at(grid_left, 0.4, grid_width, grid_height)
    for row, (name, values) in enumerate(lines.items()):
        share = content / len(lines)
        panel = axes_at(panel_left, 0.4 + row * share + 0.2, 3.0, share - 0.5)
        numbers = values.double().cpu().numpy()
        marker = "o" if len(numbers) <= 50 else None
        panel.plot(np.arange(1, len(numbers) + 1), numbers, color="C0", marker=marker, markersize=3, linewidth=1.2)
        panel.set_title(_spelled_out(name), fontsize=9, pad=4)
        panel.tick_params(labelsize=8)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
        if row == len(lines) - 1:
            panel.set_xlabel("inner step", fontsize=9)
    return figure, axes


def _as_pixels(images: Tensor) -> NDArray[np.float32]:
    """Return images ``[B, C, H, W]`` as ``[B, H, W, 3]``, gray unless they have three channels."""
    images = images.detach().float().cpu()
    if images.shape[1] != 3:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    pixels: NDArray[np.float32] = images.permute(0, 2, 3, 1).numpy()
    return pixels


def _mosaic(
    columns: list[NDArray[np.float32]], labels: list[Tensor], classes: list[int]
) -> tuple[NDArray[np.float32], list[float], list[float]]:
    """Return a picture ``[H, W, 3]`` of one image per class and column, and the centers of columns and rows."""
    _, height, width, _ = columns[0].shape
    gap = max(1, round(0.08 * max(height, width)))
    picture = np.ones((len(classes) * (height + gap) - gap, len(columns) * (width + gap) - gap, 3), np.float32)
    # Quantiles instead of minimum and maximum, so that a few outliers do not reduce the contrast.
    low, high = np.quantile(np.concatenate(columns), [0.005, 0.995])
    for x, (pixels, column_labels) in enumerate(zip(columns, labels, strict=True)):
        for y, label in enumerate(classes):
            rows = (column_labels == label).nonzero().flatten()
            cell: Any = 0.9
            if len(rows):
                cell = ((pixels[int(rows[0])] - low) / max(float(high - low), 1e-12)).clip(0, 1)
            top, left = y * (height + gap), x * (width + gap)
            picture[top : top + height, left : left + width] = cell
    centres_x = [x * (width + gap) + (width - 1) / 2 for x in range(len(columns))]
    centres_y = [y * (height + gap) + (height - 1) / 2 for y in range(len(classes))]
    return picture, centres_x, centres_y


def _spelled_out(name: str) -> str:
    return "learning rate" if name == "lr" else name.replace("_", " ")
