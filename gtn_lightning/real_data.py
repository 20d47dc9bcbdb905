"""Fetch the real data of a run through its trainer, and check it against learners and task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from gtn_lightning.data import Counts, InMemoryData
from gtn_lightning.data.pairs import (
    batches_of,
    check_finite,
    check_inputs,
    check_pair,
    check_tensors,
    has_length,
    only_loader,
)
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch
from gtn_lightning.learners import check_learner
from gtn_lightning.lightning import TrainerFn, is_overridden, isolate_rng, pl
from gtn_lightning.parts import Parts
from gtn_lightning.randomness import keyed_generator

LOADERS = {"train": "training", "val": "validation", "test": "test"}
"""The loaders of the splits, in error messages."""

DATA = {"train": "the data", "val": "the validation data", "test": "the test data"}
"""The data of the splits, in error messages."""


class TrainerData:
    """The real data of a trainer, checked once per run.

    Args:
        parts: the parts of a GTN.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._fields = parts.task.real_fields
        self._shape = None
        if self._fields is not None:
            inputs = next(iter(self._fields))
            # The teacher's shape, since the task's inputs may have any shape.
            self._shape = parts.teacher.fields.get(inputs, self._fields[inputs]).shape
        self.reset()

    def reset(self) -> None:
        """Forget the checks: a new run may have other data."""
        self._learners_fit = False
        self._splits_fit: set[str] = set()

    def take(self, module: pl.LightningModule, split: str, count: int) -> Batch | None:
        """Return real data of a split, normalized as for the learners, the same on every process.

        Args:
            module: the module that a trainer runs.
            split: ``train``, ``val`` or ``test``.
            count: maximum number of samples.

        Returns:
            The task's real fields on the module's device; None if the split has no loader, or there are no fields.

        Raises:
            RecipeError: if data, learners and task do not fit together.
        """
        trainer = module.trainer
        data = trainer.datamodule  # type: ignore[attr-defined]  # the trainer sets it when it runs
        if data is None:
            loader = trainer.train_dataloader if split == "train" else trainer.val_dataloaders
        else:
            if trainer.state.fn != TrainerFn.FITTING:
                data.setup("fit")  # not twice in a fit: a data module with a random split would split differently
            if isinstance(data, InMemoryData) and self._fields is not None:
                # From memory: the same samples on every process and after every restart.
                return self._fitting(module, _on_device(module, data.some(split, count, self._parts.seed)), split)
            name = f"{split}_dataloader"
            loader = getattr(data, name)() if is_overridden(name, data) else None
        loader = only_loader(loader, LOADERS[split], structured=split == "train")
        if loader is None:
            return None
        if self._fields is None:
            self._fitting(module, _transferred(module, next(batches_of(loader, LOADERS[split]))), split)
            return None
        batches, total = [], 0
        for batch in batches_of(loader, LOADERS[split]):
            batches.append(self._tensors(_transferred(module, batch), split))
            total += len(batches[-1][0])
            if total >= count:
                break
        # Each process draws its own training data, but the baseline must be the same on all.
        tensors = trainer.strategy.broadcast([torch.cat(part)[:count] for part in zip(*batches, strict=True)])
        return self._fitting(module, _on_device(module, tensors), split)

    def check_split(self, module: pl.LightningModule, split: str, synthetic: Callable[[], list[Tensor]]) -> None:
        """Check the loader of a split and its first batch, before learners are taught for it.

        Args:
            module: the module that a trainer runs.
            split: ``val`` or ``test``.
            synthetic: returns a batch to check the learners on if the loader is a stream, which may not be iterable
                twice.

        Raises:
            RecipeError: if data, learners and task do not fit together.
        """
        trainer = module.trainer
        loaders = trainer.test_dataloaders if split == "test" else trainer.val_dataloaders
        loader = only_loader(loaders, LOADERS[split])
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
            raise RecipeError(
                f"the {split} DataLoader gives each process a part of its data, expected all of it, since processes "
                "share out learners and not data: pass use_distributed_sampler=False to the Trainer, and give the "
                "training DataLoader a DistributedSampler"
            )
        if split in self._splits_fit:
            return
        with (
            torch.inference_mode(False),
            trainer.precision_plugin.forward_context(),
            isolate_rng(),  # the random numbers for this batch are drawn again later
        ):
            if has_length(loader):
                self._fitting(module, _transferred(module, next(batches_of(loader, LOADERS[split]))), split)
            elif not self._learners_fit:
                self._check_learners(module, synthetic())

    def scorable(self, batch: Any, split: str) -> Any:
        """Check that learners can be scored on a batch of real data, and return it.

        Raises:
            RecipeError: if they cannot.
        """
        if self._fields is not None:
            batch = self._tensors(batch, split)
            check_finite(batch[0], DATA[split])
        self._parts.task.check_batch(batch, DATA[split])
        return batch

    def _tensors(self, batch: Any, split: str) -> tuple[Tensor, ...]:
        names = list(self._fields or ())
        if len(names) > 2:
            return check_tensors(batch, names, self._shape, DATA[split])
        check = check_pair if len(names) == 2 else check_inputs
        return check(batch, self._shape, DATA[split])

    def _fitting(self, module: pl.LightningModule, batch: Any, split: str) -> Batch:
        real = self.scorable(batch, split)
        self._splits_fit.add(split)
        self._check_learners(module, real)
        return {} if self._fields is None else dict(zip(self._fields, real, strict=True))

    def _check_learners(self, module: pl.LightningModule, real: Any) -> None:
        if self._learners_fit:
            return
        with torch.random.fork_rng(devices=[]):
            for family in self._parts.learners.families().values():
                learner = family.sample(keyed_generator(self._parts.seed, "check")).to(module.device)
                check_learner(learner)
                self._parts.task.check(learner, real)
        self._learners_fit = True


def counts(trainer: pl.Trainer) -> Mapping[str, int]:
    """Return what a data module counts in this process so far, if it does."""
    data = trainer.datamodule  # type: ignore[attr-defined]  # the trainer sets it when it runs
    return data.counts() if isinstance(data, Counts) else {}


def _transferred(module: pl.LightningModule, batch: Any) -> Any:
    """Return a loader's batch as Lightning passes it to a step: in the trainer's precision, after all hooks."""
    data = module.trainer.datamodule  # type: ignore[attr-defined]

    def hook(name: str) -> Any:
        return getattr(data if data is not None and is_overridden(name, data) else module, name)

    batch = module.trainer.precision_plugin.convert_input(batch)
    batch = hook("on_before_batch_transfer")(batch, 0)
    batch = hook("transfer_batch_to_device")(batch, module.device, 0)
    return hook("on_after_batch_transfer")(batch, 0)


def _on_device(module: pl.LightningModule, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
    inputs, *others = batch
    inputs = module.trainer.precision_plugin.convert_input(inputs)
    return tuple(part.to(module.device) for part in (inputs, *others))
