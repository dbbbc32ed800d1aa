"""Numbers with units, at most four digits."""

from __future__ import annotations

import math
import re
from typing import Final

#: Metrics that are times in seconds by this package's conventions.
_TIME: Final = re.compile(r"(^|_)(latency|ttft|tpot|time|itl|duration)$")
_UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def number(value: float | None) -> str:
    """Return ``value`` with four significant digits."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == int(value) and abs(value) < 1e6:  # noqa: PLR2004
        return str(int(value))
    return f"{value:.4g}"


def is_time(metric: str) -> bool:
    """Return whether a metric's name says that it is a time in seconds."""
    return _TIME.search(metric) is not None


def quantity(metric: str | None, value: float | None) -> str:
    """Return ``value`` with the unit that the metric's name implies."""
    if value is None or not math.isfinite(value):
        return "-"
    if metric is None or not is_time(metric):
        return number(value)
    for scale, unit in _UNITS:
        if abs(value) >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value:.4g} s"
