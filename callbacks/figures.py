"""Figures, to the run folder and to whichever logger is on."""

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gtn_lightning.callbacks.writing import unless_unwritable
from gtn_lightning.files import whole_file
from gtn_lightning.lightning import TensorBoardLogger, Trainer, WandbLogger


def save_figure(trainer: Trainer, figure: Figure, name: str, meta_step: int) -> None:
    """Write a figure to ``<run folder>/pictures/<name>.png`` and send it to the loggers that take pictures.

    The file is the latest figure of that name; the loggers keep all of them. Does nothing but on rank zero.

    Args:
        trainer: the trainer, whose ``default_root_dir`` is the run folder.
        figure: a figure made without pyplot, which is not safe to use from several threads.
        name: name of the file and, after ``pictures/``, of the logged picture.
        meta_step: the meta-step that the figure shows. W&B cannot use a metric as the axis of a panel of
            pictures, so the number stands in the caption too.
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
