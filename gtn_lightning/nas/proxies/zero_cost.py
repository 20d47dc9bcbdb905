"""Proxies that train nothing: they measure a network at initialization."""

import math
import time
from abc import abstractmethod
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from gtn_lightning.data import TensorData
from gtn_lightning.errors import RecipeError
from gtn_lightning.learners.norms import MeanOnlyBatchNorm, WeightNormConv2d, WeightNormLinear, normalized
from gtn_lightning.nas.proxies.base import Cost, Proxy, Report, Score, Scorer
from gtn_lightning.nas.proxies.flops import forward_flops
from gtn_lightning.nas.spaces import Architecture, SearchSpace
from gtn_lightning.randomness import keyed_generator, keyed_rng

NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # of batch and instance norms
    *(nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm, MeanOnlyBatchNorm),
)
"""Layers that `synflow` replaces by identities."""

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid),
    *(nn.Mish, nn.PReLU, nn.RReLU, nn.ReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign),
    *(nn.Tanh, nn.Tanhshrink, nn.Threshold),
)
"""Layers whose inputs' signs make a `naswot` code; subclasses count, calls of functions do not."""


class ZeroCostScorer(Scorer):
    """Measures networks at initialization."""

    proxy: "ZeroCostProxy"

    def evaluate(self, architecture: Architecture, seed: int = 0, report: Report | None = None) -> Score:
        """Build a network and measure it; nothing is reported. See the base class."""
        images = self.proxy.images
        began = time.perf_counter()
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            keyed_rng(seed, "proxy", architecture.name, device=self.device),
        ):
            network = self.space.build(architecture).to(self.device)
            # Counted before a measurement that may change the network, and not timed: the score does not need it.
            uncounted = time.perf_counter()
            flops = self.flops(architecture, network) if images else 0
            began += time.perf_counter() - uncounted
            value = self.proxy.measure(network, self.data, self.device, seed)
        cost = Cost(time.perf_counter() - began, images=images, flops=float(self.proxy.passes * images * flops))
        return Score(value, cost)


class ZeroCostProxy(Proxy):
    """The base of proxies that train nothing; one of your own sets `name` and writes `measure`.

    Attributes:
        images: number of images that a network processes.
        passes: cost of each image in forward passes; a forward and a backward pass together count as three.
    """

    scorer = ZeroCostScorer
    images: int = 0
    passes: int = 1

    @abstractmethod
    def measure(self, network: nn.Module, data: TensorData, device: torch.device, seed: int) -> float:
        """Return the value of a fresh network on the device, which it may change; random numbers come from the seed."""


class NumParameters(ZeroCostProxy):
    """The number of a network's parameters, the least that any other proxy should exceed.

    Examples:
        >>> from gtn_lightning.data import DigitsData
        >>> from gtn_lightning.nas import ConvNetGrid, NumParameters
        >>> space = ConvNetGrid(image_shape=(1, 8, 8), classes=10, depths=[1, 2])
        >>> scorer = NumParameters().bind(space, DigitsData())
        >>> scorer("w16-d1-relu-batch-max") < scorer("w32-d1-relu-batch-max")
        True
    """

    name = "parameters"

    def measure(self, network: nn.Module, data: TensorData, device: torch.device, seed: int) -> float:
        """Count; parameters that layers share count once."""
        return float(sum(parameter.numel() for parameter in network.parameters()))


class FLOPs(ZeroCostProxy):
    """The floating-point operations of one image's forward pass, counted without computing it."""

    name = "FLOPs"

    def measure(self, network: nn.Module, data: TensorData, device: torch.device, seed: int) -> float:
        """Count; see `forward_flops`."""
        return float(forward_flops(network, data.image_shape))


class SynFlow(ZeroCostProxy):
    """The logarithm of the network's total synaptic flow; see `synflow`.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow"
    (arXiv 2006.05467); as a proxy: Abdelfattah et al. (arXiv 2101.08134).
    """

    name = "synflow"
    images = 1
    passes = 3

    def measure(self, network: nn.Module, data: TensorData, device: torch.device, seed: int) -> float:
        """Compute it; see `synflow`."""
        return synflow(network, data.image_shape)


