"""Whether a function uses a GPU at all, and whether events around its calls see that."""

from __future__ import annotations

import time
from typing import Final

from pytest_autotune.bench.device import FLUSH_BYTES, TimedDevice
from pytest_autotune.bench.work import Work

#: To wait for the device costs the host some microseconds, little beside this (seconds).
_LONG_SECONDS: Final = 2e-3
#: What waiting for the device may cost beside what it does (seconds).
_SLACK_SECONDS: Final = 100e-6
#: Kernels of a microsecond are seen where there are some of them.
_PROBES: Final = 20
#: CUDA's queue takes about a thousand launches, then the host waits.
_MAX_QUEUED: Final = 500
#: By this much times between events differ by themselves (seconds).
_EVENT_SECONDS: Final = 5e-6


def sees_work(work: Work, device: TimedDevice) -> bool:
    """Return whether the calls' work on the device passes between events around them.

    Work on another stream does not. The device then takes longer to finish everything than the
    time between those events.
    """
    rest, between = _waited(work, device, 1)
    if rest <= _SLACK_SECONDS:
        # Too short to tell by one.
        rest, between = _waited(work, device, _PROBES)
    return rest <= 2 * between + _SLACK_SECONDS


def _waited(work: Work, device: TimedDevice, calls: int) -> tuple[float, float]:
    """Return the seconds that calls took after they were launched, and those between events."""
    start, end = device.event(), device.event()
    device.synchronize()
    device.record(start)
    for _ in range(calls):
        work()
    device.record(end)
    launched = time.perf_counter()
    device.synchronize()
    return time.perf_counter() - launched, device.elapsed(start, end)


def launches_work(work: Work, device: TimedDevice) -> bool | None:
    """Return whether calls leave the device anything to do.

    None where the host's clock is the better choice: the host is busy for long, or the calls
    launch on another stream.

    Some calls are queued behind so much other work that the host is done with them before the
    device begins them. The time between events around them is then the device's own. For a
    function that does not use the device, it is no more than between two events in a row.
    """
    flush = device.flusher(FLUSH_BYTES)
    begun, flushed, before, after, empty = (device.event() for _ in range(5))
    device.synchronize()
    begin = time.perf_counter()
    work()
    launching = time.perf_counter() - begin
    device.synchronize()
    rest = time.perf_counter() - begin - launching
    if launching > _LONG_SECONDS:
        return None
    device.record(begun)
    flush()
    device.record(flushed)
    device.synchronize()
    each = max(device.elapsed(begun, flushed), 1e-6)
    for _ in range(min(int(2 * _PROBES * launching / each) + 1, _MAX_QUEUED)):
        flush()
    device.record(before)
    for _ in range(_PROBES):
        work()
    device.record(after)
    device.record(empty)
    device.synchronize()
    if device.elapsed(before, after) > device.elapsed(after, empty) + _EVENT_SECONDS:
        return True
    # Work on another stream was waited for, but did not pass between the events.
    return None if rest > _SLACK_SECONDS else False
