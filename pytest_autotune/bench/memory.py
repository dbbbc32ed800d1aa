"""The peak of memory that a call takes, where its work is done."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from typing import Any, Final

from pytest_autotune.bench.device import TimedDevice
from pytest_autotune.bench.work import Work

#: Tracing allocations slows a call down; one that takes longer is not traced (seconds).
_TRACED_SECONDS: Final = 2.0
#: Said where a metric is missing that others have.
JAX_REMARK: Final = "peak_memory_mib is left out: JAX tells no peak that this function has set"
DRIVER_REMARK: Final = "peak_memory_mib is left out: CUDA runs here, by a framework that tells none"
#: The peaks of JAX's devices that were reported already, in bytes.
_REPORTED: Final[dict[Any, int]] = {}


def device_peak(work: Work, device: TimedDevice) -> int | None:
    """Make a call and return the bytes that the framework's allocator held at most."""
    device.synchronize()
    device.reset_peak_memory()
    work()
    device.synchronize()
    return device.peak_memory()


def host_peak(work: Work, first: float) -> int | None:
    """Make a call and return the bytes that Python allocated at most, None if it takes long.

    ``first`` is the time of the first call, in seconds.
    """
    if first > _TRACED_SECONDS or tracemalloc.is_tracing():
        return None
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def jax_peak(devices: Iterable[Any]) -> int | None:
    """Return the bytes that a device of JAX held at most, None where an earlier call held as many.

    JAX keeps one peak for the life of the process, and cannot reset it. Only a peak that is new
    since the last measurement belongs to this one.
    """
    peaks: list[int] = []
    for device in devices:
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
        if peak is not None and peak > _REPORTED.get(device, 0):
            _REPORTED[device] = peak
            peaks.append(peak)
    return max(peaks, default=None)
