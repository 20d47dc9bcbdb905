"""The transitions of a synthetic environment, as a function of a vector of weights."""

from torch import Tensor


class Transitions:
    """A network with one hidden layer from state and action to the change of the state and the reward.

    With z = tanh(W [s, a] + b), the next state is ``s + U z + u`` and the reward ``v z + w``.

    Args:
        states: size of a state.
        actions: number of actions, given as one-hot vectors.
        hidden: number of hidden units.

    Attributes:
        size: number of weights.
    """

    def __init__(self, states: int, actions: int, hidden: int) -> None:
        self._sizes = (hidden * (states + actions), hidden, (states + 1) * hidden, states + 1)
        self._hidden = hidden
        self.size = sum(self._sizes)

    def __call__(self, weights: Tensor, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next states ``[B, states]`` and the rewards ``[B]``.

        Args:
            weights: ``[size]``.
            states: ``[B, states]``.
            actions: one-hot, ``[B, actions]``.
        """
        first, bias, second, shift = weights.split(self._sizes)
        state_part, action_part = first.view(self._hidden, -1).split([states.shape[1], actions.shape[1]], dim=1)
        hidden = (states @ state_part.T + actions @ action_part.T + bias).tanh()
        outputs = hidden @ second.view(-1, self._hidden).T + shift
        return states + outputs[:, :-1], outputs[:, -1]
