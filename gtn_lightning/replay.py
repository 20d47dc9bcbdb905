"""Train a network on a file of synthetic data, with torch and safetensors alone: this file may be copied out."""

import json

import torch
from safetensors import safe_open
from torch.nn import functional as F

LOSSES: dict = {"cross_entropy": F.cross_entropy, "mse_loss": F.mse_loss}


def load(path: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Return a file's tensors, and its card: how to train on them, and what is known of them."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["card"])  # noqa: SIM118


def train(net: torch.nn.Module, data: dict, card: dict, scale: float = 1.0, passes: int = 1) -> None:
    """Train a network on the batches in their order; ``scale`` multiplies the learned rates."""
    (inputs, targets), how = card["fields"], card["optimizer"]
    params = [p for p in net.train().parameters() if p.requires_grad]
    state = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in params]
    decay = torch.ones(2)
    for t in [*range(len(data[inputs]))] * passes:
        h = {name: float(data[name][t]) for name in how["hyperparameters"]}
        decay *= torch.tensor([h.get("beta1", 0), h.get("beta2", 0)])
        loss = LOSSES[card["loss"]](net(data[inputs][t]), data[targets][t])
        for (p, m, v), g in zip(state, torch.autograd.grad(loss, params, materialize_grads=True), strict=True):
            g = g + h.get("weight_decay", 0) * p.data
            if how["name"] == "LARS":  # steps relative to the size of each tensor of weights
                size = (p.data.square().sum() + 1e-6 * p.numel()).sqrt() if p.ndim > 1 else 0.1 * p.numel() ** 0.5
                g = size * g * (g.square().sum() + h["eps"] ** 2).rsqrt()
            if how["name"] == "Adam":
                m.lerp_(g, 1 - h["beta1"]), v.lerp_(g * g, 1 - h["beta2"])
                step = m / (1 - decay[0]) * (v / (1 - decay[1]) + h["eps"] ** 2).rsqrt()
            else:
                step = m.mul_(h["momentum"]).add_(g)
                step = g + h["momentum"] * m if how["nesterov"] else step
            p.data.sub_(scale * h["lr"] * step)
    net.eval()
