"""Proxies that train nothing: they look at a network as it is at initialisation."""

import math
import time
from abc import abstractmethod
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from gtn_lightning.data import TensorData
from gtn_lightning.errors import RecipeError
from gtn_lightning.learners.norms import MeanOnlyBatchNorm, WeightNormConv2d, WeightNormLinear, normalised
from gtn_lightning.nas.proxies.base import Cost, Proxy, Report, Score
from gtn_lightning.nas.proxies.flops import forward_flops
from gtn_lightning.nas.spaces import SearchSpace
from gtn_lightning.randomness import keyed_generator, keyed_rng

NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # of batch and instance norms
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
    MeanOnlyBatchNorm,
)
"""Layers that `synflow` takes out of a network."""

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
"""Layers whose inputs' signs are a `naswot` code; subclasses count, activations that are functions do not."""


class ZeroCostProxy(Proxy):
    """The base of proxies that train nothing; one of your own sets `name` and writes `measure`.

    Attributes:
        images: number of images that go through a network.
        passes: what each of them costs, in forward passes: three with a backward pass.
    """

    images: int = 0
    passes: int = 1

    @abstractmethod
    def measure(self, network: nn.Module, seed: int) -> float:
        """Return the value of a fresh network, which is on the device and may be changed."""

    def evaluate(self, architecture: str, seed: int = 0, report: Report | None = None) -> Score:
        """Build a network and measure it; there is nothing to report. See the base class."""
        began = time.perf_counter()
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            keyed_rng(seed, "proxy", architecture, device=self.device),
        ):
            network = self.space.build(architecture).to(self.device)
            # Counted before a measurement that may change the network, and not timed: it is no part of the score.
            uncounted = time.perf_counter()
            flops = self.flops(architecture, network) if self.images else 0
            began += time.perf_counter() - uncounted
            value = self.measure(network, seed)
        cost = Cost(time.perf_counter() - began, images=self.images, flops=float(self.passes * self.images * flops))
        return Score(value, cost)


class NumParameters(ZeroCostProxy):
    """The number of a network's parameters: what every other proxy has to beat."""

    name = "parameters"

    def measure(self, network: nn.Module, seed: int) -> float:
        """Count; parameters that layers share count once."""
        return float(sum(parameter.numel() for parameter in network.parameters()))


class FLOPs(ZeroCostProxy):
    """The floating-point operations of one image's forward pass, counted without any being done."""

    name = "FLOPs"

    def measure(self, network: nn.Module, seed: int) -> float:
        """Count; see `forward_flops`."""
        return float(forward_flops(network, self.data.image_shape))


class SynFlow(ZeroCostProxy):
    """The logarithm of the network's total synaptic flow; see `synflow`.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow"
    (arXiv 2006.05467); as a proxy: Abdelfattah et al. (arXiv 2101.08134).
    """

    name = "synflow"
    images = 1
    passes = 3

    def measure(self, network: nn.Module, seed: int) -> float:
        """See `synflow`."""
        return synflow(network, self.data.image_shape)


class NASWOT(ZeroCostProxy):
    """How differently a network's activations respond to different images; see `naswot`.

    All architectures see the same images, drawn by the seed from the training split.

    Mellor et al., "Neural Architecture Search without Training" (arXiv 2006.04647).

    Args:
        images: number of images.

    Raises:
        RecipeError: `images` is below 2.
    """

    name = "naswot"

    def __init__(self, images: int = 64) -> None:
        super().__init__()
        if images < 2:
            raise RecipeError(f"NASWOT: images {images} given, expected 2 or more")
        self.images = images

    def attach(self, space: SearchSpace, data: TensorData, device: torch.device | str = "cpu") -> None:
        """Check that there are as many images; see the base class.

        Raises:
            RecipeError: there are fewer.
        """
        there_are = len(data.splits.train.labels)
        if self.images > there_are:
            raise RecipeError(f"NASWOT: images {self.images} given, expected at most {there_are}, the training images")
        super().attach(space, data, device)

    def measure(self, network: nn.Module, seed: int) -> float:
        """See `naswot`."""
        images = self.data.splits.train.images
        rows = torch.randperm(len(images), generator=keyed_generator(seed, "naswot"))[: self.images]
        return naswot(network, self.data.normalise(images[rows].to(self.device)))


def synflow(network: nn.Module, image_shape: tuple[int, int, int]) -> float:
    r"""Return the logarithm of a network's total synaptic flow.

    .. math:: \log \sum_i \left| \theta_i \frac{\partial R}{\partial \theta_i} \right|

    R is the sum of the logits of an image of ones, in a network without norms and with the absolute values of the
    parameters. Norms become identities, weight normalisation included: its weights stay what they are at
    initialisation. All of it is computed in float64, in which the products of many layers fit.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow"
    (arXiv 2006.05467).

    Args:
        network: left as it was.
        image_shape: (channels, height, width) of the image.

    Returns:
        -inf where nothing flows, as in a network without parameters.
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
            # By hand: torch's own removal changes the class that a copy shares with its original, and so breaks that.
            values = {name: getattr(part, name).detach() for name in part.parametrizations}  # type: ignore[union-attr]
            part.__class__ = type_before_parametrizations(part)
            del part.parametrizations
            for name, value in values.items():
                part.register_parameter(name, nn.Parameter(value))
        if isinstance(part, WeightNormConv2d | WeightNormLinear):
            part.weight.data = normalised(part.weight, part.scale).detach()
            del part.scale
            part.__class__ = nn.Conv2d if isinstance(part, nn.Conv2d) else nn.Linear  # type: ignore[assignment]
        for name, child in part.named_children():
            if isinstance(child, NORMS):
                setattr(part, name, nn.Identity())
    return network


def naswot(network: nn.Module, images: Tensor) -> float:
    r"""Return how well the signs before a network's activations tell images apart.

    .. math:: \log \left| \det K_H \right|, \qquad (K_H)_{ij} = N_A - d_H(c_i, c_j)

    with the number :math:`N_A` of activations, the code :math:`c_i` of an image, which says which of its activations'
    inputs are positive, and the Hamming distance :math:`d_H`. The network runs in training mode, in which norms have
    the statistics of the batch, as in the authors' code.

    Mellor et al., "Neural Architecture Search without Training" (arXiv 2006.04647).

    Args:
        network: left as it was; its activations are modules, see `ACTIVATIONS`.
        images: ``[B, C, H, W]`` on the network's device, as it sees them.

    Returns:
        -inf where the kernel is singular: two images have one code, there are fewer activations than it takes to tell
        the images apart, or none at all.
    """
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)

    def add_code(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) == len(images):  # what is no batch of images, such as generated weights, tells none apart
            signs = (inputs[0].flatten(1) > 0).float() * 2 - 1
            kernel.add_((signs @ signs.T + signs.shape[1]).cpu() / 2)

    network = deepcopy(network).train()
    for part in network.modules():
        if isinstance(part, ACTIVATIONS):
            part.register_forward_pre_hook(add_code)
    with torch.no_grad():
        network(images)
    # By its rank: rounding gives a singular matrix a determinant that is large enough to look like another's.
    if int(torch.linalg.matrix_rank(kernel, hermitian=True)) < len(images):
        return -math.inf
    return float(torch.linalg.slogdet(kernel).logabsdet)
