"""The compile time of the running trial, wherever its kernel was first called.

A check of the result comes before the timing, and so compiles the kernel. The check adds the time
that its first call took beyond the others. The timing reports that together with its own.
"""

from __future__ import annotations

from typing import Final

#: Compile times of the running trial that were not reported yet, in seconds.
_unreported: Final[list[float]] = []


def add(first: float, usual: float) -> None:
    """Count a first call of ``first`` seconds, where a call usually takes ``usual``."""
    _unreported.append(max(first - usual, 0.0))


def take() -> float:
    """Return the seconds counted since the last time, and forget them."""
    seconds = sum(_unreported)
    _unreported.clear()
    return seconds
