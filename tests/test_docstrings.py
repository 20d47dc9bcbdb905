"""Examples in docstrings run as they are pasted, and the main classes have one."""

import doctest
import importlib
import inspect
import pkgutil
import warnings
from pathlib import Path

import pytest

import gtn_lightning
import gtn_lightning.callbacks

CLASSES = ["curricula", "data", "learners", "tasks", "teachers"]
"""The parts whose concrete classes have an example each."""

MAIN = {
    "": ["GTN"],
    "callbacks": ["GradientNorm", "LearningCurve", "Reconstructions", "SampleGrid", "TeacherCheckpoint"],
    "evaluation": ["Evaluation"],
    "inner_loop": [
        *("SGD", "Adam", "AdamW", "RMSprop", "Functional", "InnerLoop"),
        *("eager_loss", "inner_gradient", "inner_step", "unroll", "unroll_population"),
    ],
    "meta_training": ["EvolutionStrategies", "MetaGradient"],
    "nas": ["ConvNetGrid", "NumParameters", "RealDataProxy", "SpaceLearners"],
    "teaching": ["teach"],
}
"""Other names with an example, by part."""

PLAIN = {"Baseline", "BaselineSetting", "Counts", "Images", "Normalizes", "Points", "Taught", "TaskMetric"}
"""Records and interfaces, which need none."""


def modules() -> list[str]:
    """All modules of the package."""
    packages = [
        (gtn_lightning.__path__, "gtn_lightning."),
        (gtn_lightning.callbacks.__path__, "gtn_lightning.callbacks."),
    ]
    names = [module.name for path, prefix in packages for module in pkgutil.walk_packages(path, prefix)]
    return sorted(name for name in names if not name.endswith("__main__"))


def examples() -> list[doctest.DocTest]:
    """The docstrings with examples, each with nothing but builtins."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in modules() for test in finder.find(importlib.import_module(name), globs={})]
    return sorted((test for test in found if test.examples), key=lambda test: test.name)


EXAMPLES = examples()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name.removeprefix("gtn_lightning."))
def test_example_runs_as_it_is_pasted(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        failed = doctest.DocTestRunner().run(example, out=report.append).failed
    assert failed == 0, "".join(report)


@pytest.mark.parametrize("part", CLASSES)
def test_concrete_classes_have_an_example(part: str) -> None:
    module = importlib.import_module(f"gtn_lightning.{part}")
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    objects = [(name, getattr(module, name)) for name in names]
    own = [(name, value) for name, value in objects if inspect.isclass(value) and "gtn_lightning" in value.__module__]
    without = [
        name
        for name, value in own
        if not (inspect.isabstract(value) or issubclass(value, tuple) or name in PLAIN or name == "RecipeError")
        if ">>>" not in (value.__doc__ or "")
    ]
    assert without == []


@pytest.mark.parametrize("part", MAIN)
def test_main_names_have_an_example(part: str) -> None:
    module = importlib.import_module(f"gtn_lightning.{part}".rstrip("."))
    assert [name for name in MAIN[part] if ">>>" not in (getattr(module, name).__doc__ or "")] == []
