"""A trial's standing in the race: the bar to beat, and the best its objective can still reach.

The assumption is that no client is served faster at a heavier level than at a lighter one of the
same scenario. So a latency of a level bounds those of heavier levels from below. It also bounds
their throughput from above: c clients that each wait R seconds on average get at most c / R answers
per second. That is Little's law, for measured figures (Denning and Buzen, *The Operational
Analysis of Queueing Network Models*, Computing Surveys 10, 1978). Nothing follows for lighter
levels, nor for the throughput at a rate of arrivals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist, fmean, stdev
from typing import Any, Final, Literal

from pytest_autotune.errors import TrialPruned
from pytest_autotune.load.limits import LATENCIES
from pytest_autotune.load.race import ALPHA, MIN_BLOCK, OPEN_BLOCK, LevelRace
from pytest_autotune.load.statistics import RequestRecord, percentile_of
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import aggregate, split_name
from pytest_autotune.scoring.objective import RACE_MARGIN, Objective
from pytest_autotune.scoring.records import TrialRecord, effective, incumbent
from pytest_autotune.scoring.slo import MAX_SCORE
from pytest_autotune.text.numbers import quantity

#: Fewer requests do not show how their mean varies.
_MIN_SAMPLE: Final = 5
#: The counts of a request that make up a throughput; without any, the request itself counts.
_WORK: Final[Mapping[str, tuple[str, ...]]] = {
    "request_throughput": (),
    "goodput": (),
    "input_throughput": ("input_tokens",),
    "output_throughput": ("output_tokens",),
    "total_throughput": ("input_tokens", "output_tokens"),
}
_PER_GPU: Final = "_per_gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """The limit of a trial's objective: a worse value has lost.

    ``metric`` is the objective's name. It is the mean or the largest (``pool``) of the levels'
    metric ``of_level``. Beyond ``limit`` it has certainly lost. The bar is ``orderly`` unless an
    earlier trial was served faster at a heavier level.
    """

    metric: str
    of_level: str
    pool: Literal["mean", "max"]
    limit: float
    maximize: bool
    orderly: bool = True

    @property
    def work(self) -> tuple[str, ...]:
        """The counts of a request that a throughput is made of."""
        return _WORK[self.of_level.removesuffix(_PER_GPU)]

    def loses(self, value: float) -> bool:
        """Return whether an objective of ``value`` has lost."""
        return value < self.limit if self.maximize else value > self.limit


def bar(
    records: Sequence[TrialRecord], objective: Objective, levels: Sequence[Level]
) -> Bar | None:
    """Return the bar for a trial with ``levels``, None if there is none.

    The incumbent counts with its penalties. It must have been measured at the same levels, and
    its objective must follow from them.
    """
    best = incumbent(effective(records))
    if best is None or best.metric is None or best.score is None or best.score >= MAX_SCORE:
        return None
    value = objective.score(best.score)
    form = _form(best.metric, maximize=objective.maximize)
    if form is None or value <= 0 or not _follows(best, levels):
        return None
    of_level, pool = form
    found = Bar(
        metric=best.metric,
        of_level=of_level,
        pool=pool,
        limit=value / (1 + RACE_MARGIN) if objective.maximize else value * (1 + RACE_MARGIN),
        maximize=objective.maximize,
    )
    finished = (record for record in effective(records) if record.finished)
    return replace(found, orderly=not any(_disorderly(found, record) for record in finished))


def _form(metric: str, *, maximize: bool) -> tuple[str, Literal["mean", "max"]] | None:
    """Return the metric of the levels and how it is pooled, None where nothing is known of it."""
    statistic, name = split_name(metric)
    if maximize:
        known = name.removesuffix(_PER_GPU) in _WORK and statistic in {"", "mean", "max"}
        return (name, "max" if statistic == "max" else "mean") if known else None
    if name not in LATENCIES:
        return None
    if statistic == "max":
        return metric, "max"
    return (metric, "mean") if statistic == "mean" or percentile_of(statistic) else None


def _follows(best: TrialRecord, levels: Sequence[Level]) -> bool:
    """Return whether a trial was measured at ``levels`` and its objective follows from them."""
    assert best.metric is not None
    if best.value is None or {level.identity for level in best.levels} != {
        level.identity for level in levels
    }:
        return False
    value = aggregate([level.metrics for level in best.levels]).get(best.metric, math.nan)
    return math.isclose(value, best.value, rel_tol=1e-9)


def _disorderly(bar: Bar, record: TrialRecord) -> bool:
    """Return whether a trial was served faster at a heavier level by more than the margin."""
    scenarios: dict[Any, list[tuple[float, float]]] = {}
    for level in record.levels:
        metrics = level.metrics
        slowness = metrics.get(bar.of_level, math.nan)
        if bar.maximize:
            counts = (f"mean_{name}" for name in bar.work)
            work = sum(metrics.get(name, math.nan) for name in counts) if bar.work else 1.0
            slowness = metrics.get("mean_e2e_latency", math.nan) / work if work else math.nan
        scenarios.setdefault(level.scenario, []).append((level.load, slowness))
    return any(
        heavy * (1 + RACE_MARGIN) < light
        for found in scenarios.values()
        for (_, light), (_, heavy) in pairwise(sorted(found))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A measured level and its ``value`` of the metric that the objective pools.

    ``bound`` holds for heavier levels: the least latency, or the most throughput per client. None
    where nothing is known of them.
    """

    level: Level
    value: float
    bound: float | None = None


