"""Remarks on what a time on a GPU contains beside the work itself."""

from __future__ import annotations

from pytest_autotune.bench.timing import Timing
from pytest_autotune.text.numbers import quantity


def launch_bound(found: Timing, *, graph: bool, cold: bool) -> tuple[str, ...]:
    """Return a remark if the host could not keep up with the device."""
    if graph or found.host_time is None:
        return ()
    # Without a flush that the host can hide behind, its time is part of what was measured.
    share = 1.0 if cold else 0.5
    if found.host_time <= share * found.median:
        return ()
    needs, runs = (quantity("time", value) for value in (found.host_time, found.median))
    return (f"the host needs {needs} to launch what runs for {runs}; see graph=True",)
