"""Where segments keep the states that they start from until the backward pass: the device, the host or a disk."""

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

OFFLOADS = ("host", "disk")
"""Places other than the device."""

Restore = Callable[[], list[Tensor]]
"""Returns tensors that were kept, on their device."""


def check_offload(offload: str | None, key: str) -> None:
    """Raise ``ValueError`` if a place is unknown.

    Args:
        offload: the place; None for the device.
        key: its name, for the message.
    """
    if offload is not None and offload not in OFFLOADS:
        raise ValueError(f"{key} must be {' or '.join(OFFLOADS)}, got {offload!r}")


class Offload:
    """Keeps tensors outside of a device's memory.

    Args:
        place: ``host``, its pinned memory, or ``disk``, files in a temporary folder (of ``TMPDIR`` if it is set). Each
            file is removed when nothing can ask for its tensors any more, the folder after the last of them; both also
            if the program ends with an exception.
    """

    def __init__(self, place: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gtn-lightning-") if place == "disk" else None

    def keep(self, tensors: Sequence[Tensor], device: torch.device) -> Restore | None:
        """Copy tensors to the place; return what brings them back, or None if they are there already.

        Args:
            tensors: the tensors.
            device: theirs.

        Raises:
            OSError: if they cannot be written.
        """
        if self._folder is not None:
            return _File(tensors, self._folder, device)
        if device.type == "cpu":
            return None
        copies = [_on_host(tensor) for tensor in tensors]
        return lambda: [copy.to(device, non_blocking=True) for copy in copies]


class _File:
    """Tensors in a file, which is removed together with this object."""

    def __init__(
        self, tensors: Sequence[Tensor], folder: tempfile.TemporaryDirectory[str], device: torch.device
    ) -> None:
        self._folder = folder  # which is removed together with its last user
        self._device = device
        try:
            descriptor, self._path = tempfile.mkstemp(".pt", dir=folder.name)
            weakref.finalize(self, _remove, self._path)
            with open(descriptor, "wb") as file:
                # Contiguous copies: of a part of a tensor, torch.save writes the whole tensor.
                torch.save([tensor.detach().to("cpu", copy=True).contiguous() for tensor in tensors], file)
        except (OSError, RuntimeError) as error:
            # torch.save raises its own error over that of a full disk.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise OSError(
                cause.errno,
                f"offload: cannot write a state of the inner loop to {folder.name}: {cause.strerror}: set TMPDIR to a "
                "folder with enough space",
            ) from error

    def __call__(self) -> list[Tensor]:
        """Read the tensors."""
        tensors: list[Tensor] = torch.load(self._path, map_location=self._device, weights_only=True)
        return tensors


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


def _on_host(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor.detach(), non_blocking=True)
