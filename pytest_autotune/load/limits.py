"""Limits of a load level, and the moment they are lost whatever requests follow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_autotune.load.statistics import percentile_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An upper limit of a metric: ``p99`` of ``ttft`` is at most ``most``.

    ``metric`` is ``ttft``, ``tpot``, ``e2e_latency`` (seconds) or ``error_rate`` (0 to 1, no
    statistic). ``label`` is the bound's name in messages.
    """

    label: str
    metric: str
    statistic: str
    most: float

    def lost(self, tally: Tally, at_most: int) -> bool:
        """Return whether the limit is broken whatever values follow.

        ``tally`` has the values so far, of which unfinished ones may be lower bounds. ``at_most``
        is the largest number of values in the end, infinitely good ones included.

        A mean is lost when the sum so far exceeds it even if spread over all values. The
        percentile at q is interpolated between the two ranks around q · (n - 1). It is lost once
        so many values exceed the limit that the lower rank must be one of them. More samples can
        only make that harder, so it then holds for the samples so far as well.
        """
        n = max(at_most, tally.count)
        if tally.count == 0:
            return False
        if self.statistic in {"mean", ""}:
            # Sums of floats are not exact.
            return tally.total > self.most * n * (1 + 1e-9)
        if self.statistic == "max":
            return tally.exceeding > 0
        share = percentile_of(self.statistic)
        return share is not None and tally.exceeding >= n - math.floor(share * (n - 1))


@dataclass(slots=True)
class Tally:
    """The values of a limit so far: their number, their sum, and the number that exceed it."""

    limit: Limit
    count: int = 0
    total: float = 0.0
    exceeding: int = 0

    def add(self, value: float) -> None:
        """Count one value."""
        self.count += 1
        self.total += value
        self.exceeding += value > self.limit.most

    def with_more(self, values: Iterable[float]) -> Tally:
        """Return the tally with values added that are not final."""
        tally = Tally(self.limit, self.count, self.total, self.exceeding)
        for value in values:
            tally.add(value)
        return tally
