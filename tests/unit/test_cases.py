"""Cases of a trial: kept apart, combined by the spec's rule, and held against the SLO in each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from builders import ended, make_bound, make_level, make_plan, make_record, make_slo, make_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.bench.bar import metric_bar
from pytest_autotune.errors import SLOViolation
from pytest_autotune.report.render import render
from pytest_autotune.scoring.cases import Case, CaseRule, Reference, combine, lost_at
from pytest_autotune.scoring.judgement import (
    Ending,
    Judgement,
    Measurement,
    Outcome,
    Question,
    judge,
    stored_value,
)
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.references import referenced, settled
from pytest_autotune.scoring.slo import SLO, Severity
from pytest_autotune.scoring.wording import slo_table
from pytest_autotune.study.documents import measurement_document, read_measurement
from pytest_autotune.study.protocol import Stop
from pytest_autotune.study.standing import Best, standing
from pytest_autotune.study.summary import Summary
from pytest_autotune.study.trial import Trial
from pytest_autotune.study.trial_line import broken_bounds, trial_line

COST = Objective.parse("minimize:cost")
SPEED = Objective.parse("maximize:speed")
MEMORY = make_bound("mem", 10.0, hard=True, fail_ratio=0.0)
VALUES = st.lists(st.floats(0.01, 100), min_size=1, max_size=5)


def in_cases(
    values: Mapping[str, float] | Sequence[float],
    metric: str = "cost",
    outside: Mapping[str, float] | None = None,
    ending: Ending = Ending.COMPLETE,
) -> Measurement:
    named = values if isinstance(values, Mapping) else {f"m{n}": v for n, v in enumerate(values)}
    cases = tuple(Case(name=name, metrics={metric: value}) for name, value in named.items())
    return Measurement(ending=ending, metrics=outside or {}, cases=cases)


def asked(rule: CaseRule | None, objective: Objective = COST, **fields: Any) -> Question:
    fields.setdefault("slo", make_slo())
    return Question(objective=objective, cases=rule, **fields)


def first(*values: float, trial: int = 0) -> Reference:
    return Reference(trial=trial, values={f"m{n}": value for n, value in enumerate(values)})


@pytest.mark.parametrize(
    ("rule", "objective", "value"),
    [
        ("mean", COST, 5.0),
        ("worst", COST, 8.0),
        ("worst", SPEED, 2.0),
        ("geomean", COST, 4.0),
    ],
)
def test_cases_combine_by_the_rule(rule: CaseRule, objective: Objective, value: float) -> None:
    metric = objective.metrics[0]
    found = judge(in_cases([2.0, 8.0], metric), asked(rule, objective))
    assert found.outcome is Outcome.FEASIBLE
    assert found.metric == metric
    assert found.value == pytest.approx(value)
    assert found.score == pytest.approx(objective.score(value))
    assert found.metrics[metric] == found.value
    assert found.cases is not None
    assert dict(found.cases.values) == {"m0": 2.0, "m1": 8.0}


def test_a_geometric_mean_is_of_the_ratios_to_the_first_complete_trial() -> None:
    found = judge(in_cases([1.0, 400.0]), asked("geomean", reference=first(2.0, 200.0, trial=3)))
    assert found.cases is not None
    assert found.metric == "cost_ratio"
    assert found.value == pytest.approx(1.0)
    assert found.answer == "cost, geomean of 2 cases: 1 × trial 3"
    assert found.amount == "1 × trial 3"
    better = judge(in_cases([1.0, 100.0]), asked("geomean", reference=first(2.0, 200.0)))
    assert better.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        ("mean", "mean_time, mean of 2 cases: 3 s"),
        ("worst", "mean_time, worst of 2 cases: 5 s (m1)"),
        ("geomean", "mean_time, geomean of 2 cases: 2.236 s"),
    ],
)
def test_a_value_says_what_it_is(rule: CaseRule, answer: str) -> None:
    objective = Objective.parse("minimize:mean_time")
    found = judge(in_cases([1.0, 5.0], "mean_time"), asked(rule, objective))
    assert found.answer == answer


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    trials=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.floats(0.01, 100), min_size=n, max_size=n), min_size=2)
    ),
    scale=st.floats(0.001, 1000),
)
def test_geomean_ranks_alike_whatever_the_reference_and_the_unit(
    trials: list[list[float]], scale: float
) -> None:
    question = asked("geomean")
    records = [finished(n, in_cases(values), question) for n, values in enumerate(trials)]
    by_first = settled(records, question)
    by_last = [
        judge(r.measurement, asked("geomean", reference=first(*trials[-1]))) for r in records
    ]
    in_other_unit = [
        judge(in_cases([v * scale for v in values]), question).value for values in trials
    ]
    last = by_last[0].value
    assert by_first[0].value == pytest.approx(1.0)
    for record, other, scaled in zip(by_first, by_last, in_other_unit, strict=True):
        assert record.value is not None
        assert other.value == pytest.approx(record.value * (last or 0.0))
        assert scaled == pytest.approx(record.value * (in_other_unit[0] or 0.0))


def finished(number: int, measurement: Measurement, question: Question) -> TrialRecord:
    judgement = judge(measurement, question)
    record = make_record(number, outcome=judgement.outcome, score=judgement.score)
    return TrialRecord(
        number=number,
        params=record.params,
        owner=record.owner,
        measurement=measurement,
        judgement=judgement,
    )


def test_the_reference_is_the_first_trial_that_has_every_case() -> None:
    question = asked("geomean")
    measurements = [
        in_cases([1.0, 2.0], ending=Ending.FAILED),
        in_cases([1.0], ending=Ending.CUT_SHORT),
        Measurement(cases=(Case(name="m0", metrics={"cost": 1.0}), lacking("m1"))),
        in_cases([4.0, 2.0]),
        in_cases([2.0, 1.0]),
    ]
    records = [finished(number, found, question) for number, found in enumerate(measurements)]
    assert referenced(question, records).reference == first(4.0, 2.0, trial=3)
    found = settled(records, question)
    assert [record.outcome for record in found] == [
        Outcome.FAILED, Outcome.INFEASIBLE, Outcome.FAILED, Outcome.FEASIBLE, Outcome.FEASIBLE,
    ]  # fmt: skip
    assert [record.value for record in found[3:]] == [1.0, 0.5]
    # What is settled stays so, whatever order trials end in.
    assert settled(found, question) == found
    assert settled([*found[:3], found[4]], question)[3].value == 1.0


def test_without_a_rule_or_without_cases_there_is_no_reference() -> None:
    records = [finished(0, in_cases([1.0]), asked(None))]
    assert referenced(asked(None), records) == asked(None)
    plain = [finished(0, Measurement(metrics={"cost": 3.0}), asked("geomean"))]
    assert settled(plain, asked("geomean")) == plain
    assert plain[0].judgement.answer == "cost 3"


def lacking(name: str, *metrics: str) -> Case:
    return Case(name=name, missing=metrics or ("cost",))


@pytest.mark.parametrize(
    ("cases", "question", "reason"),
    [
        (
            [Case(name="m0", metrics={"cost": 1.0}), lacking("m1")],
            asked("mean"),
            "the objective 'minimize:cost' needs cost, which was not reported in case m1",
        ),
        (
            [Case(name="m0", metrics={"cost": 1.0}), Case(name="m1", metrics={"cost": math.nan})],
            asked("worst"),
            "the objective 'minimize:cost' needs a finite cost, but cost = nan in case m1",
        ),
        (
            [Case(name="m0", metrics={"cost": 0.0})],
            asked("geomean"),
            (
                "a geometric mean needs values above 0, but cost = 0 in case m0: write "
                "'cases: mean' or 'cases: worst'"
            ),
        ),
        (
            [Case(name="m0", metrics={"cost": 1.0})],
            asked("mean", reference=first(1.0, 2.0, trial=7)),
            (
                "the objective 'minimize:cost' needs cost in every case, which was not reported in "
                "case m1, as it was in trial 7"
            ),
        ),
        (
            [Case(name="m0", metrics={"cost": 1.0}), Case(name="m1", metrics={"cost": 1.0})],
            asked("worst", reference=first(1.0)),
            (
                "cost was not reported in case m1 in trial 0, the first complete one, so trials do "
                "not compare: start anew with --autotune-fresh"
            ),
        ),
        (
            [Case(name="m0", metrics={"other": 1.0})],
            asked("mean"),
            "the objective 'minimize:cost' needs cost or mean_cost, but the trial reported: other",
        ),
    ],
)
def test_a_trial_without_a_value_in_every_case_says_which(
    cases: Sequence[Case], question: Question, reason: str
) -> None:
    found = judge(Measurement(cases=tuple(cases)), question)
    assert (found.outcome, found.reason, found.value) == (Outcome.FAILED, reason, None)


def test_the_objective_is_reported_in_cases_or_outside_of_them() -> None:
    both = in_cases([1.0, 2.0], outside={"cost": 3.0})
    found = judge(both, asked("mean"))
    assert found.outcome is Outcome.FAILED
    assert found.reason.startswith("cost was reported both in cases (m0, m1) and outside of them")
    whole = judge(in_cases([1.0, 2.0], "mem", {"cost": 3.0}), asked("mean"))
    assert (whole.metric, whole.value, whole.cases) == ("cost", 3.0, None)


def test_without_a_rule_cases_that_report_the_same_are_an_error_that_names_the_key() -> None:
    found = judge(in_cases([1.0, 2.0]), asked(None))
    assert found.outcome is Outcome.FAILED
    assert found.reason == (
        "cost was reported in 2 cases (m0, m1), and the spec does not say how they combine: write "
        "'cases: geomean', 'cases: mean' or 'cases: worst' in it"
    )
    bound = judge(in_cases([1.0, 2.0], "mem", {"cost": 1.0}), asked(None, slo=make_slo(MEMORY)))
    assert bound.reason.startswith("mem was reported in 2 cases (m0, m1), ")
    beside = judge(in_cases([1.0], outside={"cost": 3.0}), asked(None))
    assert beside.reason.startswith("cost was reported in 2 cases (outside of cases, m0), ")
    many = judge(in_cases([1.0] * 6), asked(None))
    assert many.reason.startswith("cost was reported in 6 cases (m0, m1, m2, m3 and 2 more), ")
    levels = tuple(
        Case(name=name, levels=(make_level(1, cost=1.0),), metrics={}) for name in ("m0", "m1")
    )
    assert judge(Measurement(cases=levels), asked(None)).reason.startswith("cost was reported in 2")


def test_without_a_rule_cases_add_up_where_nobody_asks_for_what_they_share() -> None:
    cases = (
        Case(name="m0", metrics={"cost": 1.0, "num_samples": 5.0}, levels=(make_level(4, x=1.0),)),
        Case(name="m1", metrics={"mem": 2.0, "num_samples": 9.0}, levels=(make_level(1, x=3.0),)),
    )
    found = judge(Measurement(cases=cases), asked(None, slo=make_slo(MEMORY)))
    assert (found.outcome, found.value, found.metrics["x"]) == (Outcome.FEASIBLE, 1.0, 2.0)
    record = finished(0, Measurement(cases=cases), asked(None))
    assert [level.concurrency for level in record.levels] == [1, 4]


def test_an_slo_holds_in_every_case_and_the_worst_one_is_shown() -> None:
    cases = tuple(
        Case(name=name, metrics={"cost": 1.0, "mem": mem})
        for name, mem in (("m0", 3.0), ("m1", 12.0), ("m2", 11.0))
    )
    slo = make_slo(make_bound("temp", 90.0), MEMORY)
    found = judge(Measurement(metrics={"temp": 45.0}, cases=cases), asked("mean", slo=slo))
    assert found.outcome is Outcome.INFEASIBLE
    temp, mem = found.compliance.results
    assert (temp.case, temp.actual) == (None, 45.0)
    assert (mem.case, mem.actual, mem.severity) == ("m1", 12.0, Severity.HARD)
    assert "mem @ m1" in slo_table(found.compliance.results)
    record = make_record(1, outcome=Outcome.INFEASIBLE, bounds=found.compliance.results)
    assert broken_bounds(record) == "infeasible: mem 12 in case m1, limit ≤ 10"


def test_levels_of_cases_are_held_against_the_slo_and_named() -> None:
    cases = tuple(
        Case(name=name, levels=(make_level(1, cost=1.0, mem=1.0), make_level(8, cost=5.0, mem=mem)))
        for name, mem in (("m0", 9.0), ("m1", 30.0))
    )
    found = judge(Measurement(cases=cases), asked("mean", slo=make_slo(MEMORY)))
    assert [result.place for result in found.compliance.results] == ["m1, 8"]
    kept = judge(Measurement(cases=cases), asked("mean", slo=make_slo(MEMORY, levels="filter")))
    assert (kept.outcome, kept.dropped) == (Outcome.FEASIBLE, ("m1, 8",))
    assert kept.cases is not None
    assert dict(kept.cases.values) == {"m0": 3.0, "m1": 1.0}
    most = judge(Measurement(cases=cases), asked("worst", slo=make_slo(MEMORY, levels="max")))
    assert (most.metric, most.value) == ("max_compliant_concurrency", 1.0)


def test_a_bound_fails_closed_in_a_case_that_did_not_report_it() -> None:
    cases = (
        Case(name="m0", metrics={"cost": 1.0, "mem": 2.0}),
        Case(name="m1", metrics={"cost": 1.0}, missing=("mem",)),
        Case(name="other", metrics={"cost": 1.0}),
    )
    slo = make_slo(MEMORY)
    found = judge(Measurement(cases=cases), asked("mean", slo=slo))
    (result,) = found.compliance.results
    assert (found.outcome, result.severity, result.case) == (
        Outcome.INFEASIBLE, Severity.MISSING, "m1",
    )  # fmt: skip
    nowhere = judge(in_cases([1.0]), asked("mean", slo=slo))
    assert [(r.severity, r.case) for r in nowhere.compliance.results] == [(Severity.MISSING, None)]


def test_a_trial_that_was_cut_short_lacks_nothing_that_it_could_not_report() -> None:
    slo = make_slo(MEMORY, make_bound("temp", 1.0, hard=True))
    cases = (Case(name="m0", metrics={"mem": 11.0}), lacking("m1", "mem", "cost"))
    found = judge(Measurement(ending=Ending.CUT_SHORT, cases=cases), asked("mean", slo=slo))
    assert found.outcome is Outcome.INFEASIBLE
    assert [(r.bound.label, r.case) for r in found.compliance.results] == [("mem", "m0")]
    assert found.value is None


@pytest.mark.parametrize(
    ("rule", "reference", "value"),
    [("mean", None, None), ("mean", first(1.0, 1.0), 1.5), ("mean", first(1, 1, 1), None),
     (None, None, None)],
)  # fmt: skip
def test_a_trial_that_was_cut_short_has_a_value_only_if_it_had_got_through_all_cases(
    rule: CaseRule | None, reference: Reference | None, value: float | None
) -> None:
    costs = [1.0, 2.0] if rule else [1.0]
    slo = make_slo(make_bound("temp", 1.0, hard=True))
    cut = in_cases(costs, outside={"temp": 9.0}, ending=Ending.CUT_SHORT)
    found = judge(cut, asked(rule, slo=slo, reference=reference))
    assert (found.outcome, found.value) == (Outcome.INFEASIBLE, value)


def test_a_soft_violation_in_a_case_costs_as_much_whatever_the_unit() -> None:
    slo = make_slo(make_bound("mem", 10.0))
    cases = tuple(Case(name=f"m{n}", metrics={"cost": 4.0, "mem": 11.0}) for n in range(2))
    found = judge(Measurement(cases=cases), asked("geomean", slo=slo, reference=first(8.0, 8.0)))
    assert found.value == pytest.approx(0.5)
    # Neither score nor Optuna's value depend on which trial is the first.
    assert found.score == pytest.approx(4.0 * math.e)
    alone = judge(Measurement(cases=cases), asked("geomean", slo=slo))
    assert stored_value(alone, COST) == stored_value(found, COST) == found.score


def test_other_metrics_combine_in_the_direction_that_is_known_of_them() -> None:
    cases = tuple(
        Case(name=f"m{n}", metrics={"mean_cost": v, "p50_cost": v, "rate": v, "mem": v, "num": v})
        for n, v in enumerate((1.0, 3.0))
    )
    question = asked("worst", slo=make_slo(MEMORY), others=(Objective.parse("maximize:rate"),))
    found = judge(Measurement(cases=cases), question)
    assert found.metrics == {
        "mean_cost": 3.0, "p50_cost": 3.0, "rate": 1.0, "mem": 3.0, "num": 2.0
    }  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    rule=st.sampled_from(("geomean", "mean", "worst")),
    maximize=st.booleans(),
    known=st.lists(st.floats(0.01, 100), max_size=3),
    rest=st.lists(st.floats(1e-6, 1e4), max_size=3),
    bar=st.floats(0.01, 100),
)
def test_a_case_is_lost_only_if_no_other_case_can_make_good_for_it(
    rule: CaseRule, *, maximize: bool, known: list[float], rest: list[float], bar: float
) -> None:
    limit = lost_at(rule, bar, known, left=len(rest), maximize=maximize)
    if limit is None:
        assert rest
        return
    beyond = limit * 0.999 if maximize else max(limit, 1e-9) * 1.001
    if beyond <= 0:
        return
    combined = combine(rule, [*known, beyond, *rest], maximize=maximize)
    assert combined < bar * 1.0001 if maximize else combined > bar * 0.9999
    if not rest and limit > 0 and rule != "worst":
        # The last case decides: short of the limit the trial wins.
        short = limit * 1.001 if maximize else limit * 0.999
        nearly = combine(rule, [*known, short], maximize=maximize)
        assert nearly > bar * 0.9999 if maximize else nearly < bar * 1.0001


@pytest.mark.parametrize(
    ("rule", "case", "reported", "limit"),
    [
        ("worst", "m0", {}, 8.4),
        ("mean", "m0", {}, 10.5),
        ("mean", "m1", {"m0": 4.0}, 6.5),
        ("geomean", "m0", {}, None),
        ("geomean", "m1", {"m0": 4.0}, 4.0 * 1.05**2),
        # Of what the best trial has not measured nothing is known.
        ("worst", "m7", {}, None),
        ("mean", "", {}, None),
        ("mean", "m1", {"m0": 99.0}, None),
    ],
)
def test_a_race_is_run_against_what_the_best_trial_has_in_all_cases(
    rule: CaseRule, case: str, reported: Mapping[str, float], limit: float | None
) -> None:
    records = settled([finished(0, in_cases([2.0, 8.0]), asked(rule))], asked(rule))
    cases = [Case(name=name, metrics={"cost": value}) for name, value in reported.items()]
    found = metric_bar(records, COST, case, [*cases, Case(name=case)])
    assert (found is None) == (limit is None)
    if found is not None:
        assert (found.metric, found.whole) == ("cost", False)
        assert found.value == pytest.approx(limit)


def test_cases_are_stored_and_read_back_exactly() -> None:
    measurement = Measurement(
        metrics={"temp": 1.0},
        cases=(
            Case(name="m0-n1", metrics={"cost": 0.1}, levels=(make_level(1, x=2.0),)),
            Case(name="7", metrics={}, missing=("cost",)),
        ),
    )
    document = json.loads(json.dumps(measurement_document(measurement)))
    assert document["cases"] == [
        {
            "name": "m0-n1", "metrics": {"cost": 0.1},
            "levels": [{"concurrency": 1}], "level_metrics": {"x": [2.0]},
        },
        {"name": "7", "missing": ["cost"]},
    ]  # fmt: skip
    assert read_measurement(document) == measurement
    assert "cases" not in measurement_document(Measurement(metrics={"cost": 1.0}))


# --- reports of tests


def make_trial(slo: Any = (), **optimization: Any) -> Trial:
    optimization.setdefault("objective", "minimize:cost")
    spec = make_spec(parameters={"a": [1, 2]}, optimization=optimization, slo=list(slo))
    return Trial(make_record(3, {"a": 2}, Outcome.RUNNING, None), make_plan(spec))


def judged(trial: Trial) -> Judgement:
    return judge(trial.measurement(Ending.COMPLETE), trial._plan.question)


def test_reports_of_cases_are_kept_apart_and_later_ones_win_within_a_case() -> None:
    trial = make_trial(cases="mean")
    trial.report({"temp": 40})
    for case in ("m0", "m1"):
        trial.cases.enter(case, "test_it")
        trial.cases.run()
        trial.report({"cost": 9})
        trial.report({"cost": 2 if case == "m0" else 4})
        trial.report_level(4, {"x": 1})
        trial.report({"notes": ["warm"]})
        trial.note("slow")
    assert trial.notes == ("m0: warm", "m0: slow", "m1: warm", "m1: slow")
    assert dict(trial.metrics) == {"temp": 40.0, "cost": 4.0}
    assert [level.concurrency for level in trial.levels] == [4]
    found = trial.measurement(Ending.COMPLETE)
    assert found.metrics == {"temp": 40.0}
    assert [(case.name, dict(case.metrics)) for case in found.cases] == [
        ("m0", {"cost": 2.0}), ("m1", {"cost": 4.0}),
    ]  # fmt: skip
    assert judged(trial).value == 3.0


def test_what_a_test_reports_in_one_case_it_owes_in_all_of_its_cases() -> None:
    trial = make_trial(cases="worst")
    # A check with cases of its own reports nothing, and owes nothing.
    for test, case, metrics in [
        ("test_right", "fp16-m0", {}),
        ("test_fast", "m0", {"cost": 1}),
        ("test_fast", "m1", {}),
        ("test_fast", "m2", {"cost": 2}),
        ("test_mem", "big", {"mem": 2}),
    ]:
        trial.cases.enter(case, test)
        trial.cases.run()
        if metrics:
            trial.report(metrics)
    cases = trial.measurement(Ending.COMPLETE).cases
    assert [(case.name, case.missing) for case in cases] == [
        ("m0", ()), ("m1", ("cost",)), ("m2", ()), ("big", ()),
    ]  # fmt: skip
    assert judged(trial).reason.endswith("needs cost, which was not reported in case m1")


def test_a_bound_is_asserted_at_once_in_the_case_that_breaks_it() -> None:
    trial = make_trial([{"metric": "mem", "max": 10}], cases="mean")
    trial.cases.enter("m0", "test_it")
    trial.report({"mem": 9})
    trial.cases.enter("m1", "test_it")
    with pytest.raises(SLOViolation, match=r"mem @ m1 .* BROKEN"):
        trial.report({"mem": 11})


def test_without_a_rule_two_cases_fail_for_that_and_for_nothing_else() -> None:
    trial = make_trial([{"metric": "mem", "max": 10}])
    trial.cases.enter("m0", "test_it")
    trial.report({"cost": 1, "mem": 9})
    trial.cases.enter("m1", "test_it")
    trial.report({"cost": 1, "mem": 11})
    assert "cost was reported in 2 cases (m0, m1)" in judged(trial).reason


def test_a_fixture_of_all_cases_reports_outside_of_them() -> None:
    trial = make_trial(cases="mean")
    trial.cases.enter("m0", "test_it")
    with trial.cases.outside_of_cases():
        trial.report({"load_time": 3})
    trial.report({"cost": 1})
    found = trial.measurement(Ending.COMPLETE)
    assert (dict(found.metrics), dict(found.cases[0].metrics)) == (
        {"load_time": 3.0},
        {"cost": 1.0},
    )


def test_a_recorded_measurement_is_reported_case_by_case() -> None:
    recorded = Measurement(
        metrics={"temp": 1.0},
        cases=(
            Case(name="m0", metrics={"cost": 1.0, "mem": 3.0}, levels=(make_level(2, x=1.0),)),
            Case(name="m1", metrics={"mem": 12.0}, missing=("cost",)),
        ),
    )
    trial = make_trial([{"metric": "mem", "max": 10}], cases="mean")
    with pytest.raises(SLOViolation, match="mem @ m1"):
        trial.report_measurement(recorded)
    found = trial.measurement(Ending.COMPLETE)
    assert (found.metrics, found.cases) == (recorded.metrics, recorded.cases)


# --- what people read


def summary_of(rule: str, *trials: Sequence[float]) -> Summary:
    spec = make_spec(
        parameters={"a": [1, 2, 3]}, optimization={"objective": "minimize:cost", "cases": rule}
    )
    plan = make_plan(spec)
    question = plan.question
    records = [
        ended(make_record(n, {"a": n}), plan, cases=in_cases(values).cases, metrics={"temp": 1.0})
        for n, values in enumerate(trials)
    ]
    return Summary(
        plan=plan, records=settled(records, question), stop=Stop.BUDGET, session="s", capacity=3
    )


def lines(summary: Summary) -> list[str]:
    return [f"{line.head:<8} {line.text}" for line in render(summary)]


def test_the_summary_shows_the_best_trial_case_by_case() -> None:
    shown = lines(summary_of("geomean", [2.0, 300.0], [1.0, 300.0]))
    assert shown[:6] == [
        "best     trial 1: a=1",
        "         cost, geomean of 2 cases: 0.7071 × trial 0 (minimize:cost)",
        "cases    case  cost  trial 0  ratio",
        "         m0       1        2  0.5",
        "         m1     300      300  1",
        "metrics  temp 1",
    ]
    assert lines(summary_of("worst", [2.0, 300.0]))[1:5] == [
        "         cost, worst of 2 cases: 300 (m1) (minimize:cost)",
        "cases    case  cost",
        "         m0    2",
        "         m1    300",
    ]


def test_a_trials_line_says_which_trial_its_ratio_is_to() -> None:
    summary = summary_of("geomean", [2.0, 300.0], [1.0, 300.0])
    worse, best = summary.trials
    assert trial_line(worse).endswith("cost, geomean of 2 cases: 1 × trial 0")
    assert standing(0, Best.of(best)) == "best so far 0.7071 × trial 0 (trial 1)"
    assert summary.document()["incumbent"]["metric"] == "cost_ratio"


def test_an_slo_without_bounds_is_no_obstacle() -> None:
    assert judge(in_cases([1.0]), asked("mean", slo=SLO())).compliance.met
