"""Weight normalization by its formula, in place of torch's kernel, whose second derivative is wrong."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gtn_lightning.inner_loop.torch_internals import is_weight_norm


class WeightNormFormula(TorchFunctionMode):
    """Computes ``torch.nn.utils.parametrizations.weight_norm`` by its formula."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return weight_norm(*args) if is_weight_norm(func) else func(*args, **(kwargs or {}))


def weight_norm(direction: Tensor, scale: Tensor, dim: int) -> Tensor:
    """Return ``direction * scale / norm``, the norm over all axes but ``dim`` (over all for -1)."""
    others = [axis for axis in range(direction.ndim) if dim == -1 or axis != dim % direction.ndim]
    norm: Tensor = torch.linalg.vector_norm(direction, dim=others, keepdim=dim != -1)
    return direction * (scale / norm)
