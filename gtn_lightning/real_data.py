"""The real data of a run: fetched through its trainer, and checked against learners and task."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from gtn_lightning.data import InMemoryData
from gtn_lightning.data.pairs import batches_of, check_finite, check_pair, has_length, only_loader
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch
from gtn_lightning.learners import check_learner
from gtn_lightning.lightning import TrainerFn, is_overridden, isolate_rng, pl
from gtn_lightning.parts import Parts
from gtn_lightning.randomness import keyed_generator

LOADERS = {"train": "training", "val": "validation", "test": "test"}
"""What errors call the loaders of the splits."""

DATA = {"train": "the data", "val": "the validation data", "test": "the test data"}
"""What errors call the data of the splits."""


class TrainerData:
    """The real data that a trainer offers a module, checked once per run.

    Args:
        parts: the parts of a GTN.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        inputs = next(iter(parts.task.fields))
        made = parts.teacher.fields.get(inputs)
        # What the teacher makes, for the inputs of a task may have any shape.
        self._shape = parts.task.fields[inputs].shape if made is None else made.shape
        self.reset()

    def reset(self) -> None:
        """Check everything again: a new run may have other data."""
        self._learners_fit = False
        self._splits_fit: set[str] = set()

    def take(self, module: pl.LightningModule, split: str, count: int) -> Batch | None:
        """Return real data of a split as the learners see it, the same on every process.

        Args:
            module: the module that a trainer runs.
            split: ``train``, ``val`` or ``test``.
            count: the largest number of samples.

        Returns:
            The task's fields on the module's device; None if the split has no loader.

        Raises:
            RecipeError: if data, learners and task do not fit together.
        """
        trainer = module.trainer
        data = trainer.datamodule  # type: ignore[attr-defined]  # the trainer sets it when it runs
        if data is None:
            loader = trainer.train_dataloader if split == "train" else trainer.val_dataloaders
        else:
            if trainer.state.fn != TrainerFn.FITTING:
                data.setup("fit")  # a second time, a data module that splits at random would split otherwise
            if isinstance(data, InMemoryData):
                # Straight from memory: the same samples on every process and after every restart.
                return self._fitting(module, _on_device(module, data.some(split, count, self._parts.seed)), split)
            name = f"{split}_dataloader"
            loader = getattr(data, name)() if is_overridden(name, data) else None
        loader = only_loader(loader, LOADERS[split], structured=split == "train")
        if loader is None:
            return None
        parts, found = [], 0
        for batch in batches_of(loader, LOADERS[split]):
            parts.append(check_pair(_handed_over(module, batch), self._shape, DATA[split]))
            found += len(parts[-1][1])
            if found >= count:
                break
        # Every process draws its own training data; the baseline must be the same on all.
        tensors = trainer.strategy.broadcast([torch.cat(part)[:count] for part in zip(*parts, strict=True)])
        return self._fitting(module, _on_device(module, tensors), split)

    def check_split(self, module: pl.LightningModule, split: str, synthetic: Callable[[], list[Tensor]]) -> None:
        """Check the loader of a split, and its first batch, before any learner is taught for it.

        Args:
            module: the module that a trainer runs.
            split: ``val`` or ``test``.
            synthetic: makes data that stands in for that of a stream, which might not begin anew.

        Raises:
            RecipeError: if data, learners and task do not fit together.
        """
        trainer = module.trainer
        loaders = trainer.test_dataloaders if split == "test" else trainer.val_dataloaders
        loader = only_loader(loaders, LOADERS[split])
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
            raise RecipeError(
                f"the {split} DataLoader shows each process a part of its data, but learners are shared out and not "
                "data: pass use_distributed_sampler=False to the Trainer, and give the training DataLoader a "
                "DistributedSampler of its own"
            )
        if split in self._splits_fit:
            return
        with (
            torch.inference_mode(False),
            trainer.precision_plugin.forward_context(),
            isolate_rng(),  # what is drawn for a batch is drawn again
        ):
            if has_length(loader):
                batch = _handed_over(module, next(batches_of(loader, LOADERS[split])))
                self._fitting(module, check_pair(batch, self._shape, DATA[split]), split)
            elif not self._learners_fit:
                self._check_learners(module, synthetic())

    def scorable(self, batch: Any, split: str) -> Sequence[Tensor]:
        """Return a batch of real data, once it is known that learners can be scored on it.

        Raises:
            RecipeError: if they cannot.
        """
        inputs, targets = check_pair(batch, self._shape, DATA[split])
        check_finite(inputs, DATA[split])
        self._parts.task.check_batch((inputs, targets), DATA[split])
        return inputs, targets

    def _fitting(self, module: pl.LightningModule, batch: Sequence[Tensor], split: str) -> Batch:
        real = self.scorable(batch, split)
        self._splits_fit.add(split)
        self._check_learners(module, real)
        return dict(zip(self._parts.task.fields, real, strict=True))

    def _check_learners(self, module: pl.LightningModule, real: Sequence[Tensor]) -> None:
        if self._learners_fit:
            return
        with torch.random.fork_rng(devices=[]):
            for family in self._parts.learners.families().values():
                learner = family.sample(keyed_generator(self._parts.seed, "check")).to(module.device)
                check_learner(learner)
                self._parts.task.check(learner, real)
        self._learners_fit = True


def _handed_over(module: pl.LightningModule, batch: Any) -> Any:
    """Return a loader's batch as Lightning hands it to a step: in the trainer's precision, through the hooks."""
    data = module.trainer.datamodule  # type: ignore[attr-defined]

    def hook(name: str) -> Any:
        return getattr(data if data is not None and is_overridden(name, data) else module, name)

    batch = module.trainer.precision_plugin.convert_input(batch)
    batch = hook("on_before_batch_transfer")(batch, 0)
    batch = hook("transfer_batch_to_device")(batch, module.device, 0)
    return hook("on_after_batch_transfer")(batch, 0)


def _on_device(module: pl.LightningModule, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    inputs, targets = batch
    inputs = module.trainer.precision_plugin.convert_input(inputs)
    return inputs.to(module.device), targets.to(module.device)
