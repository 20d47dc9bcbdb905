"""Activation functions by name, each with the gain that keeps the signal's scale at initialization."""

from collections.abc import Callable

from torch import nn

from gtn_lightning.errors import RecipeError

LEAKY_SLOPE = 0.1

# None of them works in place: an in-place activation overwrites values that the second derivative needs.
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(LEAKY_SLOPE),
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def activation_layer(name: str) -> nn.Module:
    """Return a new activation layer.

    Args:
        name: ``"relu"``, ``"leaky_relu"`` (slope 0.1), ``"gelu"``, ``"tanh"`` or ``"sigmoid"``.

    Raises:
        RecipeError: if there is no activation of that name.
    """
    if name not in _ACTIVATIONS:
        raise RecipeError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {name!r}")
    return _ACTIVATIONS[name]()


def kaiming_gain(name: str) -> float:
    """Return the gain of Kaiming initialization for a layer that is followed by the named activation.

    He et al., "Delving Deep into Rectifiers", arXiv 1502.01852.

    Args:
        name: an activation of `activation_layer`, or ``"linear"`` if no activation follows.
    """
    if name == "gelu":  # torch has no gain for it; like ReLU, it passes the positive half of its inputs
        return nn.init.calculate_gain("relu")
    return nn.init.calculate_gain(name, LEAKY_SLOPE)  # type: ignore[arg-type]
