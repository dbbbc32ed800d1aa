"""The limits that an SLO sets on a level, and the moment they are lost whatever follows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from pytest_autotune.load.statistics import PERCENTILES, GoodputLimits, percentile_of
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import SLO, Bound

LATENCIES: Final = ("ttft", "tpot", "e2e_latency")


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
        tally = replace(self)
        for value in values:
            tally.add(value)
        return tally


def limits(slo: SLO, *, strict: bool) -> tuple[Limit, ...]:
    """Return the limits that end a level once exceeded: those of hard bounds, all if ``strict``."""
    found = []
    for bound in slo.bounds:
        named = _metric_of(bound)
        if named is None or not (bound.upper and (bound.hard or strict)):
            continue
        ratio = 0.0 if strict else bound.fail_ratio
        most = bound.threshold + ratio * abs(bound.threshold)
        metric, statistic = named
        found.append(Limit(label=bound.label, metric=metric, statistic=statistic, most=most))
    return tuple(found)


def goodput_limits(slo: SLO) -> GoodputLimits:
    """Return the limits of a single request: the loosest bound of each latency.

    A p50 of 1 s beside a p99 of 5 s allows a request 5 s.
    """
    loosest: dict[str, float] = {}
    for bound in slo.bounds:
        named = _metric_of(bound)
        if named is not None and bound.upper and named[0] in LATENCIES:
            metric, statistic = named
            if statistic in {"min", "std"}:
                continue  # Of no single request.
            loosest[metric] = max(loosest.get(metric, 0.0), bound.threshold)
    return GoodputLimits(**loosest)


def _metric_of(bound: Bound) -> tuple[str, str] | None:
    """Return metric and statistic of a bound on something that requests are judged by."""
    if bound.metrics[0] == "error_rate":
        return "error_rate", ""
    for name in bound.metrics:
        statistic, _, metric = name.partition("_")
        if metric in LATENCIES:
            return metric, statistic
    return None


def further_percentiles(slo: SLO, objective: Objective | None) -> frozenset[str]:
    """Return the percentiles that the spec names and that are not measured anyway."""
    names = [name for bound in slo.bounds for name in bound.metrics]
    names += objective.metrics if objective is not None else ()
    found = {name.partition("_")[0] for name in names}
    usual = {f"p{whole}" for whole in PERCENTILES}
    return frozenset(s for s in found if s not in usual and percentile_of(s) is not None)
