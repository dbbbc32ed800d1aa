"""The peak rates of the machine, of which a kernel reaches a share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np

from pytest_autotune.bench.device import DeviceTimer, TimedDevice
from pytest_autotune.bench.frameworks import TorchDevice
from pytest_autotune.bench.work import Work
from pytest_autotune.errors import BenchmarkError

_KEYS: Final = ("tflop_per_s", "gb_per_s")
#: Large enough to reach the peak, small enough to take no time.
_DEVICE_SIDE, _DEVICE_BYTES = 8192, 2**30
_HOST_SIDE, _HOST_BYTES = 1536, 2**28
_REPEATS: Final = 20
_IMPROVED: Final = 0.02
_MOST_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """FLOP and bytes per second, None where not known."""

    flop_rate: float | None = None
    bandwidth: float | None = None


def stated_peaks(peak: object) -> Peaks:
    """Read ``{"tflop_per_s": …, "gb_per_s": …}``; raise :class:`BenchmarkError`."""
    if not isinstance(peak, Mapping) or not set(peak) <= set(_KEYS) or not peak:
        raise BenchmarkError(
            f"peak={peak!r}: give 'measured', or a mapping with {' and '.join(_KEYS)}"
        )
    for key, value in peak.items():
        if not isinstance(value, int | float) or not value > 0:
            raise BenchmarkError(f"peak[{key!r}]={value!r} is not a positive number")
    tflop, gigabytes = peak.get("tflop_per_s"), peak.get("gb_per_s")
    return Peaks(
        flop_rate=None if tflop is None else tflop * 1e12,
        bandwidth=None if gigabytes is None else gigabytes * 1e9,
    )


def measured_peaks(device: TimedDevice | None) -> Peaks:
    """Measure a large matrix product and a large copy, the fastest of some repeats.

    With PyTorch in bfloat16 on the device; on the host with NumPy in float32. Once a process.
    Raises :class:`BenchmarkError` for any other framework.
    """
    if device is None:
        return _host_peaks()
    if device.name != "torch":
        raise BenchmarkError(
            f"peak='measured' needs PyTorch or the host, not {device.name}; state the peak"
        )
    import torch

    return _torch_peaks(torch, torch.cuda.current_device())


@cache
def _host_peaks() -> Peaks:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, _HOST_SIDE, _HOST_SIDE), dtype=np.float32)
    product = np.empty_like(a)
    source = np.ones(_HOST_BYTES // 2, dtype=np.uint8)
    target = np.empty_like(source)
    multiply = _fastest(lambda: np.matmul(a, b, out=product))
    copy = _fastest(lambda: np.copyto(target, source))
    return Peaks(flop_rate=2 * _HOST_SIDE**3 / multiply, bandwidth=2 * source.nbytes / copy)


def _fastest(run: Callable[[], object]) -> float:
    """Return the least time of a call, once that has not fallen any more for some calls.

    A few calls in a row may all be disturbed; the peak is what they are without.
    """
    best, since = float("inf"), 0
    end = time.perf_counter() + _MOST_SECONDS
    while since < _REPEATS and time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        taken = time.perf_counter() - begin
        since = 0 if taken < best * (1 - _IMPROVED) else since + 1
        best = min(best, taken)
    return best


@cache
def _torch_peaks(torch: Any, index: int) -> Peaks:
    del index  # The key of the cache.
    device = TorchDevice(torch)
    a, b = (
        torch.randn(_DEVICE_SIDE, _DEVICE_SIDE, dtype=torch.bfloat16, device="cuda")
        for _ in range(2)
    )
    source = torch.ones(_DEVICE_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def fastest(run: Callable[[], object]) -> float:
        timer = DeviceTimer(Work(run, [()]), device, cold_cache=False)
        timer.batch(_REPEATS)
        return min(timer.batch(_REPEATS))

    multiply = fastest(lambda: torch.matmul(a, b))
    copy = fastest(lambda: target.copy_(source))
    return Peaks(flop_rate=2 * _DEVICE_SIDE**3 / multiply, bandwidth=2 * _DEVICE_BYTES / copy)
