"""Warming up: what is timed runs until it no longer becomes faster."""

from __future__ import annotations

import time
from statistics import median
from typing import Final

from pytest_autotune.bench.sampler import Timer

#: A round of warming up lasts at least this long, in calls and in seconds.
ROUND_CALLS: Final = 3
ROUND_SECONDS: Final = 0.025
#: Times that fall by less than this from one round to the next do not fall.
_STABLE: Final = 0.02


def warm_up(timer: Timer, max_time: float) -> float:
    """Run until times no longer fall, or for ``max_time`` seconds; return the last median."""
    began = time.perf_counter()
    previous = float("inf")
    count = ROUND_CALLS
    while True:
        begin = time.perf_counter()
        latest = median(timer.batch(count))
        now = time.perf_counter()
        if latest >= previous * (1 - _STABLE) or now - began >= max_time:
            return latest
        previous = latest
        if now - begin < ROUND_SECONDS:
            count = min(int(count * ROUND_SECONDS / max(now - begin, 1e-6)) + 1, 10 * count)
