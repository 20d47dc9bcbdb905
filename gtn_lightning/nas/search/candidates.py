"""The candidates of a search, as an Optuna study that several workers share."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies import Cost, Score
from gtn_lightning.nas.search.storage import open_storage, storage_errors
from gtn_lightning.nas.search.workers import SILENCE, Heartbeat, Worker
from gtn_lightning.nas.spaces import SearchSpace
from gtn_lightning.randomness import keyed_generator, keyed_seed

SAMPLERS = ("random", "evolution", "tpe")

DRAWS = "candidates"
"""Key of the generator that random candidates are drawn from."""

POLL = 0.5
"""Seconds between two looks at what the other workers are doing."""

PROPOSING = 0.05
"""Seconds until a worker looks again what another one is about to propose."""

NAMELESS = 15.0
"""Seconds after which a claim without a worker's name counts as a dead worker's."""

SAY_AFTER = 5.0
"""Seconds of waiting for other workers, after which a message says what is waited for."""

MAX_DUPLICATES = 20
"""Consecutive duplicate proposals after which an architecture without a claim is drawn."""

ABSENT = object()
"""Stands for a setting that one of two workers does not have."""

SHOWN = 40
"""Characters of a setting that a message shows."""

LIVE = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
"""States of a trial that holds a claim or had one."""


@dataclass(frozen=True)
class Candidate:
    """An architecture that was scored."""

    architecture: str
    value: float
    """What the proxy said, whatever it was: nan for what is no number."""
    cost: Cost
    pruned: bool
    """Whether it was given up before its end; the value is that of the moment."""

    @property
    def rank_value(self) -> float:
        """The value that it is ranked by: -inf for whatever is not a finite number, infinity included."""
        return self.value if math.isfinite(self.value) else -math.inf


class Candidates:
    """Claims architectures one by one, and keeps their scores.

    A trial of the study is a claim. Of several claims to one architecture, or to its isomorphs, the one with the lowest
    number holds and the others are failed, so that every architecture is scored once however many workers there are.
    The claim of a worker that died is failed too, by whoever sees it, and the architecture given out again. Whether a
    process on the same machine lives, Linux says; other workers count as dead after `SILENCE` seconds without a sign
    of life, which each gives while it scores.

    Args:
        space: what is searched.
        study: the study's name.
        storage: an address that SQLAlchemy understands, such as ``sqlite:///search.db`` or ``postgresql://…``, or the
            path of a journal file, which ends with ``.journal``. A ``~`` at the beginning of a file's path is the home
            folder; everything else in it is taken as it is written.
        count: number of architectures to score.
        sampler: one of `SAMPLERS`: ``random`` draws the same architectures whatever happens; ``evolution`` (NSGA-II)
            and ``tpe`` learn from the scores so far.
        seed: of the sampler.
        prune: whether candidates that do worse than the median at the same step are given up.
        settings: what scores depend on; a study that was begun with others is refused.
        say: is given a line on what is waited for.

    Raises:
        RecipeError: `count` is below 1, the storage cannot be used, or the study was begun with other settings. From
            every method: the storage failed, or another worker began the study with other settings at the same moment.
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
            raise RecipeError(f"search: candidates {count} given, expected 1 or more")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.space = space
        self.count = count
        self._name = study
        self._storage = storage
        self._settings: dict[str, Any] = json.loads(json.dumps(settings or {}))
        self._say = say
        self._worker = Worker.this()
        self._heartbeats: dict[int, Heartbeat] = {}
        self._signs: dict[int, tuple[Any, float]] = {}
        self._waited_for: set[int] = set()
        opened = open_storage(storage)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5) if prune else optuna.pruners.NopPruner()
        with storage_errors(storage):
            self._study = optuna.create_study(
                study_name=study,
                storage=opened,
                direction="maximize",
                load_if_exists=True,
                pruner=pruner,
            )
            self._agree_on_settings()
            self._study.sampler = self._sampler(sampler, seed)

    def claim(self) -> tuple[optuna.Trial, str] | None:
        """Return a claim and its architecture, or None when all candidates are scored, by whomever."""
        with storage_errors(self._storage):
            duplicates = 0
            waiting_since: float | None = None
            while True:
                self._check_settings()
                self._fail_lost()
                live = self._live()
                if len(live) >= self.count:
                    running = [trial for trial in live if trial.state == TrialState.RUNNING]
                    if not running:
                        return None
                    waiting_since = time.monotonic() if waiting_since is None else waiting_since
                    if time.monotonic() - waiting_since >= SAY_AFTER:
                        self._say_what_is_waited_for(running)
                    time.sleep(POLL)  # others are at work; if one of them dies, its candidate is free
                    continue
                waiting_since = None
                if duplicates >= MAX_DUPLICATES:
                    self._study.enqueue_trial(self._unseen(live))
                    duplicates = 0
                trial = self._study.ask()
                try:
                    architecture = self._proposed(trial)
                except UpdateFinishedTrialError:  # it took so long that others thought the worker dead
                    architecture = None
                except BaseException:
                    with suppress(Exception):  # what ended it in the middle is what counts
                        self._give_back(trial)
                    raise
                if architecture is not None:
                    self._start_heartbeat(trial)
                    return trial, architecture
                self._give_back(trial)
                duplicates += 1

    def _proposed(self, trial: optuna.Trial) -> str | None:
        """Return the architecture of a new trial, None if others have it or there are enough."""
        trial.set_user_attr("worker", self._worker.written())
        choices: dict[str, Any] = {
            key: trial.suggest_categorical(key, list(options)) for key, options in self.space.decisions.items()
        }
        architecture = self.space.name(choices)
        canonical = self.space.canonical(architecture)
        trial.set_user_attr("canonical", canonical)
        earlier = self._earlier(trial)
        while any("canonical" not in other.user_attrs for other in earlier):
            time.sleep(PROPOSING)  # workers that propose at the same moment may propose the same
            self._fail_lost()
            earlier = self._earlier(trial)
        taken = {other.user_attrs["canonical"] for other in earlier}
        return architecture if len(earlier) < self.count and canonical not in taken else None

    def _earlier(self, trial: optuna.Trial) -> list[FrozenTrial]:
        return [other for other in self._live() if other.number < trial.number]

    def report(self, trial: optuna.Trial, step: int, value: float) -> bool:
        """Report a value on the way; return whether the candidate is to be given up.

        What is not a finite number is worse than any. A candidate whose claim was failed in the meantime is given up.
        """
        number = as_number(value)
        with storage_errors(self._storage):
            try:
                # Of NaN or infinity there is no median.
                trial.report(number if math.isfinite(number) else -sys.float_info.max, step)
                return trial.should_prune()
            except UpdateFinishedTrialError:
                return True

    def finish(self, trial: optuna.Trial, score: Score, pruned: bool = False) -> None:
        """Keep a claim's score. Nothing happens if the claim was failed in the meantime.

        A value that is not a finite number is kept as what it is and counts as the worst there is.
        """
        self._stop_heartbeat(trial)
        value = as_number(score.value)
        finite = math.isfinite(value)
        with storage_errors(self._storage), suppress(UpdateFinishedTrialError):
            self._check_settings()
            trial.set_user_attr("cost", asdict(score.cost))
            trial.set_user_attr("value", value if finite else str(value))  # JSON has no such numbers
            if pruned:
                self._study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
            else:
                self._study.tell(trial, value if finite else -math.inf, skip_if_finished=True)

    def abandon(self, trial: optuna.Trial) -> None:
        """Give a claim back, for instance because the worker was interrupted."""
        self._stop_heartbeat(trial)
        with storage_errors(self._storage), suppress(UpdateFinishedTrialError):
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def scored(self) -> list[Candidate]:
        """Return what is scored, in the order of the claims."""
        with storage_errors(self._storage):
            return [
                self._candidate(trial)
                for trial in self._live()
                if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            ]

    def _candidate(self, trial: FrozenTrial) -> Candidate:
        try:
            value, cost = float(trial.user_attrs["value"]), Cost(**trial.user_attrs["cost"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(
                f"search: the study {self._name!r} is damaged: candidate {trial.number} has no score with its cost: "
                "give the search another study with --study"
            ) from error
        return Candidate(self.space.name(trial.params), value, cost, trial.state == TrialState.PRUNED)

    def leaderboard(self) -> list[Candidate]:
        """Return the candidates scored to the end, the best first, and then those that were given up."""
        return sorted(self.scored(), key=lambda c: (c.pruned, -c.rank_value, c.architecture))

    def _live(self) -> list[FrozenTrial]:
        """Return the trials that hold a claim or had one, in the order of their numbers."""
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
        if written is None:  # asked for a moment ago, or its worker died in that moment
            return self._silence(trial) > NAMELESS
        worker = Worker.read(written)
        if worker is None:  # it does not say which process it is, so nobody could ever tell whether that lives
            return True
        gone = worker.is_gone(self._worker)
        return self._silence(trial) > SILENCE if gone is None else gone

    def _silence(self, trial: FrozenTrial) -> float:
        """Return for how many seconds of this worker's clock, which others may not share, nothing came of a claim."""
        sign, now = trial.user_attrs.get("sign of life"), time.monotonic()
        seen, since = self._signs.setdefault(trial.number, (sign, now))
        if seen == sign:
            return now - since
        self._signs[trial.number] = sign, now
        return 0.0

    def _say_what_is_waited_for(self, running: Sequence[FrozenTrial]) -> None:
        """Say it once for every candidate."""
        for trial in running:
            if trial.number in self._waited_for:
                continue
            self._waited_for.add(trial.number)
            known = trial.params.keys() == self.space.decisions.keys()
            worker = Worker.read(trial.user_attrs.get("worker"))
            unseen = worker is None or worker.is_gone(self._worker) is None
            self._say(
                f"search: waiting for candidate {self.space.name(trial.params) if known else trial.number}, claimed by "
                f"{worker or 'a worker that has not said who it is'}"
                + f"; it counts as lost after {SILENCE:.0f} seconds without a sign of life"
                * unseen
            )

    def _unseen(self, live: Sequence[FrozenTrial]) -> dict[str, Any]:
        """Return the choices of an architecture that nobody has claimed."""
        seen = [self.space.name(trial.params) for trial in live if trial.params.keys() == self.space.decisions.keys()]
        (architecture,) = self.space.draw(1, keyed_generator(len(live), "unseen"), without=seen)
        return dict(self.space.choices(architecture))

    def _sampler(self, sampler: str, seed: int) -> BaseSampler:
        if sampler == "random":
            return Draws(self.space, self.count, seed)
        # Another seed for every worker and after every restart, or they would propose the same again.
        own = keyed_seed(seed, len(self._study.get_trials(deepcopy=False))) % 2**32
        if sampler == "evolution":
            return NSGAIISampler(population_size=min(20, max(2, self.count // 5)), seed=own)
        return TPESampler(n_startup_trials=min(10, self.count), constant_liar=True, seed=own)

    def _agree_on_settings(self) -> None:
        """Begin the study with these settings, or check those that it was begun with."""
        trials = self._study.get_trials(deepcopy=False)  # before the settings, which stand there before any trial
        if "settings" not in self._study.user_attrs:
            if trials:
                raise RecipeError(
                    f"search: the study {self._name!r} does not say what its scores depend on, so it is none of gtn "
                    "search: give the search another study with --study"
                )
            self._study.set_user_attr("settings", self._settings)
        self._check_settings()

    def _check_settings(self) -> None:
        """Raise RecipeError unless the study's settings are this worker's.

        Of workers that begin a study at the same moment, the last to write its settings has its way: the others notice
        before they keep a score.
        """
        known = self._study.user_attrs["settings"]
        if known == self._settings:
            return
        if not isinstance(known, dict):
            raise RecipeError(
                f"search: the study {self._name!r} is damaged: its settings are no mapping: give the search another "
                "study with --study"
            )
        key = next(key for key in {**known, **self._settings} if known.get(key) != self._settings.get(key))
        if key not in known:
            raise RecipeError(
                f"search: the study {self._name!r} was begun by a version that did not keep its {key}, so nobody can "
                "tell whether its scores are comparable: give the search another study with --study"
            )
        place, before, now = next(differences(known[key], self._settings.get(key, ABSENT), key))
        what = f"{key} {before}, and now it is {now}"
        if place != key:
            what = f"other {key} ({place} was {before}, and now it is {now})"
        raise RecipeError(
            f"search: the study {self._name!r} was begun with {what}: give the search another study with --study, or "
            f"the old {key}"
        )


def as_number(value: Any) -> float:
    """Return what a proxy said as a number: nan for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last for a tensor of several values
        return math.nan


def differences(known: Any, now: Any, place: str) -> Iterator[tuple[str, str, str]]:
    """Yield every place where two pieces of plain data differ, with what each of them holds there, shortened.

    Args:
        known: the first.
        now: the second.
        place: where both stand.
    """
    if isinstance(known, dict) and isinstance(now, dict):
        for key in {**known, **now}:
            yield from differences(known.get(key, ABSENT), now.get(key, ABSENT), f"{place}.{key}")
    elif isinstance(known, list) and isinstance(now, list) and len(known) == len(now):
        for number, pair in enumerate(zip(known, now, strict=True)):
            yield from differences(*pair, f"{place}[{number}]")
    elif known != now:
        texts = ["not given" if value is ABSENT else json.dumps(value) for value in (known, now)]
        before, after = (text if len(text) <= SHOWN else f"{text[:SHOWN]}…" for text in texts)
        yield place, before, after


class Draws(BaseSampler):
    """Draws without replacement that depend on the seed and the trial's number alone.

    Trials numbered beyond the number of candidates take the place of failed ones.

    Args:
        space: what is drawn from.
        count: number of candidates.
        seed: of the draws.
    """

    def __init__(self, space: SearchSpace, count: int, seed: int) -> None:
        self._space = space
        self._drawn = space.draw(count, keyed_generator(seed, DRAWS))
        self._chosen: dict[int, dict[str, Any]] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: every choice is sampled by itself."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a choice of the architecture that belongs to the trial."""
        assert isinstance(param_distribution, CategoricalDistribution)
        if trial.number not in self._chosen:
            self._chosen[trial.number] = dict(self._space.choices(self._architecture(study, trial.number)))
        return self._chosen[trial.number][param_name]

    def _architecture(self, study: optuna.Study, number: int) -> str:
        if number < len(self._drawn):
            return self._drawn[number]
        taken = {t.user_attrs.get("canonical") for t in study.get_trials(deepcopy=False, states=LIVE)}
        free = (name for name in self._drawn if self._space.canonical(name) not in taken)
        return next(free, self._drawn[number % len(self._drawn)])
