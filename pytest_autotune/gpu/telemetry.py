"""The state of devices during a measurement, and whether it disturbed the measurement."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Final

from pytest_autotune.gpu import nvml
from pytest_autotune.gpu.nvml import NvmlUnavailable
from pytest_autotune.gpu.readings import DISTURBING, Process, Reading
from pytest_autotune.gpu.visible import Device
from pytest_autotune.system.processes import family

_PERIOD_SECONDS: Final = 0.05
_PROC: Final = Path("/proc")


def strangers(device: Device, root: int | None = None) -> tuple[Process, ...]:
    """Return the processes on a device that neither are ``root`` nor descend from it.

    The default is this process. A number that is no process here belongs to another PID namespace,
    perhaps to this run itself, and is left out. Empty if NVML cannot tell.
    """
    if device.uuid is None:
        return ()
    try:
        found = nvml.processes(device.uuid)
    except NvmlUnavailable:
        return ()
    if not found:
        return ()
    ours = family(os.getpid() if root is None else root)
    return tuple(p for p in found if p.pid not in ours and (_PROC / str(p.pid)).exists())


def describe(process: Process) -> str:
    """Return a description of a process: ``pid 4242 (python, 1024 MiB)``."""
    details = []
    with suppress(OSError):
        details.append((_PROC / str(process.pid) / "comm").read_text().strip())
    if process.memory is not None:
        details.append(f"{process.memory / 2**20:.0f} MiB")
    return f"pid {process.pid}" + (f" ({', '.join(details)})" if details else "")


class Telemetry:
    """Reads devices every 50 ms inside a ``with`` block; the observation is complete at its end.

    ``is_stranger`` returns whether a process on a device is somebody else's, of those that do not
    descend from ``root`` (this process by default).
    """

    #: A hot or shared device may be slower by any factor.
    severe: Final = True

    def __init__(
        self,
        devices: Sequence[Device],
        is_stranger: Callable[[Process], bool] = lambda _: True,
        root: int | None = None,
    ) -> None:
        self._devices = [device for device in devices if device.uuid is not None]
        self._is_stranger = is_stranger
        self._root = root
        self._known: dict[str, set[int]] = {}
        self._readings: dict[str, list[Reading]] = {}
        self._guests: dict[str, dict[int, Process]] = {}
        self._idle: dict[str, dict[int, Process]] = {}
        self._began = 0.0
        self._lost: set[str] = set()
        self._problem = ""
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Telemetry:  # noqa: PYI034 - Python 3.10 has no Self
        """Begin."""
        self._began = time.time()
        self._look()
        if self._readings:
            # Daemonic, so that a run that is interrupted here can end.
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, with a last look."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._look()
            self._acquit_idle()

    def _run(self) -> None:
        while not self._end.wait(_PERIOD_SECONDS):
            self._look()

    def _look(self) -> None:
        for device in self._devices:
            assert device.uuid is not None
            try:
                self._readings.setdefault(device.key, []).append(nvml.read(device.uuid))
                self._meet(device)
            except NvmlUnavailable as error:
                self._lost.add(device.key)
                self._problem = str(error)

    def _meet(self, device: Device) -> None:
        """Look for processes on a device. The owner of each is found out once."""
        assert device.uuid is not None
        known = self._known.setdefault(device.key, {os.getpid()})
        here = {process.pid for process in nvml.processes(device.uuid)}
        if here <= known:
            return
        for process in strangers(device, self._root):
            if process.pid not in known and self._is_stranger(process):
                self._guests.setdefault(device.key, {})[process.pid] = process
        known |= here

    def _acquit_idle(self) -> None:
        """Leave out processes that only held memory, if the driver tells which computed."""
        for device in self._devices:
            guests = self._guests.get(device.key)
            if not guests:
                continue
            assert device.uuid is not None
            busy = None
            with suppress(NvmlUnavailable):
                busy = nvml.busy(device.uuid, self._began)
            if busy is not None:
                idle = {pid: process for pid, process in guests.items() if pid not in busy}
                self._idle[device.key] = idle
                self._guests[device.key] = {p: g for p, g in guests.items() if p in busy}

    @property
    def disturbances(self) -> tuple[str, ...]:
        """Reasons not to believe the measurement."""
        found = []
        for device in self._devices:
            reasons = self._reasons(device) & DISTURBING
            if reasons:
                found.append(f"{device} was throttled ({', '.join(sorted(reasons))})")
            guests = self._guests.get(device.key, {})
            if guests:
                others = ", ".join(map(describe, guests.values()))
                found.append(f"{device} was used by others, too: {others}")
        return tuple(found)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Other remarks: harmless reasons for lower clocks, and why something was not seen."""
        found = []
        for device in self._devices:
            reasons = self._reasons(device) - DISTURBING
            if reasons:
                found.append(f"clocks of {device} were limited ({', '.join(sorted(reasons))})")
            idle = self._idle.get(device.key)
            if idle:
                others = ", ".join(map(describe, idle.values()))
                found.append(f"{device} was held by others, too, which did not use it: {others}")
        return (*found, *([f"no telemetry: {self._problem}"] if self._problem else ()))

    @property
    def energy(self) -> float | None:
        """Joules that the devices used, None if one of them does not tell.

        From the counters that cards have since Volta. A MIG instance has none of its own.
        """
        used = [self._energy_of(device) for device in self._devices]
        known = [joules for joules in used if joules is not None]
        return sum(known) if known and len(known) == len(used) else None

    def _energy_of(self, device: Device) -> float | None:
        if str(device.uuid).startswith("MIG-") or device.key in self._lost:
            return None
        counters = [r.energy for r in self._readings.get(device.key, ()) if r.energy is not None]
        if not counters:
            return None
        # A counter that starts anew, as after a reset, has lost what was before.
        return sum(later - earlier for earlier, later in pairwise(counters) if later >= earlier)

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of all devices together: power and memory added up, the hottest, the slowest."""
        # The use of a device that was lost meanwhile is not known.
        each = [
            [] if device.key in self._lost else self._readings.get(device.key, [])
            for device in self._devices
        ]
        power = [[r.power for r in readings if r.power is not None] for readings in each]
        memory = [[r.memory_used for r in found if r.memory_used is not None] for found in each]
        clocks = [r.sm_clock for readings in each for r in readings if r.sm_clock is not None]
        heat = [r.temperature for found in each for r in found if r.temperature is not None]
        found: dict[str, float] = {}
        if power and all(power):
            found["mean_gpu_power_w"] = sum(map(fmean, power))
        if memory and all(memory):
            found["max_gpu_memory_mib"] = sum(map(max, memory)) / 2**20
        if clocks:
            found["mean_gpu_clock_mhz"] = fmean(clocks)
            found["min_gpu_clock_mhz"] = float(min(clocks))
        if heat:
            found["max_gpu_temperature_c"] = float(max(heat))
        return found

    def _reasons(self, device: Device) -> frozenset[str]:
        readings = self._readings.get(device.key, ())
        return frozenset(reason for reading in readings for reason in reading.throttle)
