"""Preheating: on a GPU long calls run until the power cap has lowered the clocks."""

from __future__ import annotations

from statistics import median
from typing import Final

from pytest_autotune.bench.device import DeviceTimer
from pytest_autotune.bench.graph import GraphTimer
from pytest_autotune.bench.warming import run_for

#: A round lasts this long, much longer than a cap takes to be felt in it (seconds).
_ROUND_SECONDS: Final = 0.25
#: Clocks hold once times have not risen for so many rounds.
_CALM_ROUNDS: Final = 2
_MAX_ROUNDS: Final = 8
#: Times that rise by less than this share do not rise.
_STABLE: Final = 0.01


def preheat(timer: object, typical: float) -> None:
    """Run a long call until its times no longer rise, for two seconds at most.

    Long is a call that the device spends more time on than on the flush before it: then power is
    the call's own. A cool card runs it on clocks that it cannot hold, and candidates that are
    timed on such clocks cannot be compared with others.
    """
    if isinstance(timer, DeviceTimer) and typical <= timer.flush_seconds():
        return
    if not isinstance(timer, DeviceTimer | GraphTimer):
        return
    level, calm = typical, 0
    for _ in range(_MAX_ROUNDS):
        latest = median(run_for(timer, _ROUND_SECONDS))
        if latest > level * (1 + _STABLE):
            level, calm = latest, 0
        else:
            calm += 1
        if calm == _CALM_ROUNDS:
            return
