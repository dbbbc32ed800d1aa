"""The end of a study in words: what was found, what stood in the way, and how to repeat it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from builders import (
    evaluate,
    make_bound,
    make_level,
    make_plan,
    make_record,
    make_slo,
    make_spec,
)

from pytest_autotune.report.render import Line, render
from pytest_autotune.scoring.judgement import Measurement, Outcome
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import Owner, TrialRecord
from pytest_autotune.scoring.slo import Severity, check
from pytest_autotune.scoring.wording import slo_table, unjudged
from pytest_autotune.space.parameters import point_key
from pytest_autotune.study.names import NUMBERED, TrialNames
from pytest_autotune.study.protocol import Stop
from pytest_autotune.study.standing import Best, Standings, standing
from pytest_autotune.study.summary import Summary
from pytest_autotune.study.trial_line import broken_bounds, trial_line

SPEC = make_spec(
    parameters={"a": [1, 2, 3, 4, 5, 6]}, optimization={"objective": "minimize:ttft", "seed": 4}
)
TTFT = make_bound("p99_ttft", 1.0, hard=True, fail_ratio=0.0)
ERRORS = make_bound("error_rate", 0.01, hard=True, fail_ratio=0.0)


def make_summary(records: Sequence[TrialRecord], **fields: Any) -> Summary:
    fields.setdefault("plan", make_plan(SPEC, trials=6))
    fields.setdefault("stop", Stop.BUDGET)
    fields.setdefault("capacity", 6)
    fields.setdefault("tests", [("test_it.py::test_a[", "]")])
    return Summary(records=records, session="s", **fields)


def feasible(number: int, value: float, **fields: Any) -> TrialRecord:
    fields.setdefault("score", value)
    return make_record(number, metric="mean_ttft", value=value, **fields)


def infeasible(number: int, **metrics: float) -> TrialRecord:
    judged = evaluate(metrics, [], make_slo(TTFT, ERRORS), Objective.parse("minimize:x"))
    return make_record(
        number,
        outcome=Outcome.INFEASIBLE,
        score=None,
        bounds=judged.compliance.results,
        metrics=metrics,
    )


def failed(number: int, reason: str = "AssertionError: wrong\nmore") -> TrialRecord:
    return make_record(number, outcome=Outcome.FAILED, score=None, reason=reason)


def test_the_best_is_the_feasible_trial_with_the_lowest_score() -> None:
    records = [feasible(0, 0.3), feasible(1, 0.2), infeasible(2, p99_ttft=9.0), failed(3)]
    summary = make_summary(records)
    assert summary.best is records[1]
    assert not summary.failed


@pytest.mark.parametrize("stop", [Stop.BUDGET, Stop.EXHAUSTED, Stop.PATIENCE, Stop.TIMEOUT])
def test_a_study_that_ended_without_a_feasible_trial_fails(stop: Stop) -> None:
    records = [infeasible(0, p99_ttft=9.0), failed(1)]
    assert make_summary(records, stop=stop).failed


def test_a_trial_that_another_session_runs_was_not_interrupted() -> None:
    now = Owner(process="p", session="s", slot="trial-000", started=1.0)
    later = Owner(process="q", session="t", slot="trial-001", started=2.0)
    ran = [feasible(0, 1.0, owner=now), feasible(1, 1.0, owner=later)]
    runs = make_record(2, outcome=Outcome.RUNNING, score=None, owner=later)
    summary = make_summary([*ran, runs], capacity=3, running={2})
    assert summary.counts() == (
        "2 of 3: 2 feasible, 1 running in another session; 1 of them in other runs"
    )
    assert summary.why_stopped() == "another session runs the rest of the 3 trials"
    stopped = make_summary([*ran, runs], capacity=3, running={2}, stop=Stop.PATIENCE)
    assert "improved" in stopped.why_stopped()
    dead = make_summary([*ran, runs], capacity=3, stop=None)
    assert "1 interrupted, to be run again" in dead.counts()
    assert dead.why_stopped() == "the session ended first; run again to resume"


def test_a_study_that_was_interrupted_has_no_verdict_yet() -> None:
    summary = make_summary([failed(0)], stop=None)
    assert not summary.ended
    assert not summary.failed
    assert summary.document()["verdict"]["verdict"] == "unfinished"
    assert make_summary([failed(at) for at in range(6)], stop=None).failed


def test_counts_say_how_trials_ended() -> None:
    records = [
        feasible(0, 1.0),
        feasible(1, 1.0, penalty=0.5),
        infeasible(2, p99_ttft=9.0),
        failed(3),
        make_record(4, outcome=Outcome.PRUNED, score=None),
        make_record(5, outcome=Outcome.RUNNING, score=None),
    ]
    assert make_summary(records).counts() == (
        "5 of 6: 2 feasible (1 penalized), 1 infeasible, 1 failed, 1 pruned, "
        "1 interrupted, to be run again"
    )


def test_counts_tell_earlier_runs_from_this_one() -> None:
    records = [feasible(0, 1.0, session="before"), feasible(1, 1.0)]
    assert make_summary(records).counts() == "2 of 6: 2 feasible; 1 of them in earlier runs"


def test_a_trial_measured_again_counts_once() -> None:
    records = [feasible(0, 1.0, session="before"), feasible(0, 0.5, retry_of=0)]
    summary = make_summary(records)
    assert summary.counts() == "1 of 6: 1 feasible"
    assert summary.best is records[1]


@pytest.mark.parametrize(
    ("stop", "finished", "why"),
    [
        (Stop.EXHAUSTED, 2, "every valid combination has been tried"),
        (Stop.BUDGET, 6, "the budget of 6 trials is used up"),
        (Stop.PATIENCE, 2, "nothing improved in 3 trials"),
        (Stop.TIMEOUT, 2, "the time limit of 1 h 30 min was reached"),
        (None, 6, "the budget of 6 trials is used up"),
        (None, 4, "every valid combination has been tried"),
        (None, 1, "the session ended first; run again to resume"),
        (Stop.DONE_BEFORE, 6, "the budget of 6 trials is used up"),
    ],
)
def test_the_reason_for_stopping_is_a_phrase(stop: Stop | None, finished: int, why: str) -> None:
    spec = make_spec(SPEC.raw, optimization={**SPEC.raw["optimization"], "patience": 3})
    plan = make_plan(spec, trials=6, timeout=5400.0)
    records = [feasible(number, 1.0) for number in range(finished)]
    assert make_summary(records, plan=plan, stop=stop, capacity=4).why_stopped() == why


def test_the_study_and_its_best_trial_can_be_repeated() -> None:
    plan = make_plan(SPEC, trials=6, strategy="random", infeasible="xfail")
    tests = [("test_it.py::test_a[", "]"), ("test_it.py::test_b[", "-x y]")]
    summary = make_summary([feasible(3, 1.0)], plan=plan, tests=tests)
    assert summary.commands() == [
        (
            "pytest --autotune test_it.py --autotune-fresh --autotune-strategy random "
            "--autotune-seed 4 --autotune-trials 6 --autotune-infeasible xfail"
        ),
        (
            "pytest --autotune 'test_it.py::test_a[trial-003]' 'test_it.py::test_b[trial-003-x y]' "
            "--autotune-strategy random"
        ),
    ]
    assert len(make_summary([failed(0)], plan=plan, tests=tests).commands()) == 1
    assert make_summary([feasible(0, 1.0)], tests=()).commands() == []


def repeats(record: TrialRecord, trials: int, names: TrialNames = NUMBERED, **settings: Any) -> str:
    """Return the command that repeats a trial; its spec has a budget of 2."""
    spec = make_spec(SPEC.raw, optimization={**SPEC.raw["optimization"], "max_iterations": 2})
    plan = make_plan(spec, trials=trials, **settings)
    return make_summary([record], plan=plan, names=names).commands()[-1]


def test_a_best_trial_is_named_as_the_next_run_names_it() -> None:
    start = "pytest --autotune 'test_it.py::test_a["
    assert repeats(feasible(1, 1.0), 6) == f"{start}trial-001]'"
    # What named it before does not matter, nor does the budget of this run.
    assert repeats(feasible(1, 1.0, slot="a:1"), 6) == f"{start}trial-001]'"
    assert repeats(feasible(4, 1.0), 6) == f"{start}trial-004]' --autotune-trials 6"
    assert repeats(feasible(4, 1.0), 2) == f"{start}trial-004]' --autotune-trials 5"
    names = TrialNames(grid={point_key({"a": 4}): (3, "a:4")})
    options = "--autotune-strategy grid_search --autotune-trials 6"
    assert repeats(feasible(4, 1.0), 6, names, strategy="grid_search") == f"{start}a:4]' {options}"
    # No test of this run has it.
    assert "--autotune-fresh" in repeats(feasible(5, 1.0), 6, names, strategy="grid_search")


def test_the_commands_name_the_database_that_only_the_command_line_named() -> None:
    url = "postgresql://me:secret@host/db"
    plan = make_plan(SPEC, trials=6, storage=url)
    commands = make_summary([feasible(0, 1.0)], plan=plan).commands()
    assert all("--autotune-storage 'postgresql://me:***@host/db'" in line for line in commands)
    spec = make_spec(SPEC.raw, optimization={**SPEC.raw["optimization"], "storage": url})
    commands = make_summary([feasible(0, 1.0)], plan=make_plan(spec, trials=6)).commands()
    assert not any("storage" in line for line in commands)


def test_the_tightest_bound_is_the_one_that_even_its_best_trial_missed_most() -> None:
    records = [
        infeasible(0, p99_ttft=1.5, error_rate=0.02),
        infeasible(1, p99_ttft=3.0, error_rate=0.011),
        infeasible(2, p99_ttft=1.4, error_rate=0.5),
    ]
    assert make_summary(records).tightest() == (
        "p99_ttft ≤ 1 s: the best of 3 trials reached 1.4 s; trial 0 came closest overall (a=0)"
    )


def test_bounds_that_exclude_each_other_are_said_to() -> None:
    records = [
        infeasible(0, p99_ttft=0.5, error_rate=0.02),
        infeasible(1, p99_ttft=3.0, error_rate=0.0),
    ]
    tightest = make_summary(records).tightest()
    assert "the best of 2 trials reached" in tightest
    assert ", but broke another bound; trial 0 came closest overall" in tightest


def test_a_metric_that_no_trial_reported_is_the_tightest() -> None:
    records = [infeasible(0, p99_ttft=9.0), infeasible(1, p99_ttft=0.1)]
    assert make_summary(records).tightest() == "error_rate ≤ 0.01: no trial reported error_rate"


def test_without_an_infeasible_trial_nothing_is_tight() -> None:
    assert make_summary([failed(0)]).tightest() == ""


def test_an_infeasible_trial_without_a_broken_row_does_not_break_the_summary() -> None:
    bounds = infeasible(0, p99_ttft=0.5).bounds
    met = [replace(result, severity=Severity.MET, ratio=-0.5) for result in bounds]
    record = make_record(0, outcome=Outcome.INFEASIBLE, score=None, bounds=met)
    assert next(render(make_summary([record]))).text == "none: no trial was feasible"
    assert make_summary([record]).tightest() == ""


def live_line(record: TrialRecord, best: TrialRecord | None) -> str:
    return f"{trial_line(record)}; {standing(record.number, Best.of(best))}"


def test_a_live_line_says_how_a_trial_ended_and_how_it_stands() -> None:
    best = feasible(0, 0.25)
    assert live_line(best, best) == "trial 0 [a=0] mean_ttft 250 ms; best so far"
    assert live_line(feasible(1, 0.5, penalty=0.5), best) == (
        "trial 1 [a=1] mean_ttft 500 ms (penalized ×1.5); best so far 250 ms (trial 0)"
    )
    assert live_line(infeasible(2, p99_ttft=1.5, error_rate=0.0), None) == (
        "trial 2 [a=2] infeasible: p99_ttft 1.5 s, limit ≤ 1 s; no feasible trial yet"
    )
    assert live_line(failed(3), None) == (
        "trial 3 [a=3] failed: AssertionError: wrong; no feasible trial yet"
    )
    assert "failed: no reason given" in live_line(failed(4, " \n"), None)


def test_the_best_so_far_never_gets_worse_in_whatever_order_workers_report() -> None:
    standings = Standings()
    first, second = Best.of(feasible(0, 0.25)), Best.of(feasible(3, 0.125))
    assert standings.latest("a", None) is None
    assert [standings.latest("a", best) for best in (first, second, first, None)] == [
        first, second, second, second,
    ]  # fmt: skip
    assert standings.latest("b", first) == first


def test_more_trials_than_the_budget_are_said_to_be_so() -> None:
    plan = make_plan(SPEC, trials=2)
    summary = make_summary([feasible(n, 0.25) for n in range(4)], plan=plan, capacity=2)
    assert summary.counts() == "4, 2 over the budget: 4 feasible"
    assert summary.why_stopped() == "earlier runs used more than the budget of 2 trials"


def test_a_dropped_level_is_visible_in_the_live_line_and_the_summary() -> None:
    best = feasible(0, 0.25, dropped=("8", "16"))
    assert "(levels 8, 16 dropped)" in live_line(best, best)
    lines = list(render(make_summary([best])))
    assert Line("dropped", "levels that break the SLO: 8, 16", "note") in lines


def test_the_bound_broken_by_most_is_named() -> None:
    assert broken_bounds(infeasible(0, p99_ttft=1.5, error_rate=0.5)) == (
        "infeasible: error_rate 0.5, limit ≤ 0.01"
    )
    assert broken_bounds(infeasible(0, p99_ttft=1.5)) == (
        "infeasible: error_rate was not reported; reported: p99_ttft"
    )
    assert broken_bounds(failed(0)) == "infeasible"


def refused(at: int, failure: str = "HTTP 404: no such model", **metrics: float) -> Level:
    level = make_level(at, num_requests=5.0, num_completed=0.0, error_rate=1.0, **metrics)
    return replace(level, failure=failure)


def test_requests_that_failed_are_named_before_what_they_explain() -> None:
    nothing = replace(infeasible(0), measurement=Measurement(levels=(refused(1), refused(4))))
    assert broken_bounds(nothing).startswith(
        "infeasible: 10 of 10 requests failed: HTTP 404: no such model; "
    )
    assert broken_bounds(nothing).endswith(" was not reported")
    rate = infeasible(0, p99_ttft=0.5, error_rate=0.2)
    some = make_level(1, num_requests=5.0, num_completed=4.0, error_rate=0.2)
    level = replace(some, failure="timeout: no answer in time")
    assert broken_bounds(replace(rate, measurement=Measurement(levels=(level,)))) == (
        "infeasible: 1 of 5 requests failed: timeout: no answer in time; "
        "error_rate 0.2, limit ≤ 0.01"
    )
    slow = infeasible(0, p99_ttft=1.5, error_rate=0.0)
    # One failure of five does not explain what is slow.
    assert broken_bounds(replace(slow, measurement=Measurement(levels=(level,)))) == (
        "infeasible: p99_ttft 1.5 s, limit ≤ 1 s"
    )


def test_what_was_no_number_is_told_from_what_was_not_reported() -> None:
    nan = infeasible(0, p99_ttft=math.nan, error_rate=0.0)
    assert broken_bounds(nan) == "infeasible: p99_ttft was NaN"
    assert "BROKEN: NaN" in slo_table(nan.bounds)
    endless = infeasible(0, p99_ttft=math.inf, error_rate=0.0)
    assert broken_bounds(endless) == "infeasible: p99_ttft was infinite"
    missing = infeasible(0, error_rate=0.0, p99_tftt=0.1, **{f"x{n}": 1.0 for n in range(9)})
    assert broken_bounds(missing) == (
        "infeasible: p99_ttft was not reported (did you mean 'p99_tftt'?); reported: "
        "p99_tftt, error_rate, x0, x1, x2, x3 and 5 more"
    )
    assert "BROKEN: not reported" in slo_table(missing.bounds)
    assert make_summary([nan]).tightest() == "p99_ttft ≤ 1 s: p99_ttft was NaN in trial 0"


def test_a_metric_is_suggested_for_a_bound_as_the_spec_writes_it() -> None:
    slo = make_spec(parameters={"a": [1]}, slo=[{"metric": "latency", "max": 2}]).slo
    reported = {"latncy": 1.0}
    (result,) = check(slo, reported).results
    assert unjudged(result, reported) == (
        "latency was not reported (did you mean 'latncy'?); reported: latncy"
    )


def test_the_table_of_levels_has_the_reason_for_failures() -> None:
    many = refused(1, "HTTP 404: " + "x" * 99, request_throughput=0.0)
    levels = (many, make_level(2, request_throughput=1.0))
    best = replace(feasible(0, 1.0), measurement=Measurement(levels=levels))
    lines = [line.text for line in render(make_summary([best]))]
    at = next(at for at, line in enumerate(lines) if line.startswith("level "))
    header, one, two = lines[at : at + 3]
    assert header.endswith("most frequent error")
    assert one.endswith("HTTP 404: " + "x" * 49 + "…")
    assert two.split()[-2:] == ["1", "-"]


def test_a_summary_shows_the_best_with_all_that_was_measured() -> None:
    judged = evaluate(
        {"mean_ttft": 0.25, "p99_ttft": 0.5, "error_rate": 0.0}, [], make_slo(TTFT, ERRORS),
        Objective.parse("minimize:ttft"),
    )  # fmt: skip
    results = [replace(result, penalty=0.25) for result in judged.compliance.results]
    best = feasible(2, 0.25, metrics=judged.metrics, bounds=results)
    lines = list(render(make_summary([best], notices=["something to know"])))
    assert lines[0] == Line("best", "trial 2: a=2", "good")
    assert lines[1] == Line("", "mean_ttft 250 ms (minimize:ttft, penalized ×1.5)")
    assert lines[2] == Line("metrics", "p99_ttft 500 ms, error_rate 0")
    assert lines[3].head == "slo"
    assert lines[4].text.startswith("p99_ttft")
    heads = [line.head for line in lines[6:]]
    assert heads == ["trials", "stopped", "note", "again", ""]
    assert "something to know" in [line.text for line in lines]


def test_a_summary_without_a_best_names_what_stood_in_the_way() -> None:
    lines = list(render(make_summary([infeasible(0, p99_ttft=1.5, error_rate=0.0)])))
    assert lines[0] == Line("best", "none: no trial was feasible", "bad")
    assert (lines[1].head, lines[1].tone) == ("tightest", "bad")
    assert [line.head for line in render(make_summary([failed(0)]))][:2] == ["best", "trials"]
    unfinished = list(render(make_summary([failed(0)], stop=None)))
    assert unfinished[0] == Line("best", "none yet")


def test_a_summary_is_kept_as_plain_json() -> None:
    records = [feasible(0, 0.5), feasible(1, 0.25), failed(2)]
    document = make_summary(records).document()
    assert json.loads(json.dumps(document)) == document
    assert document["verdict"]["verdict"] == "passed"
    assert document["incumbent"] == {
        "trial": 1, "params": {"a": 1}, "metric": "mean_ttft", "value": 0.25,
    }  # fmt: skip
    assert document["slots"] == {f"trial-00{at}": {"a": at} for at in range(3)}
    lost = make_summary([failed(0)]).document()
    assert (lost["verdict"]["verdict"], lost["incumbent"]) == ("failed", None)
