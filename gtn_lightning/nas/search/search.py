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
from pytorch_lightning import LightningDataModule
from pytorch_lightning.loggers import Logger
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gtn_lightning.data import TensorData
from gtn_lightning.errors import RecipeError, first_line
from gtn_lightning.nas.data_settings import data_settings
from gtn_lightning.nas.full_training import FullTraining
from gtn_lightning.nas.proxies import Cost, Proxy
from gtn_lightning.nas.reference import MeasuredReference
from gtn_lightning.nas.search.candidates import DRAWS, SAMPLERS, Candidate, Candidates, as_number
from gtn_lightning.nas.search.leaderboard import Trained, write_leaderboard
from gtn_lightning.nas.spaces import SearchSpace
from gtn_lightning.randomness import keyed_generator

RIVAL_CANDIDATES = 2000
"""A rival scores no more candidates than these, even if time is left."""

MOST_CANDIDATES = 100_000
"""Maximum number of candidates: every claim reads all earlier ones, which is too slow for more."""

SEEDS = 2**32
"""Seeds are below this, the limit of NumPy, which Lightning's ``seed_everything`` seeds too."""


@dataclass(frozen=True)
class Found:
    """What a search found."""

    leaderboard: list[Candidate]
    """All candidates, the best first."""
    trained: list[Trained]
    """The groups of architectures that were trained in full."""
    spent: Cost
    """What the scores cost, whatever the proxy needed before the first included."""


