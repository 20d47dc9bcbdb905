"""AZ-NAS: four measurements of a network at initialization, combined by their ranks."""

import math
import time
from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.errors import RecipeError
from gtn_lightning.nas.proxies.base import Cost, Features, Proxy, Report, Score
from gtn_lightning.nas.proxies.combined import CombinedProxy, CombinedScorer, Scale, comparable, listed
from gtn_lightning.nas.spaces import Architecture
from gtn_lightning.randomness import keyed_generator, keyed_rng


class AZNASScorer(CombinedScorer):
    """Measures networks at initialization, and ranks them among each other or among a sample."""

    proxy: "AZNAS"

    @cached_property
    def scales(self) -> list[Scale]:
        """The scale of every measurement, by the sample, which is measured when the first architecture is scored."""
        values, costs = self.measure(self.space.draw(self.proxy.calibration, keyed_generator(0, "calibration")))
        self.calibration_cost = sum(costs, Cost())
        return [Scale(column) for column in values.T]

    def features(self, architecture: Architecture, seed: int = 0) -> Features:
        """Return expressivity, progressivity, trainability and the logarithm of FLOPs (see `az_nas`), and the values of
        the other proxies.
        """
        began = time.perf_counter()
        with torch.inference_mode(False), keyed_rng(seed, "proxy", architecture.name, device=self.device):
            network = self.space.build(architecture).to(self.device)
            flops = self.flops(architecture, network)
            noise = torch.randn(self.proxy.images, *self.data.image_shape, device=self.device)
            values: tuple[float, ...] = (*az_nas(network, noise), math.log(1 + flops))
        # A vector-Jacobian product costs about as much as a forward pass; there is no gradient of the parameters.
        passes = 2.0 * self.proxy.images
        cost = Cost(time.perf_counter() - began, images=self.proxy.images, flops=passes * flops)
        for part in self.parts:
            score = part.evaluate(architecture, seed)
            values, cost = (*values, score.value), cost + score.cost
        return Features(values, cost)

    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        """Return the sum of the logarithms of an architecture's positions in the sample; nothing is reported."""
        scales = self.scales
        measured = self.features(architecture, seed)
        return Score(log_position(scales, measured.values, 0.5 / self.proxy.calibration), measured.cost)

    def evaluate_all(self, architectures: Sequence[Architecture], seed: int = 0) -> list[Score]:
        """Return the sums of the logarithms of the architectures' ranks among each other."""
        if not architectures:
            return []
        values, costs = self.measure(architectures, seed)
        return [Score(value, cost) for value, cost in zip(log_rank(values), costs, strict=True)]

    def measure(self, architectures: Sequence[Architecture], seed: int = 0) -> tuple[NDArray[np.float64], list[Cost]]:
        """Return the features of architectures, ``[architectures, features]``, and the cost of each."""
        measured = [self.features(architecture, seed) for architecture in architectures]
        return comparable([one.values for one in measured]), [one.cost for one in measured]


class AZNAS(CombinedProxy):
    """Four measurements at initialization: expressivity, progressivity, trainability (see `az_nas`) and FLOPs.

    The score is the sum of the logarithms of an architecture's ranks, so that one low rank costs more than several
    high ones gain. Architectures that are scored together are ranked among each other. A search scores them one by
    one, and ranks each among a sample of the space, which is measured before the first candidate.

    Lee and Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search" (arXiv 2403.19232).

    Args:
        images: number of images of noise; at least 2.
        proxies: others, whose ranks are added in the same way; the paper has none.
        calibration: number of architectures in the sample.

    Raises:
        RecipeError: a number is below 2. When an architecture is scored: its network has no ``nn.Sequential`` of
            blocks.

    Examples:
        >>> from gtn_lightning.data import DigitsData
        >>> from gtn_lightning.nas import AZNAS, NASWOT, ConvNetGrid
        >>> data = DigitsData()
        >>> data.setup()
        >>> space = ConvNetGrid(image_shape=(1, 8, 8), classes=10, depths=[1, 2])
        >>> scorer = AZNAS(images=8, proxies=[NASWOT(8)], calibration=10).bind(space, data)
        >>> len(scorer.features(space.parse("w4-d1-relu-batch-max")).values)
        5
    """

    scorer = AZNASScorer

    def __init__(self, images: int = 64, proxies: Sequence[Proxy] = (), calibration: int = 50) -> None:
        for key, value in (("images", images), ("calibration", calibration)):
            if value < 2:
                raise RecipeError(f"AZNAS: {key} must be at least 2, got {value}")
        super().__init__(proxies)
        self.images = images
        self.calibration = calibration
        self.name = listed(["AZ-NAS", *(proxy.name for proxy in self.proxies)])


