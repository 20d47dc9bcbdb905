"""Counting floating-point operations."""

from copy import deepcopy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the floating-point operations of one image's forward pass: twice the multiplications.

    Matrix products, convolutions and attention are counted, as torch counts them; norms, activations and poolings are
    not. A copy of the network runs on the meta device, where nothing is computed, or on the network's own if its code
    depends on values.

    Args:
        network: is not changed.
        image_shape: (channels, height, width) of the image.
    """
    try:
        return _count(deepcopy(network).to("meta"), image_shape)
    except RuntimeError:  # code that branches on values, or tensors that .to() does not move
        return _count(deepcopy(network), image_shape)


def _count(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    parameter = next(network.parameters(), None)
    images = torch.zeros(2, *image_shape, device=None if parameter is None else parameter.device)
    # Two images, since batch norms refuse a batch of one vector.
    with torch.inference_mode(False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(images)
    return int(counter.get_total_flops()) // 2
