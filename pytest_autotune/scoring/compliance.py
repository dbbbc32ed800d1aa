"""The bounds of an SLO held against the metrics and load levels of a trial, or of one case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_autotune.scoring.levels import Level, max_compliant
from pytest_autotune.scoring.metrics import ONE_PIECE, Metrics, aggregate, problem
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import (
    SLO,
    BoundResult,
    Compliance,
    Severity,
    check,
    check_bound,
    worst,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Metrics and levels that were held against an SLO.

    ``metrics`` are those that were reported and the aggregates of the levels. ``dropped`` are the
    labels of the levels that ``levels: filter`` left out, ``kept`` are the others.
    """

    compliance: Compliance
    metrics: Metrics
    dropped: tuple[str, ...] = ()
    kept: Sequence[Level] = ()

    def shows(self, objective: Objective) -> bool:
        """Return whether an objective can be told: not from a stream that came in one piece."""
        every = (self.metrics, *(level.metrics for level in self.kept))
        return all(problem(metrics, objective.metrics) != ONE_PIECE for metrics in every)


def checked(metrics: Metrics, levels: Sequence[Level], slo: SLO) -> Checked:
    """Hold ``slo`` against what was reported for a trial and its levels."""
    compliance, kept, dropped = _compliance(metrics, levels, slo)
    merged = {**(aggregate([level.metrics for level in kept]) if kept else {}), **metrics}
    if slo.levels == "max" and levels:
        merged |= max_compliant(levels, kept if compliance.feasible else ())
    return Checked(compliance=compliance, metrics=merged, dropped=dropped, kept=kept)


def broken_so_far(
    metrics: Metrics, slo: SLO, level: str | None = None, case: str | None = None
) -> Compliance:
    """Check only the bounds whose metric is already there, to fail a trial early."""
    present = tuple(bound for bound in slo.bounds if any(name in metrics for name in bound.metrics))
    early = SLO(bounds=present, steepness=slo.steepness, levels=slo.levels)
    return in_case(check(early, metrics, level), case)


def in_case(compliance: Compliance, case: str | None) -> Compliance:
    """Return a compliance whose results name the case that they are of."""
    return Compliance(results=tuple(replace(result, case=case) for result in compliance.results))


def merged_compliance(parts: Sequence[Compliance]) -> Compliance:
    """Take each bound where it fared worst."""
    per_bound: dict[str, list[BoundResult]] = {}
    for result in (result for part in parts for result in part.results):
        per_bound.setdefault(result.bound.label, []).append(result)
    return Compliance(results=tuple(worst(results) for results in per_bound.values()))


def _compliance(
    metrics: Metrics, levels: Sequence[Level], slo: SLO
) -> tuple[Compliance, Sequence[Level], tuple[str, ...]]:
    if not levels:
        return check(slo, metrics), (), ()
    by_level = {
        bound.label for bound in slo.bounds
        if any(name in level.metrics for name in bound.metrics for level in levels)
    }  # fmt: skip
    by_levels = [_level_compliance(level, slo, by_level) for level in levels]
    # What was reported for the whole trial counts beside what the levels say.
    overall = Compliance(
        results=tuple(
            check_bound(bound, metrics, slo.steepness)
            for bound in slo.bounds
            if bound.label not in by_level or any(name in metrics for name in bound.metrics)
        )
    )
    if slo.levels == "all":
        return merged_compliance([*by_levels, overall]), levels, ()
    if slo.levels == "max":
        by_levels = [_as_hard(compliance) for compliance in by_levels]
    passed = [compliance.feasible for compliance in by_levels]
    if not any(passed):
        # Nothing survives: the level that came closest says by how much.
        closest = min(by_levels, key=lambda compliance: compliance.violation)
        return merged_compliance([closest, overall]), levels, ()
    kept = [level for level, ok in zip(levels, passed, strict=True) if ok]
    dropped = tuple(level.label for level, ok in zip(levels, passed, strict=True) if not ok)
    surviving = [c for c, ok in zip(by_levels, passed, strict=True) if ok]
    return merged_compliance([*surviving, overall]), kept, dropped


def _level_compliance(level: Level, slo: SLO, by_level: set[str]) -> Compliance:
    return Compliance(
        results=tuple(
            check_bound(bound, level.metrics, slo.steepness, level.label)
            for bound in slo.bounds
            if bound.label in by_level
        )
    )


def _as_hard(compliance: Compliance) -> Compliance:
    """Under ``levels: max`` a level that merely misses softly does not count either."""
    results = [
        replace(result, bound=replace(result.bound, hard=True, fail_ratio=0.0))
        for result in compliance.results
    ]
    return Compliance(
        results=tuple(
            replace(result, severity=Severity.HARD, penalty=0.0)
            if result.severity in {Severity.MINOR, Severity.SEVERE}
            else result
            for result in results
        )
    )