def az_nas(network: nn.Module, images: Tensor) -> tuple[float, float, float]:
    r"""Return expressivity, progressivity and trainability of a network at initialization.

    The network's blocks are the parts of its longest ``nn.Sequential``, :math:`x_l` the output of block l as a matrix
    of pixels by channels, and :math:`x_0` the input of the first block.

    * Expressivity: the entropy of the normalized eigenvalues :math:`\lambda` of the covariance of each :math:`x_l`,
      summed over the blocks: :math:`s_l = -\sum_i \lambda_i \log \lambda_i`, :math:`\sum_l s_l`.
    * Progressivity: the least increase of the entropy from block to block, :math:`\min_l (s_l - s_{l-1})`.
    * Trainability: the mean of :math:`2 - \sigma_l - 1 / \sigma_l` over the blocks, which is zero if no block changes
      the size of a gradient. :math:`\sigma_l` is the spectral norm of the block's Jacobian from a pixel to itself, a
      matrix of channels by channels, estimated from the product of the Jacobian with random signs.

    Lee and Ham (arXiv 2403.19232), sections 3.1 to 3.3.

    Args:
        network: is not changed; a copy runs in training mode.
        images: ``[B, C, H, W]``, in the paper Gaussian noise.

    Returns:
        The three numbers; trainability is -inf where a block passes no gradient.

    Raises:
        RecipeError: the network has no ``nn.Sequential`` whose parts return images.
    """
    network = deepcopy(network).train()
    chains = [part for part in network.modules() if isinstance(part, nn.Sequential)]
    trunk = max(chains, key=len, default=nn.Sequential())
    seen: list[Tensor] = []
    trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))  # a later layer may change it
    with torch.no_grad():
        network(images)
    outputs = seen[0] if seen else images[0]
    if not len(trunk) or outputs.ndim != 4:
        raise RecipeError(
            f"AZNAS: {type(network).__name__} has no nn.Sequential of blocks from images to images: use another proxy"
        )
    entropies, trainability = [_entropy(outputs)], []
    for block in trunk:
        inputs = outputs.detach().requires_grad_(True)
        with torch.enable_grad():
            outputs = block(inputs.clone())  # it may change its inputs
            if outputs.ndim != 4:  # what follows the last images, such as a mean over pixels
                break
            signs = torch.randint(0, 2, outputs.shape, device=outputs.device).to(outputs) * 2 - 1
            (gradient,) = torch.autograd.grad(outputs, inputs, signs)
        entropies.append(_entropy(outputs.detach()))
        gradient = F.adaptive_avg_pool2d(gradient, outputs.shape[2:])
        jacobian = _pixels(signs).T @ _pixels(gradient) / len(_pixels(signs))
        norm = float(torch.linalg.matrix_norm(jacobian, 2))
        trainability.append(2 - norm - 1 / norm if norm > 0 else -math.inf)
    increases = [after - before for before, after in pairwise(entropies)]
    return sum(entropies), min(increases), sum(trainability) / len(trainability)


def log_position(scales: Sequence[Scale], values: Sequence[float], lowest: float) -> float:
    """Return the sum of the logarithms of positions.

    Args:
        scales: of each measurement, by a sample.
        values: measurements of an architecture, one for each scale.
        lowest: the least position, above zero, in whose place lower ones count.
    """
    return sum(math.log(max(lowest, scale.position(value))) for scale, value in zip(scales, values, strict=True))


def log_rank(values: NDArray[np.float64]) -> list[float]:
    """Return the sums of the logarithms of ranks, from above 0 to 1 for the highest, of values ``[rows, columns]``."""
    ranks = rankdata(comparable(values), axis=0) / len(values)
    sums: list[float] = np.log(ranks).sum(axis=1).tolist()
    return sums


def _pixels(images: Tensor) -> Tensor:
    """Return images ``[B, C, H, W]`` as a matrix of pixels, ``[B * H * W, C]``."""
    return images.movedim(1, -1).flatten(0, -2)


def _entropy(images: Tensor) -> float:
    """Return the entropy of the normalized eigenvalues of the channels' covariance; 0 for constant images."""
    values = torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(_pixels(images).double().T))).clamp(min=0)
    if float(values.sum()) <= 0:
        return 0.0
    shares = values / values.sum()
    return float(-torch.xlogy(shares, shares).sum())
