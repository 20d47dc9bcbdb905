"""The candidates of a search: an Optuna study that several workers share."""

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies import Cost, Score
from gtn_lightning.nas.search.draws import LIVE, Draws
from gtn_lightning.nas.search.settings import ADVICE, StudySettings
from gtn_lightning.nas.search.storage import open_storage, storage_errors
from gtn_lightning.nas.search.workers import SILENCE, Heartbeat, Worker
from gtn_lightning.nas.spaces import Architecture, SearchSpace
from gtn_lightning.randomness import keyed_generator, keyed_seed

SAMPLERS = ("random", "evolution", "tpe")

POLL = 0.5
"""Seconds between two checks of the other workers' claims."""

PROPOSING = 0.05
"""Seconds between two checks of another worker's proposal."""

NAMELESS = 15.0
"""Seconds after which a claim that does not name its worker counts as lost."""

SAY_AFTER = 5.0
"""Seconds of waiting after which a message names the candidates and workers that are waited for."""

MAX_DUPLICATES = 20
"""Consecutive duplicate proposals after which an architecture without a claim is drawn."""


@dataclass(frozen=True)
class Candidate:
    """An architecture that was scored."""

    architecture: Architecture
    value: float
    """The proxy's value: nan if it was not a number."""
    cost: Cost
    pruned: bool
    """Whether scoring was ended early; the value is the last one reported."""

    @property
    def rank_value(self) -> float:
        """The value that it is ranked by: -inf for every value that is not a finite number."""
        return self.value if math.isfinite(self.value) else -math.inf


