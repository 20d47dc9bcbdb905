"""The candidates of a search, as an Optuna study that several workers share."""

import json
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies import Cost, Score
from gtn_lightning.nas.spaces import SearchSpace
from gtn_lightning.randomness import keyed_generator, keyed_seed

SAMPLERS = ("random", "evolution", "tpe")

DRAWS = "candidates"
"""Key of the generator that random candidates are drawn from."""

PATIENCE = 3600.0
"""After so many seconds without a result, a candidate of another machine counts as lost."""

POLL = 0.5
"""Seconds between two looks at what the other workers are doing."""

VAIN = 20
"""After so many proposals in a row that others have had, a sampler is given an architecture that nobody has."""

SQLITE_TIMEOUT = 60
"""Seconds that a worker waits for others that write to the same SQLite file."""


_QUERY = re.compile(r"\?((?:\w+=[^&?/]*(?:&|$))*)$")
"""The end of an address that says how it is opened."""


LIVE = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
"""States of a trial that holds a claim or had one."""


@dataclass(frozen=True)
class Candidate:
    """An architecture that was scored."""

    architecture: str
    value: float
    cost: Cost
    pruned: bool
    """Whether it was given up before its end; the value is that of the moment."""


class Candidates:
    """Claims architectures one by one, and keeps their scores.

    A trial of the study is a claim. Of several claims to one architecture, or to its isomorphs, the one with the lowest
    number holds and the others are failed, so that every architecture is scored once however many workers there are.
    The claim of a worker that died is failed too, by whoever sees it, and the architecture given out again.

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

    Raises:
        RecipeError: `count` is below 1, the storage cannot be used, or the study was begun with other settings.
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
    ) -> None:
        if count < 1:
            raise RecipeError(f"search: candidates {count} given, expected 1 or more")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.space = space
        self.count = count
        self._worker = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex[:8]}"
        opened = open_storage(storage)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5) if prune else optuna.pruners.NopPruner()
        self._study = optuna.create_study(
            study_name=study,
            storage=opened,
            direction="maximize",
            load_if_exists=True,
            pruner=pruner,
        )
        self._study.sampler = self._sampler(sampler, seed)
        self._check_settings(study, json.loads(json.dumps(settings or {})))

    def claim(self) -> tuple[optuna.Trial, str] | None:
        """Return a claim and its architecture, or None when all candidates are scored, by whomever."""
        vain = 0
        while True:
            self._fail_lost()
            live = self._live()
            if len(live) >= self.count:
                if not any(trial.state == TrialState.RUNNING for trial in live):
                    return None
                time.sleep(POLL)  # others are at work; if one of them dies, its candidate is free
                continue
            if vain >= VAIN:
                self._study.enqueue_trial(self._unseen(live))
                vain = 0
            trial = self._study.ask()
            trial.set_user_attr("worker", self._worker)
            choices: dict[str, Any] = {
                key: trial.suggest_categorical(key, list(options)) for key, options in self.space.decisions.items()
            }
            architecture = self.space.name(choices)
            canonical = self.space.canonical(architecture)
            trial.set_user_attr("canonical", canonical)
            earlier = [other for other in self._live() if other.number < trial.number]
            if len(earlier) < self.count and canonical not in {t.user_attrs.get("canonical") for t in earlier}:
                return trial, architecture
            self._study.tell(trial, state=TrialState.FAIL)
            vain += 1

    def report(self, trial: optuna.Trial, step: int, value: float) -> bool:
        """Report a value on the way; return whether the candidate is to be given up."""
        trial.report(value, step)
        return trial.should_prune()

    def finish(self, trial: optuna.Trial, score: Score, pruned: bool = False) -> None:
        """Keep a claim's score. Nothing happens if the claim was failed in the meantime."""
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr("cost", asdict(score.cost))
            trial.set_user_attr("value", score.value)
            if pruned:
                self._study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
            else:
                self._study.tell(trial, score.value, skip_if_finished=True)

    def abandon(self, trial: optuna.Trial) -> None:
        """Give a claim back, for instance because the worker was interrupted."""
        with suppress(UpdateFinishedTrialError):
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def scored(self) -> list[Candidate]:
        """Return what is scored, in the order of the claims."""
        return [
            Candidate(
                self.space.name(trial.params),
                float(trial.user_attrs["value"]),
                Cost(**trial.user_attrs["cost"]),
                trial.state == TrialState.PRUNED,
            )
            for trial in self._live()
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        ]

    def leaderboard(self) -> list[Candidate]:
        """Return the candidates scored to the end, the best first, and then those that were given up."""
        return sorted(self.scored(), key=lambda c: (c.pruned, -c.value, c.architecture))

    def _live(self) -> list[FrozenTrial]:
        """Return the trials that hold a claim or had one, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False, states=LIVE)

    def _fail_lost(self) -> None:
        """Fail the claims of workers that are gone."""
        for trial in self._live():
            if trial.state == TrialState.RUNNING and self._is_lost(trial):
                with suppress(UpdateFinishedTrialError):
                    self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
        host, pid, token = ([*str(trial.user_attrs.get("worker", "")).split(" "), "", "", ""])[:3]
        if host != socket.gethostname():
            # One without a worker was asked for a moment ago, or its worker died in that moment.
            return age > (PATIENCE if host else 10.0)
        if int(pid) == os.getpid():
            return token != self._worker.rpartition(" ")[2]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

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

    def _check_settings(self, study: str, settings: dict[str, Any]) -> None:
        known = self._study.user_attrs.get("settings")
        if known is None:
            self._study.set_user_attr("settings", settings)
        elif known != settings:
            odd = next(key for key in {**known, **settings} if known.get(key) != settings.get(key))
            raise RecipeError(
                f"search: the study {study!r} was begun with {odd} {known.get(odd)}, and now it is "
                f"{settings.get(odd)}: give the search another study, or its old settings"
            )


class Draws(BaseSampler):
    """Draws without replacement that hang on the seed and the trial's number alone.

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


