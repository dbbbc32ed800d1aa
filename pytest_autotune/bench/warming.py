"""Warming up: what is timed runs until it no longer becomes faster."""

from __future__ import annotations

import time
from statistics import median
from typing import Final

from pytest_autotune.bench.sampler import Timer

#: A round of warming up lasts about this long, and at least so many calls (seconds).
ROUND_SECONDS: Final = 0.025
ROUND_CALLS: Final = 3
#: Clocks of idle GPUs take some time to rise (seconds).
_BUSY_SECONDS: Final = 0.1
#: On such clocks times have settled once they have not fallen for this long (seconds).
_SETTLED_SECONDS: Final = 2 * ROUND_SECONDS
#: Times that fall by less than this share do not fall.
_STABLE: Final = 0.02
#: A batch of a longer run lasts about this long (seconds), and has at most so many samples.
_BATCH_SECONDS: Final = 0.1
_MAX_BATCH: Final = 1000


def run_for(timer: Timer, seconds: float, count: int = ROUND_CALLS) -> list[float]:
    """Return the samples of at least so many seconds, in seconds per call.

    The first batch has ``count`` samples, later ones as many as their time allows.
    """
    began = now = time.perf_counter()
    samples: list[float] = []
    while now - began < seconds:
        begin = now
        samples += timer.batch(count)
        now = time.perf_counter()
        wanted = int(count * _BATCH_SECONDS / max(now - begin, 1e-6))
        count = max(1, min(wanted, 10 * count, _MAX_BATCH))
    return samples


def warm_up(timer: Timer, max_time: float, *, gpu: bool) -> float:
    """Run until times no longer fall, or for ``max_time`` seconds; return the last median.

    On a ``gpu`` that takes a tenth of a second at least.
    """
    began = time.perf_counter()
    level, settled = float("inf"), 0.0
    count = ROUND_CALLS
    while True:
        begin = time.perf_counter()
        latest = median(timer.batch(count))
        now = time.perf_counter()
        if latest < level * (1 - _STABLE):
            level, settled = latest, 0.0
        else:
            settled += now - begin
        calm = settled > 0
        if gpu:
            calm = settled >= _SETTLED_SECONDS and now - began >= _BUSY_SECONDS
        if calm or now - began >= max_time:
            return latest
        if now - begin < ROUND_SECONDS:
            count = min(int(count * ROUND_SECONDS / max(now - begin, 1e-6)) + 1, 10 * count)
