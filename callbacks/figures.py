"""Write figures and animations to the run folder and to the loggers."""

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gtn_lightning.callbacks.writing import unless_unwritable
from gtn_lightning.files import whole_file
from gtn_lightning.lightning import TensorBoardLogger, Trainer, WandbLogger


def save_figure(trainer: Trainer, figure: Figure, name: str, meta_step: int) -> None:
    """Write a figure to ``<run folder>/pictures/<name>.png`` and to the loggers that support pictures, on rank zero.

    The file is replaced each time; the loggers keep all figures.

    Args:
        trainer: the trainer; its ``default_root_dir`` is the run folder.
        figure: a figure made without pyplot, which is not thread-safe.
        name: name of the file and, after ``pictures/``, of the logged picture.
        meta_step: the meta-step of the figure. It is also in W&B's caption, since W&B cannot use a metric as the axis
            of a panel of pictures.
    """
    if not trainer.is_global_zero:
        return
    path = Path(trainer.default_root_dir) / "pictures" / f"{name}.png"
    canvas = FigureCanvasAgg(figure)
    content = BytesIO()
    canvas.print_png(content)
    with unless_unwritable(trainer, f"pictures/{name}.png"):
        with whole_file(path) as part:
            part.write_bytes(content.getvalue())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(f"pictures/{name}", [str(path)], step=meta_step, caption=[f"meta-step {meta_step}"])
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(canvas.buffer_rgba())[..., :3]
            with unless_unwritable(trainer, f"the picture {name} in the log of TensorBoardLogger"):
                logger.experiment.add_image(f"pictures/{name}", pixels, meta_step, dataformats="HWC")


def save_animation(trainer: Trainer, gif: bytes, name: str, meta_step: int) -> None:
    """Write an animation to ``<run folder>/pictures/<name>.gif`` and to W&B, on rank zero; see `save_figure`.

    Args:
        trainer: the trainer.
        gif: the content of the file.
        name: name of the file and, after ``pictures/``, of the logged animation.
        meta_step: the meta-step of the animation.
    """
    if not trainer.is_global_zero:
        return
    path = Path(trainer.default_root_dir) / "pictures" / f"{name}.gif"
    with unless_unwritable(trainer, f"pictures/{name}.gif"):
        with whole_file(path) as part:
            part.write_bytes(gif)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                captions, formats = [f"meta-step {meta_step}"], ["gif"]
                logger.log_video(f"pictures/{name}", [str(path)], step=meta_step, caption=captions, format=formats)