def open_storage(address: str) -> BaseStorage:
    """Open where a study lives, and make it if it is not there yet.

    Args:
        address: as for `Candidates`.

    Raises:
        RecipeError: it cannot be opened.
    """
    try:
        if address.endswith(".journal"):
            Path(address).expanduser().parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(Path(address).expanduser())))
        url, options = _sqlite(address) if address.startswith(("sqlite:", "sqlite+")) else (make_url(address), {})
        # Optuna takes the address for a template.
        text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
        for _ in range(5):
            with suppress(DBAPIError):  # workers that start at the same moment make the same tables
                return RDBStorage(text, engine_kwargs=options)
            time.sleep(POLL)
        return RDBStorage(text, engine_kwargs=options)
    except (OSError, StorageInternalError, SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        raise _unusable(address, error) from error


def _sqlite(address: str) -> tuple[URL, dict[str, Any]]:
    """Return the URL of an SQLite file, whose folder is made, and what its engine needs beside it.

    The path between ``sqlite:///`` and what is a query (``?timeout=5``) is taken as it is written, per cent signs too,
    which SQLAlchemy takes for codes since 2.1; a ``~`` at its beginning is the home folder.
    """
    before, _, rest = address.partition(":///")
    query = match[1] if (match := _QUERY.search(rest)) else ""
    path = rest[: match.start()] if match else rest
    url = make_url(f"{before}://?{query}" if rest else address)
    if path.startswith("file:"):  # SQLite's own form of an address, in which it decodes by itself
        url = url.set(database=path)
    elif path not in ("", ":memory:"):
        file = Path(path).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        url = url.set(database=str(file))
    # What the address says about it stands above ours.
    return url, {} if "timeout" in url.query else {"connect_args": {"timeout": SQLITE_TIMEOUT}}


def _unusable(address: str, error: BaseException) -> RecipeError:
    shown = address
    with suppress(SQLAlchemyError):  # a path is no address
        shown = make_url(address).render_as_string(hide_password=True)
    reason = (str(error).splitlines() or [type(error).__name__])[0].replace(address, shown)
    return RecipeError(
        f"search: the storage {shown} cannot be used ({reason}); give sqlite:///FILE, postgresql://…, or the path of "
        "a journal file that ends with .journal"
    )
