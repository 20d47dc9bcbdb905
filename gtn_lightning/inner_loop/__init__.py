"""A differentiable inner loop: training a network for a few steps as one differentiable function.

It needs torch alone and knows nothing of Lightning, teachers or images, so it can also be used for hyperparameter
optimization, MAML and learned optimizers.
"""

from gtn_lightning.inner_loop.batches import RequestedBatches
from gtn_lightning.inner_loop.errors import (
    InnerLoopError,
    NotTwiceDifferentiableError,
    RecomputationError,
    WrongDerivativeError,
    WrongMetaGradientError,
)
from gtn_lightning.inner_loop.functional import Functional, difference
from gtn_lightning.inner_loop.gradients import eager_loss, inner_gradient
from gtn_lightning.inner_loop.meta_gradient_check import MetaGradientCheck, check_meta_gradient
from gtn_lightning.inner_loop.metasmoothness import metasmoothness
from gtn_lightning.inner_loop.modes import MODES
from gtn_lightning.inner_loop.optimizers import LARS, SGD, Adam, AdamW, InnerOptimizer, RMSprop
from gtn_lightning.inner_loop.plan import InnerLoop
from gtn_lightning.inner_loop.population import unroll_population
from gtn_lightning.inner_loop.types import Batch, Buffers, InnerGradient, LossFn, Params
from gtn_lightning.inner_loop.unroll import InnerState, Snapshot, Unrolled, inner_step, unroll

__all__ = [
    "LARS",
    "MODES",
    "SGD",
    "Adam",
    "AdamW",
    "Batch",
    "Buffers",
    "Functional",
    "InnerGradient",
    "InnerLoop",
    "InnerLoopError",
    "InnerOptimizer",
    "InnerState",
    "LossFn",
    "MetaGradientCheck",
    "NotTwiceDifferentiableError",
    "Params",
    "RMSprop",
    "RecomputationError",
    "RequestedBatches",
    "Snapshot",
    "Unrolled",
    "WrongDerivativeError",
    "WrongMetaGradientError",
    "check_meta_gradient",
    "difference",
    "eager_loss",
    "inner_gradient",
    "inner_step",
    "metasmoothness",
    "unroll",
    "unroll_population",
]
