"""What the inner loop refuses: learners whose meta-gradient it cannot compute rightly."""


class InnerLoopError(RuntimeError):
    """A learner or loss cannot be differentiated rightly; the message names what it does and what to change."""


class NotTwiceDifferentiableError(InnerLoopError):
    """An operator of the learner has a gradient that cannot be differentiated again; the message names it."""


class RecomputationError(InnerLoopError):
    """A learner was computed again in the backward pass, with another result than in the forward pass."""


class WrongDerivativeError(InnerLoopError):
    """The derivative of the inner gradient is not what central differences of the inner gradient say."""


def first_line(error: Exception) -> str:
    """Return the beginning of what an error says, or its type's name if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:200] if lines else type(error).__name__
