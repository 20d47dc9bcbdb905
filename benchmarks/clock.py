"""Time and peak memory of a computation, on a CPU or on CUDA."""

import ctypes
import gc
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

PRODUCTS = ("convolution", "addmm", "::mm", "bmm", "linear")
"""Parts of the names of torch's CPU kernels for convolutions and matrix products."""


class Clock:
    """Measures computations on a device.

    Args:
        device: where they run. On CUDA, time is that between two events on the device, and memory that of torch's
            allocator; on a CPU, wall-clock time, and memory of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_cuda = device.type == "cuda"

    def seconds(self, run: Callable[[], object]) -> float:
        """Return the seconds that a computation takes."""
        if not self._on_cuda:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self._device)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000

    def megabytes(self, run: Callable[[], object]) -> float:
        """Return the memory that a computation adds at its peak, in MB."""
        gc.collect()
        if not self._on_cuda:
            before = _reset_peak()
            run()
            return _peak() - before
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        allocated = torch.cuda.memory_allocated(self._device)
        run()
        torch.cuda.synchronize(self._device)
        return (torch.cuda.max_memory_allocated(self._device) - allocated) / 2**20

    def kernel_share(self, run: Callable[[], object]) -> float:
        """Return the share of a computation's time in its kernels.

        On a CPU only those for convolutions and matrix products count, which every engine needs; on CUDA all of them:
        the rest is time in which the device waits for Python.
        """
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_cuda else [])]
        with profile(activities=activities) as profiled:
            seconds = self.seconds(run)
        events = profiled.key_averages()
        if self._on_cuda:
            spent = sum(event.self_device_time_total for event in events if event.device_type == DeviceType.CUDA)
        else:
            spent = sum(e.self_cpu_time_total for e in events if any(name in e.key for name in PRODUCTS))
        return float(spent) / 1e6 / seconds


def _reset_peak() -> float:
    """Reset the peak of this process's memory, if the kernel supports it; return the present peak in MB."""
    # Without it, the peak includes memory that the allocator keeps from earlier computations.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    """Return the peak of this process's memory since ``_reset_peak`` in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
