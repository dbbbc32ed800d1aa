"""The clocks of GPUs in a race: a candidate on lower ones has not lost by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pytest_autotune.bench.sampler import Race
from pytest_autotune.bench.watched import Watched

#: The mean SM clock of a measurement, as telemetry names it.
CLOCK: Final = "mean_gpu_clock_mhz"
#: Clocks that differ by less than this share are alike.
_ALIKE: Final = 0.025


def handicap(race: Race | None, seen: Watched) -> float:
    """Return how many times slower lower clocks than the incumbent's can have made a candidate.

    No kernel is slower by more than the clocks are lower. It is 1 where clocks are alike, higher,
    or not known.
    """
    return 1.0 if race is None else _ratio(race.clock, seen.metrics)


def _ratio(incumbent: float | None, metrics: Mapping[str, float]) -> float:
    clock = metrics.get(CLOCK)
    if incumbent is None or clock is None or clock <= 0 or clock >= incumbent * (1 - _ALIKE):
        return 1.0
    return incumbent / clock


def spared(race: Race | None, median: float, metrics: Mapping[str, float]) -> str:
    """Return the remark on a candidate that only its clocks kept in a race, empty otherwise."""
    if race is None or not race.limit < median <= race.limit * _ratio(race.clock, metrics):
        return ""
    return (
        f"the GPU ran at {metrics[CLOCK]:.0f} MHz (mean), and for the best so far at "
        f"{race.clock:.0f} MHz: it is slower, maybe for that reason only, and so was not pruned"
    )
