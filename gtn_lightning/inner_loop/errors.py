"""What the inner loop refuses: learners whose meta-gradient it cannot compute rightly."""


class InnerLoopError(RuntimeError):
    """A learner or loss cannot be differentiated rightly; the message names what it does and what to change."""


class NotTwiceDifferentiableError(InnerLoopError):
    """An operator of the learner has a gradient that cannot be differentiated again; the message names it."""


class RecomputationError(InnerLoopError):
    """A learner was computed again in the backward pass, with another result than in the forward pass."""


class WrongDerivativeError(InnerLoopError):
    """The derivative of the inner gradient is not what central differences of the inner gradient say."""
