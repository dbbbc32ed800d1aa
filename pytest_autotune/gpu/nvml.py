"""The NVIDIA management library (NVML), typed: the devices and their state.

It needs the driver and the extra ``gpu`` (nvidia-ml-py). Every function here raises
:class:`NvmlUnavailable` if either is missing, or if a device is not there or no longer answers.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pytest_autotune.errors import AutotuneError
from pytest_autotune.gpu.readings import Driver, Gpu, Mig, Process, Reading

#: What a status of NVML, and so an exit status of nvidia-smi, means and what to do.
REASONS: Final[Mapping[int, str]] = {
    4: "this user may not use the NVIDIA driver; check the permissions of /dev/nvidia*",
    9: "the NVIDIA driver is not loaded; load its kernel module (modprobe nvidia), or give the "
    "container its GPUs",
    12: "there is no library of the NVIDIA driver (libnvidia-ml.so.1); install the driver, or "
    "give the container its GPUs",
    18: "the NVIDIA driver and its library are of different versions (driver was updated?); "
    "reboot or reload the kernel module",
}

#: Invalid argument, not supported, no permission, not found, no such function, no data, version
#: of the argument, deprecated, not ready, unknown: what cards, virtual cards, MIG instances and
#: drivers answer about what they cannot tell.
_NO_ANSWER: Final = frozenset({2, 3, 4, 6, 13, 21, 25, 26, 27, 999})

#: No permission, no external power, interrupt lost, fallen off the bus, needs a reset: such a
#: device says nothing of the others.
_UNUSABLE: Final = frozenset({4, 8, 11, 15, 16})

_INVALID_ARGUMENT: Final = 2
_NOT_FOUND: Final = 6

#: NVML's sensors and clock domains, by the numbers of its interface.
_DIE: Final = 0
_GRAPHICS, _SM, _MEMORY = 0, 1, 2

#: Power at this moment, as a field: since Ampere, the function tells the mean of a second.
_INSTANT_POWER: Final = 186

#: Why clocks are lower than they could be, by NVML's bits. Bit 0 says that the device is idle.
_IDLE: Final = 0x001
_THROTTLE: Final[Mapping[int, str]] = {
    0x002: "application clocks",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "thermal (software)",
    0x040: "thermal (hardware)",
    0x080: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "voltage (reliability)",
}


class NvmlUnavailable(AutotuneError):
    """NVML, or the device asked for, is not there; the message says why and what to do."""


class _Library:
    """NVML as this process has initialised it, at most once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tried = False
        self._failure = ""

    def open(self) -> Any:
        try:
            import pynvml
        except ImportError:
            raise NvmlUnavailable(
                "nvidia-ml-py is not installed; pip install 'pytest-autotune[gpu]'"
            ) from None
        with self._lock:
            if not self._tried:
                try:
                    pynvml.nvmlInit()
                except pynvml.NVMLError as error:
                    self._failure = _words(error)
                self._tried = True
        if self._failure:
            raise NvmlUnavailable(self._failure)
        return pynvml


_library = _Library()


def _forget() -> None:
    global _library  # noqa: PLW0603 - one per process is the point
    _library = _Library()


# NVML must be initialised by the process that uses it, and the lock may be held by a thread
# that the child does not have.
os.register_at_fork(after_in_child=_forget)


def _words(error: Any) -> str:
    return REASONS.get(error.value) or f"NVML failed: {error}"


@contextmanager
def _nvml() -> Iterator[Any]:
    """Yield the module pynvml, initialised; raise its errors in our words."""
    pynvml = _library.open()
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(_words(error)) from None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


class _Handle:
    """A device or MIG instance, to be asked for figures that it may not have."""

    def __init__(self, pynvml: Any, *handles: Any) -> None:
        self._pynvml = pynvml
        self._handles = handles

    @classmethod
    def find(cls, pynvml: Any, uuid: str) -> _Handle:
        """Return the device or MIG instance. Where an instance has no answer, its device has."""
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            if error.value in {_INVALID_ARGUMENT, _NOT_FOUND}:
                raise NvmlUnavailable(f"no NVIDIA device has the UUID {uuid}") from None
            raise
        if not uuid.startswith("MIG-"):
            return cls(pynvml, handle)
        return cls(pynvml, handle, pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))

    @property
    def handle(self) -> Any:
        """NVML's handle of the device."""
        return self._handles[0]

    def itself(self) -> _Handle:
        """Return the instance without its whole device."""
        return _Handle(self._pynvml, self._handles[0])

    def ask(self, *calls: tuple[Any, ...]) -> Any:
        """Return the first answer to one of ``calls`` (name, argument...), None without any."""
        for handle in self._handles:
            for name, *arguments in calls:
                function = getattr(self._pynvml, name, None)
                if function is None:
                    continue
                try:
                    return function(handle, *arguments)
                except self._pynvml.NVMLError as error:
                    if error.value not in _NO_ANSWER:
                        raise
        return None

    def instant_power(self) -> int | None:
        """Return the power at this moment in milliwatts, a whole number, or None."""
        found = self.ask(("nvmlDeviceGetFieldValues", [_INSTANT_POWER]))
        if found is None or found[0].nvmlReturn:
            return None
        return int(found[0].value.uiVal)

    def memory(self) -> Any:
        """Return the ``total`` and ``used`` memory in bytes, or None."""
        # The second version does not count as used what the driver keeps for itself.
        return self.ask(
            ("nvmlDeviceGetMemoryInfo", self._pynvml.nvmlMemory_v2),
            ("nvmlDeviceGetMemoryInfo",),
        )

    def total_memory(self) -> int:
        memory = self.memory()
        return 0 if memory is None else int(memory.total)


