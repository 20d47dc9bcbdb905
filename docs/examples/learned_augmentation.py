"""Data augmentation: how far to shift, turn and scale training images, learned by gradient.

    python docs/examples/learned_augmentation.py

A network learns from three hundred upright digits, and is used on digits that were shifted and turned at random. How
strongly should the training images be shifted, turned and scaled? The random numbers are drawn outside of the training
loss and multiplied by the strengths, so that the batches are differentiable functions of the strengths, and ``unroll``
makes the loss on held-back digits one, too. An ordinary optimizer learns all three strengths in one run. Beside it
stand fixed factors of a first guess, and the strengths that the held-back digits were made with, unknown to it.
"""

import argparse
import math
import time
from statistics import mean, stdev

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning.inner_loop import SGD, Buffers, Functional, Params, unroll

TRAIN, VAL, STEPS, BATCH = 300, 600, 60, 50
TRUE, GUESS = torch.tensor([0.1, 0.4, 0.0]), torch.tensor([0.2, 0.2, 0.2])
"""Standard deviations of the shift (of half the width), of the angle (radians), and of the logarithm of the scale."""

Images = tuple[Tensor, Tensor]
"""Images ``[N, 1, 8, 8]`` and labels."""


def main() -> None:
    """Learn the strengths, and compare them with fixed ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--meta-steps", type=int, default=60, help="updates of the strengths")
    parser.add_argument("--seeds", type=int, default=3, help="number of splits of the digits")
    parser.add_argument("--networks", type=int, default=10, help="networks that a set of strengths is scored on")
    options = parser.parse_args()
    accuracies: dict[str, list[Tensor]] = {}
    began = time.perf_counter()
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        images, labels = load_digits(return_X_y=True)
        images, labels = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
        order = torch.randperm(len(labels))
        train, val, test = ((images[at], labels[at]) for at in order.tensor_split([TRAIN, TRAIN + VAL]))
        val, test = ((augmented(i, torch.randn(len(i), 4), TRUE), own) for i, own in (val, test))
        logs = GUESS.log().requires_grad_()
        outer = torch.optim.Adam([logs], lr=0.1)
        for _ in range(options.meta_steps):
            outer.zero_grad()
            loss, _ = trained(logs.exp(), train, [val])
            loss.backward()
            outer.step()
        learned = logs.detach().exp()
        pixels, angle, scale = 4 * learned[0], math.degrees(learned[1]), 100 * learned[2]
        print(
            f"seed {seed}: learned deviations: shift {pixels:.2f} pixels, turn {angle:.0f} degrees, scale {scale:.0f} %"
        )
        ways = {f"{factor} times the guess": factor * GUESS for factor in (0, 0.5, 1, 2)}
        ways |= {"those of the held-back digits": TRUE, "learned": learned}
        for name, strengths in ways.items():
            with torch.no_grad():
                scores = [trained(strengths, train, [val, test])[1] for _ in range(options.networks)]
            accuracies.setdefault(name, []).append(torch.stack(scores).mean(0))
    print(f"accuracy on validation and test digits, {time.perf_counter() - began:.0f} s in all")
    for name, found in accuracies.items():
        columns = [[100 * float(value) for value in column] for column in zip(*found, strict=True)]
        shown = [f"{mean(c):.1f}" + (f" +- {stdev(c):.1f}" if len(c) > 1 else "") for c in columns]
        print(f"{name}: {shown[0]} and {shown[1]}")


def augmented(images: Tensor, noise: Tensor, strengths: Tensor) -> Tensor:
    """Shift, turn and scale images ``[N, 1, 8, 8]`` by random numbers ``[N, 4]`` times strengths ``[3]``."""
    shift, angle, scale = strengths[0] * noise[:, :2], strengths[1] * noise[:, 2], (strengths[2] * noise[:, 3]).exp()
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    return F.grid_sample(images, F.affine_grid(matrix, list(images.shape), False), align_corners=False)


def trained(strengths: Tensor, train: Images, held_back: list[Images]) -> tuple[Tensor, Tensor]:
    """Train a fresh network; return its loss on the first held-back set, and its accuracy on each."""
    network = Functional(nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)))

    def loss_fn(params: Params, buffers: Buffers, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Buffers]:
        logits, buffers = network(params, buffers, inputs)
        return F.cross_entropy(logits, targets), buffers

    rows = torch.randint(TRAIN, (STEPS * BATCH,))
    inputs, targets = augmented(train[0][rows], torch.randn(len(rows), 4), strengths), train[1][rows]
    batches = zip(inputs.split(BATCH), targets.split(BATCH), strict=True)
    result = unroll(loss_fn, *network.init(), batches, SGD(lr=0.5, momentum=0.5))
    logits = [network(result.params, result.buffers, inputs)[0] for inputs, _ in held_back]
    accuracies = [
        (own.argmax(1) == targets).float().mean() for own, (_, targets) in zip(logits, held_back, strict=True)
    ]
    return F.cross_entropy(logits[0], held_back[0][1]), torch.stack(accuracies)


if __name__ == "__main__":
    main()