class NASWOT(ZeroCostProxy):
    """How differently a network's activations respond to different images; see `naswot`.

    All architectures are given the same images, drawn by the seed from the training split.

    Mellor et al., "Neural Architecture Search without Training" (arXiv 2006.04647).

    Args:
        images: number of images.

    Raises:
        RecipeError: `images` is below 2.
    """

    name = "naswot"

    def __init__(self, images: int = 64) -> None:
        if images < 2:
            raise RecipeError(f"NASWOT: images must be at least 2, got {images}")
        self.images = images

    def bind(self, space: SearchSpace, data: TensorData, device: torch.device | str = "cpu") -> Scorer:
        """Return the scorer; see the base class.

        Raises:
            RecipeError: there are fewer training images.
        """
        most = len(data.splits.train.labels)
        if self.images > most:
            raise RecipeError(
                f"NASWOT: images must be at most {most}, the number of training images, got {self.images}"
            )
        return super().bind(space, data, device)

    def measure(self, network: nn.Module, data: TensorData, device: torch.device, seed: int) -> float:
        """Compute it; see `naswot`."""
        images = data.splits.train.images
        rows = torch.randperm(len(images), generator=keyed_generator(seed, "naswot"))[: self.images]
        return naswot(network, data.normalize(images[rows].to(device)))


def synflow(network: nn.Module, image_shape: tuple[int, int, int]) -> float:
    r"""Return the logarithm of a network's total synaptic flow.

    .. math:: \log \sum_i \left| \theta_i \frac{\partial R}{\partial \theta_i} \right|

    R is the sum of the logits of an image of ones, in a network without norms and with the absolute values of the
    parameters. Norms are replaced by identities. Weight normalization is removed too; the weights keep their values at
    initialization. Computed in float64, in which the products of many layers do not overflow.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow"
    (arXiv 2006.05467).

    Args:
        network: is not changed.
        image_shape: (channels, height, width) of the image.

    Returns:
        -inf where the flow is zero, as in a network without parameters.
    """
    with torch.inference_mode(False), torch.enable_grad():
        network = _without_norms(deepcopy(network).eval()).double()
        parameters = list(network.parameters())
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.data.abs_()
        device = parameters[0].device if parameters else None
        response = network(torch.ones(1, *image_shape, dtype=torch.float64, device=device)).sum()
        if not response.requires_grad:
            return -math.inf
        gradients = torch.autograd.grad(response, parameters, allow_unused=True)
    flow = sum(
        float((parameter.detach() * gradient).abs().sum())
        for parameter, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    )
    return math.log(flow) if flow > 0 else -math.inf


def _without_norms(network: nn.Module) -> nn.Module:
    """Replace a network's norms by identities, in place."""
    for part in list(network.modules()):
        if is_parametrized(part):
            # Not by torch's remove_parametrizations: it changes the class, which a copy shares with its original.
            values = {name: getattr(part, name).detach() for name in part.parametrizations}  # type: ignore[union-attr]
            part.__class__ = type_before_parametrizations(part)
            del part.parametrizations
            for name, value in values.items():
                part.register_parameter(name, nn.Parameter(value))
        if isinstance(part, WeightNormConv2d | WeightNormLinear):
            part.weight.data = normalized(part.weight, part.scale).detach()
            del part.scale
            part.__class__ = nn.Conv2d if isinstance(part, nn.Conv2d) else nn.Linear  # type: ignore[assignment]
        for name, child in part.named_children():
            if isinstance(child, NORMS):
                setattr(part, name, nn.Identity())
    return network


def naswot(network: nn.Module, images: Tensor) -> float:
    r"""Return how well the signs of the inputs of a network's activations distinguish images.

    .. math:: \log \left| \det K_H \right|, \qquad (K_H)_{ij} = N_A - d_H(c_i, c_j)

    with the number :math:`N_A` of activations, the binary code :math:`c_i` of an image (one bit for every activation:
    whether its input is positive) and the Hamming distance :math:`d_H`. The network runs in training mode, in which
    norms use the statistics of the batch, as in the authors' code.

    Mellor et al., "Neural Architecture Search without Training" (arXiv 2006.04647).

    Args:
        network: is not changed; its activations are modules, see `ACTIVATIONS`.
        images: ``[B, C, H, W]``, normalized, on the network's device.

    Returns:
        -inf where the kernel is singular: two images have the same code, or there are too few activations to
        distinguish the images.
    """
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)

    def add_code(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) == len(images):  # not for inputs without a batch, such as generated weights
            signs = (inputs[0].flatten(1) > 0).float() * 2 - 1
            kernel.add_((signs @ signs.T + signs.shape[1]).cpu() / 2)

    network = deepcopy(network).train()
    for part in network.modules():
        if isinstance(part, ACTIVATIONS):
            part.register_forward_pre_hook(add_code)
    with torch.no_grad():
        network(images)
    # Tested by rank: because of rounding, the determinant of a singular matrix may be as large as that of others.
    if int(torch.linalg.matrix_rank(kernel, hermitian=True)) < len(images):
        return -math.inf
    return float(torch.linalg.slogdet(kernel).logabsdet)
