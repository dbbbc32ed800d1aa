"""Remarks on what a time on a GPU contains beside the work itself."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Final

from pytest_autotune.bench.device import DeviceTimer
from pytest_autotune.bench.graph import GraphTimer
from pytest_autotune.bench.timing import Timing
from pytest_autotune.text.numbers import quantity

#: A host that takes less than this share of the device's time keeps up with it.
_KEPT_UP: Final = 0.9
#: What timing adds to a call is said from this share of its time on.
_ADDED_SHARE: Final = 0.05


def timing_remarks(found: Timing, timer: object) -> Iterator[str]:
    """Yield remarks if the host's launches, or the events themselves, are part of the time."""
    if isinstance(timer, DeviceTimer) and found.host_time is not None:
        # The host launches while the device is busy with the flush and the call before.
        busy = timer.flush_seconds() + found.median
        if median(timer.turn_times) > _KEPT_UP * busy:
            needs, runs = (quantity("time", value) for value in (found.host_time, found.median))
            yield f"the host needs {needs} to launch what runs for {runs}; see graph=True"
            return
    if isinstance(timer, DeviceTimer | GraphTimer) and found.overhead > _ADDED_SHARE * found.median:
        # Among graphs, only those for a cold cache are of one call.
        remedy = "graph=True" if isinstance(timer, DeviceTimer) else "cold_cache=False"
        yield (
            f"the events around a call add {quantity('time', found.overhead)} to it, which is "
            f"{found.overhead / found.median:.0%} of its time; see {remedy}"
        )
