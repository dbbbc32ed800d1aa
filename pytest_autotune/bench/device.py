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
#: So many calls find the device's queue all but empty.
_UNQUEUED: Final = 3


class TimedDevice(Protocol):
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
        """Have the device stamp ``event`` once all launched before it is done."""
        event.record()

    def elapsed(self, start: Any, end: Any) -> float:
        """Return the seconds between two events that have been stamped."""
        return float(start.elapsed_time(end)) / 1e3

    def flusher(self, size: int) -> Callable[[], None]:
        """Return a function that launches the overwriting of ``size`` bytes."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that replays what ``work`` launches, as one graph.

        Raises :class:`BenchmarkError` where the framework has no graphs.
        """

    def reset_peak_memory(self) -> None:
        """Forget the peak of allocated memory, where one is kept."""
        return

    def peak_memory(self) -> int | None:
        """Return the most bytes that were allocated since, None where that is not known."""
        return None


class DeviceTimer:
    """Times single calls, each between two events, with the caches flushed before it.

    ``host_times`` are the seconds that the host took to launch a call: where they are longer
    than the call itself (and than the flush before it), it is the host that was timed. Only the
    first calls of a batch count, as later ones may have to wait for a place in the device's queue.
    """

    loops: Final = 1

    def __init__(self, work: Work, device: TimedDevice, *, cold_cache: bool) -> None:
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
        empty = Work(lambda: None, [()])
        cold = self._flush is not None
        return median(DeviceTimer(empty, self._device, cold_cache=cold).batch(10))
