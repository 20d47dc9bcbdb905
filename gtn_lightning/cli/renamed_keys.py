"""Former names of recipes' keys, from before the first release: they are accepted, with a line that says the new name.

To be removed with version 0.2.
"""

import os
import re
import sys
from typing import Any

import yaml

from gtn_lightning.cli.strict_yaml import dump_yaml, load_yaml
from gtn_lightning.errors import RecipeError

MODEL = {
    "optimizer": "inner_optimizer",
    "lr_scheduler": "outer_lr_scheduler",
    "inner_steps": "inner_loop.steps",
    "mode": "inner_loop.mode",
    "truncation": "inner_loop.truncation",
    "random_window": "inner_loop.random_window",
    "segment": "inner_loop.segment",
    "offload": "inner_loop.offload",
    "checked": "inner_loop.checked",
    "eval_learners": "evaluation.learners",
    "eval_steps": "evaluation.steps",
    "real_rates": "evaluation.real_rates",
}
"""Keys below ``model``."""

CALLBACKS = {"TeacherCheckpoint": {"if_unwritable": "on_write_error"}, "NASProxy": {"every": "every_n_validations"}}
"""Arguments of callbacks, by the callback's name."""

REFERENCE = re.compile(r"(\$\{(?:\.+|model\.))(inner_steps|eval_learners|eval_steps|real_rates)(?=\})")
"""References to keys below ``model``, such as ``${...inner_steps}``."""

VALUES = {"if_unwritable": {"go_on": "warn", "stop": "raise"}}
"""Values that had another name too, by the key's former name."""


def with_new_names(content: dict[str, Any], place: str) -> dict[str, Any]:
    """Return a recipe with today's keys in place of former ones, and print a line for each.

    Args:
        content: the recipe as it was read; it is not changed.
        place: the file, for messages.

    Raises:
        RecipeError: if a key is given under both names.
    """
    result = dict(content)
    if isinstance(model := content.get("model"), dict):
        result["model"] = _rename(_with_new_references(model), MODEL, place, "model")
    if isinstance(trainer := content.get("trainer"), dict) and "callbacks" in trainer:
        result["trainer"] = {**trainer, "callbacks": _callbacks(trainer["callbacks"], place)}
    return result


def with_new_words(words: list[str]) -> list[str]:
    """Return the words of a command line with today's keys in place of former ones, and print a line for each."""
    return [_with_new_word(word) for word in words]


def _with_new_word(word: str) -> str:
    key, equals, value = word.partition("=")
    if key.startswith("--model."):
        name, dot, rest = key.removeprefix("--model.").partition(".")
        if name in MODEL:
            _tell("", f"model.{name}", f"model.{MODEL[name]}")
            return f"--model.{MODEL[name]}{dot}{rest}{equals}{value}"
    if key.startswith("--trainer.callbacks") and any(old in value for names in CALLBACKS.values() for old in names):
        try:
            content = load_yaml(value)
        except (yaml.YAMLError, ValueError):  # the parser says what is wrong with it
            return word
        renamed = _callbacks(content, "")
        if renamed != content:
            return f"{key}={dump_yaml(renamed)}"
    return word


def _callbacks(entries: Any, place: str) -> Any:
    if isinstance(entries, list):
        return [_callbacks(entry, place) for entry in entries]
    if not isinstance(entries, dict) or not isinstance(entries.get("init_args"), dict):
        return entries
    name = str(entries.get("class_path")).rpartition(".")[2]
    renamed = _rename(entries["init_args"], CALLBACKS.get(name, {}), place, name)
    return {**entries, "init_args": renamed}


def _with_new_references(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_new_references(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_new_references(item) for item in value]
    return REFERENCE.sub(lambda found: found[1] + MODEL[found[2]], value) if isinstance(value, str) else value


def _rename(content: dict[str, Any], names: dict[str, str], place: str, key: str) -> dict[str, Any]:
    """Return a mapping with new names in the places of the former ones; a new one may lie a level deeper."""
    result: dict[str, Any] = {}
    for old, value in content.items():
        new = names.get(old, old)
        if isinstance(value, str) and old in VALUES and new != old:
            value = VALUES[old].get(value, value)
        group, dot, name = new.partition(".")
        if new != old:
            _tell(place, f"{key}.{old}", f"{key}.{new}")
            given = content.get(group, {} if dot else None)
            if given is not None and (not dot or not isinstance(given, dict) or name in given):
                raise RecipeError(
                    f"{f'{place}: ' if place else ''}{key}.{old}: it is called {key}.{new} now, which is given too; "
                    "leave one of them out"
                )
        if dot and new != old:
            result[group] = {**result.get(group, {}), name: value}
        elif isinstance(value, dict) and isinstance(result.get(new), dict):
            result[new] = {**result[new], **value}
        else:
            result[new] = value
    return result


def _tell(place: str, old: str, new: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one process of a run says it for all
        print(f"{f'{place}: ' if place else ''}{old} is called {new} now", file=sys.stderr)
