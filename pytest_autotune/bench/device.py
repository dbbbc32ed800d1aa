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

    ``host_times`` are the seconds that the host took to launch each call: where they are longer
    than the call itself (and than the flush before it), it is the host that was timed.
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
        for start, end in pairs:
            if flush is not None:
                flush()
            device.record(start)
            begin = time.perf_counter()
            work()
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


class GraphTimer:
    """Times replays of a graph of many calls, so that launching them costs the host nothing.

    ``loops`` is how many calls are in it. With a cold cache there is one, and its launch counts.
    """

    def __init__(self, work: Work, device: Device, *, cold_cache: bool, estimate: float) -> None:
        unrolled = 1 if cold_cache else int(_GRAPH_SECONDS / max(estimate, 1e-7))
        # Each set of arguments as often as every other.
        sets = len(work.sets)
        self.loops = min(max(-(-unrolled // sets) * sets, sets), max(_MAX_UNROLLED, sets))
        if cold_cache:
            self.loops = 1
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
