"""A search over a space of architectures by a proxy, from the first candidate to the comparison of the best."""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gtn_lightning.data import TensorData
from gtn_lightning.errors import RecipeError, first_line
from gtn_lightning.lightning import LightningDataModule, Logger
from gtn_lightning.nas.data_settings import data_settings
from gtn_lightning.nas.full_training import FullTraining
from gtn_lightning.nas.proxies import Cost, Proxy, Scorer
from gtn_lightning.nas.reference import MeasuredReference, TableReference
from gtn_lightning.nas.search.candidates import SAMPLERS, Candidate, Candidates, as_number
from gtn_lightning.nas.search.draws import DRAWS
from gtn_lightning.nas.search.leaderboard import TrainedGroup, write_leaderboard
from gtn_lightning.nas.spaces import Architecture, SearchSpace
from gtn_lightning.randomness import keyed_generator

RIVAL_CANDIDATES = 2000
"""Maximum number of candidates that a rival scores, even if time is left."""

MOST_CANDIDATES = 100_000
"""Maximum number of candidates: every claim reads all earlier ones, which is too slow for more."""

SEEDS = 2**32
"""Seeds are below this, the limit of NumPy, which Lightning's ``seed_everything`` seeds too."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search."""

    leaderboard: list[Candidate]
    """All candidates, the best first."""
    trained: list[TrainedGroup]
    """The groups of architectures that were trained in full."""
    spent: Cost
    """What the scores cost, including what the proxy needed before the first one."""


