"""The processors that this process may use: those of the machine, or fewer."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_GROUP: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")
#: Files of a control group with the time that it gets in each period, in version 2 and 1.
_LIMIT: Final = "cpu.max"
_QUOTA: Final = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def usable_processors() -> float:
    """Return how many processors this process may use.

    Fewer than there are where its affinity is limited (``taskset``, SLURM), or its control group
    gets a share of their time only (containers), which need not be a whole number.
    """
    total = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return min(allowed, *_quotas(), total)


def _quotas() -> Iterator[float]:
    """Yield the limits of this process's control group and of those around it."""
    try:
        lines = _GROUP.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, place = line.split(":", 2)
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        root = _GROUPS if number == "0" else _GROUPS / controllers
        # In a container the path may be that outside, while the files of its own group are here.
        within = root / place.lstrip("/")
        for folder in (within, *within.parents):
            yield _quota(folder)
            if folder == root:
                break


def _quota(folder: Path) -> float:
    """Return the limit that the files in ``folder`` set, infinity where they set none."""
    try:
        if (folder / _LIMIT).exists():
            quota, period = (folder / _LIMIT).read_text("utf-8").split()
        else:
            quota, period = ((folder / name).read_text("utf-8").strip() for name in _QUOTA)
        share = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf  # No such files, or "max".
    return share if share > 0 else math.inf
