"""The driver library of CUDA or HIP, asked where this process has loaded it.

Nothing here loads the library, initialises it or creates a context: after that a process sees no
other devices, and takes memory on those it sees.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from pytest_autotune.errors import AutotuneError

_DESCRIPTORS: Final = Path("/proc/self/fd")
#: Devices that CUDA and HIP open, and the management libraries do not. WSL2 and Jetson have none.
_COMPUTE_DEVICES: Final = frozenset({"/dev/nvidia-uvm", "/dev/kfd"})
_CUDA_LIBRARIES: Final = ("libcuda.so.1",)
#: The number is ROCm's major version. PyTorch's own copy may have none.
_HIP_LIBRARIES: Final = (*(f"libamdhip64.so.{number}" for number in range(5, 10)), "libamdhip64.so")
#: Not initialised, in this process or since it was forked; already at its end; only a stub of it.
_NOT_RUNNING: Final = frozenset({3, 4, 34})
#: An invalid context, and one that was destroyed.
_GONE: Final = frozenset({201, 709})


class CudaError(AutotuneError):
    """An error of the device, maybe of work that was launched long before.

    ``name`` is the driver's, such as ``CUDA_ERROR_ILLEGAL_ADDRESS``.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


def started() -> bool:
    """Return whether CUDA or HIP runs in this process: from then on it sees no other devices."""
    if _is_open():
        return True
    library = _loaded(_CUDA_LIBRARIES)
    # Before cuInit, the library answers only that it is not initialised.
    return library is not None and library.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) == 0


def uuids() -> tuple[str, ...]:
    """Return the UUIDs of the devices that CUDA sees in this process, in its order.

    They are without the driver's prefix (GPU or MIG). Empty where CUDA has not started or does not
    tell.
    """
    library = _loaded(_CUDA_LIBRARIES)
    count, device, found = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    # The first version told the card of a MIG instance.
    ask = getattr(library, "cuDeviceGetUuid_v2", None)
    if library is None or ask is None or library.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    seen = []
    for ordinal in range(count.value):
        if library.cuDeviceGet(ctypes.byref(device), ordinal) or ask(ctypes.byref(found), device):
            return ()
        seen.append(str(UUID(bytes=bytes(found))))
    return tuple(seen)


def synchronize() -> None:
    """Wait for all work of this process on its devices; do nothing where it uses none.

    Raises :class:`CudaError`.
    """
    wait = waiter()
    if wait is not None:
        wait()


def waiter() -> Callable[[], None] | None:
    """Return a function that waits for all work on the devices now in use, None where none is.

    With CUDA these are the context that is current in this thread, and the primary contexts of
    all devices, which only PyCUDA does without. With HIP it is the current device. Raises
    :class:`CudaError`, and so does the function.
    """
    library = _loaded(_CUDA_LIBRARIES)
    if library is not None:
        return _cuda_waiter(library)
    # After each test this is asked, so first what is quick to find out.
    library = _loaded(_HIP_LIBRARIES) if _is_open() else None
    return None if library is None else _hip_waiter(library)


def _is_open() -> bool:
    """Return whether PyTorch or an open file of this process shows that it uses a device."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return True
    return not _COMPUTE_DEVICES.isdisjoint(_open_files())


def _open_files() -> Iterator[str]:
    # By paths this takes twice as long.
    with suppress(OSError):
        for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208
            with suppress(OSError):
                yield os.readlink(f"{_DESCRIPTORS}/{name}")  # noqa: PTH115


def _loaded(names: tuple[str, ...]) -> Any:
    """Return a library of these names that this process has loaded already, None without one."""
    only_loaded = getattr(os, "RTLD_NOLOAD", None)
    if only_loaded is None:
        return None
    for name in names:
        with suppress(OSError):
            return ctypes.CDLL(name, mode=only_loaded)
    return None


def _cuda_waiter(library: Any) -> Callable[[], None] | None:
    def described(status: int, ask: Any) -> str:
        found = ctypes.c_char_p()
        ask(status, ctypes.byref(found))
        return (found.value or f"CUDA error {status}".encode()).decode(errors="replace")

    def check(status: int, fine: frozenset[int] = frozenset()) -> bool:
        if status and status not in fine:
            name = described(status, library.cuGetErrorName)
            raise CudaError(name, described(status, library.cuGetErrorString))
        return not status

    current = ctypes.c_void_p()
    if not check(library.cuCtxGetCurrent(ctypes.byref(current)), _NOT_RUNNING):
        return None
    found = {current.value, *_primary_contexts(library, check)} - {None}
    contexts = [ctypes.c_void_p(value) for value in found]

    def wait() -> None:
        for context in contexts:
            if not check(library.cuCtxPushCurrent_v2(context), _NOT_RUNNING | _GONE):
                continue
            try:
                check(library.cuCtxSynchronize())
            finally:
                library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    return wait if contexts else None


def _primary_contexts(library: Any, check: Callable[[int], bool]) -> Iterator[int | None]:
    """Yield the primary contexts of the devices that have an active one."""
    count, device, flags, active = ctypes.c_int(), ctypes.c_int(), ctypes.c_uint(), ctypes.c_int()
    check(library.cuDeviceGetCount(ctypes.byref(count)))
    for ordinal in range(count.value):
        check(library.cuDeviceGet(ctypes.byref(device), ordinal))
        state = ctypes.byref(flags), ctypes.byref(active)
        check(library.cuDevicePrimaryCtxGetState(device, *state))
        if active.value:
            context = ctypes.c_void_p()
            check(library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
            library.cuDevicePrimaryCtxRelease_v2(device)
            yield context.value


def _hip_waiter(library: Any) -> Callable[[], None]:
    for ask in (library.hipGetErrorName, library.hipGetErrorString):
        ask.restype = ctypes.c_char_p

    def wait() -> None:
        status = library.hipDeviceSynchronize()
        if status:
            texts = (library.hipGetErrorName(status), library.hipGetErrorString(status))
            raise CudaError(*(text.decode(errors="replace") for text in texts))

    return wait