class Search:
    """Scores candidates with a proxy, then trains the best in full and compares them with others.

    On a benchmark whose accuracies are published, a table answers in place of the trainings.

    The same command, started again or on other machines with one storage, takes part in the same search; nothing is
    scored or trained twice. The search's folder, ``<folder>/<study>``, gets ``leaderboard.csv``,
    ``leaderboard.json`` and ``leaderboard.png``.

    Args:
        space: the search space.
        proxy: scores candidates.
        data: the images.
        candidates: number of architectures to score.
        sampler: how they are proposed: ``random``, ``evolution`` or ``tpe``.
        prune: end the scoring of candidates below the median of the others after the same number of steps.
        study: the search's name.
        storage: of the study: ``sqlite:///FILE``, ``postgresql://…`` or a file that ends with ``.journal``; by default
            an SQLite file in the search's folder.
        folder: the folder of all searches, each of which has a folder in it.
        best: number k of the best that are trained in full; 0 for none.
        training: the full training; None for `FullTraining` with its defaults.
        training_seeds: number of trainings of each.
        reference: a table of accuracies, in whose place nothing is trained; architectures that it does not have are
            left out of the comparison. `training` and `training_seeds` then have no effect.
        rival: another proxy, such as real data, that searches for as many seconds as the search by the first took,
            including its overhead; its best k are trained too.
        seed: of the candidates.
        device: where networks run.
        logger: a Lightning logger, such as `WandbLogger`.

    Raises:
        RecipeError: a value is out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        proxy: Proxy,
        data: LightningDataModule,
        candidates: int = 100,
        sampler: str = "random",
        prune: bool = False,
        study: str = "search",
        storage: str | None = None,
        folder: str = "runs/search",
        best: int = 3,
        training: FullTraining | None = None,
        training_seeds: int = 2,
        reference: TableReference | None = None,
        rival: Proxy | None = None,
        seed: int = 0,
        device: str = "cpu",
        logger: Logger | None = None,
    ) -> None:
        members = math.prod(len(options) for options in space.decisions.values())
        most = min(MOST_CANDIDATES, members)
        limit = "the number of architectures in the space" if most == members else "the most that a study can hold"
        for key, value, least, largest, why in (
            ("candidates", candidates, 1, most, f", {limit}"),
            ("best", best, 0, candidates, ", the number of candidates"),
            ("seed", seed, 0, SEEDS - 1, ""),
        ):
            if not least <= value <= largest:
                raise RecipeError(f"search: {key} must be from {least} to {largest}{why}, got {value}")
        if reference is not None:
            _check_table(reference, space, best)
        if reference is not None and training is not None:
            raise RecipeError(
                "search: training has no effect with reference, a table of accuracies: leave one out, or set it to null"
            )
        if training_seeds < 1:
            raise RecipeError(f"search: training_seeds must be at least 1, got {training_seeds}")
        if sampler not in SAMPLERS:
            raise RecipeError(f"search: sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        if not isinstance(data, TensorData):
            raise RecipeError(f"search: data must be a TensorData, such as ImageData, got a {type(data).__name__}")
        _check_device(device)
        self.space = space
        self.proxy = proxy
        self.data = data
        self.candidates = candidates
        self.sampler = sampler
        self.prune = prune
        self.study = study
        self.folder = Path(folder).expanduser() / study
        self.storage = storage or f"sqlite:///{self.folder / 'study.sqlite'}"
        self.best = best
        self.training = training or FullTraining()
        self.training_seeds = training_seeds
        self.reference = reference
        self.rival = rival
        self.seed = seed
        self.device = device
        self.logger = logger
        self.console = Console()

    def run(self) -> SearchResult:
        """Search, or take part in a search, to the end."""
        self.data.prepare_data()
        self.data.setup()
        scorer = self.proxy.bind(self.space, self.data, self.device)
        candidates = self._study(self.study, scorer, self.candidates, self.sampler)
        self._score_all(candidates, scorer)
        board = candidates.leaderboard()
        spent = sum((candidate.cost for candidate in board), scorer.overhead())
        found = SearchResult(board, [], spent)
        self._write(found, scorer)
        if not math.isfinite(board[0].value):
            raise RecipeError(
                f"search: {scorer.name} gave none of the {len(board)} candidates a finite number: see "
                f"{self.folder / 'leaderboard.csv'}, and choose another proxy"
            )
        if self.best:
            found = replace(found, trained=self._train_groups(board, spent))
            self._write(found, scorer)
        self._log(found)
        self._print(f"search: {self.folder}")
        return found

    def _study(self, name: str, scorer: Scorer, count: int, sampler: str) -> Candidates:
        settings = {
            "space": self.space.settings(),
            "proxy": scorer.settings(),
            # Proxies have batch sizes of their own.
            "data": data_settings(self.data, without=("eval_batch_size",)),
            "seed": self.seed,
            "sampler": sampler,
            "prune": self.prune,
        }
        return Candidates(self.space, name, self.storage, count, sampler, self.seed, self.prune, settings, self._print)

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _score_all(self, candidates: Candidates, scorer: Scorer) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[best]}", markup=False),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(f"candidates by {escape(scorer.name)}", total=self.candidates, best="")

            def show() -> None:
                board = candidates.leaderboard()
                known = board and math.isfinite(board[0].value)
                best = f"best {board[0].architecture}: {board[0].value:.4g}" if known else ""
                progress.update(task, completed=len(board), best=best)

            show()
            while (claimed := candidates.claim()) is not None:
                self._score(candidates, scorer, *claimed)
                show()
            show()  # other workers may have scored the last candidates

    def _score(self, candidates: Candidates, scorer: Scorer, trial: Any, architecture: Architecture) -> None:
        pruned = False

        def report(step: int, value: float) -> bool:
            nonlocal pruned
            pruned = candidates.report(trial, step, value)
            return pruned

        with _abandoning(candidates, trial):
            score = scorer.evaluate(architecture, self.seed, report if self.prune else None)
            candidates.finish(trial, score, pruned)
        if self.logger is not None:
            metrics = {"search/score": as_number(score.value), "search/seconds": score.cost.seconds}
            self.logger.log_metrics(metrics, step=trial.number)

    def _train_groups(self, board: Sequence[Candidate], spent: Cost) -> list[TrainedGroup]:
        """Train the best, as many at random, and the rival's best; or look their accuracies up in the table."""
        drawn = self._drawn()
        chosen = self._chosen(board)
        if self.reference is not None and len(chosen) < self.best:
            raise RecipeError(
                f"search: {self.reference.path} has {len(chosen)} of the {len(board)} candidates, and best is "
                f"{self.best}: lower best, or raise candidates"
            )
        groups = [
            (f"best {len(chosen)} by {self.proxy.name}", chosen, len(board)),
            (f"{self.best} at random", drawn, len(board)),
        ]
        if self.rival is not None:
            rivals = self._rival_search(spent)
            chosen = self._chosen(rivals)
            groups.append((f"best {len(chosen)} by {self.rival.name}, equal cost", chosen, len(rivals)))
            if not chosen:
                groups.pop()
                known = "" if self.reference is None else f" that {self.reference.path} has"
                self._print(
                    f"search: {self.rival.name} gave none of {len(rivals)} candidates{known} a finite number, and is "
                    "left out"
                )
        if self.reference is not None:
            return [TrainedGroup(name, self._known(self.reference, some), count) for name, some, count in groups]
        reference = MeasuredReference(self.training, self.training_seeds, str(self.folder / "trainings.sqlite"))
        measured = reference.bind(self.data, self.device)
        trained = []
        count = sum(len(architectures) for _, architectures, _ in groups) * self.training_seeds
        with Progress(TextColumn("trained in full"), BarColumn(), MofNCompleteColumn(), console=self.console) as bar:
            task = bar.add_task("", total=count)
            for name, architectures, candidates in groups:
                accuracies: dict[Architecture, list[float]] = {}
                for architecture in architectures:
                    accuracies[architecture] = []
                    for seed in range(self.training_seeds):
                        accuracies[architecture].append(measured.measure(self.space, architecture, seed))
                        bar.advance(task)
                trained.append(TrainedGroup(name, accuracies, candidates))
        return trained

    def _drawn(self) -> list[Architecture]:
        """Return architectures at random, of the table if there is one."""
        generator = keyed_generator(self.seed, "at random")
        if self.reference is not None:
            return self.reference.candidates(self.space, self.best, generator)
        return self.space.draw(self.best, generator)

    def _chosen(self, board: Sequence[Candidate]) -> list[Architecture]:
        """Return the best candidates that have a finite score and, with a table, a known accuracy."""
        scored = [candidate.architecture for candidate in board if math.isfinite(candidate.value)]
        if self.reference is None:
            return scored[: self.best]
        return list(islice((one for one in scored if self.reference.has(self.space, one)), self.best))

    def _known(
        self, reference: TableReference, architectures: Sequence[Architecture]
    ) -> dict[Architecture, list[float]]:
        """Return the accuracies of architectures in the table."""
        return {one: reference.accuracies(self.space, [one])[0].tolist() for one in architectures}

    def _rival_search(self, spent: Cost) -> list[Candidate]:
        """Let the rival score the same candidates in the same order for as many seconds as were spent."""
        assert self.rival is not None
        scorer = self.rival.bind(self.space, self.data, self.device)
        # As many as the space has, up to a limit: a space of cells has billions.
        count = sum(1 for _ in islice(self.space.draws(keyed_generator(self.seed, DRAWS)), RIVAL_CANDIDATES))
        candidates = self._study(f"{self.study}, rival", scorer, count, "random")
        with self.console.status(f"{escape(scorer.name)} searches for as long: {spent.seconds:.0f} seconds"):
            while True:
                scored = candidates.scored()
                used = sum((candidate.cost.seconds for candidate in scored), scorer.overhead().seconds)
                enough = used >= spent.seconds and len(scored) >= self.best
                if enough or (claimed := candidates.claim()) is None:
                    return candidates.leaderboard()
                trial, architecture = claimed
                with _abandoning(candidates, trial):
                    candidates.finish(trial, scorer.evaluate(architecture, self.seed))

    def _write(self, found: SearchResult, scorer: Scorer) -> None:
        table = None if self.reference is None else self.reference.path
        write_leaderboard(self.folder, found.leaderboard, found.trained, found.spent, scorer, self.console, table)

    def _log(self, found: SearchResult) -> None:
        if self.logger is None:
            return
        best = found.leaderboard[0]
        summary = {"search/best": best.value, "search/spent_seconds": found.spent.seconds}
        for number, group in enumerate(found.trained):
            key = ("search/best_k_accuracy", "search/random_k_accuracy", "search/rival_k_accuracy")[number]
            summary[key] = statistics.fmean(group.means())
        self.logger.log_metrics({key: value for key, value in summary.items() if math.isfinite(value)})
        table = getattr(self.logger, "log_table", None)
        if table is not None:
            rows = [[c.architecture.name, c.value, c.cost.seconds, c.pruned] for c in found.leaderboard]
            table(key="search/leaderboard", columns=["architecture", "score", "seconds", "pruned"], data=rows)
        self.logger.finalize("success")


@contextmanager
def _abandoning(candidates: Candidates, trial: Any) -> Iterator[None]:
    """Give up a claim if the block is ended by an error or a signal."""
    try:
        yield
    except BaseException:
        with suppress(RecipeError):  # of a storage that failed: the first error is the one to raise
            candidates.abandon(trial)
        raise


def _check_table(reference: TableReference, space: SearchSpace, best: int) -> None:
    """Raise RecipeError unless a table has enough different architectures of the space."""
    if not isinstance(reference, TableReference):
        raise RecipeError(f"search: reference must be a TableReference, got a {type(reference).__name__}")
    known = len(reference.different(space))
    if known < best:
        raise RecipeError(
            f"search: best must be at most {known}, the number of architectures in {reference.path}, got {best}"
        )


def _check_device(device: str) -> None:
    """Raise RecipeError unless networks can run on a device."""
    try:
        usable = torch.empty(0, device=device).device.type != "meta"
        reason = "nothing is computed there"
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
        usable, reason = False, first_line(error)
    if not usable:
        raise RecipeError(
            f"search: device {device!r} cannot be used ({reason}): give cpu, or cuda where there is a GPU"
        )
