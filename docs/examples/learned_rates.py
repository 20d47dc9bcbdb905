"""Hyperparameter optimization: the learning rate and the momentum of every training step, learned by gradient.

    python docs/examples/learned_rates.py

A small network is trained on real handwritten digits for twenty steps. How well it then does on other digits depends on
the rate and the momentum of each step; ``unroll`` makes the whole training one differentiable function of them, so that
an ordinary optimizer can improve them. Nothing here is meta-learned but forty numbers, and no teacher is involved:
``gtn_lightning.inner_loop`` alone, which needs torch only.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.inner_loop import SGD, Buffers, Functional, InnerOptimizer, Params, unroll

STEPS, BATCH = 20, 32


def main() -> None:
    """Learn the schedule, and compare it with the best of several constant rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--meta-steps", type=int, default=300, help="updates of the schedule")
    meta_steps = parser.parse_args().meta_steps
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(labels))
    train, val, test = ((images[rows], labels[rows]) for rows in order.split([900, 450, 447]))

    grid = {rate: accuracy(SGD(lr=rate, momentum=0.5), train, val) for rate in (0.03, 0.1, 0.3, 1.0)}
    best = max(grid, key=lambda rate: grid[rate])
    print(f"best constant rate {best}: test accuracy {accuracy(SGD(lr=best, momentum=0.5), train, test):.3f}")

    optimizer = SGD(lr=best, momentum=0.5, learned_per_step=["lr", "momentum"], steps=STEPS)
    outer = torch.optim.Adam(optimizer.parameters(), lr=0.03)
    for _ in range(meta_steps):
        loss, _ = trained(optimizer, train, val)
        outer.zero_grad()
        loss.backward()
        outer.step()
    rates = ", ".join(f"{rate:.2f}" for rate in optimizer.schedules(STEPS)["lr"])
    print(f"learned rates: {rates}")
    print(f"learned schedule: test accuracy {accuracy(optimizer, train, test):.3f}")


def trained(
    optimizer: InnerOptimizer, train: tuple[Tensor, Tensor], held_back: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Train a fresh network; return its loss on held-back data, a function of the schedule, and its accuracy there."""
    network = Functional(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))

    def loss_fn(params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        logits, buffers = network(params, buffers, inputs)
        return F.cross_entropy(logits, targets), buffers

    images, labels = train
    batches = [(images[rows], labels[rows]) for rows in torch.randint(len(labels), (STEPS, BATCH))]
    result = unroll(loss_fn, *network.init(), batches, optimizer)
    logits, _ = network(result.params, result.buffers, held_back[0])
    return F.cross_entropy(logits, held_back[1]), (logits.argmax(1) == held_back[1]).float().mean()


@torch.no_grad()
def accuracy(optimizer: InnerOptimizer, train: tuple[Tensor, Tensor], held_back: tuple[Tensor, Tensor]) -> float:
    """Return the mean accuracy of twenty fresh networks on held-back data."""
    return float(torch.stack([trained(optimizer, train, held_back)[1] for _ in range(20)]).mean())


if __name__ == "__main__":
    main()
