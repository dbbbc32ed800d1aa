"""The GPU frameworks whose kernels can be timed. None is imported that is not in use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from pytest_autotune.bench.capture import cupy_graph, left_by_torch, torch_graph
from pytest_autotune.bench.device import TimedDevice
from pytest_autotune.errors import BenchmarkError
from pytest_autotune.gpu import cuda

Framework: TypeAlias = Literal["auto", "host", "torch", "cupy", "numba", "jax"]
FRAMEWORKS: Final[tuple[Framework, ...]] = ("auto", "host", "torch", "cupy", "numba", "jax")

#: AMD's last cache, behind L2, as large as on any device yet. HIP does not tell its size.
_INFINITY_CACHE_BYTES: Final = 256 * 2**20


class TorchDevice(TimedDevice):
    """PyTorch, and Triton, which launches on its streams. ROCm builds answer to the same names."""

    name = "torch"

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def synchronize(self) -> None:
        """Wait for the current device."""
        self._torch.cuda.synchronize()

    def event(self) -> Any:
        """Return an event that can be timed."""
        return self._torch.cuda.Event(enable_timing=True)

    def cache_bytes(self) -> int | None:
        """Return the size of the current device's L2 cache, of AMD's devices the one behind it."""
        if self._torch.version.hip is not None:
            return _INFINITY_CACHE_BYTES
        cuda = self._torch.cuda
        return getattr(cuda.get_device_properties(cuda.current_device()), "L2_cache_size", None)

    def flusher(self, size: int) -> Callable[[], None]:
        """Return a function that zeroes a buffer."""
        buffer = self._torch.empty(size // 4, dtype=self._torch.int32, device="cuda")
        flush: Callable[[], None] = buffer.zero_
        return flush

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture a CUDA graph, as PyTorch's documentation does it."""
        return torch_graph(self._torch, work)

    def left_by_capture(self) -> str:
        """Return what older versions do not mend."""
        return left_by_torch(self._torch)

    def reset_peak_memory(self) -> None:
        """Reset the allocator's peak."""
        self._torch.cuda.reset_peak_memory_stats()

    def peak_memory(self) -> int | None:
        """Return the allocator's peak, which counts inputs that are still held."""
        return int(self._torch.cuda.max_memory_allocated())


