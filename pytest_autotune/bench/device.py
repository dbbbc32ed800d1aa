"""Timing on a GPU, by events that the device itself stamps."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final, Protocol

from pytest_autotune.bench.host import quiet_collector
from pytest_autotune.bench.work import Work

#: Overwritten between calls, so that the caches answer nothing: at least this much, which is what
#: Triton's ``do_bench`` takes, and at least so many times the L2 cache.
FLUSH_BYTES: Final = 256 * 2**20
_FLUSHED_CACHES: Final = 4
#: So many calls find the device's queue all but empty.
_UNQUEUED: Final = 3
#: What timing itself takes is the median of so many.
_LOOKS: Final = 10


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

    def cache_bytes(self) -> int | None:
        """Return the size of the device's L2 cache, None where that is not known."""
        return None

    def flusher(self, size: int) -> Callable[[], None]:
        """Return a function that launches the overwriting of ``size`` bytes."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that replays what ``work`` launches, as one graph.

        Raises :class:`BenchmarkError` where the framework has no graphs.
        """

    def left_by_capture(self) -> str:
        """Return what a capture that failed leaves behind, as the end of a sentence."""
        return ""

    def reset_peak_memory(self) -> None:
        """Forget the peak of allocated memory, where one is kept."""
        return

    def peak_memory(self) -> int | None:
        """Return the most bytes that were allocated since, None where that is not known."""
        return None


def cache_flusher(device: TimedDevice) -> Callable[[], None]:
    """Return a function that launches what displaces everything from the device's caches."""
    return device.flusher(flush_bytes(device))


def flush_bytes(device: TimedDevice) -> int:
    """Return how much a flush of the device's caches overwrites."""
    return max(FLUSH_BYTES, _FLUSHED_CACHES * (device.cache_bytes() or 0))


class DeviceTimer:
    """Times single calls, each between two events, with the caches flushed before it.

    ``host_times`` are the seconds that the host took to launch a call. ``turn_times`` include what
    it launches for timing: the flush and the events. Only the first calls of a batch count, as
    later ones may have to wait for a place in the device's queue.
    """

    loops: Final = 1

    def __init__(self, work: Work, device: TimedDevice, *, cold_cache: bool) -> None:
        self._work = work
        self._device = device
        self._flush = cache_flusher(device) if cold_cache else None
        self.host_times: list[float] = []
        self.turn_times: list[float] = []

    def batch(self, count: int) -> list[float]:
        """Return ``count`` samples, in seconds per call; waits once, at the end.

        The garbage collector stays quiet. It would hold the host up between the events, and may
        finalize what waits for the device.
        """
        device, work, flush = self._device, self._work, self._flush
        pairs = _pairs(device, count)
        with quiet_collector():
            for number, (start, end) in enumerate(pairs):
                turn = time.perf_counter()
                if flush is not None:
                    flush()
                device.record(start)
                begin = time.perf_counter()
                work()
                launched = time.perf_counter()
                device.record(end)
                if number < _UNQUEUED:
                    self.host_times.append(launched - begin)
                    self.turn_times.append(time.perf_counter() - turn)
            device.synchronize()
        return [device.elapsed(start, end) for start, end in pairs]

    def forget_host(self) -> None:
        """Forget the times of the host so far."""
        self.host_times.clear()
        self.turn_times.clear()

    def of_nothing(self) -> DeviceTimer | None:
        """Return the timer of no work after the same flush, None where there is no flush."""
        if self._flush is None:
            return None
        found = DeviceTimer(Work(lambda: None, [()]), self._device, cold_cache=False)
        found._flush = self._flush
        return found

    @property
    def flush_bytes(self) -> int:
        """The size of the buffer that a flush overwrites, 0 where there is none."""
        return 0 if self._flush is None else flush_bytes(self._device)

    def overhead(self) -> float:
        """Return the seconds between two events with nothing between them."""
        return self._between(before=self._flush, inside=None)

    def flush_seconds(self) -> float:
        """Return the seconds of a flush, 0 where there is none."""
        return 0.0 if self._flush is None else self._between(before=None, inside=self._flush)

    def _between(
        self, *, before: Callable[[], None] | None, inside: Callable[[], None] | None
    ) -> float:
        """Return the seconds between events around ``inside``, each time after ``before``."""
        pairs = _pairs(self._device, _LOOKS)
        for start, end in pairs:
            if before is not None:
                before()
            self._device.record(start)
            if inside is not None:
                inside()
            self._device.record(end)
        self._device.synchronize()
        return median(self._device.elapsed(start, end) for start, end in pairs)


def _pairs(device: TimedDevice, count: int) -> list[tuple[Any, Any]]:
    return [(device.event(), device.event()) for _ in range(count)]
