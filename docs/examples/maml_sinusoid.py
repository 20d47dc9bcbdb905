"""Few-shot learning: MAML (Finn et al., arXiv 1703.03400) on sinusoids.

    python docs/examples/maml_sinusoid.py

A network sees ten points of a sinusoid it has not met before and takes a few gradient steps on them. MAML learns the
initial parameters from which these steps lead far; here the rate of the steps is learned too. The baseline is the same
network trained on all sinusoids at once: it can only learn their mean.

Twenty-five tasks are taught at once: every parameter has one copy per task, and the loss is the sum over tasks, so that
each copy receives the gradient of its own task.
"""

import argparse
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from gtn_lightning.inner_loop import SGD, Buffers, Params, unroll

TASKS, SHOTS, STEPS = 25, 10, 5


def main() -> None:
    """Meta-train both ways and print the error after so many steps on ten points."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--meta-steps", type=int, default=2000, help="updates of the initial parameters")
    meta_steps = parser.parse_args().meta_steps
    print("mean squared error on 500 new sinusoids after fine-tuning on ten points of each")
    for name, inner_steps in (("trained on all at once", 0), ("MAML", STEPS)):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
        optimizer = SGD(lr=0.01, momentum=0.0, learned=["lr"])
        outer = torch.optim.Adam([*network.parameters(), *optimizer.parameters()], lr=2e-3)
        for _ in range(meta_steps):
            loss = error_after(inner_steps, network, optimizer, TASKS)
            outer.zero_grad()
            loss.backward()
            outer.step()
        torch.manual_seed(1)
        errors = [float(error_after(steps, network, optimizer, 500).detach()) for steps in (0, 1, STEPS)]
        print(f"{name}: " + ", ".join(f"{e:.2f} after {s}" for s, e in zip((0, 1, STEPS), errors, strict=True)))


def error_after(steps: int, network: nn.Module, optimizer: SGD, tasks: int) -> Tensor:
    """Return the mean error on fresh points of new tasks after so many steps, differentiable w.r.t. all learned."""

    def loss_fn(params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        def of_one(params: Params, inputs: Tensor, targets: Tensor) -> Tensor:
            return F.mse_loss(functional_call(network, params, (inputs,)), targets)

        return vmap(of_one)(params, inputs, targets).sum(), buffers

    amplitude, phase = 0.1 + 4.9 * torch.rand(tasks, 1, 1), math.pi * torch.rand(tasks, 1, 1)
    seen, unseen = 10 * torch.rand(2, tasks, SHOTS, 1) - 5
    sinusoid = lambda inputs: amplitude * torch.sin(inputs - phase)  # noqa: E731
    params = {name: parameter.expand(tasks, *parameter.shape) for name, parameter in network.named_parameters()}
    if steps:
        params = unroll(loss_fn, params, {}, [(seen, sinusoid(seen))] * steps, optimizer).params
    return loss_fn(params, {}, unseen, sinusoid(unseen))[0] / tasks


if __name__ == "__main__":
    main()
