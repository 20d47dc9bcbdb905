"""The settings that the scores of a study depend on, and whether a worker has the same."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import optuna

from gtn_lightning.errors import RecipeError

ABSENT = object()
"""Stands for a setting that one of two workers does not have."""

SHOWN = 40
"""Characters of a setting that a message shows."""

ADVICE = "give the search another study with --study"


class StudySettings:
    """A worker's settings, written to a new study or compared with those that the study was started with.

    Args:
        study: the study.
        settings: what the worker's scores depend on, as plain data.

    Raises:
        RecipeError: the study has other settings, or none though it has trials.
    """

    def __init__(self, study: optuna.Study, settings: Mapping[str, Any]) -> None:
        self._study = study
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        trials = study.get_trials(deepcopy=False)  # read before the settings, which are written before any trial
        if "settings" not in study.user_attrs:
            if trials:
                raise RecipeError(
                    f"search: the study {study.study_name!r} holds no settings, so `gtn search` did not write it: "
                    f"{ADVICE}"
                )
            study.set_user_attr("settings", self._settings)
        self.check()

    def check(self) -> None:
        """Raise RecipeError unless the study's settings are this worker's.

        Of workers that start a study at the same time, the last one's settings remain; the others notice before they
        store a score.
        """
        known = self._study.user_attrs["settings"]
        if known == self._settings:
            return
        study = f"search: the study {self._study.study_name!r}"
        if not isinstance(known, dict):
            raise RecipeError(f"{study} is damaged: its settings are not a mapping: {ADVICE}")
        key = next(key for key in {**known, **self._settings} if known.get(key) != self._settings.get(key))
        if key not in known:
            raise RecipeError(
                f"{study} was started by a version that did not store its {key}, so its scores may not be comparable: "
                f"{ADVICE}"
            )
        place, before, now = next(differences(known[key], self._settings.get(key, ABSENT), key))
        what = f"{key} {before}, and now it is {now}"
        if place != key:
            what = f"other {key} ({place} was {before}, and now it is {now})"
        raise RecipeError(f"{study} was started with {what}: {ADVICE}, or the old {key}")


def differences(known: Any, now: Any, place: str) -> Iterator[tuple[str, str, str]]:
    """Yield every place where two pieces of plain data differ, with both values, shortened.

    Args:
        known: the first.
        now: the second.
        place: the key of both.
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