def bound_of(
    bar: Bar, requests: Sequence[RequestRecord], *, gpus: int, alpha: float
) -> float | None:
    """Return the bound that a level's requests set for heavier levels, None without one.

    As the requests are a sample, the bound is the end of an interval with an error of ``alpha``. A
    mean's is by Student's t, a percentile's by order statistics (binomial). None follows from a
    level with failures or cut requests, as those may be why others were fast.
    """
    unknown = bar.pool == "max" and not bar.maximize
    if not bar.orderly or unknown or not all(request.ok for request in requests):
        return None
    if bar.maximize:
        seconds = _low_mean([r.e2e_latency for r in requests if r.e2e_latency is not None], alpha)
        work = sum(_work(bar, request) for request in requests)
        scale = gpus if bar.of_level.endswith(_PER_GPU) else 1
        return None if not seconds else work / len(requests) / seconds / scale
    statistic, metric = split_name(bar.of_level)
    values = [value for request in requests if (value := getattr(request, metric)) is not None]
    if statistic == "mean":
        return _low_mean(values, alpha)
    share = percentile_of(statistic)
    assert share is not None
    rank = _low_rank(len(values), share, alpha)
    return sorted(values)[rank - 1] if rank else None


def _work(bar: Bar, request: RequestRecord) -> int:
    return sum(getattr(request, name) for name in bar.work) if bar.work else 1


def _low_mean(values: Sequence[float], alpha: float) -> float | None:
    if len(values) < _MIN_SAMPLE:
        return None
    error = stdev(values) / math.sqrt(len(values))
    low = fmean(values) - _student(1 - alpha, len(values) - 1) * error
    return low if low > 0 else None


def _student(share: float, freedom: int) -> float:
    """Return a quantile of Student's t distribution (Abramowitz and Stegun, 26.7.5)."""
    z = NormalDist().inv_cdf(share)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _low_rank(count: int, share: float, alpha: float) -> int:
    """Return the largest k with P(Binomial(count, share) < k) ≤ ``alpha``, 0 if there is none."""
    if not 0 < share < 1:
        return 0
    total, rank = 0.0, 0
    log = math.lgamma(count + 1)
    while rank <= count:
        total += math.exp(
            log - math.lgamma(rank + 1) - math.lgamma(count - rank + 1)
            + rank * math.log(share) + (count - rank) * math.log1p(-share)
        )  # fmt: skip
        if total > alpha:
            break
        rank += 1
    return min(rank, count)


def best_possible(bar: Bar, levels: Sequence[Level], reached: Sequence[Reached]) -> float:
    """Return the best value that the objective can reach, given the levels reached so far."""
    known = {found.level.identity: found.value for found in reached}
    values = [
        known[level.identity] if level.identity in known else _bounded(bar, level, reached)
        for level in levels
    ]
    return max(values) if bar.pool == "max" else math.fsum(values) / len(values)


def _bounded(bar: Bar, level: Level, reached: Sequence[Reached]) -> float:
    """Return the best value that an unmeasured level can reach."""
    lighter = [
        found.bound
        for found in reached
        if found.level.scenario == level.scenario
        and found.level.load < level.load
        and found.bound is not None
    ]
    if not bar.maximize:
        return max(lighter, default=0.0)
    if level.concurrency is None:
        return math.inf
    return min((bound * level.concurrency for bound in lighter), default=math.inf)


