"""When a load level's SLO is lost beyond doubt, however the rest of it may go."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_autotune.load.statistics import percentile_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a metric must not exceed: ``p99`` of ``ttft`` at most ``most``.

    ``metric`` is ``ttft``, ``tpot``, ``e2e_latency`` (seconds) or ``error_rate`` (0 to 1, no
    statistic). ``label`` names the bound for people.
    """

    label: str
    metric: str
    statistic: str
    most: float

    def lost(self, tally: Tally, at_most: int) -> bool:
        """Tell whether the limit is broken whatever the values still to come.

        ``tally`` has the values so far, of which unfinished ones may be lower bounds;
        ``at_most`` is how many there can be in the end, infinitely good ones included.

        A mean is lost when the sum so far would exceed it even spread over all of them; the
        percentile at q, interpolated between order statistics, once so many exceed the limit
        that the lower of the two ranks around q · (n - 1) must fall on one of them. As more
        samples can only make that harder, it then holds for the samples so far as well.
        """
        n = max(at_most, tally.count)
        if tally.count == 0:
            return False
        if self.statistic in {"mean", ""}:
            # A little more than the limit, as sums of floats are not exact.
            return tally.total > self.most * n * (1 + 1e-9)
        if self.statistic == "max":
            return tally.exceeding > 0
        share = percentile_of(self.statistic)
        return share is not None and tally.exceeding >= n - math.floor(share * (n - 1))


@dataclass(slots=True)
class Tally:
    """What a limit needs to know of the values so far: how many, their sum, how many exceed."""

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
