"""The properties of a data module that scores and accuracies depend on."""

from collections.abc import Collection
from typing import Any

from gtn_lightning.data import TensorData
from gtn_lightning.description import describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.trust import canonical

PLACES = frozenset({"path"})
"""Arguments that name a location: another worker may have the same data in another place."""

OWN = (
    *("batch_size", "eval_batch_size", "seed", "crop", "flip", "rotate", "scale", "shift"),
    *("whiten", "whiten_regularization"),
)
"""The arguments that every data module stores under their names."""


def data_settings(data: TensorData, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the properties that results depend on, as plain data: the class, the arguments and the contents.

    The same images and labels read from different places have the same settings; different ones read from places of
    the same name do not.

    Args:
        data: the data module, set up.
        without: names of arguments that the results do not depend on.
    """
    try:
        described = describe(data, rebuilt=False)
    except RecipeError:
        # The data module does not store its own arguments; their effect on the data is part of the contents.
        described = {"class_path": canonical(type(data)), "init_args": {name: getattr(data, name) for name in OWN}}
    unwanted = PLACES | {*without}
    arguments = {name: value for name, value in described["init_args"].items() if name not in unwanted}
    return {
        "class_path": described["class_path"],
        "init_args": arguments,
        "mean": [f"{value:.5g}" for value in data.mean.tolist()],
        "std": [f"{value:.5g}" for value in data.std.tolist()],
        "contents": data.digest(),
    }
