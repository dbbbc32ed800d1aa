"""Preheating: on a GPU long calls run until the power cap has lowered the clocks."""

from __future__ import annotations

import time
from statistics import median
from typing import Final

from pytest_autotune.bench.device import DeviceTimer
from pytest_autotune.bench.graph import AnyTimer
from pytest_autotune.bench.warming import ROUND_CALLS, run_for

#: A round lasts this long, much longer than a cap takes to be felt in it (seconds).
_ROUND_SECONDS: Final = 0.25
#: Clocks hold once times have not risen for so many rounds.
_CALM_ROUNDS: Final = 2
#: No round begins after this time (seconds).
_MAX_SECONDS: Final = 2.0
#: Times that rise by less than this share do not rise.
_STABLE: Final = 0.01


def preheat(timer: AnyTimer, typical: float) -> None:
    """Run a long call until its times no longer rise, for about two seconds at most.

    Long is a call that the GPU spends more time on than on the flush before it: then power is the
    call's own. A cool card runs it on clocks that it cannot hold, and candidates that are timed on
    such clocks cannot be compared with others. ``typical`` is the time of a call after warming up,
    in seconds.
    """
    if isinstance(timer, DeviceTimer) and typical <= timer.flush_seconds():
        return
    sample = typical * timer.loops
    if ROUND_CALLS * sample >= _MAX_SECONDS:
        # Warming up has lasted as long.
        return
    first = max(1, min(ROUND_CALLS, int(_ROUND_SECONDS / max(sample, 1e-9))))
    level, calm = typical, 0
    end = time.perf_counter() + _MAX_SECONDS
    while calm < _CALM_ROUNDS and time.perf_counter() < end:
        latest = median(run_for(timer, _ROUND_SECONDS, first))
        if latest > level * (1 + _STABLE):
            level, calm = latest, 0
        else:
            calm += 1
