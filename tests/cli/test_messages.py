"""Which item of a list or a mapping an error means. What the parser says, and the rest, is in test_cli.py."""

from typing import Any

import pytest

from gtn_lightning.cli.messages import with_item

DIGITS: dict[str, Any] = {
    "model": {
        "evaluation": {"steps": [1, "a"]},
        "teacher": {"class_path": "Generator", "init_args": {"image_shape": [1, "x", 8]}},
    },
    "trainer": {
        "callbacks": [
            {"class_path": "RunSummary"},
            {"class_path": "SampleGird"},
            {"class_path": "SampleGrid", "init_args": {"column": 3, "max_columns": "x"}},
        ]
    },
}
MLPS = {
    "a": {"class_path": "MLP", "init_args": {"image_shape": [1, 8, 8], "classes": "ten"}},
    "b": {"class_path": "gtn_lightning.learners.MLP", "init_args": {"image_shape": [1, 8, 8]}},
    "c": {"class_path": "MLP"},
}
MIXTURE = {"model": {"learners": {"class_path": "Mixture", "init_args": {"learners": MLPS}}}}
LEARNERS = "model.learners.init_args.learners"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("trainer.callbacks: there is no class SampleGird; did you mean SampleGrid?", "trainer.callbacks.1"),
        ("trainer.callbacks: RunSummary is no Callback; name a class that is one", "trainer.callbacks.0"),
        ("trainer.callbacks.init_args.column: SampleGrid takes no 'column'", "trainer.callbacks.2.init_args.column"),
        (
            "trainer.callbacks.init_args.max_columns: expected int, got 'x'; correct the value",
            "trainer.callbacks.2.init_args.max_columns",
        ),
        ("model.evaluation.steps: expected int, got 'a'; correct the value", "model.evaluation.steps.1"),
        (
            "model.teacher.init_args.image_shape: expected int, got 'x'; correct the value",
            "model.teacher.init_args.image_shape.1",
        ),
        (f"{LEARNERS}.init_args.classes: expected int, got 'ten'; correct", f"{LEARNERS}.a.init_args.classes"),
        # Two lack it, and either may be meant.
        (f"{LEARNERS}.init_args.classes: required by MLP and not given; add it", f"{LEARNERS}.init_args.classes"),
        (f"{LEARNERS}.init_args.image_shape: required by MLP and not given", f"{LEARNERS}.c.init_args.image_shape"),
        # There is no item to name, or none to find.
        ("model.inner_loop.steps: expected int, got 'ten'; correct the value", "model.inner_loop.steps"),
        ("model.evaluation.steps: expected int, got 'b'; correct the value", "model.evaluation.steps"),
        ("modell: there is no such key; did you mean model?", "modell"),
        ("Interpolation key '.nothing' not found", None),
    ],
)
def test_the_item_is_named(line: str, key: str | None) -> None:
    _, colon, reason = line.partition(": ")
    assert with_item(line, [DIGITS, MIXTURE, None, "words"]) == (f"{key}{colon}{reason}" if key else line)


def test_the_strongest_of_those_given_counts() -> None:
    line = "model.evaluation.steps: expected int, got 'a'; correct the value"
    override = {"model": {"evaluation": {"steps": ["a", 2, 3]}}}
    assert with_item(line, [DIGITS, override]).startswith("model.evaluation.steps.0: ")
    assert with_item(line, [override, DIGITS]).startswith("model.evaluation.steps.1: ")
    twice = {"model": {"evaluation": {"steps": ["a", "a"]}}}
    assert with_item(line, [DIGITS, twice]) == line
