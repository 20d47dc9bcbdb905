"""Differentiable inner optimizers: pure ``(init, update)`` pairs with learnable hyperparameters, one per file.

An optimizer's arithmetic is ordinary autograd, so each works with every mode of the inner gradient and needs no
hand-written adjoint. ``torch.optim`` cannot be used: it writes in place, and ``torch.optim.SGD(differentiable=True)``
detaches its first momentum buffer.
"""

from gtn_lightning.inner_loop.optimizers.adam import Adam, AdamState, AdamW
from gtn_lightning.inner_loop.optimizers.base import POSITIVE, UNIT, InnerOptimizer
from gtn_lightning.inner_loop.optimizers.lars import LARS, LARSState
from gtn_lightning.inner_loop.optimizers.rmsprop import RMSprop, RMSpropState
from gtn_lightning.inner_loop.optimizers.sgd import SGD, SGDState

__all__ = [
    "LARS",
    "POSITIVE",
    "SGD",
    "UNIT",
    "Adam",
    "AdamState",
    "AdamW",
    "InnerOptimizer",
    "LARSState",
    "RMSprop",
    "RMSpropState",
    "SGDState",
]
