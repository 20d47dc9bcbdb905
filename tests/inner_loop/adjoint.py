"""The meta-gradient of momentum SGD, every derivative written by hand in NumPy: an oracle without autograd.

The learner is a network with one hidden layer,

    h = tanh(x W1 + b1),    z = h W2 + b2,    L = mean over the batch of  -sum_k q_k log softmax(z)_k,

and an inner step is

    b_t = mu_t b_{t-1} + g(p_{t-1}; x_t, q_t) + lambda p_{t-1},        p_t = p_{t-1} - eta_t b_t.

The meta-loss is L of the trained network on a meta-batch plus c times the sum of the inner losses. Backwards
in time, with P for the adjoint of p_t and M for what reaches b_t from later steps,

    B = M - eta_t P                  the whole adjoint of b_t, and so the cotangent of g
    d eta_t = - <P, b_t>
    d mu_t  = <B, b_{t-1}>
    d lambda += <B, p_{t-1}>
    (d x_t, d q_t) = derivative of (dL/dx, dL/dq) along B + c (dL/dx, dL/dq),
                                     by the symmetry of second derivatives
    P <- P + lambda B + (Hessian of L) B + c g
    M <- mu_t B

The derivatives along B are Pearlmutter's: every line of backpropagation differentiated along a direction in
parameter space ("Fast exact multiplication by the Hessian", 1994).
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray
Weights = list[Array]  # W1 [D, H], b1 [H], W2 [H, C], b2 [C]


class LossDerivatives(NamedTuple):
    """First derivatives of the loss, or these differentiated along a direction."""

    weights: Weights
    inputs: Array
    targets: Array


class MetaGradient(NamedTuple):
    """Derivatives of the meta-loss."""

    weights: Weights  # w.r.t. the initial weights
    inputs: list[Array]  # one [B, D] per step
    targets: list[Array]  # one [B, C] per step
    rates: Array  # [T]
    momenta: Array  # [T]
    decay: float


def loss_gradient(weights: Weights, x: Array, q: Array) -> LossDerivatives:
    """Backpropagation."""
    w1, b1, w2, b2 = weights
    h = np.tanh(x @ w1 + b1)
    z = h @ w2 + b2
    log_sum = _log_sum_exp(z)
    # The targets are variables too, so their sum is not taken to be one.
    dz = (np.exp(z - log_sum) * q.sum(1, keepdims=True) - q) / len(x)
    da = (dz @ w2.T) * (1 - h**2)
    return LossDerivatives([x.T @ da, da.sum(0), h.T @ dz, dz.sum(0)], da @ w1.T, (log_sum - z) / len(x))


def directional(weights: Weights, x: Array, q: Array, along: Weights) -> LossDerivatives:
    """Backpropagation differentiated along a direction in weight space; rv stands for the derivative of v."""
    w1, b1, w2, b2 = weights
    rw1, rb1, rw2, rb2 = along
    h = np.tanh(x @ w1 + b1)
    z = h @ w2 + b2
    p = np.exp(z - _log_sum_exp(z))
    total = q.sum(1, keepdims=True)
    dz = (p * total - q) / len(x)
    dh = dz @ w2.T
    da = dh * (1 - h**2)

    rh = (1 - h**2) * (x @ rw1 + rb1)
    rz = rh @ w2 + h @ rw2 + rb2
    r_log_sum = (p * rz).sum(1, keepdims=True)
    rdz = total * p * (rz - r_log_sum) / len(x)
    rda = (rdz @ w2.T + dz @ rw2.T) * (1 - h**2) - 2 * dh * h * rh
    r_weights = [x.T @ rda, rda.sum(0), rh.T @ dz + h.T @ rdz, rdz.sum(0)]
    return LossDerivatives(r_weights, rda @ w1.T + da @ rw1.T, (r_log_sum - rz) / len(x))


def meta_gradient(
    weights: Weights,
    inputs: list[Array],
    targets: list[Array],
    rates: Array,
    momenta: Array,
    decay: float,
    meta_batch: tuple[Array, Array],
    inner_weight: float,
) -> MetaGradient:
    """Differentiate the meta-loss by everything that went into the training."""
    trajectory, velocities, firsts = [weights], [[np.zeros_like(w) for w in weights]], []
    for x, q, rate, momentum in zip(inputs, targets, rates, momenta, strict=True):
        firsts.append(loss_gradient(trajectory[-1], x, q))
        triples = zip(velocities[-1], firsts[-1].weights, trajectory[-1], strict=True)
        velocities.append([momentum * v + g + decay * w for v, g, w in triples])
        trajectory.append([w - rate * v for w, v in zip(trajectory[-1], velocities[-1], strict=True)])

    steps = len(inputs)
    d_inputs, d_targets = [np.empty(0)] * steps, [np.empty(0)] * steps
    d_rates, d_momenta, d_decay = np.zeros(steps), np.zeros(steps), 0.0
    adjoint = loss_gradient(trajectory[-1], *meta_batch).weights
    later = [np.zeros_like(w) for w in weights]
    for t in reversed(range(steps)):
        d_rates[t] = -_dot(adjoint, velocities[t + 1])
        cotangent = [m - rates[t] * a for m, a in zip(later, adjoint, strict=True)]
        d_momenta[t] = _dot(cotangent, velocities[t])
        d_decay += _dot(cotangent, trajectory[t])
        products = directional(trajectory[t], inputs[t], targets[t], cotangent)
        d_inputs[t] = products.inputs + inner_weight * firsts[t].inputs
        d_targets[t] = products.targets + inner_weight * firsts[t].targets
        terms = zip(adjoint, cotangent, products.weights, firsts[t].weights, strict=True)
        adjoint = [a + decay * c + h + inner_weight * g for a, c, h, g in terms]
        later = [momenta[t] * c for c in cotangent]
    return MetaGradient(adjoint, d_inputs, d_targets, d_rates, d_momenta, d_decay)


def _log_sum_exp(z: Array) -> Array:
    largest = z.max(1, keepdims=True)
    return largest + np.log(np.exp(z - largest).sum(1, keepdims=True))


def _dot(one: Weights, other: Weights) -> float:
    return float(sum((a * b).sum() for a, b in zip(one, other, strict=True)))
