"""What the teacher makes, as a picture."""

from textwrap import wrap
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from gtn_lightning.callbacks.figures import metric_text, save_figure
from gtn_lightning.errors import RecipeError

# More classes than this would make the picture taller than a screen.
MAX_ROWS = 20
CELL_INCHES = 0.46
# Of the smallest letters, on average and with something to spare.
CHARACTER_INCHES = 0.068


class SampleGrid(Callback):
    """Draws the synthetic data as a grid, classes by inner steps, beside the learned hyperparameters.

    Each column is one inner step of the learner, from the first to the last; each row is one class, of which
    the first image in that step's batch is shown. A cell is grey where a batch has no image of a class. All
    images share one scale. Written to ``<run folder>/pictures/samples.png`` and to the logger after
    validations and at the end of ``fit``.

    Args:
        every_n_validations: how many validations there are between two pictures.
        max_columns: how many inner steps are shown at most, evenly chosen; the first and the last always are.

    Raises:
        RecipeError: if ``every_n_validations`` is below 1 or ``max_columns`` below 2.
    """

    def __init__(self, every_n_validations: int = 1, max_columns: int = 10) -> None:
        if every_n_validations < 1:
            raise RecipeError(f"SampleGrid.every_n_validations is {every_n_validations}; give 1 or more")
        if max_columns < 2:
            raise RecipeError(
                f"SampleGrid.max_columns is {max_columns}; give 2 or more, for the first and the last step"
            )
        self.every_n_validations = every_n_validations
        self.max_columns = max_columns
        self._validations = 0
        self._drawn_at = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if it is time."""
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
        if trainer.global_step:  # unknown where a teacher was only loaded
            title += f" after {trainer.global_step} meta-steps"
        metric = gtn.task.metric_name
        if (value := trainer.callback_metrics.get(f"val/{metric}")) is not None:
            title += f", validation {metric} {metric_text(metric, float(value))}"
        figure = draw_samples(
            [batch.inputs for batch in batches],
            [batch.labels for batch in batches],
            [step + 1 for step in steps],
            gtn.inner_optimizer.schedules(gtn.inner_loop.steps),
            title,
        )
        save_figure(trainer, figure, "samples", trainer.global_step)


def evenly_chosen(count: int, at_most: int) -> list[int]:
    """Return at most ``at_most`` of the numbers below ``count``, evenly spread, with the first and the last."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, at_most)).round()]


def draw_samples(
    inputs: list[Tensor], labels: list[Tensor], steps: list[int], schedules: dict[str, Tensor], title: str
) -> Figure:
    """Draw images in a grid, classes by inner steps, beside the schedules of the hyperparameters.

    Args:
        inputs: one batch of images [B, C, H, W] per column.
        labels: their classes, int64 [B] per column.
        steps: the columns' names, counted from 1.
        schedules: each hyperparameter's value at every inner step, float [T]. One that changes is drawn as a
            line, one that does not is written below.
        title: what stands above.
    """
    classes = [int(label) for label in torch.cat(labels).unique()]
    classes = [classes[i] for i in evenly_chosen(len(classes), MAX_ROWS)]
    mosaic, centres_x, centres_y = _mosaic([_as_pixels(batch) for batch in inputs], labels, classes)

    lines = {name: values for name, values in schedules.items() if float(values.max()) > float(values.min())}
    constants = {name: float(values[0]) for name, values in schedules.items() if name not in lines}

    # Laid out by hand, in inches from the top left: the automatic layouts lose labels beside a picture of
    # fixed aspect.
    cell_height, cell_width = inputs[0].shape[-2:]
    grid_width = CELL_INCHES * len(steps)
    grid_height = CELL_INCHES * len(classes) * cell_height / cell_width
    panel_left = 0.6 + grid_width + 0.7
    content = max(grid_height, 1.7 * len(lines))
    # A title wants some width even over a grid of two columns.
    width = max(panel_left + 3.2 if lines else 0.6 + grid_width + 0.2, 5.0)
    grid_left = 0.6 if lines else (width - grid_width) / 2
    # Lines are not broken at spaces of this kind.
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
    axes.imshow(mosaic, interpolation="nearest", aspect="auto")
    axes.set_xticks(centres_x, [str(step) for step in steps])
    axes.set_yticks(centres_y, [str(label) for label in classes])
    axes.set_xlabel("inner step", fontsize=9)
    axes.set_ylabel("class", fontsize=9)
    axes.tick_params(length=0, labelsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)

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
    return figure


def _as_pixels(images: Tensor) -> NDArray[np.float32]:
    """Return images [B, C, H, W] as [B, H, W, 3], grey if they have not three channels."""
    images = images.detach().float().cpu()
    if images.shape[1] != 3:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    pixels: NDArray[np.float32] = images.permute(0, 2, 3, 1).numpy()
    return pixels


def _mosaic(
    columns: list[NDArray[np.float32]], labels: list[Tensor], classes: list[int]
) -> tuple[NDArray[np.float32], list[float], list[float]]:
    """Return one image per class and column as a picture [H, W, 3], and the centres of columns and rows."""
    _, height, width, _ = columns[0].shape
    gap = max(1, round(0.08 * max(height, width)))
    picture = np.ones((len(classes) * (height + gap) - gap, len(columns) * (width + gap) - gap, 3), np.float32)
    # A few stray pixels must not take the contrast from all the others, hence not the minimum and maximum.
    low, high = np.quantile(np.concatenate(columns), [0.005, 0.995])
    for x, (pixels, column_labels) in enumerate(zip(columns, labels, strict=True)):
        for y, label in enumerate(classes):
            found = (column_labels == label).nonzero().flatten()
            cell: Any = 0.9
            if len(found):
                cell = ((pixels[int(found[0])] - low) / max(float(high - low), 1e-12)).clip(0, 1)
            top, left = y * (height + gap), x * (width + gap)
            picture[top : top + height, left : left + width] = cell
    centres_x = [x * (width + gap) + (width - 1) / 2 for x in range(len(columns))]
    centres_y = [y * (height + gap) + (height - 1) / 2 for y in range(len(classes))]
    return picture, centres_x, centres_y


def _spelled_out(name: str) -> str:
    return "learning rate" if name == "lr" else name.replace("_", " ")
