"""Whether a function uses a GPU at all, and whether events around its calls see that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pytest_autotune.bench.device import TimedDevice, cache_flusher
from pytest_autotune.bench.host import quiet_collector
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

    None where the host's clock is the better choice: the host is busy for long, the calls launch
    on another stream, or the device cannot be kept busy for long enough to find out.
    """
    device.synchronize()
    begin = time.perf_counter()
    work()
    launching = time.perf_counter() - begin
    device.synchronize()
    rest = time.perf_counter() - begin - launching
    if launching > _LONG_SECONDS:
        return None
    flush = cache_flusher(device)
    each = _warm_seconds(flush, device)
    # One call shows most kernels, and many of them do not fill the queue.
    for calls in (1, _PROBES):
        ahead = min(int(2 * calls * launching / each) + 1, _MAX_QUEUED)
        left = _left_to_do(work, device, flush, calls=calls, ahead=ahead)
        if left:
            return True
    # Work on another stream was waited for, but did not pass between the events.
    return None if left is None or rest > _SLACK_SECONDS else False


def _warm_seconds(flush: Callable[[], None], device: TimedDevice) -> float:
    """Return the seconds of a flush, without what the first one loads."""
    start, end = device.event(), device.event()
    # The first one loads its kernel, and keeps the device busy while the second is launched.
    flush()
    device.record(start)
    flush()
    device.record(end)
    device.synchronize()
    return max(device.elapsed(start, end), 1e-6)


def _left_to_do(
    work: Work, device: TimedDevice, flush: Callable[[], None], *, calls: int, ahead: int
) -> bool | None:
    """Return whether calls leave the device anything to do, None where that cannot be told.

    The calls are queued behind ``ahead`` flushes. Where the host is done with them before the
    device begins them, the time between events around them is the device's own. For a function
    that does not use the device, it is no more than between two events in a row.
    """
    begun, before, after, empty = (device.event() for _ in range(4))
    with quiet_collector():
        begin = time.perf_counter()
        device.record(begun)
        for _ in range(ahead):
            flush()
        device.record(before)
        for _ in range(calls):
            work()
        device.record(after)
        device.record(empty)
        queued = time.perf_counter() - begin
        device.synchronize()
    if device.elapsed(before, after) <= device.elapsed(after, empty) + _EVENT_SECONDS:
        return False
    return True if queued <= device.elapsed(begun, before) else None
