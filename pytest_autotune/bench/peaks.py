"""The peak rates of the machine, of which a kernel reaches a share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from statistics import median
from typing import Any, Final

import numpy as np

from pytest_autotune.bench.device import DeviceTimer, TimedDevice
from pytest_autotune.bench.frameworks import TorchDevice, flat
from pytest_autotune.bench.work import Work
from pytest_autotune.errors import BenchmarkError

_KEYS: Final = ("tflop_per_s", "gb_per_s")
#: Large enough to reach the peak, small enough to take no time.
_DEVICE_SIDE, _DEVICE_BYTES = 8192, 2**30
_HOST_SIDE, _HOST_BYTES = 1536, 2**28
_REPEATS: Final = 20
#: A device that has been busy for this long has the clocks that its power allows (seconds).
_SUSTAINED_SECONDS, _BATCH_SECONDS = 1.0, 0.1
#: The types whose matrix products PyTorch has; the narrowest among a call's tensors counts.
_TYPES: Final = (
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float16",
    "bfloat16",
    "float32",
    "float64",
)
#: Scales of blocks, which are not multiplied themselves.
_SCALES: Final = "float8_e8m0fnu"
#: From this compute capability on, NVIDIA's devices have bfloat16 and TF32.
_AMPERE: Final = 8
_IMPROVED: Final = 0.02
_MOST_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """FLOP and bytes per second, None where not known. ``remark`` says how they were measured."""

    flop_rate: float | None = None
    bandwidth: float | None = None
    remark: str = ""


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


def measured_peaks(device: TimedDevice | None, arguments: Iterable[object] = ()) -> Peaks:
    """Measure a large matrix product and a large copy, once a process and type.

    With PyTorch both are measured at the clocks that the device sustains. The product is of the
    narrowest floating point type among the tensors of ``arguments``: float32 by TF32, which
    Triton's ``tl.dot`` uses, too; bfloat16 where there are no tensors; float16 for bfloat16 where
    the device has none. Of other types only the copy is measured. On the host the product is of
    float32 by NumPy, and both are the fastest of some repeats.

    Raises :class:`BenchmarkError` for any other framework.
    """
    if device is None:
        return _host_peaks()
    if device.name != "torch":
        raise BenchmarkError(
            f"peak='measured' needs PyTorch or the host, not {device.name}; state the peak"
        )
    import torch

    return _torch_peaks(torch, torch.cuda.current_device(), _narrowest(arguments))


def _narrowest(arguments: Iterable[object]) -> str:
    """Return the name of the type of PyTorch's tensors whose products count."""
    floating: dict[str, int] = {}
    others: dict[str, int] = {}
    value: Any
    for value in flat(arguments):
        if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "is_cuda"):
            name = str(value.dtype).rpartition(".")[2]
            found = floating if value.dtype.is_floating_point else others
            found[name] = value.element_size()
    floating.pop(_SCALES, None)
    found = floating or others
    return min(found, key=found.__getitem__, default="bfloat16")


@cache
def _host_peaks() -> Peaks:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, _HOST_SIDE, _HOST_SIDE), dtype=np.float32)
    product = np.empty_like(a)
    source = np.ones(_HOST_BYTES // 2, dtype=np.uint8)
    target = np.empty_like(source)
    multiply = _fastest(lambda: np.matmul(a, b, out=product))
    copy = _fastest(lambda: np.copyto(target, source))
    return _peaks(_HOST_SIDE, multiply, "float32 by NumPy", 2 * source.nbytes / copy)


def _peaks(side: int, multiply: float | None, kind: str, bandwidth: float) -> Peaks:
    told = f"{bandwidth / 1e9:.4g} GB/s by a copy"
    rate = None
    if multiply is not None:
        rate = 2 * side**3 / multiply
        told += f", {rate / 1e12:.4g} TFLOP/s by a product of {side}×{side} matrices of {kind}"
    else:
        told += f"; that of products of {kind} must be stated"
    return Peaks(flop_rate=rate, bandwidth=bandwidth, remark=f"peaks were measured: {told}")


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
def _torch_peaks(torch: Any, index: int, kind: str) -> Peaks:
    del index  # The key of the cache.
    nvidia = torch.version.hip is None
    old = nvidia and torch.cuda.get_device_capability()[0] < _AMPERE
    if kind == "bfloat16" and old:
        kind = "float16"
    copy = _copy_seconds(torch)
    multiply = None
    name = kind
    if kind == "float32" and nvidia and not old:
        name = "float32 by TF32"
        with _tf32(torch):
            multiply = _multiply_seconds(torch, kind)
    elif kind in _TYPES:
        multiply = _multiply_seconds(torch, kind)
    # Gigabytes, which would count as memory of what is measured next.
    torch.cuda.empty_cache()
    return _peaks(_DEVICE_SIDE, multiply, name, 2 * _DEVICE_BYTES / copy)


def _copy_seconds(torch: Any) -> float:
    source = torch.ones(_DEVICE_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return _sustained(lambda: target.copy_(source), TorchDevice(torch))


def _multiply_seconds(torch: Any, kind: str) -> float:
    try:
        return _sustained(_product(torch, kind), TorchDevice(torch))
    except RuntimeError as error:
        raise BenchmarkError(
            f"peak='measured': PyTorch multiplied no matrices of {kind} here ({error}); "
            "state the peak"
        ) from None


def _product(torch: Any, kind: str) -> Callable[[], object]:
    """Return a function that multiplies two large matrices of a type."""

    def random(kind: str) -> Any:
        values = torch.randn(_DEVICE_SIDE, _DEVICE_SIDE, device="cuda")
        return values.to(getattr(torch, kind))

    if not kind.startswith("float8"):
        return partial(torch.matmul, random(kind), random(kind))
    # No device multiplies two of e5m2, and the second operand is stored by columns.
    other = random("float8_e4m3fnuz" if kind.endswith("fnuz") else "float8_e4m3fn").t()
    one = torch.ones((), device="cuda")
    return partial(
        torch._scaled_mm,  # noqa: SLF001 - the only product of such matrices before PyTorch 2.10
        random(kind),
        other,
        scale_a=one,
        scale_b=one,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


@contextmanager
def _tf32(torch: Any) -> Iterator[None]:
    """Let PyTorch multiply matrices of float32 by TF32 in the block."""
    matmul = torch.backends.cuda.matmul
    # The older name of the setting warns where there is the newer one.
    name, on = (
        ("fp32_precision", "tf32") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True)
    )
    before = getattr(matmul, name)
    setattr(matmul, name, on)
    try:
        yield
    finally:
        setattr(matmul, name, before)


def _sustained(run: Callable[[], object], device: TimedDevice) -> float:
    """Return the median time of a call once the device has been busy for a while, in seconds."""
    timer = DeviceTimer(Work(run, [()]), device, cold_cache=False)
    timer.batch(1)  # compiles, or looks for the fastest kernel
    count = max(1, int(_BATCH_SECONDS / max(*timer.batch(2), 1e-5)))
    busy = 0.0
    while True:
        samples = timer.batch(count)
        busy += sum(samples)
        if busy >= _SUSTAINED_SECONDS:
            return median(samples)
