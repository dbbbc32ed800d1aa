"""Timing by the host's monotonic clock."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from pytest_autotune.bench.work import Work

#: A sample is at least this long: a thousand times what reading the clock costs (seconds).
_SAMPLE_SECONDS: Final = 100e-6
_MAX_LOOPS: Final = 1_000_000
#: Waiting for devices that have nothing to do may be this share of a sample.
_WAITING_SHARE: Final = 0.01
_WAITS: Final = 5
_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
#: Where the system does not say how large the last cache is.
_CACHE_BYTES: Final = 64 * 2**20


class HostTimer:
    """Times calls from outside, short ones several at a time, so that the clock does not matter.

    ``loops`` is the number of calls in one sample. ``wait`` returns once the calls' asynchronous
    work is done, and counts as part of the sample.
    """

    def __init__(self, work: Work, *, wait: Callable[[], None] | None, cold_cache: bool) -> None:
        self._work = work
        self._wait = wait
        self._evict = evictor() if cold_cache else None
        self.loops = 1

    def calibrate(self, least: float = _SAMPLE_SECONDS) -> None:
        """Choose ``loops``, for samples of ``least`` seconds; a cold cache serves one call only."""
        if self._evict is not None:
            return
        while self.loops < _MAX_LOOPS:
            seconds = min(self._run() for _ in range(3))
            if seconds >= least:
                return
            growth = least / max(seconds, least / 100)
            self.loops = min(max(self.loops + 1, int(self.loops * growth * 1.1)), _MAX_LOOPS)

    def lasting(self) -> float:
        """Return the seconds of a sample beside which waiting does not matter."""
        if self._wait is None:
            return _SAMPLE_SECONDS
        self._wait()
        waits = []
        for _ in range(_WAITS):
            begin = time.perf_counter()
            self._wait()
            waits.append(time.perf_counter() - begin)
        return max(_SAMPLE_SECONDS, min(waits) / _WAITING_SHARE)

    def overhead(self) -> float:
        """Return the seconds that timing adds to a call, measured on an empty function."""
        empty = HostTimer(Work(lambda: None, [()]), wait=None, cold_cache=False)
        empty.loops = self.loops
        return min(empty.batch(5))

    def batch(self, count: int) -> list[float]:
        """Return ``count`` samples, in seconds per call."""
        with quiet_collector():
            return [self._run() / self.loops for _ in range(count)]

    def _run(self) -> float:
        if self._evict is not None:
            self._evict()
        wait = self._wait
        run = self._work.bound(self.loops, keep=wait is not None)
        begin = time.perf_counter()
        run()
        if wait is not None:
            wait()
        return time.perf_counter() - begin


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep the garbage collector from running in the block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def evictor() -> Callable[[], object]:
    """Return a function that fills the caches with something else."""
    size = 2 * last_cache_bytes()
    return partial(ctypes.memset, ctypes.create_string_buffer(size), 0, size)


def last_cache_bytes() -> int:
    """Return the size of the processor's largest cache."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = []
    for path in _CACHES.glob("index*/size"):
        try:
            text = path.read_text().strip()
            sizes.append(int(text.rstrip("KMG")) * units.get(text[-1:], 1))
        except (OSError, ValueError):
            continue
    return max(sizes, default=_CACHE_BYTES)


def affinity() -> str:
    """Return which of the machine's processors this process may run on, in words."""
    total = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return f"{allowed} of {total} CPUs"