def gpus() -> tuple[Gpu, ...]:
    """Return the devices that this process may use, by index.

    Left out are those that do not work or that this user has no permission for.
    """
    found = []
    with _nvml() as pynvml:
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                mig_mode = _is_in_mig_mode(pynvml, handle)
                gpu = Gpu(
                    index=index,
                    uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
                    name=_text(pynvml.nvmlDeviceGetName(handle)),
                    memory=_Handle(pynvml, handle).total_memory(),
                    mig=_mig(pynvml, handle) if mig_mode else (),
                    mig_mode=mig_mode,
                )
            except pynvml.NVMLError as error:
                if error.value not in _UNUSABLE:
                    raise
            else:
                found.append(gpu)
    return tuple(found)


def _is_in_mig_mode(pynvml: Any, handle: Any) -> bool:
    mode = _Handle(pynvml, handle).ask(("nvmlDeviceGetMigMode",))
    return mode is not None and bool(mode[0])


def _mig(pynvml: Any, handle: Any) -> tuple[Mig, ...]:
    device = _Handle(pynvml, handle)
    found = []
    for slot in range(device.ask(("nvmlDeviceGetMaxMigDeviceCount",)) or 0):
        # Slots of instances that were taken away stay empty, with others after them.
        instance = device.ask(("nvmlDeviceGetMigDeviceHandleByIndex", slot))
        if instance is not None:
            found.append(
                Mig(
                    uuid=_text(pynvml.nvmlDeviceGetUUID(instance)),
                    name=_text(pynvml.nvmlDeviceGetName(instance)),
                    memory=_Handle(pynvml, instance).total_memory(),
                )
            )
    return tuple(found)


def driver() -> Driver:
    """Return the driver's version and that of CUDA."""
    with _nvml() as pynvml:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return Driver(
            version=_text(pynvml.nvmlSystemGetDriverVersion()),
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
        )


def read(uuid: str) -> Reading:
    """Return the state of the device or MIG instance.

    What NVML does not tell of an instance is that of its whole device, but for power and energy:
    other instances use them, too.
    """
    with _nvml() as pynvml:
        device = _Handle.find(pynvml, uuid)
        itself = device.itself()
        energy = itself.ask(("nvmlDeviceGetTotalEnergyConsumption",))
        power = itself.instant_power()
        if power is None and energy is None:
            # Before Volta, where there is no counter, it was of the moment.
            power = itself.ask(("nvmlDeviceGetPowerUsage",))
        reasons = device.ask(
            ("nvmlDeviceGetCurrentClocksEventReasons",),
            # As it was called before driver 535.
            ("nvmlDeviceGetCurrentClocksThrottleReasons",),
        )
        memory = device.memory()
        return Reading(
            power=None if power is None else power / 1e3,
            energy=None if energy is None else energy / 1e3,
            sm_clock=device.ask(("nvmlDeviceGetClockInfo", _SM)),
            temperature=device.ask(
                ("nvmlDeviceGetTemperature", _DIE),
                # Its successor; the other one is to go with CUDA 14.
                ("nvmlDeviceGetTemperatureV", _DIE),
            ),
            throttle=frozenset(name for bit, name in _THROTTLE.items() if (reasons or 0) & bit),
            memory_used=None if memory is None else int(memory.used),
            idle=bool((reasons or 0) & _IDLE),
            at=time.monotonic(),
        )


def processes(uuid: str) -> tuple[Process, ...]:
    """Return the processes that compute on the device or MIG instance, none where unsupported.

    Those that only draw are left out.
    """
    with _nvml() as pynvml:
        device = _Handle.find(pynvml, uuid).itself()
        found = device.ask(
            ("nvmlDeviceGetComputeRunningProcesses_v3",),
            ("nvmlDeviceGetComputeRunningProcesses_v2",),
        )
        return tuple(Process(pid=each.pid, memory=each.usedGpuMemory) for each in found or ())


def busy(uuid: str, since: float) -> Mapping[int, float] | None:
    """Return who computed on the device, by the driver's last sample after ``since``.

    The times are those of the sample; all are in seconds of the epoch. Empty where there is no
    sample yet. None where the device does not tell, as MIG instances and older cards do not.
    """
    with _nvml() as pynvml:
        device = _Handle.find(pynvml, uuid).itself()
        try:
            found = pynvml.nvmlDeviceGetProcessUtilization(device.handle, round(since * 1e6))
        except pynvml.NVMLError as error:
            return {} if error.value == _NOT_FOUND else None
    return {each.pid: each.timeStamp / 1e6 for each in found if each.smUtil > 0}


def clocks_policy(uuid: str) -> str:
    """Return the device's settings for clocks and power, as a short text to compare.

    For example "application clocks 1980/2619 MHz, power limit 700 W, persistence on", without
    the parts that it does not support. Locked clocks cannot be asked for.
    """
    with _nvml() as pynvml:
        device = _Handle.find(pynvml, uuid)
        graphics, memory = (
            device.ask(("nvmlDeviceGetApplicationsClock", domain))
            for domain in (_GRAPHICS, _MEMORY)
        )
        limit = device.ask(("nvmlDeviceGetPowerManagementLimit",))
        persistence = device.ask(("nvmlDeviceGetPersistenceMode",))
    parts = []
    if graphics is not None and memory is not None:
        parts.append(f"application clocks {graphics}/{memory} MHz")
    if limit is not None:
        parts.append(f"power limit {limit / 1e3:g} W")
    if persistence is not None:
        parts.append(f"persistence {'on' if persistence else 'off'}")
    return ", ".join(parts)
