"""A synthetic environment as a teacher: first states, and the weights of its transitions."""

import torch
from torch import Tensor, nn

from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Field, given, restored
from gtn_lightning.teachers.base import Teacher, TeacherInput


class SyntheticEnvironment(Teacher):
    """Learned first states and learned weights of a transition network, for the task `ActorCritic`.

    A request's noise, one number per time step, becomes the uniform random numbers by which the learner draws its
    actions. With the curriculum ``NoCurriculum`` they are new in every inner step.

    Args:
        fields: ``states``, ``draws`` and ``dynamics``; a recipe may omit it, the task then sets it.
        starts: number of first states.
        noise: number of time steps per inner step, the size of ``draws``.
        deviation: standard deviation of the initial weights.

    Raises:
        RecipeError: if a value is out of range, or the fields are others.

    Examples:
        >>> from gtn_lightning.tasks import ActorCritic
        >>> from gtn_lightning.teachers import SyntheticEnvironment
        >>> task = ActorCritic(shape=(4,), actions=2, horizon=5)
        >>> teacher = SyntheticEnvironment(task.fields, starts=64, noise=5)
        >>> teacher.states.shape
        torch.Size([64, 4])
    """

    def __init__(
        self,
        fields: dict[str, Field] | None = None,
        starts: int = 64,
        noise: int = 5,
        deviation: float = 0.1,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        made = restored(given(fields, f"{name}.fields"))
        if made.keys() != {"states", "draws", "dynamics"}:
            raise RecipeError(f"{name}: fields must be states, draws and dynamics, got {', '.join(made)}")
        if starts < 1:
            raise RecipeError(f"{name}: starts must be at least 1, got {starts}")
        if made["draws"].sample_shape != (noise,):
            raise RecipeError(f"{name}: noise must be the task's horizon, {made['draws'].sample_shape[0]}, got {noise}")
        if not 0 < deviation < float("inf"):
            raise RecipeError(f"{name}: deviation must be above 0 and finite, got {deviation}")
        self.fields = made
        self.starts = starts
        self.noise = noise
        self.deviation = deviation
        self.states = nn.Parameter(torch.randn(starts, *made["states"].sample_shape))
        self.dynamics = nn.Parameter(deviation * torch.randn(1, *made["dynamics"].sample_shape))

    def forward(self, request: TeacherInput) -> Batch:
        """Return first states ``[B, ...]``, random numbers ``[B, horizon]`` and weights ``[1, size]``."""
        if request.noise is None:
            raise RecipeError(
                "SyntheticEnvironment: the curriculum gives no noise: set its noise to the task's horizon"
            )
        if request.noise.requires_grad:
            raise RecipeError(
                "SyntheticEnvironment: random numbers for actions cannot be learned: set the curriculum's learned to "
                "false, or use NoCurriculum"
            )
        draws: Tensor = torch.special.ndtr(request.noise)
        return {"states": self.states[request.index % self.starts], "draws": draws, "dynamics": self.dynamics}
