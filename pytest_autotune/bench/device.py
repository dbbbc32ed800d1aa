"""Timing on a GPU, by events that the device itself stamps."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final, Protocol

from pytest_autotune.bench.work import Work
from pytest_autotune.errors import BenchmarkError

#: Overwritten between calls, so that the caches answer nothing: several times the L2 cache of any
#: device yet, and what Triton's ``do_bench`` takes.
FLUSH_BYTES: Final = 256 * 2**20
#: One replay of a graph lasts at least this long, so that launching it does not count (seconds).
_GRAPH_SECONDS: Final = 1e-3
_MAX_UNROLLED: Final = 1000
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


class GraphTimer:
    """Times replays of a graph of many calls, so that launching them costs the host nothing.

    ``loops`` is the number of calls in it. With a cold cache it has one, and its launch counts.
    Raises :class:`BenchmarkError` for calls that cannot be captured.
    """

    def __init__(
        self, work: Work, device: TimedDevice, *, cold_cache: bool, estimate: float
    ) -> None:
        sets = len(work.sets)
        if cold_cache:
            # A graph for each set of arguments, as each is captured with its own.
            self.loops = 1
            replays = [_captured(each, device, 1) for each in work.apart()]
        else:
            unrolled = int(_GRAPH_SECONDS / max(estimate, 1e-7))
            # Each set of arguments as often as every other.
            rounds = max(1, min(-(-unrolled // sets), _MAX_UNROLLED // sets))
            self.loops = sets * rounds
            replays = [_captured(work, device, self.loops)]
        self._timer = DeviceTimer(
            Work(lambda replay: replay(), [(replay,) for replay in replays]),
            device,
            cold_cache=cold_cache,
        )

    def batch(self, count: int) -> list[float]:
        """Return ``count`` samples, in seconds per call."""
        return [seconds / self.loops for seconds in self._timer.batch(count)]

    def overhead(self) -> float:
        """Return the seconds that timing adds to a call."""
        return self._timer.overhead() / self.loops


def _captured(work: Work, device: TimedDevice, calls: int) -> Callable[[], None]:
    try:
        return device.capture(work.bound(calls))
    except RuntimeError as error:  # what PyTorch's and CuPy's CUDA errors are
        raise BenchmarkError(
            f"graph=True: {device.name} cannot capture the calls ({error}); what waits for the "
            "device, or copies to the host, cannot be part of a graph"
        ) from None
