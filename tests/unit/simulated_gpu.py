"""A GPU that is simulated: its queue, its clock and its memory, with nothing left to chance."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from pytest_autotune.bench import device as device_module
from pytest_autotune.bench import launches as launches_module
from pytest_autotune.bench import measure as measure_module
from pytest_autotune.bench import preheating as preheating_module
from pytest_autotune.bench import warming as warming_module
from pytest_autotune.bench.sampler import sample

US = 1e-6
MS = 1e-3


class Clock:
    """Stands in for the module ``time``: the host's time, which goes on only when told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass(eq=False)
class Event:
    stamp: float | None = None


@dataclass(kw_only=True)
class Gpu:
    """One stream: launching costs the host time, what was launched runs in order.

    Beside it there is another, which runs at the same time and which no event sees.
    As CUDA does it, the host is held up where ``depth`` launches are pending.
    """

    clock: Clock
    name: str = "simulated"
    launch_seconds: float = 5 * US
    record_seconds: float = 1 * US
    graph_seconds: float = 8 * US
    event_seconds: float = 0.0
    flush_seconds: float = 90 * US
    # However slow what is timed is at launching, a flush is one kernel of the framework's.
    flush_launch_seconds: float = 5 * US
    # What the host takes for the first flush, as its kernel is loaded when it is first launched.
    load_seconds: float = 0.0
    cache: int | None = None
    depth: int = 1024
    free: float = 0.0
    side_free: float = 0.0
    warm: bool = False
    log: list[str] = field(default_factory=list)
    pending: deque[float] = field(default_factory=deque)
    captured: list[float] | None = None
    held: int = 0
    peak: int = 0

    def push(self, host: float, seconds: float) -> float:
        """Launch something; return when it begins."""
        while self.pending and self.pending[0] <= self.clock.now:
            self.pending.popleft()
        if len(self.pending) >= self.depth:
            self.clock.now = self.pending.popleft()
        self.clock.now += host
        begins = max(self.clock.now, self.free)
        self.free = begins + seconds
        self.pending.append(self.free)
        return begins

    def kernel(self, seconds: float, cold: float | None = None) -> None:
        """Launch a kernel that takes so long, or ``cold`` where the caches were flushed."""
        takes = seconds if self.warm or cold is None else cold
        self.warm = True
        if self.captured is not None:
            self.clock.now += self.launch_seconds
            self.captured.append(takes)
            return
        self.log.append("kernel")
        self.push(self.launch_seconds, takes)

    def aside(self, seconds: float) -> None:
        """Launch a kernel on the other stream."""
        self.log.append("aside")
        self.clock.now += self.launch_seconds
        self.side_free = max(self.clock.now, self.side_free) + seconds

    def synchronize(self) -> None:
        self.log.append("synchronize")
        self.clock.now = max(self.clock.now, self.free, self.side_free)

    def event(self) -> Event:
        return Event()

    def record(self, event: Event) -> None:
        assert event.stamp is None, "an event is stamped once"
        self.log.append("record")
        event.stamp = self.push(self.record_seconds, self.event_seconds)

    def elapsed(self, start: Event, end: Event) -> float:
        assert start.stamp is not None
        assert end.stamp is not None
        assert end.stamp <= self.clock.now, "the device has not got there yet"
        return end.stamp - start.stamp

    def cache_bytes(self) -> int | None:
        return self.cache

    def flusher(self, size: int) -> Callable[[], None]:
        self.log.append(f"flusher of {size}")

        def flush() -> None:
            self.log.append("flush")
            self.warm = False
            self.clock.now += self.load_seconds
            self.load_seconds = 0.0
            self.push(self.flush_launch_seconds, self.flush_seconds)

        return flush

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        work()  # as PyTorch's documentation asks for
        self.captured = []
        work()
        kernels, self.captured = tuple(self.captured), None
        self.log.append(f"captured {len(kernels)}")

        def replay() -> None:
            self.log.append("replay")
            self.push(self.graph_seconds, sum(kernels))

        return replay

    def left_by_capture(self) -> str:
        return ""

    def reset_peak_memory(self) -> None:
        self.log.append("reset")
        self.peak = self.held

    def peak_memory(self) -> int | None:
        self.log.append("peak")
        return self.peak

    def allocate(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)


def scattered(gpu: Gpu, seconds: float) -> Callable[[], None]:
    """Return a kernel whose median takes so long, and whose interval does not get narrow.

    A narrow one ends a measurement before a race can be decided.
    """
    rng = random.Random(1)
    return lambda: gpu.kernel(seconds * rng.uniform(0.9, 1.1))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    timing = (device_module, launches_module, measure_module, preheating_module, warming_module)
    for module in timing:
        monkeypatch.setattr(module, "time", found)
    monkeypatch.setattr(measure_module, "sample", partial(sample, clock=found.perf_counter))
    return found


@pytest.fixture
def gpu(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    found = Gpu(clock=clock)
    monkeypatch.setattr(measure_module, "device_for", lambda backend, values: found)
    # As if arrays said so: finding out is tested apart.
    monkeypatch.setattr(measure_module, "tells", lambda values: True)
    return found
