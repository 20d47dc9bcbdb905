"""Metasmoothness: whether the meta-gradient of a training says anything beyond the point at which it is taken."""

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from gtn_lightning.inner_loop.central_differences import as_real_numbers
from gtn_lightning.inner_loop.replay import ReplayContext

Z = TypeVar("Z")


def metasmoothness(train: Callable[[Z], Mapping[str, Tensor]], perturb: Callable[[float], Z], step: float) -> float:
    r"""Return how far the trained parameters respond alike to two equal changes of the meta-parameters.

    Engstrom et al., arXiv 2503.13751: three trainings, at :math:`z`, :math:`z + hv` and :math:`z + 2hv`, give trained
    parameters :math:`\theta_0`, :math:`\theta_1`, :math:`\theta_2`. The two finite differences are compared by their
    signs,

    .. math:: \frac{\sum_i |\theta_2 - \theta_0|_i \, \mathrm{sign}(\theta_1 - \theta_0)_i \,
        \mathrm{sign}(\theta_2 - \theta_1)_i}{\sum_i |\theta_2 - \theta_0|_i},

    each number of the parameters weighted by its movement. One is a training whose response is monotonic, so that a
    step of size ``step`` along the meta-gradient does what it says; near zero, the response is noise and an exact
    meta-gradient is of no use beyond an infinitesimal neighborhood. The paper's measure compares finite differences;
    it needs no meta-gradient.

    All three trainings must be equal but for the meta-parameters: the same initial parameters and batches. The random
    numbers of torch, Python and NumPy are the same in all three. They run without gradients.

    Args:
        train: returns the trained parameters by name, for meta-parameters.
        perturb: returns the meta-parameters at a distance along a direction, which at 0 are those to examine.
        step: the distance :math:`h`, above 0: as large as the updates of the meta-parameters that are planned.

    Returns:
        A number from -1 to 1. It depends on the step and on the direction: take the mean over several directions.

    Raises:
        ValueError: if ``step`` is not above 0, the trained parameters are not finite, or the perturbation does not
            change them.

    Example::

        >>> import torch
        >>> from torch.nn import functional as F
        >>> from gtn_lightning.inner_loop import SGD, metasmoothness, unroll
        >>> _ = torch.manual_seed(0)
        >>> inputs, targets, direction = torch.randn(32, 4), torch.randn(32), torch.randn(32)
        >>> def loss_fn(params, buffers, inputs, targets, weights):
        ...     return (weights * (inputs @ params["weight"] - targets) ** 2).mean(), buffers
        >>> def train(weights):
        ...     batches = [(inputs, targets, weights)] * 10
        ...     return unroll(loss_fn, {"weight": torch.zeros(4)}, {}, batches, SGD(lr=0.1)).params
        >>> metasmoothness(train, lambda distance: 1 + distance * direction, step=0.1)
        1.0
    """
    if not 0 < step < math.inf:
        raise ValueError(f"step must be above 0 and finite, got {step}")
    trained = []
    with torch.no_grad():
        # A training on a GPU draws there; only the current device's random numbers are replayed.
        context = ReplayContext(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        for distance in (0.0, step, 2 * step):
            context.rewind()
            params = train(perturb(distance))
            trained.append(torch.cat([as_real_numbers(tensor).double().flatten() for tensor in params.values()]))
    first, second, third = trained
    moved = (third - first).abs()
    if not bool(torch.stack(trained).isfinite().all()):
        raise ValueError("the trained parameters are not finite: the training diverges")
    if float(moved.sum()) == 0:
        raise ValueError(f"the perturbation by {2 * step:g} does not change the trained parameters: take a larger step")
    agreement = (second - first).sign() * (third - second).sign()
    return float((moved * agreement).sum() / moved.sum())
