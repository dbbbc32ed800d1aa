"""From what was measured to whether it was good: one pure function of a fact and a question."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pytest_autotune.scoring.cases import (
    Case,
    CaseRule,
    CaseValues,
    Reference,
    clash_reason,
    clashes,
)
from pytest_autotune.scoring.combination import Combination, Combined, missing
from pytest_autotune.scoring.compliance import Checked, checked
from pytest_autotune.scoring.levels import Level, failed_requests, sorted_levels
from pytest_autotune.scoring.metrics import ONE_PIECE, ONE_PIECE_CAUSE, Metrics
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import MAX_SCORE, SLO, Compliance, penalized
from pytest_autotune.text.numbers import quantity

#: The objective of a study with ``slo.levels: max``.
MAX_LEVEL: Final = Objective(
    name="maximize compliant level",
    metrics=("max_compliant_concurrency", "max_compliant_request_rate"),
    maximize=True,
)


class Ending(str, enum.Enum):
    """The end of a trial's tests.

    ``CUT_SHORT`` is a trial whose tests ended at a broken bound, before all had run: what it had
    no chance to report is not missing. If it reported all that a question asks for, it answers it.
    """

    COMPLETE = "complete"
    CUT_SHORT = "cut short"
    FAILED = "failed"
    PRUNED = "pruned"
    SKIPPED = "skipped"


class Outcome(str, enum.Enum):
    """The judgement on a trial in a word, or that it still runs."""

    RUNNING = "running"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    PRUNED = "pruned"
    SKIPPED = "skipped"


#: Outcomes of trials that measured nothing, so that they may be measured yet.
UNMEASURED: Final = frozenset({Outcome.FAILED, Outcome.SKIPPED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The metrics of a trial and the end of its tests: a fact, whatever the question.

    ``metrics`` were reported for the whole trial, under flat names; ``levels`` are its load
    levels, lightest first. ``cases`` are what tests with other parameters reported. ``notes`` are
    sentences on how it was measured, ``disturbances`` reasons not to believe it (other processes,
    a hot GPU), ``reason`` says why it failed or was pruned. ``estimate`` is what is known of the
    objective of a trial that was pruned, with the user's sign. ``partial`` is whether tests or
    load levels were left out, or levels ended early, because of the question. ``duration`` is in
    seconds.
    """

    ending: Ending = Ending.COMPLETE
    metrics: Metrics = field(default_factory=dict)
    levels: tuple[Level, ...] = ()
    cases: tuple[Case, ...] = ()
    notes: tuple[str, ...] = ()
    disturbances: tuple[str, ...] = ()
    reason: str = ""
    estimate: float | None = None
    partial: bool = False
    duration: float | None = None

    @property
    def outside(self) -> Case:
        """Everything that was reported outside of cases, as a case without a name."""
        return Case(name="", metrics=self.metrics, levels=self.levels)

    @property
    def every_level(self) -> tuple[Level, ...]:
        """The load levels of all cases."""
        cases = (self.outside, *self.cases)
        return sorted_levels(level for case in cases for level in case.levels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The question that a measurement answers.

    ``cases`` says how the objective's values in several cases combine. ``reference`` is the
    first complete trial of the study, None before there is one, and where trials are launched
    one by one. ``others`` are objectives that the gate compares, too.
    """

    slo: SLO
    objective: Objective
    cases: CaseRule | None = None
    reference: Reference | None = None
    others: tuple[Objective, ...] = ()

    @property
    def target(self) -> Objective:
        """The objective that counts: ``levels: max`` brings its own."""
        return MAX_LEVEL if self.slo.levels == "max" else self.objective

    @property
    def asked(self) -> tuple[str, ...]:
        """The metrics that it asks for: those of its objectives, then those of its bounds."""
        objectives = (self.target, self.objective, *self.others)
        named = [name for objective in objectives for name in objective.metrics]
        return (*named, *(name for bound in self.slo.bounds for name in bound.metrics))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The answer of a measurement to a question.

    ``metrics`` are those that were reported and the aggregates of the levels. ``value`` has the
    user's sign; ``score`` is canonical (lower is better), penalties included, and in the metric's
    own unit, whichever trial ``value`` is a ratio to. Both are None
    where the objective itself is unknown. ``dropped`` are the labels of the levels that
    ``levels: filter`` left out. ``reason`` says why the trial failed or was pruned. ``cases``
    are the values that ``value`` combines, None where it is one of the whole trial.
    ``reference`` is that of the question.
    """

    outcome: Outcome
    metrics: Metrics = field(default_factory=dict)
    compliance: Compliance = field(default_factory=Compliance)
    metric: str | None = None
    value: float | None = None
    score: float | None = None
    dropped: tuple[str, ...] = ()
    reason: str = ""
    cases: CaseValues | None = None
    reference: Reference | None = None

    @property
    def absolute(self) -> float | None:
        """The value in the metric's own unit, also where ``value`` is a ratio."""
        return self.value if self.cases is None else self.cases.absolute

    @property
    def amount(self) -> str:
        """The value as text: ``12.5 ms``, or how many times that of the reference."""
        return quantity(self.metric, self.value) if self.cases is None else self.cases.amount

    @property
    def answer(self) -> str:
        """The value with what it is of: ``p50_ttft 12.5 ms``."""
        return f"{self.metric} {self.amount}" if self.cases is None else self.cases.description

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
    if measurement.ending is Ending.SKIPPED:
        return Judgement(outcome=Outcome.SKIPPED, reason=measurement.reason)
    clash = ambiguity(measurement.outside, measurement.cases, question)
    if clash:
        return Judgement(outcome=Outcome.FAILED, reason=clash)
    found = _combined(measurement, question)
    compliance, complete = found.compliance, measurement.ending is Ending.COMPLETE
    if not complete and not measurement.partial and found.value is not None:
        # It was cut short by a question, but had reported all that this one asks for.
        complete = reported_slo(measurement, question.slo) == question.slo
    if found.value is None and compliance.feasible and complete:
        failed = failed_requests(measurement.every_level, mostly=True)
        reason = "; ".join(filter(None, (failed, found.problem)))
        return Judgement(outcome=Outcome.FAILED, reason=reason, reference=question.reference)
    amount = found.value if found.cases is None else found.cases.absolute
    score = None if amount is None else question.target.score(amount)
    return Judgement(
        outcome=Outcome.FEASIBLE if compliance.feasible and complete else Outcome.INFEASIBLE,
        metrics=found.metrics,
        compliance=compliance,
        metric=found.metric,
        value=found.value,
        score=None if score is None else penalized(score, compliance.penalty),
        dropped=found.dropped,
        cases=found.cases,
        reference=question.reference,
    )


def _combined(measurement: Measurement, question: Question) -> Combined:
    """Return the reports of all cases, held against the SLO."""
    complete = measurement.ending is Ending.COMPLETE
    slo = question.slo if complete else reported_slo(measurement, question.slo)
    if measurement.cases and question.cases is not None:
        combination = Combination(
            rule=question.cases, objective=question.target, slo=slo,
            reference=question.reference, others=question.others, complete=complete,
        )  # fmt: skip
        return combination.of(measurement.outside, measurement.cases)
    every = (measurement.outside, *measurement.cases)
    reported = {name: value for case in every for name, value in case.metrics.items()}
    whole = checked(reported, measurement.every_level, slo)
    measured = question.target.measure(whole.metrics)
    if measurement.cases and not complete:
        # Other cases may have had no chance to report the same.
        measured = None
    if measured is None or not whole.shows(question.target):
        # Of some levels alone it would not be the objective.
        metric, value, missing = None, None, _missing(question, whole)
    else:
        (metric, value), missing = measured, ""
    return Combined(
        compliance=whole.compliance, metrics=whole.metrics, dropped=whole.dropped,
        metric=metric, value=value, problem=missing,
    )  # fmt: skip


def ambiguity(outside: Case, cases: Sequence[Case], question: Question) -> str:
    """Return why the cases of a trial need a rule that combines them, empty if they do not.

    Only metrics that are asked for count: others, such as the number of samples, may be reported
    in several cases.
    """
    if not cases or question.cases is not None:
        return ""
    found = clashes(outside, cases)
    name = next((name for name in question.asked if name in found), None)
    return "" if name is None else clash_reason(name, found[name])


def decides(measurement: Measurement, question: Question) -> bool:
    """Return whether ``measurement`` answers ``question``, which it was not made for.

    A trial that another question cut short answers if it broke a bound of this one all the same,
    or if it had reported everything that this one asks for.
    """
    if measurement.ending is Ending.PRUNED:
        return False
    if measurement.ending in {Ending.FAILED, Ending.SKIPPED}:
        return True
    if measurement.partial and measurement.every_level and question.slo.levels != "all":
        return False
    if measurement.ending is Ending.COMPLETE and not measurement.partial:
        return True
    judgement = judge(measurement, question)
    whole = judgement.outcome is Outcome.FEASIBLE and not measurement.partial
    return whole or not judgement.compliance.feasible


def stored_value(judgement: Judgement, objective: Objective) -> float:
    """Return the penalized value with the user's sign, for Optuna's own tools."""
    return objective.score(MAX_SCORE if judgement.score is None else judgement.score)


def reported_slo(measurement: Measurement, slo: SLO) -> SLO:
    """Return the bounds of ``slo`` whose metrics are there."""
    names = {name for case in (measurement.outside, *measurement.cases) for name in case.names}
    return replace(slo, bounds=tuple(b for b in slo.bounds if names.intersection(b.metrics)))


def _missing(question: Question, whole: Checked) -> str:
    objective, metrics = question.objective, whole.metrics
    wanted = " or ".join(objective.metrics)
    if not whole.shows(objective):
        return (
            f"{ONE_PIECE} ({ONE_PIECE_CAUSE}), so it does not show the objective "
            f"{objective.name!r}: {wanted}"
        )
    unusable = [name for name in objective.metrics if name in metrics]
    if unusable:
        values = ", ".join(f"{name} = {metrics[name]}" for name in unusable)
        return f"the objective {objective.name!r} needs a finite {wanted}, but {values}"
    names = sorted(name for name, value in metrics.items() if math.isfinite(value))
    return missing(objective, names)