class Candidates:
    """Claims architectures one by one, and stores their scores.

    A trial of the study is a claim. Of several claims to one architecture, or to its isomorphs, the one with the lowest
    number is valid and the others are failed, so that every architecture is scored once by any number of workers. The
    claim of a worker that died is failed too, by any worker that notices, and the architecture can be claimed again.
    Whether a process on the same machine lives is read from Linux; other workers count as dead after `SILENCE` seconds
    without a heartbeat, which every worker sends while it scores.

    Args:
        space, study, seed, prune: see `Search`.
        storage: an address that SQLAlchemy understands, such as ``sqlite:///search.db`` or ``postgresql://…``, or the
            path of a journal file, which ends with ``.journal``. A ``~`` at the beginning of a file's path is the home
            folder; the rest of it is taken literally.
        count: number of architectures to score.
        sampler: one of `SAMPLERS`: ``random`` draws architectures that depend on the seed alone; ``evolution``
            (NSGA-II) and ``tpe`` learn from the scores so far.
        settings: what scores depend on; a study that was started with others is refused.
        say: prints a line on the workers that are waited for.

    Raises:
        RecipeError: `count` is below 1, the storage cannot be used, or the study was started with other settings. From
            every method: the storage failed, or another worker started the study with other settings meanwhile.
    """

    def __init__(
        self,
        space: SearchSpace,
        study: str,
        storage: str,
        count: int,
        sampler: str = "random",
        seed: int = 0,
        prune: bool = False,
        settings: Mapping[str, Any] | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        if count < 1:
            raise RecipeError(f"search: candidates must be at least 1, got {count}")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.space = space
        self.count = count
        self._storage = storage
        self._say = say
        self._worker = Worker.this()
        self._heartbeats: dict[int, Heartbeat] = {}
        self._signs: dict[int, tuple[Any, float]] = {}
        self._waited_for: set[int] = set()
        opened = open_storage(storage)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5) if prune else optuna.pruners.NopPruner()
        with storage_errors(storage):
            self._study = optuna.create_study(
                study_name=study, storage=opened, direction="maximize", load_if_exists=True, pruner=pruner
            )
            self._settings = StudySettings(self._study, settings or {})
            self._study.sampler = self._sampler(sampler, seed)

    def claim(self) -> tuple[optuna.Trial, Architecture] | None:
        """Return a claim and its architecture, or None when all candidates are scored, by this worker or others."""
        with storage_errors(self._storage):
            duplicates = 0
            waiting_since: float | None = None
            while True:
                self._settings.check()
                self._fail_lost()
                live = self._live()
                if len(live) >= self.count:
                    running = [trial for trial in live if trial.state == TrialState.RUNNING]
                    if not running:
                        return None
                    waiting_since = time.monotonic() if waiting_since is None else waiting_since
                    if time.monotonic() - waiting_since >= SAY_AFTER:
                        self._say_what_is_waited_for(running)
                    time.sleep(POLL)  # others score the last ones; if one of them dies, its candidate can be claimed
                    continue
                waiting_since = None
                if duplicates >= MAX_DUPLICATES:
                    self._study.enqueue_trial(self._unseen(live))
                    duplicates = 0
                trial = self._study.ask()
                try:
                    architecture = self._proposed(trial)
                except UpdateFinishedTrialError:  # it took so long that others failed the claim
                    architecture = None
                except BaseException:
                    with suppress(Exception):  # the first error is the one to raise
                        self._give_back(trial)
                    raise
                if architecture is not None:
                    self._start_heartbeat(trial)
                    return trial, architecture
                self._give_back(trial)
                duplicates += 1

    def _proposed(self, trial: optuna.Trial) -> Architecture | None:
        """Return the architecture of a new trial, None if others claimed it or there are enough candidates."""
        trial.set_user_attr("worker", self._worker.written())
        choices: dict[str, Any] = {
            key: trial.suggest_categorical(key, list(options)) for key, options in self.space.decisions.items()
        }
        architecture = self.space.architecture(choices)
        canonical = self.space.canonical(architecture)
        trial.set_user_attr("canonical", canonical)
        earlier = self._earlier(trial)
        while any("canonical" not in other.user_attrs for other in earlier):
            time.sleep(PROPOSING)  # workers that propose at the same time may propose the same
            self._fail_lost()
            earlier = self._earlier(trial)
        taken = {other.user_attrs["canonical"] for other in earlier}
        return architecture if len(earlier) < self.count and canonical not in taken else None

    def _earlier(self, trial: optuna.Trial) -> list[FrozenTrial]:
        return [other for other in self._live() if other.number < trial.number]

    def report(self, trial: optuna.Trial, step: int, value: float) -> bool:
        """Report an intermediate value; return whether scoring should end.

        A value that is not a finite number is the lowest. Scoring should also end if the claim was failed meanwhile.
        """
        number = as_number(value)
        with storage_errors(self._storage):
            try:
                # With NaN or infinity there would be no median.
                trial.report(number if math.isfinite(number) else -sys.float_info.max, step)
                return trial.should_prune()
            except UpdateFinishedTrialError:
                return True

    def finish(self, trial: optuna.Trial, score: Score, pruned: bool = False) -> None:
        """Store a claim's score. Nothing happens if the claim was failed meanwhile.

        A value that is not a finite number is stored as it is and ranks last.
        """
        self._stop_heartbeat(trial)
        value = as_number(score.value)
        finite = math.isfinite(value)
        with storage_errors(self._storage), suppress(UpdateFinishedTrialError):
            self._settings.check()
            trial.set_user_attr("cost", asdict(score.cost))
            trial.set_user_attr("value", value if finite else str(value))  # JSON has no such numbers
            if pruned:
                self._study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
            else:
                self._study.tell(trial, value if finite else -math.inf, skip_if_finished=True)

    def abandon(self, trial: optuna.Trial) -> None:
        """Give up a claim, for instance because the worker was interrupted, so that others can have it."""
        self._stop_heartbeat(trial)
        with storage_errors(self._storage):
            self._give_back(trial)

    def scored(self) -> list[Candidate]:
        """Return the scored candidates, in the order of the claims."""
        with storage_errors(self._storage):
            return [self._candidate(trial) for trial in self._live() if trial.state != TrialState.RUNNING]

    def _candidate(self, trial: FrozenTrial) -> Candidate:
        try:
            value, cost = float(trial.user_attrs["value"]), Cost(**trial.user_attrs["cost"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(
                f"search: the study {self._study.study_name!r} is damaged: candidate {trial.number} has no score with "
                f"its cost: {ADVICE}"
            ) from error
        return Candidate(self.space.architecture(trial.params), value, cost, trial.state == TrialState.PRUNED)

    def leaderboard(self) -> list[Candidate]:
        """Return the candidates scored to the end, the best first, and then those whose scoring was ended early."""
        return sorted(self.scored(), key=lambda c: (c.pruned, -c.rank_value, c.architecture.name))

    def _live(self) -> list[FrozenTrial]:
        """Return the trials that are valid claims, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False, states=LIVE)

    def _give_back(self, trial: optuna.Trial | int) -> None:
        with suppress(UpdateFinishedTrialError):
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def _start_heartbeat(self, trial: optuna.Trial) -> None:
        self._heartbeats[trial.number] = Heartbeat(lambda: trial.set_user_attr("sign of life", time.time()))

    def _stop_heartbeat(self, trial: optuna.Trial) -> None:
        if (heartbeat := self._heartbeats.pop(trial.number, None)) is not None:
            heartbeat.stop()

    def _fail_lost(self) -> None:
        """Fail the claims of workers that are gone."""
        for trial in self._live():
            if trial.state == TrialState.RUNNING and self._is_lost(trial):
                self._give_back(trial.number)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        written = trial.user_attrs.get("worker")
        if written is None:  # a new trial, or its worker died before it wrote its name
            return self._silence(trial) > NAMELESS
        worker = Worker.read(written)
        if worker is None:  # without a process to look for, its end could never be noticed
            return True
        gone = worker.is_gone(self._worker)
        return self._silence(trial) > SILENCE if gone is None else gone

    def _silence(self, trial: FrozenTrial) -> float:
        """Return the seconds since a claim's last heartbeat, by this worker's clock: those of others may differ."""
        sign, now = trial.user_attrs.get("sign of life"), time.monotonic()
        seen, since = self._signs.setdefault(trial.number, (sign, now))
        if seen == sign:
            return now - since
        self._signs[trial.number] = sign, now
        return 0.0

    def _say_what_is_waited_for(self, running: Sequence[FrozenTrial]) -> None:
        """Print one line for every candidate, once."""
        for trial in running:
            if trial.number in self._waited_for:
                continue
            self._waited_for.add(trial.number)
            known = trial.params.keys() == self.space.decisions.keys()
            worker = Worker.read(trial.user_attrs.get("worker"))
            unseen = worker is None or worker.is_gone(self._worker) is None
            self._say(
                f"search: waiting for candidate {self.space.name(trial.params) if known else trial.number}, claimed by "
                f"{worker or 'a worker that has not given its name'}"
                + unseen
                * f"; it counts as lost after {SILENCE:.0f} seconds without a heartbeat"
            )

    def _unseen(self, live: Sequence[FrozenTrial]) -> dict[str, Any]:
        """Return the choices of an architecture that no worker has claimed."""
        whole = [trial.params for trial in live if trial.params.keys() == self.space.decisions.keys()]
        seen = [self.space.architecture(params) for params in whole]
        (architecture,) = self.space.draw(1, keyed_generator(len(live), "unseen"), without=seen)
        return dict(architecture.choices)

    def _sampler(self, sampler: str, seed: int) -> BaseSampler:
        if sampler == "random":
            return Draws(self.space, self.count, seed)
        # A seed of its own for every worker and restart; with equal seeds they would propose the same.
        own = keyed_seed(seed, len(self._study.get_trials(deepcopy=False))) % 2**32
        if sampler == "evolution":
            return NSGAIISampler(population_size=min(20, max(2, self.count // 5)), seed=own)
        return TPESampler(n_startup_trials=min(10, self.count), constant_liar=True, seed=own)


def as_number(value: Any) -> float:
    """Return a proxy's value as a number, nan if it is not one."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last for a tensor of several values
        return math.nan
