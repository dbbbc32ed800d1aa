"""From what was measured to whether it was good: one pure function of a fact and a question."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pytest_autotune.scoring.levels import Level, failed_requests, max_compliant
from pytest_autotune.scoring.metrics import (
    NOTHING,
    ONE_PIECE,
    Metrics,
    aggregate,
    problem,
)
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import (
    MAX_SCORE,
    SLO,
    BoundResult,
    Compliance,
    Severity,
    check,
    check_bound,
    penalized,
    worst,
)
from pytest_autotune.text.suggest import did_you_mean

#: The objective of a study with ``slo.levels: max``.
MAX_LEVEL: Final = Objective(
    name="maximize compliant level",
    metrics=("max_compliant_concurrency", "max_compliant_request_rate"),
    maximize=True,
)


class Ending(str, enum.Enum):
    """The end of a trial's tests.

    ``CUT_SHORT`` is a trial whose tests ended at a broken bound, before all had run: what it had
    no chance to report is not missing.
    """

    COMPLETE = "complete"
    CUT_SHORT = "cut short"
    FAILED = "failed"
    PRUNED = "pruned"


class Outcome(str, enum.Enum):
    """The judgement on a trial in a word, or that it still runs."""

    RUNNING = "running"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    PRUNED = "pruned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The metrics of a trial and the end of its tests: a fact, whatever the question.

    ``metrics`` were reported for the whole trial, under flat names; ``levels`` are its load
    levels, lightest first. ``notes`` are sentences on how it was measured, ``disturbances`` reasons
    not to believe it (other processes, a hot GPU), ``reason`` says why
    it failed or was pruned. ``estimate`` is what is known of the objective of a trial that was
    pruned, with the user's sign. ``duration`` is in seconds.
    """

    ending: Ending = Ending.COMPLETE
    metrics: Metrics = field(default_factory=dict)
    levels: tuple[Level, ...] = ()
    notes: tuple[str, ...] = ()
    disturbances: tuple[str, ...] = ()
    reason: str = ""
    estimate: float | None = None
    duration: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The question that a measurement answers."""

    slo: SLO
    objective: Objective

    @property
    def target(self) -> Objective:
        """The objective that counts: ``levels: max`` brings its own."""
        return MAX_LEVEL if self.slo.levels == "max" else self.objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The answer of a measurement to a question.

    ``metrics`` are those that were reported and the aggregates of the levels. ``value`` has the
    user's sign; ``score`` is canonical (lower is better), penalties included. Both are None
    where the objective itself is unknown. ``dropped`` are the labels of the levels that
    ``levels: filter`` left out. ``reason`` says why the trial failed or was pruned.
    """

    outcome: Outcome
    metrics: Metrics = field(default_factory=dict)
    compliance: Compliance = field(default_factory=Compliance)
    metric: str | None = None
    value: float | None = None
    score: float | None = None
    dropped: tuple[str, ...] = ()
    reason: str = ""

    @property
    def constraint(self) -> float | None:
        """The violation as Optuna takes constraints, None without bounds.

        Positive by the amount of the violation, else the smallest margin left, negated.
        """
        if not self.compliance.results:
            return None
        tightest = max(result.ratio for result in self.compliance.results)
        return min(tightest, 0.0) if self.compliance.feasible else self.compliance.violation


def judge(measurement: Measurement, question: Question) -> Judgement:
    """Return the judgement on ``measurement``.

    A trial that breaks no bound and did not report the objective failed: that is a mistake in
    its tests, not a bad configuration.
    """
    if measurement.ending is Ending.FAILED:
        return Judgement(outcome=Outcome.FAILED, reason=measurement.reason)
    if measurement.ending is Ending.PRUNED:
        return Judgement(outcome=Outcome.PRUNED, reason=measurement.reason)
    metrics, levels, slo = measurement.metrics, measurement.levels, question.slo
    if measurement.ending is Ending.CUT_SHORT:
        slo = reported_slo(metrics, levels, slo)
    compliance, kept, dropped = _compliance(metrics, levels, slo)
    merged = {**(aggregate([level.metrics for level in kept]) if kept else {}), **metrics}
    if slo.levels == "max" and levels:
        merged |= max_compliant(levels, kept if compliance.feasible else ())
    cut_short = measurement.ending is Ending.CUT_SHORT
    measured = question.target.measure(merged)
    if any(problem(v.metrics, question.target.metrics) == ONE_PIECE for v in kept):
        # Of the others alone it would not be the objective.
        measured = None
    if measured is None and compliance.feasible and not cut_short:
        reasons = (
            failed_requests(levels, mostly=True), _missing(question.objective, merged, kept)
        )  # fmt: skip
        return Judgement(outcome=Outcome.FAILED, reason="; ".join(filter(None, reasons)))
    metric, value = measured or (None, None)
    score = None if value is None else question.target.score(value)
    return Judgement(
        outcome=Outcome.FEASIBLE if compliance.feasible and not cut_short else Outcome.INFEASIBLE,
        metrics=merged,
        compliance=compliance,
        metric=metric,
        value=value,
        score=None if score is None else penalized(score, compliance.penalty),
        dropped=dropped,
    )


def stored_value(judgement: Judgement, objective: Objective) -> float:
    """Return the penalized value with the user's sign, for Optuna's own tools."""
    return objective.score(MAX_SCORE if judgement.score is None else judgement.score)


def reported_slo(metrics: Metrics, levels: Sequence[Level], slo: SLO) -> SLO:
    """Return the bounds of ``slo`` whose metrics are there."""
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


def _missing(
    objective: Objective, metrics: Mapping[str, float], levels: Sequence[Level] = ()
) -> str:
    wanted = " or ".join(objective.metrics)
    if any(
        problem(m, objective.metrics) == ONE_PIECE for m in (metrics, *(v.metrics for v in levels))
    ):
        return f"{ONE_PIECE}, so it does not show the objective {objective.name!r} ({wanted})"
    unusable = [name for name in objective.metrics if name in metrics]
    if unusable:
        values = ", ".join(f"{name} = {metrics[name]}" for name in unusable)
        return f"the objective {objective.name!r} needs a finite {wanted}, but {values}"
    names = sorted(name for name, value in metrics.items() if math.isfinite(value))
    hint = next(filter(None, (did_you_mean(name, names) for name in objective.metrics)), "")
    reported = ", ".join(names) or NOTHING
    needs = f"the objective {objective.name!r} needs {wanted}"
    return f"{needs}, but the trial reported: {reported}{hint}"
