"""From everything a trial reported to its score and feasibility."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_autotune.errors import MissingMetricError
from pytest_autotune.scoring.metrics import Metrics, aggregate, level_label
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import (
    SLO,
    BoundResult,
    Compliance,
    Severity,
    check,
    check_bound,
    penalized,
    worst,
)

#: The objective of a study with ``slo.levels: max``.
MAX_LEVEL = Objective(
    name="maximize compliant level",
    metrics=("max_compliant_concurrency", "max_compliant_request_rate"),
    maximize=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One load level of a trial and its flat metrics.

    The level is a ``concurrency`` (closed loop) or a ``request_rate`` in requests/s (open
    loop), with a traffic ``scenario`` where there is more than one.
    """

    concurrency: int | None = None
    request_rate: float | None = None
    scenario: str | None = None
    metrics: Metrics

    @property
    def load(self) -> float:
        """How heavy it is, in its own unit."""
        return float(self.concurrency or self.request_rate or 0.0)

    @property
    def label(self) -> str:
        """The level as people write it: ``8``, ``2.5/s``, ``8 D(100,100)``."""
        return level_label(self.document())

    @property
    def identity(self) -> tuple[str | int | float | None, ...]:
        """What tells it from the other levels of a trial."""
        return (self.concurrency, self.request_rate, self.scenario)

    def document(self) -> dict[str, Any]:
        """Return what identifies it, as plain JSON types."""
        found = {
            "concurrency": self.concurrency,
            "request_rate": self.request_rate,
            "scenario": self.scenario,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A finished trial's verdict.

    ``value`` has the user's sign; ``score`` is canonical (lower is better), penalties included.
    Both are None where the trial is infeasible for want of the objective itself.
    ``dropped`` are the labels of the levels that ``levels: filter`` left out, ``aggregates``
    the names of the metrics that follow from the levels' own.
    """

    metrics: Metrics
    compliance: Compliance
    metric: str | None
    value: float | None
    score: float | None
    dropped: tuple[str, ...] = ()
    aggregates: frozenset[str] = frozenset()


def effective_objective(objective: Objective, slo: SLO) -> Objective:
    """Return the objective that counts: ``levels: max`` brings its own."""
    return MAX_LEVEL if slo.levels == "max" else objective


def evaluate(
    metrics: Metrics, levels: Sequence[Level], slo: SLO, objective: Objective
) -> Evaluation:
    """Judge a trial that has reported all it will.

    Raises :class:`MissingMetricError` where a trial that breaks no SLO did not report the
    objective: that is a mistake in the test, not a bad configuration.
    """
    compliance, kept, dropped = _compliance(metrics, levels, slo)
    aggregated = aggregate([level.metrics for level in kept]) if kept else {}
    merged = {**aggregated, **metrics}
    aggregates = frozenset(aggregated).difference(metrics)
    if slo.levels == "max" and levels:
        merged |= max_compliant(levels, kept if compliance.feasible else ())
    measured = effective_objective(objective, slo).measure(merged)
    if measured is None:
        if compliance.feasible:
            raise MissingMetricError(_missing(objective, merged))
        return Evaluation(
            metrics=merged, compliance=compliance, metric=None, value=None, score=None,
            dropped=dropped, aggregates=aggregates,
        )  # fmt: skip
    metric, value = measured
    score = penalized(effective_objective(objective, slo).score(value), compliance.penalty)
    return Evaluation(
        metrics=merged, compliance=compliance, metric=metric, value=value, score=score,
        dropped=dropped, aggregates=aggregates,
    )  # fmt: skip


def max_compliant(levels: Sequence[Level], compliant: Sequence[Level]) -> dict[str, float]:
    """Return the highest load that was met in every scenario it was measured in, 0 if none."""
    passed = {level.identity for level in compliant}
    failed = {level.load for level in levels if level.identity not in passed}
    highest = max((lv.load for lv in compliant if lv.load not in failed), default=0.0)
    closed = all(level.concurrency is not None for level in levels)
    return {"max_compliant_concurrency" if closed else "max_compliant_request_rate": highest}


def reported_slo(metrics: Metrics, levels: Sequence[Level], slo: SLO) -> SLO:
    """Return what of ``slo`` can be judged by the metrics that are there."""
    names = {*metrics, *(name for level in levels for name in level.metrics)}
    return replace(slo, bounds=tuple(b for b in slo.bounds if names.intersection(b.metrics)))


def broken_so_far(metrics: Metrics, slo: SLO, level: str | None = None) -> Compliance:
    """Check only the bounds whose metric is already there, to fail a trial early."""
    present = tuple(bound for bound in slo.bounds if any(name in metrics for name in bound.metrics))
    return check(SLO(bounds=present, steepness=slo.steepness, levels=slo.levels), metrics, level)


def _compliance(
    metrics: Metrics, levels: Sequence[Level], slo: SLO
) -> tuple[Compliance, Sequence[Level], tuple[str, ...]]:
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
    dropped = tuple(level.label for level, ok in zip(levels, passed, strict=True) if not ok)
    surviving = [c for c, ok in zip(checked, passed, strict=True) if ok]
    return _merged(surviving, overall), kept, dropped


def _level_compliance(level: Level, slo: SLO, by_level: set[str]) -> Compliance:
    return Compliance(
        results=tuple(
            check_bound(bound, level.metrics, slo.steepness, level.label)
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
