"""Values that a recipe states once, for all components that need them.

The task says what inputs and targets are, the inner loop how many steps there are, and the curriculum how many samples
it asks for. Arguments of these names that a recipe leaves out are filled in; what it states stands.
"""

import inspect
from dataclasses import asdict
from typing import Any

from jsonargparse import Namespace

from gtn_lightning.cli.parsed_recipe import components
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import number_of_classes
from gtn_lightning.task import Task
from gtn_lightning.trust import resolve

PARTS = ("teacher", "curriculum", "learners", "inner_optimizer")
"""The parts of the model whose arguments are filled in."""


def fill_in(model: Namespace) -> None:
    """Fill in the arguments that a recipe leaves to its task, its inner loop, its teacher and its curriculum.

    Args:
        model: what the parser made of the recipe's ``model``; it is changed.
    """
    values = _of_task(model.task)
    # A teacher around another takes the noise of that one.
    noise = next((each.get("noise") for *_, each in components(model.teacher) if each.get("noise")), 0)
    curriculum = model.curriculum.get("init_args") or Namespace()
    if curriculum.get("batch_size") is not None:
        pool = (curriculum.get("steps") or model.inner_loop.steps) * curriculum.batch_size
        samples = curriculum.get("images") or pool
        values |= {"samples": samples, "images": samples}
    for part in PARTS:
        known = dict(values)
        if part == "learners" and "outputs" in known:
            known.setdefault("classes", known["outputs"])  # of an image classifier, its outputs
        if part == "curriculum":
            known |= {"steps": model.inner_loop.steps, "noise": noise}
            known.pop("images", None)  # a data set's, which is not to be as large as what is asked for
        if part == "inner_optimizer" and getattr(model[part], "init_args", Namespace()).get("learned_per_step"):
            known["steps"] = model.inner_loop.steps
        for key, path, arguments in components(model[part]):
            if "fields" in key.split("."):  # a field without a shape or classes has none
                continue
            for name, value in known.items():
                if name in arguments and arguments[name] is None and _is_ours(path, name):
                    arguments[name] = value


def _of_task(task: Namespace) -> dict[str, Any]:
    """Return what a task says of inputs, targets and outputs, by the names of arguments."""
    cls = resolve(task.class_path)
    if not issubclass(cls, Task):
        return {}
    try:
        made = cls(**(task.get("init_args") or Namespace()).as_dict())
    except RecipeError as error:
        raise RecipeError(f"model.task.init_args: {error}") from error
    except Exception:  # the parser makes it once more, and says what is wrong
        return {}
    fields = made.fields
    values: dict[str, Any] = {"outputs": getattr(made, "outputs", None), "classes": number_of_classes(fields)}
    targets = fields.get("targets")
    if targets is not None and targets.kind == "real" and targets.shape is not None and len(targets.shape) == 1:
        values["targets"] = targets.shape[0]
    shape = next(iter(fields.values())).shape
    if shape is not None:
        values["shape"] = list(shape)
        if len(shape) == 3:
            values["image_shape"] = list(shape)
        if all(field.kind != "real" or field.shape is not None for field in fields.values()):
            values["fields"] = {name: asdict(field) for name, field in fields.items()}
    return {name: value for name, value in values.items() if value is not None}


def _is_ours(class_path: str, argument: str) -> bool:
    """Return whether an argument is one of this package's: a user's class may mean something else by its name."""
    for base in resolve(class_path).__mro__:
        if "__init__" in vars(base) and argument in inspect.signature(vars(base)["__init__"]).parameters:
            return str(base.__module__).startswith("gtn_lightning.")
    return False
