"""The compile time of the running trial, wherever its kernel was first called.

A check of the result comes before the timing, and so compiles the kernel. The check adds the time
that its first call took beyond the others. The timing reports that together with its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Spent:
    """Compile time of the running trial that was not reported yet, in seconds."""

    seconds: float = 0.0


_spent = _Spent()


def add(first: float, usual: float) -> None:
    """Count a first call of ``first`` seconds, where a call usually takes ``usual``."""
    _spent.seconds += max(first - usual, 0.0)


def take() -> float:
    """Return the seconds counted since the last time, or since :func:`begin`."""
    seconds, _spent.seconds = _spent.seconds, 0.0
    return seconds


def begin() -> None:
    """Forget what another trial left."""
    _spent.seconds = 0.0
