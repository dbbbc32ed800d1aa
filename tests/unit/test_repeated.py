"""The same failure in the first three trials, told from failures that say something."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import ended, make_plan, make_record, make_spec, strategy_for

from pytest_autotune.scoring.judgement import Ending, Measurement, Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.strategies import History
from pytest_autotune.study.all_failed import propose
from pytest_autotune.study.repeated import ended_in_vain, failure, failures, repeated_failure

SPEC = make_spec(
    parameters={"a": [1, 2, 3, 4]},
    optimization={"objective": "minimize:cost"},
    slo=[{"metric": "mem", "max": 4}],
)
PLAN = make_plan(SPEC)


def failed(number: int, reason: str = "boom", **fields: Any) -> TrialRecord:
    fields.setdefault("params", {"a": number})
    return make_record(number, outcome=Outcome.FAILED, score=None, reason=reason, **fields)


def measured(number: int, **metrics: float) -> TrialRecord:
    return ended(make_record(number, outcome=Outcome.RUNNING, score=None), PLAN, metrics=metrics)


@pytest.mark.parametrize(
    ("reasons", "same"),
    [
        (["boom"] * 3, True),
        (["boom"] * 2, False),
        (["boom", "boom", "bang"], False),
        (["boom", "boom", "boom", "bang"], True),
        (["bang", "boom", "boom", "boom"], False),
        ([f"assert {n} == {n}.5e-3" for n in range(3)], True),
        ([f"<Kernel at 0x7f{n}aB> failed in /tmp/run-{n}/x_{n}.py" for n in range(3)], True),
        ([f"assert {word} is None" for word in ("True", "False", "True")], True),
        ([f"no kernel for {n}, tile [{n}]" for n in "xyz"], False),
    ],
)
def test_equal_failures_are_equal_but_for_what_varies(
    reasons: list[str],
    same: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    records = [failed(number, reason) for number, reason in enumerate(reasons)]
    found = repeated_failure(records)
    assert (found is not None) == same
    if found is not None:
        assert found.reason == reasons[0]
        assert [record.number for record in found.trials] == [0, 1, 2]


def test_values_of_parameters_vary() -> None:
    records = [
        failed(number, f"unknown dtype {dtype} in tp{number}", params={"dtype": dtype})
        for number, dtype in enumerate(["fp8", "fp16", "b"])
    ]
    assert repeated_failure(records) is not None


def test_a_trial_with_a_result_shows_that_it_is_no_mistake() -> None:
    records = [failed(0), failed(1), failed(2)]
    for other in (
        measured(3, cost=1.0, mem=1.0),
        measured(3, cost=1.0, mem=9.0),
        make_record(3, outcome=Outcome.PRUNED, score=None),
    ):
        assert repeated_failure([*records, other]) is None
    running = make_record(3, outcome=Outcome.RUNNING, score=None)
    assert repeated_failure([*records, running]) is not None


def test_the_first_are_those_that_ended_first() -> None:
    def at(record: TrialRecord, started: float, duration: float) -> TrialRecord:
        owner = replace(record.owner, started=started)
        measurement = replace(record.measurement, ending=Ending.FAILED, duration=duration)
        return replace(record, owner=owner, measurement=measurement)

    slow = at(failed(0, "bang"), 1.0, 10.0)
    quick = [at(failed(number), 1.0 + number, 1.0) for number in (1, 2, 3)]
    found = repeated_failure([slow, *quick])
    assert found is not None
    assert [record.number for record in found.trials] == [1, 2, 3]
    assert repeated_failure([at(failed(0, "bang"), 1.0, 0.5), *quick]) is None


def test_a_bound_that_cannot_be_judged_is_a_failure() -> None:
    missing = [measured(number, cost=number, men=1.0) for number in range(3)]
    assert {record.outcome for record in missing} == {Outcome.INFEASIBLE}
    found = repeated_failure(missing)
    assert found is not None
    assert found.reason == "mem was not reported (did you mean 'men'?); reported: men, cost"
    broken = [measured(number, cost=1.0, mem=9.0) for number in range(3)]
    assert repeated_failure(broken) is None
    assert [failure(record) for record in broken] == [""] * 3


def test_failures_are_grouped_by_reason() -> None:
    records = [
        failed(0, "bang"),
        failed(1, "boom 1\nmore"),
        failed(2, "boom 2"),
        measured(3, cost=1.0, mem=1.0),
        replace(failed(4), measurement=Measurement(ending=Ending.FAILED)),
    ]
    assert [(f.reason, [r.number for r in f.trials]) for f in failures(records)] == [
        ("boom 1", [1, 2]),
        ("bang", [0]),
        ("boom", [4]),
    ]


def test_what_a_session_did_not_take_part_in_is_repeated() -> None:
    earlier = [failed(number, session="earlier") for number in range(3)]
    assert ended_in_vain(earlier, "now")
    assert not ended_in_vain(earlier[:2], "now")
    # A worker that comes late stops like the others.
    assert not ended_in_vain([*earlier[:2], failed(2, session="now")], "now")
    running = make_record(3, outcome=Outcome.RUNNING, score=None, session="now")
    assert ended_in_vain([*earlier, running], "now")


def test_a_point_that_the_tests_skip_says_nothing() -> None:
    skipped = make_record(3, outcome=Outcome.SKIPPED, score=None)
    assert repeated_failure([skipped, failed(0), failed(1), failed(2)]) is not None
    assert repeated_failure([skipped, failed(0), failed(1)]) is None


@pytest.mark.parametrize("strategy", ["auto", "bayesian", "random", "grid_search"])
def test_points_that_failed_in_vain_wait_until_something_works(strategy: str) -> None:
    made = strategy_for(strategy, SPEC.space)
    later = frozenset(record.key for record in map(failed, (1, 2, 3)))
    assert all(propose(made, History(), later, [seed, 0]) == {"a": 4} for seed in range(8))
    # Nothing else is left.
    tried = failed(0, params={"a": 4})
    assert propose(made, History(records=[tried]), later, [0, 1]) != {"a": 4}
    works = make_record(0, params={"a": 4}, score=1.0)
    found = propose(made, History(records=[works]), later, [0, 1])
    assert found is not None
    assert found["a"] in {1, 2, 3}
