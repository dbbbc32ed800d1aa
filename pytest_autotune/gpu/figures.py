"""What the readings of a device add up to: energy, power, clocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Final

from pytest_autotune.gpu.readings import Reading

#: Over less than this neither the power nor the steps of a counter (100 ms) say much (seconds).
_LEAST_SECONDS: Final = 1.0
#: The steps of a counter must span this share of the time to stand for all of it.
_LEAST_SPAN: Final = 0.5


def seconds(readings: Sequence[Reading]) -> float:
    """Return the time from the first reading to the last, in seconds."""
    return readings[-1].at - readings[0].at if readings else 0.0


def energy(readings: Sequence[Reading]) -> float | None:
    """Return the joules from the first reading to the last, None where there is no counter.

    After a second or more they are those between two steps of the counter, in proportion: a
    counter that moves every 100 ms may be a step behind at one end and not at the other.
    """
    told = [reading.energy for reading in readings if reading.energy is not None]
    if not told:
        return None
    power = _power_between_steps(readings)
    if power is not None:
        return power * seconds(readings)
    # A counter that starts anew, as after a reset, has lost what was before.
    return sum(later - earlier for earlier, later in pairwise(told) if later >= earlier)


def mean_power(readings: Sequence[Reading]) -> float | None:
    """Return the mean watts, None where they are not known or the time is too short."""
    if seconds(readings) < _LEAST_SECONDS:
        return None
    found = _power_between_steps(readings)
    if found is not None:
        return found
    told = [reading.power for reading in readings if reading.power is not None]
    return fmean(told) if told else None


def clocks(readings: Sequence[Reading]) -> list[int]:
    """Return the SM clocks (MHz) of the readings at which the device was not idle."""
    return [r.sm_clock for r in readings if r.sm_clock is not None and not r.idle]


def _power_between_steps(readings: Sequence[Reading]) -> float | None:
    """Return the watts from the first step of the energy counter that was seen to the last."""
    whole = seconds(readings)
    steps: list[tuple[float, float]] = []
    told = [(reading.at, reading.energy) for reading in readings if reading.energy is not None]
    for (_, earlier), (at, later) in pairwise(told):
        if later < earlier:
            return None
        if later > earlier:
            steps.append((at, later))
    if whole < _LEAST_SECONDS or len(steps) < 2:  # noqa: PLR2004 - from one to another
        return None
    (begin, before), (end, after) = steps[0], steps[-1]
    return (after - before) / (end - begin) if end - begin >= _LEAST_SPAN * whole else None
