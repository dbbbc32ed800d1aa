"""Compare with the baseline that was stored when the configuration was locked.

Measurements on different days differ by more than the noise within each of them. Earlier sessions
on the same machine show by how much. If that is much, nothing is called a regression.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import median
from typing import Final

from pytest_autotune.errors import OutOfTime
from pytest_autotune.gate.compare.comparison import (
    Comparison,
    GatedMetric,
    MetricResult,
    Verdict,
)
from pytest_autotune.spec.gate import GateSpec

#: The number of sessions that show how much sessions differ, the one that locked included.
LEAST_SESSIONS: Final = 3
#: If sessions differ by more than this, a stored baseline cannot show a regression.
MAX_SPREAD: Final = 0.01
#: Launches of a measurement. A suspected regression takes as many again.
LAUNCHES: Final = 5
_REST_SECONDS: Final = 2.0
_TIME_UP: Final = "the time was up"


def spread(sessions: Sequence[float]) -> float:
    """Return the share by which the largest of the sessions' medians exceeds the smallest."""
    return max(sessions) / min(sessions) - 1 if sessions and min(sessions) > 0 else float("inf")


def compare_with_baseline(  # noqa: PLR0913 - what a comparison is
    launch: Callable[[int], Mapping[str, float]],
    metrics: Sequence[GatedMetric],
    rule: GateSpec,
    *,
    baseline: Mapping[str, float],
    sessions: Mapping[str, Sequence[float]],
    seed: int = 0,
    rest: float = _REST_SECONDS,
    deadline: float | None = None,
) -> Comparison:
    """Launch a few times, and again if a metric seems worse.

    ``baseline`` is the locked median of every metric. ``sessions`` are the medians of earlier
    sessions, the locked one first. ``rest`` is the pause in seconds before measuring again,
    ``deadline`` is on the monotonic clock. Errors of ``launch`` are left to the caller.
    """
    began = time.monotonic()

    def measured(start: int) -> list[Mapping[str, float]]:
        """Launch as often as the time allows."""
        found: list[Mapping[str, float]] = []
        with suppress(OutOfTime):
            while len(found) < LAUNCHES and (deadline is None or time.monotonic() < deadline):
                found.append(launch(start + len(found)))
        return found

    rounds = [measured(seed)]
    if not rounds[0]:
        return Comparison(results=(), pairs=0, seconds=time.monotonic() - began, stopped=_TIME_UP)
    first = {metric.name: _slowdown(metric, rounds[0], baseline) for metric in metrics}
    suspected = any(value > 1 + rule.tolerance for value in first.values())
    if suspected and len(rounds[0]) == LAUNCHES:
        # A disturbance of the machine may be over by then.
        time.sleep(rest)
        again = measured(seed + LAUNCHES)
        rounds += [again] if again else []
    results = [_judge(m, rounds, baseline, sessions[m.name], rule) for m in metrics]
    stopped = ""
    if len(rounds[-1]) < LAUNCHES or (suspected and len(rounds) == 1):
        stopped = _TIME_UP
        results = [replace(result, verdict=Verdict.INCONCLUSIVE) for result in results]
    return Comparison(
        results=results,
        stopped=stopped,
        pairs=sum(map(len, rounds)),
        seconds=time.monotonic() - began,
        notes=_notes(results, first, rule) if len(rounds) > 1 else (),
        values={
            m.name: [(baseline[m.name], found[m.name]) for each in rounds for found in each]
            for m in metrics
        },
    )


def _slowdown(
    metric: GatedMetric, launches: Sequence[Mapping[str, float]], baseline: Mapping[str, float]
) -> float:
    new = median(found[metric.name] for found in launches)
    return metric.slowdown(baseline[metric.name], new)


def _judge(
    metric: GatedMetric,
    rounds: Sequence[Sequence[Mapping[str, float]]],
    baseline: Mapping[str, float],
    sessions: Sequence[float],
    rule: GateSpec,
) -> MetricResult:
    old = baseline[metric.name]
    each = [metric.slowdown(old, found[metric.name]) for launches in rounds for found in launches]
    per_round = [_slowdown(metric, launches, baseline) for launches in rounds]
    # The best round counts, as a suspicion must be confirmed.
    least, noise = min(per_round), spread(sessions)
    known = len(sessions) >= LEAST_SESSIONS
    ratio, low, high = median(per_round), min(each), max(each)
    verdict, reason = Verdict.PASSED, ""
    if not all(0 < value < math.inf for value in each):
        verdict = Verdict.INCONCLUSIVE
        reason = f"{metric.name} was 0, negative or no number, so there is no ratio"
        ratio, low, high = math.nan, 0.0, math.inf
    elif least > 1 + rule.tolerance:
        if not known:
            verdict = Verdict.INCONCLUSIVE
            reason = (
                f"how much sessions on this machine differ is not known yet: {len(sessions)} of "
                f"{LEAST_SESSIONS} were seen"
            )
        elif noise > MAX_SPREAD:
            verdict = Verdict.INCONCLUSIVE
            reason = (
                f"sessions on this machine differ among themselves by {100 * noise:.1f} %, more "
                f"than {100 * MAX_SPREAD:g} %: compare with a revision instead "
                "(--autotune-against REV)"
            )
        elif least > (1 + rule.tolerance) * (1 + noise):
            verdict = Verdict.REGRESSED
        else:
            verdict = Verdict.INCONCLUSIVE
            reason = f"sessions on this machine differ by as much ({100 * noise:.2g} %)"
    elif known and noise <= MAX_SPREAD and max(per_round) * (1 + noise) < 1 / (1 + rule.tolerance):
        verdict = Verdict.IMPROVED
    return MetricResult(
        metric=metric,
        verdict=verdict,
        old=old,
        new=median(found[metric.name] for launches in rounds for found in launches),
        ratio=ratio,
        low=low,
        high=high,
        confidence=0.0,
        reason=reason,
    )


def _notes(
    results: Sequence[MetricResult], first: Mapping[str, float], rule: GateSpec
) -> tuple[str, ...]:
    """Return notes on metrics that seemed worse in the first round only."""
    return tuple(
        f"{result.metric.name} seemed worse by {100 * (first[result.metric.name] - 1):.1f} % at "
        "first, and was not when measured again"
        for result in results
        if first[result.metric.name] > 1 + rule.tolerance and result.verdict is Verdict.PASSED
    )
