"""Whatever a test reports, it counts or is refused in the test, and is never a trial's ruin."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from builders import make_plan, make_record, make_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.errors import AutotuneError
from pytest_autotune.report.failure import infeasible_report
from pytest_autotune.report.render import render
from pytest_autotune.scoring.judgement import Ending, Outcome, judge
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.study.documents import measurement_document, read_measurement
from pytest_autotune.study.summary import Summary
from pytest_autotune.study.trial import Trial
from pytest_autotune.study.trial_line import trial_line

DIGITS = 10**400
BOUNDS = [
    {"metric": "ttft", "statistic": "p99", "max": 1.0, "hard_fail": False},
    {"metric": "error_rate", "max": 0.5},
]


def make_trial() -> Trial:
    optimization = {"objective": "minimize:cost"}
    spec = make_spec(parameters={"a": [1, 2]}, optimization=optimization, slo=BOUNDS)
    return Trial(make_record(3, {"a": 2}, Outcome.RUNNING, None), make_plan(spec))


def level(**keys: Any) -> dict[str, Any]:
    return {"levels": [{"concurrency": 1, "ttft": 1}, {"concurrency": 2, "ttft": 1} | keys]}


@pytest.mark.parametrize(
    ("reported", "said"),
    [
        (level(request_rate="x"), 'levels[1]: request_rate is "x", not a positive number of'),
        (level(request_rate=-1), "levels[1]: request_rate is -1, not a positive number of"),
        (level(request_rate=math.nan), "levels[1]: request_rate is NaN, not a positive number of"),
        (level(request_rate=DIGITS), "levels[1]: request_rate is 1000000000000000000000000000"),
        (level(request_rate=True), "levels[1]: request_rate is true, not a positive number of"),
        (level(request_rate=2.0, concurrency="x"), 'levels[1]: concurrency is "x", not a posi'),
        (level(concurrency=DIGITS), "levels[1]: concurrency is 10000000000000000000000000000000"),
        (level(concurrency=10**5000), "levels[1]: concurrency is too large to be shown, not a"),
        (level(scenario=5), "levels[1]: scenario is 5 (int), not text"),
        (level(output_tokens=DIGITS), "levels[1]: metric 'output_tokens' is too large, which is"),
        (level(output_tokens=None), "levels[1]: metric 'output_tokens' is None, which is not a"),
        (level(ttft=-1), "levels[1]: ttft is -1 s, and it cannot be negative"),
        (level(invalid=["x"]), 'levels[1].invalid is ["x"] (list), not text'),
        (level(failure=["x"]), 'levels[1].failure is ["x"] (list), not text'),
        ({"levels": [None]}, "levels[0] is null (NoneType), not a mapping with its load and"),
        ({"levels": "abc"}, 'levels is "abc" (str), not a list of mappings, one for each load'),
        ({"notes": "hello"}, 'notes is "hello" (str), not a list of sentences'),
        ({"notes": b"hello"}, "notes is b'hello' (bytes), not a list of sentences"),
        ({"notes": ["fine", None]}, "notes[1] is null (NoneType), not text"),
        ({"disturbances": [["x"]]}, 'disturbances[0] is ["x"] (list), not text'),
        ({"partial": ["x"]}, 'partial is ["x"] (list), not text'),
        ({"cost": DIGITS}, "metric 'cost' is too large, which is not a number"),
    ],
)
def test_a_report_with_a_mistake_names_the_part_and_counts_for_nothing(
    reported: dict[str, Any], said: str
) -> None:
    trial = make_trial()
    with pytest.raises((TypeError, ValueError)) as caught:
        trial.report({"cost": 1, "notes": ["before"], **reported})
    assert str(caught.value).startswith(said)
    found = trial.measurement(Ending.COMPLETE)
    assert (found.metrics, found.levels, found.notes, trial.reports) == ({}, (), (), 0)


def test_a_report_that_contains_itself_is_refused() -> None:
    reported: dict[str, Any] = {}
    reported["stats"] = reported
    with pytest.raises(ValueError, match="metrics are nested too deep"):
        make_trial().report(reported)


def test_numbers_of_numpy_make_levels_too() -> None:
    trial = make_trial()
    trial.report_level(np.int64(4), {"cost": np.float32(0.5)})  # type: ignore[arg-type]
    trial.report({"levels": iter([{"request_rate": np.float32(2), "cost": np.int8(1)}])})
    found = trial.measurement(Ending.COMPLETE)
    assert [level.label for level in found.levels] == ["2/s", "4"]
    assert json.loads(json.dumps(measurement_document(found)))["levels"] == [
        {"request_rate": 2.0},
        {"concurrency": 4},
    ]


numbers = (
    st.integers(-1, 3)
    | st.floats()
    | st.sampled_from([DIGITS, -DIGITS, 1e308, -0.0, True, 1e-320, np.float64(2), np.int64(1)])
)
words = st.sampled_from(["x", "", "D(1,1)", "a\nb", "\x1b[31m", "\ud800", "\0"])
anything = st.recursive(
    st.none() | numbers | words | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.none(), inner),
    max_leaves=6,
)
metrics = st.dictionaries(
    st.sampled_from(
        ["cost", "ttft", "p99_ttft", "error_rate", "num_requests", "num_completed", "mean_tpot"]
    )
    | words,
    numbers,
    max_size=5,
)


def merged(*parts: st.SearchStrategy[dict[Any, Any]]) -> st.SearchStrategy[dict[Any, Any]]:
    return st.tuples(*parts).map(lambda found: {k: v for part in found for k, v in part.items()})


loads = st.fixed_dictionaries(
    {},
    optional={
        "concurrency": numbers | anything,
        "request_rate": numbers | anything,
        "scenario": words | anything,
        "failure": words | anything,
        "invalid": st.just("") | anything,
    },
)
reports = merged(
    metrics,
    st.fixed_dictionaries(
        {},
        optional={
            "levels": st.lists(merged(metrics, loads) | anything, max_size=4) | anything,
            "notes": st.lists(words) | anything,
            "disturbances": st.lists(words) | anything,
            "partial": words | anything,
            "stats": anything,
        },
    ),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(given_=st.lists(reports | anything, min_size=1, max_size=3))
def test_any_report_is_refused_or_can_be_stored_judged_and_shown(given_: list[Any]) -> None:
    trial = make_trial()
    for reported in given_:
        # The errors that a user reads in the failing test.
        with suppress(TypeError, ValueError, AutotuneError):
            trial.report(reported)
    stored = json.dumps(measurement_document(trial.measurement(Ending.COMPLETE)), allow_nan=False)
    measurement = read_measurement(json.loads(stored))
    plan = trial._plan
    judgement = judge(measurement, plan.question)
    record = TrialRecord(
        number=0, params={"a": 2}, owner=trial._record.owner, measurement=measurement,
        judgement=judgement,
    )  # fmt: skip
    assert trial_line(record)
    assert infeasible_report(record, "", "")
    assert list(render(Summary(plan=plan, records=[record], stop=None, session="s", capacity=2)))
