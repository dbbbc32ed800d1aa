"""From the reports of all cases of a trial to one value, and to the SLO in its worst case."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_autotune.scoring.cases import Case, CaseRule, CaseValues, Reference, combine
from pytest_autotune.scoring.compliance import Checked, checked, in_case, merged_compliance
from pytest_autotune.scoring.metrics import NOTHING, ONE_PIECE, ONE_PIECE_CAUSE, Metrics
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import SLO, Bound, Compliance
from pytest_autotune.text.suggest import did_you_mean, few


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """The reports of all cases, combined.

    ``metrics`` are combined by the same rule, those of the whole trial as they are. ``value`` is
    None where it is unknown, and then ``problem`` says why. ``cases`` is None where the objective
    was reported for the whole trial.
    """

    compliance: Compliance
    metrics: Metrics
    dropped: tuple[str, ...] = ()
    metric: str | None = None
    value: float | None = None
    cases: CaseValues | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Combination:
    """The rule by which cases combine, for an ``objective`` and an ``slo``.

    ``others`` are objectives whose metrics are compared as well. Unless ``complete``, what was
    not reported had no chance to be.
    """

    rule: CaseRule
    objective: Objective
    slo: SLO
    reference: Reference | None = None
    others: Sequence[Objective] = ()
    complete: bool = True

    def of(self, outside: Case, cases: Sequence[Case]) -> Combined:
        """Combine the reports of ``cases``, and of a trial ``outside`` of them."""
        parts = {case.name: self._checked(case) for case in cases}
        whole = checked(outside.metrics, outside.levels, self._outside(outside, cases))
        compliance = _ordered(merged_compliance([*_compliances(parts), whole.compliance]), self.slo)
        name = self._metric(whole.metrics, parts)
        found = Combined(
            compliance=compliance,
            metrics={**self._others(parts, list(parts)), **whole.metrics},
            dropped=tuple(_dropped(parts, whole)),
            problem=self._problem(name, outside, whole, cases, parts),
        )
        if found.problem or name is None:
            return found
        if name in whole.metrics:
            return replace(found, metric=name, value=whole.metrics[name])
        values = {case: part.metrics[name] for case, part in parts.items() if name in part.metrics}
        combined = CaseValues(
            rule=self.rule, metric=name, values=values,
            maximize=self.objective.maximize, reference=self.reference,
        )  # fmt: skip
        return replace(
            found,
            metric=combined.name,
            value=combined.value,
            cases=combined,
            metrics={
                **self._others(parts, list(values)),
                name: combined.absolute,
                combined.name: combined.value,
                **whole.metrics,
            },
        )

    def _checked(self, case: Case) -> Checked:
        """Hold a case against the bounds on what it reported, or should have."""
        expected = {*case.names, *(case.missing if self.complete else ())}
        bounds = tuple(bound for bound in self.slo.bounds if expected.intersection(bound.metrics))
        found = checked(case.metrics, case.levels, replace(self.slo, bounds=bounds))
        return replace(found, compliance=in_case(found.compliance, case.name))

    def _outside(self, outside: Case, cases: Sequence[Case]) -> SLO:
        """Return the bounds to hold outside of cases: on what was reported there, or nowhere."""
        inside = {name for case in cases for name in (*case.names, *case.missing)}

        def counts(bound: Bound) -> bool:
            return bool(outside.names.intersection(bound.metrics)) or not inside.intersection(
                bound.metrics
            )

        return replace(self.slo, bounds=tuple(filter(counts, self.slo.bounds)))

    def _metric(self, whole: Metrics, parts: Mapping[str, Checked]) -> str | None:
        """Return the first metric of the objective that was reported anywhere."""
        reported = {*whole, *(name for part in parts.values() for name in part.metrics)}
        return next((name for name in self.objective.metrics if name in reported), None)

    def _problem(
        self,
        name: str | None,
        outside: Case,
        whole: Checked,
        cases: Sequence[Case],
        parts: Mapping[str, Checked],
    ) -> str:
        """Return why the objective has no value, empty if it has one."""
        needed = f"the objective {self.objective.name!r} needs "
        if name is None:
            names = {*outside.names, *(n for part in parts.values() for n in part.metrics)}
            return missing(self.objective, sorted(names))
        inside = [case.name for case in cases if name in parts[case.name].metrics]
        for case, part in (("", whole), *parts.items()):
            if not part.shows(self.objective):
                where = f" in case {case}" if case else ""
                shown = f"the objective {self.objective.name!r} ({name})"
                return f"{ONE_PIECE}{where} ({ONE_PIECE_CAUSE}), so it does not show {shown}"
        if name in whole.metrics:
            if inside:
                return (
                    f"{name} was reported both in cases ({', '.join(inside)}) and outside of them, "
                    "so the objective is not clear: report it in one of these only"
                )
            value = whole.metrics[name]
            finite = math.isfinite(value)
            return "" if finite else f"{needed}a finite {name}, but {name} = {value}"
        for case in self._without(name, cases, parts):
            return f"{needed}{name}, which was not reported in case {case}"
        for case in inside:
            value = parts[case].metrics[name]
            if not math.isfinite(value):
                return f"{needed}a finite {name}, but {name} = {value} in case {case}"
            if value <= 0 and self.rule == "geomean":
                return (
                    f"a geometric mean needs values above 0, but {name} = {value:g} in case "
                    f"{case}: write 'cases: mean' or 'cases: worst'"
                )
        return self._against_reference(name, inside)

    def _without(
        self, name: str, cases: Sequence[Case], parts: Mapping[str, Checked]
    ) -> Iterator[str]:
        """Yield the cases that lack the objective, but should have it."""
        for case in cases:
            if name in parts[case.name].metrics:
                continue
            # A metric that is made of levels is missing where these are.
            alike = name in case.missing or not set(self.objective.metrics).isdisjoint(case.missing)
            if alike or (self.slo.levels == "max" and case.missing and not case.levels):
                yield case.name

    def _against_reference(self, name: str, inside: Sequence[str]) -> str:
        if self.reference is None:
            # Nothing says which cases had no chance to be reported.
            return "" if self.complete else "the trial was cut short, maybe before its last case"
        first, known = self.reference.trial, self.reference.values
        for case in known:
            if case not in inside:
                return (
                    f"the objective {self.objective.name!r} needs {name} in every case, which was "
                    f"not reported in case {case}, as it was in trial {first}"
                )
        for case in inside:
            if case not in known:
                return (
                    f"{name} was not reported in case {case} in trial {first}, the first complete "
                    "one, so trials do not compare: start anew with --autotune-fresh"
                )
        return ""

    def _others(self, parts: Mapping[str, Checked], cases: Sequence[str]) -> dict[str, float]:
        """Combine every metric that all of ``cases`` have."""
        found: dict[str, float] = {}
        for name in dict.fromkeys(name for case in cases for name in parts[case].metrics):
            values = [parts[case].metrics.get(name, math.nan) for case in cases]
            if all(map(math.isfinite, values)):
                value = self._other(name, values)
                if value is not None:
                    found[name] = value
        return found

    def _other(self, name: str, values: Sequence[float]) -> float | None:
        if self.rule == "worst":
            maximize = self._is_maximized(name)
            if maximize is None:
                return combine("mean", values, maximize=False)
            return combine("worst", values, maximize=maximize)
        if self.rule == "geomean" and min(values) <= 0:
            return None
        return combine(self.rule, values, maximize=False)

    def _is_maximized(self, name: str) -> bool | None:
        """Return whether more of a metric is better, None where nothing says so."""
        for objective in (self.objective, *self.others):
            if name in _alike(objective):
                return objective.maximize
        return next((not b.upper for b in self.slo.bounds if name in b.metrics), None)


def missing(objective: Objective, reported: Sequence[str]) -> str:
    """Return that nobody reported an objective, and which metrics they reported."""
    # Of "minimize_latency" and "minimize:latency" the last part is what the user means.
    words = (*objective.metrics, re.split("[_:]", objective.name, maxsplit=1)[-1])
    hint = next(filter(None, (did_you_mean(word, reported) for word in words)), "")
    needs = f"the objective {objective.name!r} needs {' or '.join(objective.metrics)}"
    return f"{needs}, but the trial reported: {few(reported, words[0]) or NOTHING}{hint}"


def _alike(objective: Objective) -> set[str]:
    """Return the metrics of an objective, and the medians that the gate takes for means."""
    medians = (name.replace("mean_", "p50_", 1) for name in objective.metrics)
    return {*objective.metrics, *medians}


def _compliances(parts: Mapping[str, Checked]) -> Iterator[Compliance]:
    return (part.compliance for part in parts.values())


def _dropped(parts: Mapping[str, Checked], whole: Checked) -> Iterator[str]:
    yield from whole.dropped
    for case, part in parts.items():
        yield from (f"{case}, {label}" for label in part.dropped)


def _ordered(compliance: Compliance, slo: SLO) -> Compliance:
    """Return the results in the order of the bounds."""
    order = {bound.label: at for at, bound in reversed(list(enumerate(slo.bounds)))}
    results = sorted(compliance.results, key=lambda result: order[result.bound.label])
    return Compliance(results=tuple(results))
