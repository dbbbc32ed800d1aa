"""From everything a trial reported to its score and feasibility."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_autotune.errors import MissingMetricError
from pytest_autotune.metrics import Metrics, aggregate
from pytest_autotune.objective import Objective
from pytest_autotune.slo import (
    BoundResult,
    Compliance,
    Severity,
    check,
    check_bound,
    penalized,
    worst,
)
from pytest_autotune.spec.model import SLO

#: The objective of a study with ``slo.levels: max``.
MAX_CONCURRENCY = Objective(
    name="maximize compliant concurrency",
    metrics=("max_compliant_concurrency",),
    maximize=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One load level of a trial: its concurrency and its flat metrics."""

    concurrency: int
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A finished trial's verdict.

    ``value`` has the user's sign; ``score`` is canonical (lower is better), penalties included.
    Both are None where the trial is infeasible for want of the objective itself.
    ``dropped`` are the concurrencies that ``levels: filter`` left out.
    """

    metrics: Metrics
    compliance: Compliance
    metric: str | None
    value: float | None
    score: float | None
    dropped: tuple[int, ...] = ()


def effective_objective(objective: Objective, slo: SLO) -> Objective:
    """Return the objective that counts: ``levels: max`` brings its own."""
    return MAX_CONCURRENCY if slo.levels == "max" else objective


def evaluate(
    metrics: Metrics, levels: Sequence[Level], slo: SLO, objective: Objective
) -> Evaluation:
    """Judge a trial that has reported all it will.

    Raises :class:`MissingMetricError` where a trial that breaks no SLO did not report the
    objective: that is a mistake in the test, not a bad configuration.
    """
    compliance, kept, dropped = _compliance(metrics, levels, slo)
    merged = {**(aggregate([level.metrics for level in kept]) if kept else {}), **metrics}
    if slo.levels == "max" and levels:
        compliant = [level.concurrency for level in kept] if compliance.feasible else []
        merged["max_compliant_concurrency"] = float(max(compliant, default=0))
    measured = effective_objective(objective, slo).measure(merged)
    if measured is None:
        if compliance.feasible:
            raise MissingMetricError(_missing(objective, merged))
        return Evaluation(
            metrics=merged, compliance=compliance, metric=None, value=None, score=None,
            dropped=dropped,
        )  # fmt: skip
    metric, value = measured
    score = penalized(effective_objective(objective, slo).score(value), compliance.penalty)
    return Evaluation(
        metrics=merged, compliance=compliance, metric=metric, value=value, score=score,
        dropped=dropped,
    )  # fmt: skip


def broken_so_far(metrics: Metrics, slo: SLO, level: int | None = None) -> Compliance:
    """Check only the bounds whose metric is already there, to fail a trial early."""
    present = tuple(bound for bound in slo.bounds if any(name in metrics for name in bound.metrics))
    return check(SLO(bounds=present, steepness=slo.steepness, levels=slo.levels), metrics, level)


def _compliance(
    metrics: Metrics, levels: Sequence[Level], slo: SLO
) -> tuple[Compliance, Sequence[Level], tuple[int, ...]]:
    if not levels:
        return check(slo, metrics), (), ()
    by_level = {
        bound.label for bound in slo.bounds
        if any(name in level.metrics for name in bound.metrics for level in levels)
    }  # fmt: skip
    checked = [_level_compliance(level, slo, by_level) for level in levels]
    # What was reported for the whole trial counts beside what the levels say.
    overall = [
        check_bound(bound, metrics, slo.steepness)
        for bound in slo.bounds
        if bound.label not in by_level or any(name in metrics for name in bound.metrics)
    ]
    if slo.levels == "all":
        return _merged(checked, overall), levels, ()
    if slo.levels == "max":
        checked = [_as_hard(compliance) for compliance in checked]
    passed = [compliance.feasible for compliance in checked]
    if not any(passed):
        # Nothing survives: the level that came closest says by how much.
        closest = min(checked, key=lambda compliance: compliance.violation)
        return _merged([closest], overall), levels, ()
    kept = [level for level, ok in zip(levels, passed, strict=True) if ok]
    dropped = tuple(level.concurrency for level, ok in zip(levels, passed, strict=True) if not ok)
    surviving = [c for c, ok in zip(checked, passed, strict=True) if ok]
    return _merged(surviving, overall), kept, dropped


def _level_compliance(level: Level, slo: SLO, by_level: set[str]) -> Compliance:
    return Compliance(
        results=tuple(
            check_bound(bound, level.metrics, slo.steepness, level.concurrency)
            for bound in slo.bounds
            if bound.label in by_level
        )
    )


def _merged(levels: Sequence[Compliance], overall: Sequence[BoundResult]) -> Compliance:
    """Take each bound where it fared worst."""
    per_bound: dict[str, list[BoundResult]] = {}
    for result in (*(r for level in levels for r in level.results), *overall):
        per_bound.setdefault(result.bound.label, []).append(result)
    return Compliance(results=tuple(worst(results) for results in per_bound.values()))


def _as_hard(compliance: Compliance) -> Compliance:
    """Under ``levels: max`` a level that merely misses softly does not count either."""
    return Compliance(
        results=tuple(
            replace(result, severity=Severity.HARD, penalty=0.0)
            if result.severity in {Severity.MINOR, Severity.SEVERE}
            else result
            for result in compliance.results
        )
    )


def _missing(objective: Objective, metrics: Mapping[str, float]) -> str:
    wanted = " or ".join(objective.metrics)
    unusable = [name for name in objective.metrics if name in metrics]
    if unusable:
        values = ", ".join(f"{name} = {metrics[name]}" for name in unusable)
        return f"the objective {objective.name!r} needs a finite {wanted}, but {values}"
    reported = ", ".join(sorted(n for n, v in metrics.items() if math.isfinite(v))) or "nothing"
    return f"the objective {objective.name!r} needs {wanted}, but the trial reported: {reported}"
