"""A callback that measures how well the synthetic data ranks architectures."""

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import rankdata
from torch import Tensor

from gtn_lightning.callbacks.figures import save_figure
from gtn_lightning.callbacks.writing import unless_unwritable
from gtn_lightning.data import TensorData
from gtn_lightning.errors import RecipeError
from gtn_lightning.files import whole_file
from gtn_lightning.lightning import Callback, LightningModule, Trainer
from gtn_lightning.meta_training.checkpoints import CheckpointError, misfit
from gtn_lightning.nas import Architecture, MeasuredReference, Reference, SearchSpace
from gtn_lightning.nas.correlation import Correlation, Interval, Ranking, measure_ranking
from gtn_lightning.nas.proxies import NumParameters
from gtn_lightning.nas.proxies.taught import LiveGTNProxy
from gtn_lightning.randomness import keyed_generator


class NASProxy(Callback):
    """Ranks a fixed sample of architectures by the synthetic data, and compares it with their real accuracies.

    After a validation, and after a test, a fresh network of every architecture in the sample is taught on the synthetic
    data and scored on validation images; the processes share the work. Logged are, under ``nas/``, the correlations of
    `Ranking`, with the ends of their intervals as ``_low`` and ``_high``; Spearman's correlation of the number of
    parameters (``nas/parameters_spearman``), which any proxy should exceed, and of the mean rank of both
    (``nas/mean_rank_spearman``); and ``nas/seconds``. Scores are written to ``nas_proxy.csv`` in the run folder, a
    scatter plot to ``pictures/nas_proxy.png`` and to the logger.

    Args:
        space: the search space.
        reference: the real accuracies.
        architectures: number of architectures in the sample; a correlation of .7 has a standard deviation of .12 with
            20 of them and of .05 with 100.
        held_out: take them from the share of the space that `SpaceLearners` leaves out; None for all of the space.
        steps: number of inner steps; None for as many as the teacher is meta-trained with.
        measure: how a learning curve is reduced to a score: ``accuracy``, ``loss`` or ``area``.
        images: number of validation images that a learner is scored on.
        every_n_validations: number of validations between two measurements; 0 for tests only.
        broken_below: architectures below this real accuracy count as broken; None for two points above chance.

    Raises:
        RecipeError: a value is out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        reference: Reference,
        architectures: int = 100,
        held_out: float | None = 0.5,
        steps: int | None = None,
        measure: str = "accuracy",
        images: int = 2000,
        every_n_validations: int = 1,
        broken_below: float | None = None,
    ) -> None:
        if architectures < 3:
            raise RecipeError(f"NASProxy: architectures must be at least 3, got {architectures}")
        if every_n_validations < 0:
            raise RecipeError(f"NASProxy: every_n_validations must be at least 0, got {every_n_validations}")
        self.space = space
        self.reference = reference
        self.architectures = architectures
        self.held_out = held_out
        self.steps = steps
        self.measure = measure
        self.images = images
        self.every_n_validations = every_n_validations
        self.broken_below = broken_below
        self.ranking: Ranking | None = None
        """The result of the last measurement."""
        self._sample: list[Architecture] = []
        self._accuracies: Tensor | None = None
        self._parameters = torch.empty(0)
        self._scores = torch.empty(0)
        self._validations = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draw the sample."""
        self._sample = self.reference.candidates(
            self.space, self.architectures, keyed_generator(0, "NAS sample"), self.held_out
        )
        self._accuracies = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank, every `every_n_validations` validations."""
        if trainer.sanity_checking or self.every_n_validations == 0:
            return
        self._validations += 1
        if self._validations % self.every_n_validations == 0:
            self._rank(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank."""
        self._rank(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the scores and the plot."""
        if not trainer.sanity_checking:
            self._write(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the scores and the plot."""
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of validations, so that a resumed run ranks at the same validations."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of validations from a checkpoint.

        Raises:
            CheckpointError: the state is not what `state_dict` returns.
        """
        if fault := misfit(state_dict, {"validations": 0}, "the state of NASProxy", counts=True):
            raise CheckpointError(fault)
        self._validations = state_dict["validations"]

    def _rank(self, trainer: Trainer, gtn: Any) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, TensorData):
            raise RecipeError(
                f"NASProxy: the data module must be a TensorData, such as ImageData, got a {type(data).__name__}"
            )
        began = time.perf_counter()
        if self._accuracies is None:
            self._accuracies = self._known(trainer, data, gtn.device)
        scorer = LiveGTNProxy(gtn, self.steps, measure=self.measure, images=self.images).bind(
            self.space, data, gtn.device
        )
        self._scores = self._shared(trainer, gtn.device, scorer)
        self.ranking = measure_ranking(self._scores, self._accuracies, self._broken(gtn))
        ranks = rankdata(self._scores) + rankdata(self._parameters)
        logged = flat(self.ranking) | {"seconds": time.perf_counter() - began}
        for name, scores in (("parameters", self._parameters), ("mean_rank", torch.from_numpy(ranks))):
            beside = measure_ranking(scores, self._accuracies, self._broken(gtn), resamples=0)
            logged[f"{name}_spearman"] = beside.spearman.overall.value
        for name, value in logged.items():
            if math.isfinite(value):  # the top tenth of a small sample has no correlation
                gtn.log(f"nas/{name}", float(value), batch_size=1)

    def _broken(self, gtn: Any) -> float:
        return 1 / gtn.task.classes + 0.02 if self.broken_below is None else self.broken_below

    def _known(self, trainer: Trainer, data: TensorData, device: torch.device) -> Tensor:
        """Return the mean real accuracies; the processes share those that have to be measured."""
        sizes = NumParameters().bind(self.space, data)
        self._parameters = torch.tensor([sizes(one) for one in self._sample], dtype=torch.float64)
        known = self.reference.bind(data, device)
        if not isinstance(self.reference, MeasuredReference):
            return known.accuracies(self.space, self._sample).mean(dim=1)
        return self._shared(trainer, device, lambda one: float(known.accuracies(self.space, [one]).mean()))

    def _shared(self, trainer: Trainer, device: torch.device, value: Callable[[Architecture], float]) -> Tensor:
        """Return a value of every architecture in the sample; each process computes its share."""
        own = torch.zeros(len(self._sample), dtype=torch.float64, device=device)
        for number in range(trainer.global_rank, len(self._sample), trainer.world_size):
            own[number] = value(self._sample[number])
        together: Tensor = trainer.strategy.reduce(own, reduce_op="sum")
        return together.cpu()

    def _write(self, trainer: Trainer) -> None:
        if self.ranking is None or self._accuracies is None or not trainer.is_global_zero:
            return
        rows = zip(
            self._sample, self._scores.tolist(), self._parameters.tolist(), self._accuracies.tolist(), strict=True
        )
        with (
            unless_unwritable(trainer, "nas_proxy.csv"),
            whole_file(Path(trainer.default_root_dir) / "nas_proxy.csv") as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["architecture", "score", "parameters", "accuracy"])
            writer.writerows(rows)
        figure = draw_ranking(self._scores, self._accuracies, self.ranking, self.measure)
        save_figure(trainer, figure, "nas_proxy", trainer.global_step)


def flat(ranking: Ranking) -> dict[str, float]:
    """Return a ranking as numbers by the names that are logged."""
    found: dict[str, Interval] = {}
    for kind in ("spearman", "kendall", "spearman_working", "kendall_working"):
        correlation: Correlation = getattr(ranking, kind)
        found[kind] = correlation.overall
        found[f"{kind}_top_half"] = correlation.top_half
        found[f"{kind}_top_tenth"] = correlation.top_tenth
    found |= {f"regret_{picks}": interval for picks, interval in ranking.regret.items()}
    ends = ("", "_low", "_high")
    return {
        f"{name}{end}": value for name, interval in found.items() for end, value in zip(ends, interval, strict=True)
    }


def draw_ranking(scores: Tensor, accuracies: Tensor, ranking: Ranking, measure: str) -> Figure:
    """Draw scores against real accuracies.

    Args:
        scores: ``[N]``; those that are not finite are left out.
        accuracies: ``[N]``, between 0 and 1.
        ranking: how well the scores rank.
        measure: how a learning curve was reduced to a score.
    """
    figure = Figure(figsize=(5, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    finite = scores.isfinite()
    axes.plot(scores[finite].numpy(), 100 * accuracies[finite].numpy(), "o", alpha=0.6)
    axes.set_xlabel(f"{measure} after teaching with synthetic data")
    axes.set_ylabel("real accuracy in %")
    spearman = ranking.spearman.overall
    axes.set_title(
        f"{len(scores)} architectures: Spearman {spearman.value:.2f} [{spearman.low:.2f}, {spearman.high:.2f}]",
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    return figure