class CupyDevice(TimedDevice):
    """CuPy."""

    name = "cupy"

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy

    def synchronize(self) -> None:
        """Wait for the current device."""
        self._cupy.cuda.runtime.deviceSynchronize()

    def event(self) -> Any:
        """Return an event that can be timed."""
        return self._cupy.cuda.Event()

    def elapsed(self, start: Any, end: Any) -> float:
        """Return seconds."""
        return float(self._cupy.cuda.get_elapsed_time(start, end)) / 1e3

    def cache_bytes(self) -> int | None:
        """Return the size of the current device's L2 cache, of AMD's devices the one behind it."""
        if self._cupy.cuda.runtime.is_hip:
            return _INFINITY_CACHE_BYTES
        attributes: Mapping[str, int] = self._cupy.cuda.Device().attributes
        return attributes.get("L2CacheSize")

    def flusher(self, size: int) -> Callable[[], None]:
        """Return a function that zeroes a buffer."""
        buffer = self._cupy.empty(size, dtype=self._cupy.uint8)
        return partial(buffer.fill, 0)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture a CUDA graph on a stream of its own."""
        return cupy_graph(self._cupy, work)

    def reset_peak_memory(self) -> None:
        """Give back what the pool holds and nobody uses, so that it starts small."""
        self._cupy.get_default_memory_pool().free_all_blocks()

    def peak_memory(self) -> int | None:
        """Return the size of the pool, which does not shrink by itself."""
        return int(self._cupy.get_default_memory_pool().total_bytes())


class NumbaDevice(TimedDevice):
    """Numba's CUDA target."""

    name = "numba"

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda

    def synchronize(self) -> None:
        """Wait for the current context."""
        self._cuda.synchronize()

    def event(self) -> Any:
        """Return an event that can be timed."""
        return self._cuda.event()  # timed, unless told otherwise

    def cache_bytes(self) -> int | None:
        """Return the size of the current device's L2 cache."""
        return getattr(self._cuda.get_current_device(), "L2_CACHE_SIZE", None)

    def flusher(self, size: int) -> Callable[[], None]:
        """Return a function that zeroes a buffer, without waiting for it."""
        buffer = self._cuda.device_array(size, dtype=np.uint8)
        # An assignment to the array would wait, and so does the driver's function without a stream.
        driver, stream = self._cuda.cudadrv.driver, self._cuda.default_stream()
        return partial(driver.device_memset, buffer, 0, size, stream=stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Refuse: Numba has no graphs."""
        del work
        raise BenchmarkError(
            "graph=True needs PyTorch, Triton or CuPy: Numba cannot capture CUDA graphs"
        )


def device_for(backend: Framework, values: Iterable[object]) -> TimedDevice | None:
    """Return the device that calls are timed on, None where it is the host's clock.

    ``values`` are the arguments and results of a call. Unless ``backend`` names a framework, it is
    the one whose device arrays are among them. Without arrays, it is one that has a device in use.
    Raises :class:`BenchmarkError` for a backend that is not there.
    """
    if backend not in FRAMEWORKS:
        raise BenchmarkError(f"unknown backend {backend!r}; known: {', '.join(FRAMEWORKS)}")
    module = "numba.cuda" if backend == "numba" else backend
    if backend not in {"auto", "host"} and module not in sys.modules:
        raise BenchmarkError(
            f"backend {backend!r}: {module} is not imported, so no kernel of it can have run"
        )
    if backend in {"host", "jax"}:
        return None
    places = _places(values)
    if backend != "auto":
        if not _has_device(backend):
            raise BenchmarkError(f"backend {backend!r}: {module} finds no device")
        if backend in places:
            _refuse_elsewhere(backend, places[backend])
        return _MAKERS[backend]()
    elsewhere = places.pop("host", None) is not None
    for framework, indices in places.items():
        _refuse_elsewhere(framework, indices)
    if places:
        return _MAKERS[next(iter(places))]()
    return None if elsewhere else device_in_use()


def device_in_use() -> TimedDevice | None:
    """Return the device of a framework that has begun to use one, None where none has."""
    return next((_MAKERS[name]() for name in _MAKERS if _in_use(name)), None)


def _places(values: Iterable[object]) -> dict[Framework, set[int]]:
    """Return the devices of each framework that hold arrays among ``values``."""
    places: dict[Framework, set[int]] = {}
    for value in flat(values):
        found = _device_of(value)
        if found is not None:
            places.setdefault(found, set()).add(_index_of(value))
    return places


def _index_of(value: Any) -> int:
    """Return the number of an array's device."""
    device = getattr(value, "device", None)
    found = getattr(device, "index", getattr(device, "id", 0))
    return found if isinstance(found, int) else 0


def _refuse_elsewhere(framework: Framework, indices: set[int]) -> None:
    """Refuse arrays on other devices than the current one, whose events would see nothing."""
    if framework == "torch":
        current = int(sys.modules["torch"].cuda.current_device())
    elif framework == "cupy":
        current = int(sys.modules["cupy"].cuda.Device().id)
    else:
        return
    if indices != {current}:
        listed = ", ".join(map(str, sorted(indices)))
        raise BenchmarkError(
            f"the arrays are on device {listed} of {framework}, and the current one is {current}: "
            "make theirs the current one, or where they are several, time by backend='host'"
        )


def tells(values: Iterable[object]) -> bool:
    """Return whether there are arrays among ``values``, which show where a call runs."""
    return bool(_places(values))


def wait_for(values: Callable[[], object]) -> Callable[[], None] | None:
    """Return a function that waits for JAX's asynchronous results, None where there is no JAX.

    ``values`` returns the result of the last call.
    """
    jax = sys.modules.get("jax")
    if jax is None:
        return None

    def wait() -> None:
        jax.block_until_ready(values())

    return wait


def wait_for_devices(values: Iterable[object]) -> Callable[[], None] | None:
    """Return a function that waits for every device of PyTorch and CuPy that holds ``values``.

    Raises :class:`BenchmarkError` for devices of PyTorch that cannot be waited for.
    """
    values = list(flat(values))
    places = _places(values)
    tensors, arrays = places.get("torch", ()), places.get("cupy", ())
    others = [_other_device(kind) for kind in sorted(_other_kinds(values))]
    if not tensors and not arrays and not others:
        return None

    def wait() -> None:
        for index in tensors:
            sys.modules["torch"].cuda.synchronize(index)
        for index in arrays:
            with sys.modules["cupy"].cuda.Device(index) as device:
                device.synchronize()
        for other in others:
            other.synchronize()

    return wait


def _other_kinds(values: Iterable[Any]) -> set[str]:
    """Return the kinds of PyTorch's devices that hold ``values``, such as Intel's and Apple's."""
    tensors = (
        value for value in values if _device_of(value) == "host" and hasattr(value, "is_cuda")
    )
    kinds = {getattr(getattr(value, "device", None), "type", "cpu") for value in tensors}
    return kinds - {"cpu", "meta"}


def _other_device(kind: str) -> Any:
    """Return PyTorch's module for a kind of device, such as ``torch.xpu``."""
    module = getattr(sys.modules["torch"], kind, None)
    if not hasattr(module, "synchronize"):
        raise BenchmarkError(
            f"the tensors are on PyTorch's device {kind!r}, which cannot be waited for, so nothing "
            "there can be timed"
        )
    return module


def on_device(value: object) -> bool:
    """Return whether a GPU, or JAX's other accelerator, holds an array."""
    return _device_of(value) not in {None, "host"} or bool(jax_devices([value]))


def jax_devices(values: Iterable[object]) -> tuple[Any, ...]:
    """Return JAX's devices, other than the CPU, that hold arrays among ``values``."""
    found: set[Any] = set()
    value: Any
    for value in flat(values):
        package = type(value).__module__.partition(".")[0]
        if package in {"jax", "jaxlib"} and callable(getattr(value, "devices", None)):
            found |= {device for device in value.devices() if device.platform != "cpu"}
    return tuple(found)


def flat(values: Iterable[object]) -> Iterator[object]:
    """Yield what lists, tuples and the values of dictionaries hold, at any depth."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from flat(value)
        elif isinstance(value, dict):
            yield from flat(value.values())
        else:
            yield value


def _device_of(value: object) -> Framework | None:
    """Return the framework whose device holds an array, None for anything else."""
    package = type(value).__module__.partition(".")[0]
    if package == "torch" and hasattr(value, "is_cuda"):
        return "torch" if value.is_cuda else "host"
    if package == "cupy" and hasattr(value, "device"):
        return "cupy"
    if package in {"numba", "numba_cuda"} and hasattr(value, "copy_to_host"):
        return "numba"
    if package in {"jax", "jaxlib", "numpy"} and hasattr(value, "dtype"):
        return "host"
    return None


def _in_use(backend: Framework) -> bool:
    """Return whether a framework has begun to use a device, without making it begin."""
    module: Any = sys.modules.get("numba.cuda" if backend == "numba" else backend)
    if module is None:
        return False
    if backend == "torch":
        return bool(module.cuda.is_initialized())
    # CuPy and Numba start CUDA to find out whether there is a device.
    if not (cuda.started() and _has_device(backend)):
        return False
    # Without a device the memory pool raises.
    return backend == "numba" or module.get_default_memory_pool().total_bytes() > 0


def _has_device(backend: Framework) -> bool:
    target = sys.modules["numba.cuda"] if backend == "numba" else sys.modules[backend].cuda
    return bool(target.is_available())


_MAKERS: Final[Mapping[Framework, Callable[[], TimedDevice]]] = {
    "torch": lambda: TorchDevice(sys.modules["torch"]),
    "cupy": lambda: CupyDevice(sys.modules["cupy"]),
    "numba": lambda: NumbaDevice(sys.modules["numba.cuda"]),
}
