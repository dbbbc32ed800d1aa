"""The bar of a trial: the value of a metric beyond which it has certainly lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_autotune.bench.clocks import CLOCK
from pytest_autotune.scoring.cases import Case, CaseValues, lost_at
from pytest_autotune.scoring.objective import RACE_MARGIN, Objective
from pytest_autotune.scoring.records import TrialRecord, effective, incumbent
from pytest_autotune.scoring.slo import MAX_SCORE


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricBar:
    """The ``value`` of ``metric`` beyond which a trial has lost, the margin of a race included.

    ``whole`` is whether the metric alone is the objective, and not one case of it. ``clock`` is
    the mean clock of the GPU (MHz) meanwhile, None where it is not known.
    """

    metric: str
    value: float
    whole: bool = True
    clock: float | None = None


def metric_bar(
    records: Sequence[TrialRecord], objective: Objective, case: str, cases: Sequence[Case]
) -> MetricBar | None:
    """Return the bar for a trial that now measures ``case``, None if there is nothing to beat.

    ``cases`` are its reports so far. The incumbent counts with its penalties, as a better trial
    has to beat those, too. A case is lost only if no result of the cases after it can make good
    for it.
    """
    best = incumbent(effective(records))
    if best is None or best.metric is None or best.score is None or best.score >= MAX_SCORE:
        return None
    value = objective.score(best.score)
    value = value / (1 + RACE_MARGIN) if objective.maximize else value * (1 + RACE_MARGIN)
    if value <= 0:
        return None
    combined = best.judgement.cases
    if combined is None:
        return MetricBar(metric=best.metric, value=value, clock=best.metrics.get(CLOCK))
    found = _in_case(combined, value, case, cases)
    if found is None or found <= 0:
        return None
    clocks = {each.name: each.metrics.get(CLOCK) for each in best.measurement.cases}
    return MetricBar(metric=combined.metric, value=found, whole=False, clock=clocks.get(case))


def _in_case(best: CaseValues, bar: float, case: str, cases: Sequence[Case]) -> float | None:
    if case not in best.values:
        return None
    reported = {each.name: each.metrics for each in cases if each.name != case}
    others = [reported.get(name, {}).get(best.metric) for name in best.values if name != case]
    known = [value for value in others if value is not None]
    if best.rule == "geomean" and any(value <= 0 for value in known):
        return None
    return lost_at(best.rule, bar, known, left=len(others) - len(known), maximize=best.maximize)
