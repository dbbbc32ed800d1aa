"""Timing on a GPU, by events that the device itself stamps."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final, Protocol

from pytest_autotune.bench.work import Work

#: Overwritten between calls, so that the caches answer nothing: several times the L2 cache of any
#: device yet, and what Triton's ``do_bench`` takes.
FLUSH_BYTES: Final = 256 * 2**20
#: One replay of a graph lasts at least this long, so that launching it does not count (seconds).
_GRAPH_SECONDS: Final = 1e-3
_MAX_UNROLLED: Final = 1000
#: To wait for the device costs the host some microseconds, little beside this (seconds).
_LONG_SECONDS: Final = 2e-3
#: Kernels of a microsecond are seen where there are some of them.
_PROBES: Final = 10
#: CUDA's queue takes about a thousand launches, then the host waits.
_MAX_QUEUED: Final = 500
#: By this much times between events differ by themselves (seconds).
_EVENT_SECONDS: Final = 5e-6
#: So many calls find the device's queue all but empty.
_UNQUEUED: Final = 3


class Device(Protocol):
    """A GPU, in the hands of the framework whose kernels are timed.

    ``name`` is the framework's. Everything goes to the stream that the framework launches on,
    in order.
    """

    name: str

    def synchronize(self) -> None:
        """Wait until the device has done everything."""

    def event(self) -> Any:
        """Return a new event that can be timed."""

    def record(self, event: Any) -> None:
        """Have the device stamp ``event`` once it has done what was launched before."""

    def elapsed(self, start: Any, end: Any) -> float:
        """Return the seconds between two events that have been stamped."""

    def flusher(self, size: int) -> Callable[[], None]:
        """Return a function that launches the overwriting of ``size`` bytes."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that replays what ``work`` launches, as one graph.

        Raises :class:`BenchmarkError` where the framework has no graphs.
        """

    def reset_peak_memory(self) -> None:
        """Forget the peak."""

    def peak_memory(self) -> int | None:
        """Return the most bytes that were allocated since, None where that is not known."""


class DeviceTimer:
    """Times single calls, each between two events, with the caches flushed before it.

    ``host_times`` are the seconds that the host took to launch a call: where they are longer
    than the call itself (and than the flush before it), it is the host that was timed. Only the
    first calls of a batch count, as later ones may have to wait for a place in the device's queue.
    """

    loops: Final = 1

    def __init__(self, work: Work, device: Device, *, cold_cache: bool) -> None:
        self._work = work
        self._device = device
        self._flush = device.flusher(FLUSH_BYTES) if cold_cache else None
        self.host_times: list[float] = []

    def batch(self, count: int) -> list[float]:
        """Return ``count`` samples, in seconds per call; waits once, at the end."""
        device, work, flush = self._device, self._work, self._flush
        pairs = [(device.event(), device.event()) for _ in range(count)]
        for number, (start, end) in enumerate(pairs):
            if flush is not None:
                flush()
            device.record(start)
            begin = time.perf_counter()
            work()
            if number < _UNQUEUED:
                self.host_times.append(time.perf_counter() - begin)
            device.record(end)
        device.synchronize()
        return [device.elapsed(start, end) for start, end in pairs]

    def overhead(self) -> float:
        """Return the seconds between two events with nothing between them."""
        return median(
            DeviceTimer(
                Work(_nothing, [()]), self._device, cold_cache=self._flush is not None
            ).batch(10)
        )


def launches_work(work: Work, device: Device) -> bool:
    """Tell whether calls leave the device anything to do.

    Some are made behind so much other work that the host is done with them before the device
    comes to them. What passes between the events around them then is the device's own time, and
    for a function that does not use it no more than between two events in a row. A function that
    keeps the host busy for long is not tried: the host's clock is good enough for it.
    """
    flush = device.flusher(FLUSH_BYTES)
    begun, flushed, before, after, empty = (device.event() for _ in range(5))
    device.synchronize()
    begin = time.perf_counter()
    work()
    launching = time.perf_counter() - begin
    if launching > _LONG_SECONDS:
        return False
    device.synchronize()
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
    return device.elapsed(before, after) > device.elapsed(after, empty) + _EVENT_SECONDS


class GraphTimer:
    """Times replays of a graph of many calls, so that launching them costs the host nothing.

    ``loops`` is how many calls are in it. With a cold cache there is one, and its launch counts.
    """

    def __init__(self, work: Work, device: Device, *, cold_cache: bool, estimate: float) -> None:
        unrolled = 1 if cold_cache else int(_GRAPH_SECONDS / max(estimate, 1e-7))
        # Each set of arguments as often as every other.
        sets = len(work.sets)
        rounds = max(1, min(-(-unrolled // sets), _MAX_UNROLLED // sets))
        self.loops = 1 if cold_cache else sets * rounds
        replay = device.capture(work.bound(self.loops))
        self._timer = DeviceTimer(Work(replay, [()]), device, cold_cache=cold_cache)

    def batch(self, count: int) -> list[float]:
        """Return ``count`` samples, in seconds per call."""
        return [seconds / self.loops for seconds in self._timer.batch(count)]

    def overhead(self) -> float:
        """Return what timing adds to a call, in seconds."""
        return self._timer.overhead() / self.loops


def _nothing() -> None:
    pass