class Standing:
    """A trial's standing against the bar, from level to level."""

    def __init__(self, bar: Bar, levels: Sequence[Level], gpus: int) -> None:
        self._bar = bar
        self._levels = levels
        self._gpus = gpus
        #: The error rate of each decision, of which there are two at every level.
        self._alpha = ALPHA / (2 * len(levels))
        self._reached: list[Reached] = []
        self._shown: list[str] = []

    def race(self, level: Level, *, fixed: bool) -> LevelRace | None:
        """Return the race of the next level, None where no value of it can decide.

        ``fixed`` is true if all requests want equally many tokens. Otherwise a throughput of
        tokens does not limit the time that a request may take.
        """
        bar = self._bar
        if bar.maximize and (level.concurrency is None or (bar.work and not fixed)):
            return None
        limit = self._turning(level, heavier=bar.orderly)
        if limit is None:
            return None
        certain = self._turning(level, heavier=False)
        statistic, metric = ("mean", "e2e_latency") if bar.maximize else split_name(bar.of_level)
        return LevelRace(
            metric=metric,
            statistic=statistic,
            limit=self._time(limit, level),
            certain=math.inf if certain is None else self._time(certain, level),
            alpha=self._alpha,
            # The first requests come all at once and wait for each other, as none does later.
            skip=level.concurrency or 0,
            block=max(MIN_BLOCK, level.concurrency or OPEN_BLOCK),
            per=bar.work if bar.maximize else (),
        )

    def _turning(self, level: Level, *, heavier: bool) -> float | None:
        """Return the value of ``level`` at which the trial as a whole loses, by halving.

        With ``heavier``, the value counts for heavier levels, too.
        """
        bar = self._bar
        # No throughput is worse than 0, and no latency better.
        low, high = 0.0, bar.limit * len(self._levels) * (1 + 1e-6)
        if bar.loses(self._best_with(level, low, heavier=heavier)) is not bar.maximize:
            return None
        for _ in range(80):
            middle = (low + high) / 2
            if bar.loses(self._best_with(level, middle, heavier=heavier)) is bar.maximize:
                low = middle
            else:
                high = middle
        # The end of the interval on the side that has lost.
        found = low if bar.maximize else high
        return found if found > 0 else None

    def _best_with(self, level: Level, value: float, *, heavier: bool) -> float:
        """Return the best that the objective can reach if ``level`` has ``value``."""
        scale = level.load if self._bar.maximize else 1.0
        supposed = Reached(level=level, value=value, bound=value / scale if heavier else None)
        return best_possible(self._bar, self._levels, [*self._reached, supposed])

    def _time(self, value: float, level: Level) -> float:
        """Return a latency as it is, and turn a throughput into the time per unit, or back."""
        if not self._bar.maximize:
            return value
        gpus = self._gpus if self._bar.of_level.endswith(_PER_GPU) else 1
        return level.load / value / gpus

    def add(
        self, level: Level, metrics: Mapping[str, float], requests: Sequence[RequestRecord]
    ) -> TrialPruned | None:
        """Add a level that ran to its end; return the error that prunes a trial that cannot win.

        A trial that has nothing more to measure is not pruned.
        """
        value = metrics.get(self._bar.of_level, math.nan)
        bound = bound_of(self._bar, requests, gpus=self._gpus, alpha=self._alpha)
        self._reached.append(Reached(level=level, value=value, bound=bound))
        self._shown.append(self._show(level, value, len(requests)))
        best = best_possible(self._bar, self._levels, self._reached)
        if len(self._reached) == len(self._levels) or not self._bar.loses(best):
            return None
        return self._pruned(best)

    def lose(
        self,
        level: Level,
        metrics: Mapping[str, float],
        requests: Sequence[RequestRecord],
        race: LevelRace,
    ) -> TrialPruned:
        """Return the error that prunes a trial that lost the race of a level before its end."""
        value = metrics.get(self._bar.of_level, math.nan)
        self._shown.append(f"{self._show(level, value, len(requests))} so far")
        limit = self._time(race.limit, level)
        worst = min if self._bar.maximize else max
        # The sample so far may lie on the better side of the limit that is certainly lost.
        value = worst(limit, value) if math.isfinite(value) else limit
        return self._pruned(self._best_with(level, value, heavier=self._bar.orderly))

    def _show(self, level: Level, value: float, requests: int) -> str:
        found = quantity(self._bar.of_level, value)
        return f"level {level.label}: {found} in {requests} requests"

    def _pruned(self, best: float) -> TrialPruned:
        bar = self._bar
        several = f" over {len(self._levels)} levels" if len(self._levels) > 1 else ""
        reason = (
            f"lost the race: {bar.metric} would come to {quantity(bar.metric, best)} at best"
            f"{several} ({', '.join(self._shown)}), and {quantity(bar.metric, bar.limit)} would "
            f"have lost (error rate {ALPHA:.0%}; measure a baseline with race=False)"
        )
        return TrialPruned(reason, best)
