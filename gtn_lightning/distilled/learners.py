"""Networks to train on synthetic data: the card's, those of a name, and architectures of other kinds."""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from gtn_lightning import learners as package
from gtn_lightning import trust
from gtn_lightning.description import build
from gtn_lightning.distilled.file import DistilledSet
from gtn_lightning.errors import RecipeError, one_line
from gtn_lightning.learners import MLP, ConvNet, LearnerDistribution, ResNet
from gtn_lightning.randomness import keyed_generator

Factory = Callable[[], nn.Module]
"""Returns a new network, with parameters from torch's global random state."""

LARGEST = 100_000_000
"""Most parameters of a network that a card describes."""


def named_learner(name: str, data: DistilledSet) -> Factory:
    """Return what makes networks of a name.

    Args:
        name: ``my.module:Net``, a class or function that is called without arguments; or a network of this package,
            such as ``ConvNet``, whose sizes the data decides.
        data: the data that the networks are to be trained on.

    Raises:
        RecipeError: if there is no such class or function, or it makes no network for this data.
    """
    module, colon, attribute = name.partition(":")
    make = _imported(name, module, attribute) if colon else _of_package(name, data)
    try:
        with torch.random.fork_rng(devices=[]):
            network = make()
    except Exception as error:
        raise RecipeError(
            f"--learner {name}: cannot be made without arguments ({one_line(error)}): name a function that makes it"
        ) from error
    if not isinstance(network, nn.Module):
        raise RecipeError(f"--learner {name}: expected a torch.nn.Module, got a {type(network).__name__}")
    check_fits(f"--learner {name}", network, data)
    return make


def check_fits(name: str, network: nn.Module, data: DistilledSet) -> None:
    """Raise ``RecipeError`` unless a network takes the data's inputs and returns what its loss compares."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise RecipeError(f"{name}: has no parameters to train: name another network")
    inputs, targets = data.inputs[0].to(trained[0].device), data.targets[0]
    try:
        with torch.no_grad():
            outputs = network.train()(inputs)
    except Exception as error:
        raise RecipeError(
            f"{name}: cannot take inputs of shape {list(inputs.shape)} ({one_line(error)}): make its layers fit them"
        ) from error
    expected = [len(inputs), data.classes] if data.classes else list(targets.shape)
    given = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if given != expected:
        raise RecipeError(f"{name}: expected outputs {expected} for {len(inputs)} inputs, got {given}")


def _imported(name: str, module: str, attribute: str) -> Any:
    # The user has named the module: its code may be run.
    trust.look_in_working_folder([module])
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # of the module's own code too
        kind = "" if isinstance(error, ImportError | AttributeError | ValueError) else f"{type(error).__name__}: "
        raise RecipeError(
            f"--learner {name}: cannot be imported ({kind}{one_line(error)}): give MODULE:NAME of a class or a "
            "function, as in my_networks:Net"
        ) from error


def _of_package(name: str, data: DistilledSet) -> Factory:
    shape, outputs = tuple(data.inputs.shape[2:]), data.classes or data.targets.shape[2]
    known = {
        each: cls
        for each, cls in vars(package).items()
        if inspect.isclass(cls) and issubclass(cls, nn.Module) and {"classes", "outputs"} & set(_parameters(cls))
    }
    if name not in known:
        raise RecipeError(f"--learner {name}: expected MODULE:NAME, or one of {', '.join(sorted(known))}")
    sizes = {"image_shape": shape, "shape": shape, "classes": outputs, "outputs": outputs}
    return partial(known[name], **{key: value for key, value in sizes.items() if key in _parameters(known[name])})


def _parameters(cls: type) -> list[str]:
    return list(inspect.signature(cls).parameters)


def home_learners(data: DistilledSet) -> dict[str, Factory]:
    """Return the families of networks that the data was made with, by name; none if the card does not describe them.

    Only classes of this package are made.

    Raises:
        RecipeError: if the card describes them wrongly.
    """
    if not data.card.learners:
        return {}
    try:
        with torch.device("meta"):  # without memory, whatever sizes a stranger's file asks for
            families = _families(data)
            networks = {name: family.sample(keyed_generator(0, "learners", name)) for name, family in families.items()}
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        raise RecipeError(
            f"the networks of the file cannot be made ({one_line(error)}): use an undamaged file"
        ) from error
    for name, network in networks.items():
        if (size := sum(each.numel() for each in network.state_dict().values())) > LARGEST:
            raise RecipeError(
                f"the network {name!r} of the file has {size:,} parameters, expected at most {LARGEST:,}: name another "
                "one with --learner"
            )
        check_fits(f"the network {name!r} of the file", network, data)
    families = _families(data)
    return {name: partial(family.sample, keyed_generator(0, "learners", name)) for name, family in families.items()}


def _families(data: DistilledSet) -> dict[str, LearnerDistribution]:
    learners = build(data.card.learners)
    if not isinstance(learners, LearnerDistribution):
        raise RecipeError("the card's learners are no distribution of networks: use an undamaged file")
    return dict(learners.families())


def other_learners(data: DistilledSet) -> dict[str, Factory]:
    """Return architectures that no packaged mixture has, by name, as far as they fit the data.

    They differ from the families of `gtn distil` in normalization, activation, pooling or depth.
    """
    shape, outputs = tuple(data.inputs.shape[2:]), data.classes or data.targets.shape[2]
    mlp = partial(MLP, shape, outputs, init="torch")
    others: dict[str, Factory] = {
        "MLP, tanh": partial(mlp, hidden=[128], activation="tanh"),
        "MLP, layer norm, GELU": partial(mlp, hidden=[128], norm="layer", activation="gelu"),
    }
    if len(shape) == 3 and min(shape[1:]) >= 4 and data.card.loss == "cross_entropy":
        usual = partial(ConvNet, shape, outputs, order=["norm", "activation", "pool"], init="torch")
        others = {
            "ConvNet, group norm, GELU, average pooling": partial(
                usual, width=32, depth=1, norm="layer", activation="gelu", pooling="average"
            ),
            "ConvNet, leaky ReLU, stride": partial(
                usual, width=24, depth=2, norm="batch_running", activation="leaky_relu", pooling="stride"
            ),
            "ResNet": partial(ResNet, shape, outputs),
            "MLP, tanh": others["MLP, tanh"],
        }
    return others
