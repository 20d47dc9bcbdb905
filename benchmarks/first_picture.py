"""The picture of the README: synthetic and real digits, and test accuracy against inner steps on both.

gtn fit --config digits
python -m benchmarks.first_picture
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from gtn_lightning import GTN
from gtn_lightning.callbacks.curve import curve_statistics
from gtn_lightning.data import DigitsData
from gtn_lightning.evaluation import EvaluationResult
from gtn_lightning.lightning import pl
from gtn_lightning.teacher_file import load_weights, read_recipe

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "digits_story.png"
CLASSES, ROWS = 10, 3


def main() -> None:
    """Test a teacher of the recipe `digits` after every number of inner steps, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, help="teacher file; by default the newest of runs/digits")
    path = parser.parse_args().teacher or max(
        Path("runs/digits").glob("*/teacher.safetensors"), key=lambda file: file.stat().st_mtime
    )
    recipe = read_recipe(path)
    steps = recipe.model["inner_loop"]["steps"]
    recipe.model["evaluation"]["steps"] = list(range(steps + 1))
    gtn = GTN.from_description(recipe.model, recipe.trust)
    load_weights(gtn, path)
    data = DigitsData()
    pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False).test(gtn, data, verbose=False)
    assert gtn.result is not None
    for name, values in curve_statistics(gtn.result).items():
        print(f"{name}: {', '.join(f'{100 * value:.1f}' for value in values)} %")
    shown = [0, steps // 2, steps - 1]
    draw(synthetic_digits(gtn, shown), real_digits(data), [step + 1 for step in shown], gtn.result).savefig(PICTURE)


def synthetic_digits(gtn: GTN, steps: list[int]) -> list[Tensor]:
    """Return one image of every class for each of the inner steps, counted from zero, ``[10, 8, 8]`` each."""
    rows = []
    for step in steps:
        batch = gtn.synthetic_batch(step)
        rows.append(torch.stack([batch["inputs"][batch["labels"] == label][0, 0] for label in range(CLASSES)]))
    return rows


def real_digits(data: DigitsData) -> list[Tensor]:
    """Return some training images of every class, as a network sees them, ``[10, 8, 8]`` each."""
    inputs, targets = data.some("train", 1000, seed=0)
    return [torch.stack([inputs[targets == label][number, 0] for label in range(CLASSES)]) for number in range(ROWS)]


def draw(synthetic: list[Tensor], real: list[Tensor], steps: list[int], result: EvaluationResult) -> Figure:
    """Draw images at the left, the curves at the right."""
    figure = Figure(figsize=(11, 4.2), dpi=110)
    left, right = figure.subfigures(1, 2, width_ratios=[1.35, 1], squeeze=False)[0]
    upper, lower = left.subfigures(2, 1, squeeze=False)[:, 0]
    draw_images(upper, synthetic, "what the teacher makes, by inner step", [f"step {step}" for step in steps])
    draw_images(lower, real, "real digits", [""] * ROWS)
    draw_curves(right, result)
    return figure


def draw_images(figure: SubFigure, rows: list[Tensor], title: str, names: list[str]) -> None:
    """Draw a row of images for each of the names, in one scale of grays."""
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(ROWS, CLASSES)
    figure.subplots_adjust(left=0.1, right=0.99, top=0.84, bottom=0.02, wspace=0.08, hspace=0.08)
    low, high = (torch.stack(rows).quantile(share).item() for share in (0.02, 0.98))
    for line, images, name in zip(axes, rows, names, strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.detach().numpy(), cmap="gray", vmin=low, vmax=high)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)


def draw_curves(figure: SubFigure, result: EvaluationResult) -> None:
    """Draw test accuracy against inner steps, mean and standard deviation over learners."""
    axis = figure.subplots()
    figure.subplots_adjust(left=0.14, right=0.97, top=0.92, bottom=0.12)
    statistics = curve_statistics(result)
    for kind, color, style, name in (
        ("synthetic", "C0", "o-", "on the teacher's data"),
        ("real", "C1", "s--", "on real data, best of five learning rates"),
    ):
        mean, std = (torch.tensor(statistics[f"{kind}_{part}"]) for part in ("mean", "std"))
        axis.plot(result.steps, mean, style, color=color, markersize=4, label=name)
        axis.fill_between(result.steps, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
    axis.set_title("test accuracy of new networks", fontsize=11)
    axis.set_xlabel("training steps of 32 images")
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", fontsize=9)


if __name__ == "__main__":
    main()
