"""Devices, drivers, readings and processes, as the driver reports them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: The reasons in :attr:`Reading.throttle` that make a measurement unreliable. A power cap is
#: not among them: it is the normal state of a card under heavy load.
DISTURBING: Final[frozenset[str]] = frozenset(
    {"hardware slowdown", "thermal (hardware)", "thermal (software)", "power brake"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mig:
    """An instance of a device in MIG mode. ``memory`` is in bytes, 0 if unknown."""

    uuid: str
    name: str
    memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device.

    ``index`` is the driver's (in the order of PCI addresses), ``memory`` in bytes, 0 if it has
    none of its own. ``mig`` are its MIG instances, where ``mig_mode`` is on. In that mode nothing
    but an instance can be used.
    """

    index: int
    uuid: str
    name: str
    memory: int
    mig: tuple[Mig, ...] = ()
    mig_mode: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """The driver's version, and the newest CUDA version that it serves (``12.8``)."""

    version: str
    cuda: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The state of a device; a figure is None if the device does not tell it.

    ``power`` is in watts, of this moment. ``energy`` is in joules since the driver was loaded.
    A MIG instance has neither, as both are its whole device's. ``sm_clock`` is in MHz,
    ``temperature`` in degrees Celsius and ``memory_used`` in bytes. ``throttle`` says why clocks
    are lower than they could be: "power cap", "thermal (hardware)" and the like. ``idle`` is
    whether they are low as nothing runs. ``at`` is the time of the reading, of the monotonic clock.
    """

    power: float | None = None
    energy: float | None = None
    sm_clock: int | None = None
    temperature: int | None = None
    throttle: frozenset[str] = frozenset()
    memory_used: int | None = None
    idle: bool = False
    at: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that computes on a device, and the bytes it holds there, None if unknown.

    In a container ``pid`` may be that of the host.
    """

    pid: int
    memory: int | None
