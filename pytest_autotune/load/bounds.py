"""The limits that the bounds of an SLO set on single requests and on a running level."""

from __future__ import annotations

from typing import Final

from pytest_autotune.load.limits import Limit
from pytest_autotune.load.statistics import PERCENTILES, GoodputLimits, percentile_of
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import SLO, Bound

LATENCIES: Final = ("ttft", "tpot", "e2e_latency")


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