class Search:
    """Scores candidates with a proxy, then trains the best in full and holds them against others.

    The same command, started again or on other machines with one storage, takes part in the same search; what is scored
    or trained is not scored or trained again. The search's folder, ``<folder>/<study>``, gets ``leaderboard.csv``,
    ``leaderboard.json`` and ``leaderboard.png``.

    Args:
        space: the search space.
        proxy: scores candidates.
        data: the images.
        candidates: number of architectures to score.
        sampler: how they are proposed: ``random``, ``evolution`` or ``tpe``.
        prune: give up candidates that do worse than the median of the others after as many steps.
        study: the search's name.
        storage: where the study lives: ``sqlite:///FILE``, ``postgresql://…`` or a file that ends with ``.journal``; by
            default an SQLite file in the search's folder.
        folder: where the folders of searches are.
        best: number k of the best that are trained in full; 0 for none.
        training: how; None for `FullTraining` with its defaults.
        training_seeds: number of trainings of each.
        rival: another proxy, such as real data, that searches for as many seconds as the whole search by the first
            took, its overhead included; its best k are trained too.
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
        rival: Proxy | None = None,
        seed: int = 0,
        device: str = "cpu",
        logger: Logger | None = None,
    ) -> None:
        there_are = math.prod(len(options) for options in space.decisions.values())
        most = min(MOST_CANDIDATES, there_are)
        if not 1 <= candidates <= most:
            limit = "the number of architectures in the space" if most == there_are else "what a study can hold"
            raise RecipeError(f"search: candidates {candidates} given, expected from 1 to {most}, {limit}")
        if best < 0 or best > candidates:
            raise RecipeError(f"search: best {best} given, expected from 0 to the number of candidates, {candidates}")
        if training_seeds < 1:
            raise RecipeError(f"search: training_seeds {training_seeds} given, expected 1 or more")
        if not 0 <= seed < SEEDS:
            raise RecipeError(f"search: seed {seed} given, expected from 0 to {SEEDS - 1}")
        if sampler not in SAMPLERS:
            raise RecipeError(f"search: sampler {sampler!r} is unknown; choose one of {', '.join(SAMPLERS)}")
        if not isinstance(data, TensorData):
            raise RecipeError(f"search: data is a {type(data).__name__}; expected a TensorData, such as ImageData")
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
        self.rival = rival
        self.seed = seed
        self.device = device
        self.logger = logger
        self.console = Console()

    def run(self) -> Found:
        """Search, or take part in a search, to the end."""
        self.data.prepare_data()
        self.data.setup()
        self.proxy.attach(self.space, self.data, self.device)
        candidates = self._study(self.study, self.proxy, self.candidates, self.sampler)
        self._score_all(candidates)
        board = candidates.leaderboard()
        spent = sum((candidate.cost for candidate in board), self.proxy.overhead())
        found = Found(board, [], spent)
        self._write(found)
        if not math.isfinite(board[0].value):
            raise RecipeError(
                f"search: {self.proxy.name} gave none of the {len(board)} candidates a finite number, so that there is "
                f"no best one: see {self.folder / 'leaderboard.csv'}, and choose another proxy"
            )
        if self.best:
            found = replace(found, trained=self._train_groups(board, spent))
            self._write(found)
        self._log(found)
        self._say_line(f"search: {self.folder}")
        return found

    def _study(self, name: str, proxy: Proxy, count: int, sampler: str) -> Candidates:
        settings = {
            "space": self.space.settings(),
            "proxy": proxy.settings(),
            # Scores are made of batches of the proxy's own, whatever size those of an evaluation have.
            "data": data_settings(self.data, without=("eval_batch_size",)),
            "seed": self.seed,
            "sampler": sampler,
            "prune": self.prune,
        }
        return Candidates(
            self.space, name, self.storage, count, sampler, self.seed, self.prune, settings, self._say_line
        )

    def _say_line(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _score_all(self, candidates: Candidates) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[best]}", markup=False),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(f"candidates by {escape(self.proxy.name)}", total=self.candidates, best="")

            def show() -> None:
                board = candidates.leaderboard()
                known = board and math.isfinite(board[0].value)
                best = f"best {board[0].architecture}: {board[0].value:.4g}" if known else ""
                progress.update(task, completed=len(board), best=best)

            show()
            while (claimed := candidates.claim()) is not None:
                self._score(candidates, *claimed)
                show()
            show()  # others may have scored the last of them

    def _score(self, candidates: Candidates, trial: Any, architecture: str) -> None:
        given_up = False

        def report(step: int, value: float) -> bool:
            nonlocal given_up
            given_up = candidates.report(trial, step, value)
            return given_up

        with _abandoning(candidates, trial):
            score = self.proxy.evaluate(architecture, self.seed, report if self.prune else None)
            candidates.finish(trial, score, given_up)
        if self.logger is not None:
            metrics = {"search/score": as_number(score.value), "search/seconds": score.cost.seconds}
            self.logger.log_metrics(metrics, step=trial.number)

    def _train_groups(self, board: Sequence[Candidate], spent: Cost) -> list[Trained]:
        """Train the best, as many at random, and the rival's best."""
        drawn = self.space.draw(self.best, keyed_generator(self.seed, "at random"))
        chosen = self._chosen(board)
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
                self._say_line(
                    f"search: {self.rival.name} gave none of {len(rivals)} candidates a finite number, and is left out"
                )
        reference = MeasuredReference(self.training, self.training_seeds, str(self.folder / "trainings.sqlite"))
        reference.attach(self.data, self.device)
        trained = []
        count = sum(len(architectures) for _, architectures, _ in groups) * self.training_seeds
        with Progress(TextColumn("trained in full"), BarColumn(), MofNCompleteColumn(), console=self.console) as bar:
            task = bar.add_task("", total=count)
            for name, architectures, candidates in groups:
                accuracies: dict[str, list[float]] = {}
                for architecture in architectures:
                    accuracies[architecture] = []
                    for seed in range(self.training_seeds):
                        accuracies[architecture].append(reference.measure(self.space, architecture, seed))
                        bar.advance(task)
                trained.append(Trained(name, accuracies, candidates))
        return trained

    def _chosen(self, board: Sequence[Candidate]) -> list[str]:
        """Return the best of those candidates that have a finite score: the others are as good as any."""
        return [candidate.architecture for candidate in board if math.isfinite(candidate.value)][: self.best]

    def _rival_search(self, spent: Cost) -> list[Candidate]:
        """Let the rival score the same candidates in the same order for as many seconds as were spent."""
        assert self.rival is not None
        self.rival.attach(self.space, self.data, self.device)
        # As many as there are, up to a number that no search waits for: a space of cells has billions of them.
        there_are = sum(1 for _ in islice(self.space.draws(keyed_generator(self.seed, DRAWS)), RIVAL_CANDIDATES))
        candidates = self._study(f"{self.study}, rival", self.rival, there_are, "random")
        with self.console.status(f"{escape(self.rival.name)} searches for as long: {spent.seconds:.0f} seconds"):
            while True:
                scored = candidates.scored()
                used = sum((candidate.cost.seconds for candidate in scored), self.rival.overhead().seconds)
                enough = used >= spent.seconds and len(scored) >= self.best
                if enough or (claimed := candidates.claim()) is None:
                    return candidates.leaderboard()
                trial, architecture = claimed
                with _abandoning(candidates, trial):
                    candidates.finish(trial, self.rival.evaluate(architecture, self.seed))

    def _write(self, found: Found) -> None:
        write_leaderboard(self.folder, found.leaderboard, found.trained, found.spent, self.proxy, self.console)

    def _log(self, found: Found) -> None:
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
            rows = [[c.architecture, c.value, c.cost.seconds, c.pruned] for c in found.leaderboard]
            table(key="search/leaderboard", columns=["architecture", "score", "seconds", "pruned"], data=rows)
        self.logger.finalize("success")


@contextmanager
def _abandoning(candidates: Candidates, trial: Any) -> Iterator[None]:
    """Give a claim back if the block ends in the middle, by an error or because the worker was told to end."""
    try:
        yield
    except BaseException:
        with suppress(RecipeError):  # a storage that failed is not told; what ended the block is what counts
            candidates.abandon(trial)
        raise


def _check_device(device: str) -> None:
    """Raise RecipeError unless networks can run on a device."""
    try:
        usable = torch.empty(0, device=device).device.type != "meta"
        reason = "nothing is computed there"
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
        usable, reason = False, first_line(error)
    if not usable:
        raise RecipeError(
            f"search: device {device!r} cannot be used ({reason}); give cpu, or cuda where there is a GPU"
        )
