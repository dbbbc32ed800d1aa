"""The state of devices during a measurement, and whether it disturbed the measurement."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from statistics import fmean
from typing import Final

from pytest_autotune.gpu import figures, nvml
from pytest_autotune.gpu.guests import Guests
from pytest_autotune.gpu.nvml import NvmlUnavailable
from pytest_autotune.gpu.readings import DISTURBING, Process, Reading
from pytest_autotune.gpu.strangers import describe
from pytest_autotune.gpu.visible import Device

_PERIOD_SECONDS: Final = 0.05


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
        self._readings: dict[str, list[Reading]] = {}
        self._guests: dict[str, Guests] = {}
        self._lost: set[str] = set()
        self._problem = ""
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Telemetry:  # noqa: PYI034 - Python 3.10 has no Self
        """Begin."""
        for device in self._devices:
            assert device.uuid is not None
            self._guests[device.key] = Guests(device.uuid, self._is_stranger, self._root)
        self._look()
        if self._readings:
            # Daemonic, so that a run that is interrupted here can end.
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End, with a last look."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._look()
            if kind is None:
                self._settle()

    def _run(self) -> None:
        while not self._end.wait(_PERIOD_SECONDS):
            self._look()

    def _look(self) -> None:
        for device in self._devices:
            assert device.uuid is not None
            try:
                self._readings.setdefault(device.key, []).append(nvml.read(device.uuid))
                self._guests[device.key].look()
            except NvmlUnavailable as error:
                self._lost.add(device.key)
                self._problem = str(error)

    def _settle(self) -> None:
        for guests in self._guests.values():
            with suppress(NvmlUnavailable):
                guests.settle()

    @property
    def disturbances(self) -> tuple[str, ...]:
        """Reasons not to believe the measurement."""
        found = []
        for device in self._devices:
            reasons = self._reasons(device) & DISTURBING
            if reasons:
                found.append(f"{device} was throttled ({', '.join(sorted(reasons))})")
            guests = self._guests.get(device.key)
            if guests is not None and guests.working:
                others = ", ".join(map(describe, guests.working.values()))
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
            guests = self._guests.get(device.key)
            if guests is not None and guests.idle:
                others = ", ".join(map(describe, guests.idle.values()))
                found.append(f"{device} was held by others, too, which did not use it: {others}")
        return (*found, *([f"no telemetry: {self._problem}"] if self._problem else ()))

    @property
    def energy(self) -> float | None:
        """Joules that the devices used, None if one of them does not tell.

        From the counters that cards have since Volta. A MIG instance has none of its own.
        """
        used = [figures.energy(readings) for readings in self._whole]
        known = [joules for joules in used if joules is not None]
        return sum(known) if known and len(known) == len(used) else None

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of all devices together: power and memory added up, the hottest, the slowest."""
        each = self._whole
        power = [figures.mean_power(readings) for readings in each]
        memory = [[r.memory_used for r in found if r.memory_used is not None] for found in each]
        clocks = [clock for readings in each for clock in figures.clocks(readings)]
        heat = [r.temperature for found in each for r in found if r.temperature is not None]
        found: dict[str, float] = {}
        watts = [value for value in power if value is not None]
        if watts and len(watts) == len(power):
            found["mean_gpu_power_w"] = sum(watts)
        if memory and all(memory):
            found["max_gpu_memory_mib"] = sum(map(max, memory)) / 2**20
        if clocks:
            found["mean_gpu_clock_mhz"] = fmean(clocks)
            found["min_gpu_clock_mhz"] = float(min(clocks))
        if heat:
            found["max_gpu_temperature_c"] = float(max(heat))
        return found

    @property
    def _whole(self) -> Sequence[Sequence[Reading]]:
        """The readings of each device, none of one that was lost meanwhile: its use is unknown."""
        return [
            () if device.key in self._lost else tuple(self._readings.get(device.key, ()))
            for device in self._devices
        ]

    def _reasons(self, device: Device) -> frozenset[str]:
        readings = self._readings.get(device.key, ())
        return frozenset(reason for reading in readings for reason in reading.throttle)
