"""A validation that ranks architectures, on several processes, started by test_nas_proxy.py."""

from pathlib import Path

from torch import distributed

from gtn_lightning.callbacks import NASProxy
from gtn_lightning.data import DigitsData
from gtn_lightning.nas import ConvNetGrid, FullTraining, MeasuredReference
from tests.tiny import SHAPE, make_gtn, make_trainer


def measured(folder: Path) -> NASProxy:
    """Six architectures whose accuracies are measured by a few steps."""
    reference = MeasuredReference(FullTraining(4, batch_size=16), seeds=1, cache=str(folder / "cache.sqlite"))
    return NASProxy(ConvNetGrid(SHAPE, 10, widths=[4], depths=[1]), reference, architectures=6, images=100)


def main(folder: Path, devices: int) -> None:
    options = {"devices": devices, "strategy": "ddp"} if devices > 1 else {}
    trainer = make_trainer(folder, callbacks=[measured(folder)], **options)
    trainer.validate(make_gtn(), DigitsData(32), verbose=False)
    if distributed.is_initialized():
        distributed.destroy_process_group()  # its threads, left running, may abort a process at its exit
