"""Trials are ranked feasible, then infeasible by amount, then everything else."""

from __future__ import annotations

import math

import pytest
from builders import evaluate, make_bound, make_record, make_slo
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord, effective, incumbent
from pytest_autotune.scoring.slo import MAX_SCORE

SLO = make_slo(
    make_bound("soft", 1.0),
    make_bound("hard", 1.0, hard=True, fail_ratio=0.0),
)


def judged(number: int, objective: Objective, metrics: dict[str, float]) -> TrialRecord:
    evaluation = evaluate(metrics, [], SLO, objective)
    outcome = Outcome.FEASIBLE if evaluation.compliance.feasible else Outcome.INFEASIBLE
    return make_record(
        number, outcome=outcome, score=evaluation.score, violation=evaluation.compliance.violation
    )


@pytest.mark.parametrize("objective", ["minimize:x", "maximize:x"])
def test_feasible_comes_before_infeasible_by_amount_before_crashed(
    objective: str,
) -> None:
    goal = Objective.parse(objective)
    bad, good = (100.0, 1.0) if objective == "minimize:x" else (1.0, 100.0)
    expected = [
        judged(0, goal, {"x": good, "soft": 0.5, "hard": 0.5}),
        judged(1, goal, {"x": bad, "soft": 0.5, "hard": 0.5}),
        judged(2, goal, {"x": bad, "soft": 80.0, "hard": 0.5}),
        judged(3, goal, {"x": good, "soft": 0.5, "hard": 1.01}),
        judged(4, goal, {"x": good, "soft": 80.0, "hard": 1.5}),
        judged(5, goal, {"x": good, "soft": 0.5, "hard": 1e6}),
        judged(6, goal, {"soft": 0.5}),
        make_record(7, outcome=Outcome.FAILED, score=None),
    ]
    assert [record.number for record in sorted(expected, key=lambda r: r.rank)] == list(range(8))
    assert len({record.rank for record in expected}) == 8


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    score=st.floats(-MAX_SCORE, MAX_SCORE),
    violation=st.floats(min_value=1e-9, max_value=1e12),
)
def test_no_score_is_worse_than_an_infeasible_trial(score: float, violation: float) -> None:
    feasible = make_record(0, outcome=Outcome.FEASIBLE, score=score)
    infeasible = make_record(1, outcome=Outcome.INFEASIBLE, score=-MAX_SCORE, violation=violation)
    crashed = make_record(2, outcome=Outcome.FAILED, score=-MAX_SCORE)
    assert feasible.rank < infeasible.rank < crashed.rank


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.FEASIBLE])
def test_only_a_feasible_trial_can_be_the_best(outcome: Outcome) -> None:
    other = make_record(0, outcome=outcome, score=-math.inf)
    assert incumbent([other]) is None
    modest = make_record(1, score=1e6)
    assert incumbent([other, modest]) is modest


def test_of_equal_trials_the_earliest_is_the_best() -> None:
    records = [make_record(number, score=1.0) for number in (3, 1, 2)]
    best = incumbent(records)
    assert best is not None
    assert best.number == 1
    assert incumbent([]) is None


def test_a_finished_rerun_replaces_the_trial_it_repeats() -> None:
    first = make_record(0)
    other = make_record(1)
    again = make_record(0, score=2.0, retry_of=0)
    assert effective([first, other, again]) == [other, again]
    third = make_record(0, score=3.0, retry_of=0)
    assert effective([first, again, third]) == [third]


def test_an_unfinished_rerun_replaces_nothing() -> None:
    first = make_record(0)
    running = make_record(0, outcome=Outcome.RUNNING, score=None, retry_of=0)
    assert effective([first, running]) == [first]
    assert effective([running]) == [running]


def test_a_record_is_known_by_its_parameters_in_any_order() -> None:
    assert make_record(0, {"a": 1, "b": [2]}).key == make_record(1, {"b": [2], "a": 1}).key
    assert make_record(0, {"a": 1}).key != make_record(0, {"a": True}).key
    assert make_record(0, {"a": 1}).key != make_record(0, {"a": 1.0}).key
