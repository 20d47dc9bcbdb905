"""Errors of the inner loop about learners whose meta-gradient it cannot compute correctly."""

from typing import Any


class InnerLoopError(RuntimeError):
    """A learner or loss cannot be differentiated correctly; the message says why and what to change."""


class NotTwiceDifferentiableError(InnerLoopError):
    """An operator of the learner has a gradient that cannot be differentiated again; the message names it."""


class RecomputationError(InnerLoopError):
    """The recomputation of a learner in the backward pass had a different result than the forward pass."""


class WrongDerivativeError(InnerLoopError):
    """The derivative of the inner gradient differs from its central differences."""


class WrongMetaGradientError(InnerLoopError):
    """A meta-gradient differs from its central differences.

    Args:
        message: by how much, and why.
        check: the result of `check_meta_gradient`.
    """

    def __init__(self, message: str, check: Any = None) -> None:
        super().__init__(message)
        self.check = check
