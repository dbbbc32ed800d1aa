"""What a test does with ``trial``: parameters out, metrics in."""

from __future__ import annotations

import ast
import copy
import json
import pickle
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from functools import partial
from typing import Any

import pytest
from builders import make_plan, make_record, make_spec

from pytest_autotune.errors import ConflictingReportsError, SLOViolation, TrialPruned
from pytest_autotune.scoring.judgement import Ending, Judgement, Outcome, judge
from pytest_autotune.study.trial import Trial

HARD = [{"metric": "ttft", "statistic": "p99", "max": 1.0}]


def make_trial(**keys: Any) -> Trial:
    keys.setdefault("optimization", {"objective": "minimize:cost"})
    spec = make_spec(parameters={"a": [1, 2], "b": [[1, 2]]}, **keys)
    record = make_record(3, {"a": 2, "b": [1, 2]}, Outcome.RUNNING, None)
    return Trial(record, make_plan(spec))


def judged(trial: Trial, ending: Ending = Ending.COMPLETE) -> Judgement:
    return judge(trial.measurement(ending), trial._plan.question)


def test_a_trial_gives_its_parameters_and_keeps_them_to_itself() -> None:
    trial = make_trial()
    params: Any = trial.params
    assert params == {"a": 2, "b": [1, 2]}
    params["a"] = 99
    assert trial.params["a"] == 2
    assert trial.number == 3
    assert repr(trial) == "<Trial 3 {'a': 2, 'b': [1, 2]}>"
    assert trial.spec["parameters"] == {"a": [1, 2], "b": [[1, 2]]}


def test_parameters_are_a_dictionary_that_knows_what_was_read() -> None:
    reads: list[Callable[[Any], object]] = [
        lambda p: p["a"],
        lambda p: p.get("a"),
        lambda p: p.pop("a"),
        lambda p: p.setdefault("a", 0),
        lambda p: "a" in p,
    ]
    for read in reads:
        trial = make_trial()
        read(trial.params)
        assert set(trial.read) == {"a"}
    whole = {"a": 2, "b": [1, 2]}
    copies: list[Callable[[Any], object]] = [
        dict,
        copy.copy,
        copy.deepcopy,
        lambda p: pickle.loads(pickle.dumps(p)),  # noqa: S301 - just pickled
        lambda p: {**p},
        lambda p: dict(**p),
        lambda p: json.loads(json.dumps(p)),
        lambda p: json.loads(json.dumps(p, indent=1)),
        lambda p: ast.literal_eval(repr(p)),
        lambda p: {name: p[name] for name in p},
        lambda p: {name: p[name] for name in reversed(p)},
        lambda p: dict(zip(p.keys(), p.values(), strict=True)),
        lambda p: dict(p.items()),
        lambda p: p.copy(),
        lambda p: p | {},
        lambda p: {} | p,
        lambda p: whole if p == whole else None,
        lambda p: None if p != whole else whole,
    ]
    for made in copies:
        trial = make_trial()
        found = made(trial.params)
        assert (found, type(found)) == (whole, dict)
        assert set(trial.read) == {"a", "b"}
    trial = make_trial()
    assert repr(trial)
    assert len(trial.params) == 2
    assert isinstance(trial.params, Mapping)
    assert not trial.read


def test_a_parameter_that_is_not_there_is_answered_with_the_nearest() -> None:
    params = make_trial(constraints=["a > 0"]).params
    with pytest.raises(KeyError, match=r"the spec has no parameter 'aa' \(did you mean 'a'\?\)"):
        params["aa"]
    conditional = {"a": [1, 2], "c": {"type": "categorical", "choices": [3], "when": "a == 1"}}
    record = make_record(3, {"a": 2}, Outcome.RUNNING, None)
    params = Trial(record, make_plan(make_spec(parameters=conditional))).params
    with pytest.raises(KeyError, match="the parameter 'c' is not active in this trial"):
        params["c"]
    assert params.get("c") is None


@pytest.mark.parametrize("given", [0.5, None, [("cost", 1)]])
def test_a_report_that_is_no_mapping_is_refused(given: Any) -> None:
    with pytest.raises(
        TypeError, match=r"report\(\) takes a mapping of metric names to numbers, not"
    ):
        make_trial().report(given)
    with pytest.raises(TypeError, match=r"report_level\(\) takes a mapping"):
        make_trial().report_level(1, given)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"latency": {"p50": -0.5}}, "p50_e2e_latency is -500 ms, and it cannot be negative: is *"),
        ({"ttft": -2}, "ttft is -2 s, and it cannot be negative: is the end subtracted from *"),
        ({"output_throughput": -1}, "output_throughput is -1, and it cannot be negative"),
        ({"error_rate": float("-inf")}, "error_rate is -inf, and it cannot be negative"),
        ({"delta": -1.0, "latency_gain": -0.5, "ttft": float("nan"), "tpot": -0.0}, ""),
    ],
)
def test_a_time_or_a_rate_that_is_negative_is_refused(metrics: dict[str, Any], said: str) -> None:
    trial = make_trial()
    if not said:
        trial.report(metrics)
        trial.report_level(1, metrics)
        return
    for report in (trial.report, partial(trial.report_level, 1)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is matched below
            report(metrics)
        assert fnmatch(str(caught.value), said)
    assert not trial.metrics


def test_reports_add_up_and_later_values_win() -> None:
    trial = make_trial()
    assert not trial.metrics
    trial.report({"cost": 1, "latency": {"p99": 0.5}})
    trial.report({"cost": 2})
    assert trial.metrics == {"cost": 2.0, "p99_e2e_latency": 0.5}
    assert judged(trial).value == 2.0


def test_a_number_is_a_metric_whatever_its_name() -> None:
    trial = make_trial()
    numbers = {"partial": 0.5, "disturbances": 3, "notes": {"p50": 2}, "invalid": 1, "failure": 0}
    trial.report({"latency": 1, **numbers, "levels": [{"concurrency": 1, "cost": 1, **numbers}]})
    names = {"partial": 0.5, "disturbances": 3.0, "p50_notes": 2.0, "invalid": 1.0, "failure": 0.0}
    assert trial.metrics == {"mean_e2e_latency": 1.0, **names}
    assert trial.levels[0].metrics == {"cost": 1.0, **names}
    found = trial.measurement(Ending.COMPLETE)
    assert (found.partial, found.disturbances, found.notes) == (False, (), ())


def test_a_report_says_in_words_how_it_was_measured() -> None:
    trial = make_trial()
    level = {"concurrency": 1, "cost": 2, "failure": "HTTP 500", "invalid": ""}
    words = {"partial": "it took too long", "disturbances": ["it was hot"], "notes": ["cold start"]}
    trial.report({"levels": [level], **words})
    found = trial.measurement(Ending.COMPLETE)
    assert (found.partial, found.disturbances) == (True, ("it was hot",))
    assert found.notes == ("cold start",)
    assert [(level.failure, level.metrics) for level in found.levels] == [
        ("HTTP 500", {"cost": 2.0})
    ]


def test_two_tests_must_agree_on_a_metric_that_counts() -> None:
    trial = make_trial(slo=HARD)
    trial.cases.enter("", "test_k.py::test_large")
    trial.report({"cost": 2, "samples": 10, "p99_ttft": 0.1})
    trial.cases.enter("m1", "test_k.py::test_case")
    trial.report({"cost": 3})  # of another case
    trial.cases.enter("", "test_k.py::TestIt::test_small")
    trial.report({"cost": 2, "samples": 20})
    trial.report_level(1, {"p99_ttft": 0.2})
    with pytest.raises(ConflictingReportsError, match=r"^p99_ttft was reported by test_large"):
        trial.report({"p99_ttft": 0.3})
    assert trial.measurement(Ending.COMPLETE).notes == ()
    other = make_trial(slo=HARD)
    other.cases.enter("", "test_k.py::test_large")
    other.report_level(1, {"p99_ttft": 0.2})
    other.cases.enter("", "test_k.py::TestIt::test_small")
    with pytest.raises(ConflictingReportsError) as raised:
        other.report_level(1, {"p99_ttft": 0.3})
    assert str(raised.value) == (
        "p99_ttft was reported by test_large and, with another value, by TestIt::test_small: "
        "report under two names, or make cases of one test by pytest.mark.parametrize"
    )


def test_several_values_of_one_test_are_noted() -> None:
    trial = make_trial()
    for case, costs in {"": (3, 2, 2), "m1": (1, 1), "m2": (4, 5)}.items():
        trial.cases.enter(case, "test_k.py::test_it")
        for number, cost in enumerate(costs):
            trial.report({"cost": cost, "progress": number, "p50_e2e_latency": float("nan")})
    assert trial.measurement(Ending.COMPLETE).notes == (
        "cost was reported 3 times in test_it; the last value counts",
        "m2: cost was reported 2 times in test_it; the last value counts",
    )


def test_levels_may_come_with_a_report_or_one_by_one() -> None:
    trial = make_trial()
    trial.report_level(8, {"stats": {"ttft": {"p99": 0.4}}})
    trial.report({"cost": 1, "levels": [{"concurrency": 1, "ttft": {"p99": 0.2}}]})
    assert [(level.concurrency, dict(level.metrics)) for level in trial.levels] == [
        (1, {"p99_ttft": 0.2}),
        (8, {"p99_ttft": 0.4}),
    ]
    assert judged(trial).metrics["p99_ttft"] == pytest.approx(0.3)


@pytest.mark.parametrize("concurrency", [0, -1, 1.0, True, "4", None])
def test_a_concurrency_is_a_positive_whole_number(concurrency: Any) -> None:
    with pytest.raises(TypeError, match="not a positive whole number"):
        make_trial().report_level(concurrency, {"cost": 1})


def test_a_broken_hard_slo_is_raised_at_once_with_its_table() -> None:
    trial = make_trial(slo=HARD)
    trial.report({"cost": 1})
    with pytest.raises(SLOViolation, match=r"ttft p99 +≤ 1 s +2 s +-100\.0 % +BROKEN"):
        trial.report({"ttft": {"p99": 2.0}})


def test_a_broken_level_is_raised_at_once_where_all_must_comply() -> None:
    with pytest.raises(SLOViolation, match="ttft p99 @ 4"):
        make_trial(slo=HARD).report_level(4, {"p99_ttft": 2.0})


@pytest.mark.parametrize("policy", ["filter", "max"])
def test_a_broken_level_is_not_raised_where_others_may_carry_the_trial(policy: str) -> None:
    trial = make_trial(slo={"metrics": HARD, "levels": policy})
    trial.report_level(4, {"p99_ttft": 2.0})
    trial.report_level(1, {"p99_ttft": 0.2})
    trial.report({"cost": 1})
    assert judged(trial).dropped == ("4",)


@pytest.mark.parametrize("policy", ["all", "filter", "max"])
def test_what_was_raised_as_a_violation_is_one_at_the_end_too(policy: str) -> None:
    trial = make_trial(slo={"metrics": HARD, "levels": policy})
    trial.report_level(1, {"p99_ttft": 0.2})
    with pytest.raises(SLOViolation):
        trial.report({"cost": 1, "p99_ttft": 2.0})
    assert not judged(trial, Ending.CUT_SHORT).compliance.feasible


def test_a_missing_metric_counts_only_for_a_trial_that_ran_to_its_end() -> None:
    trial = make_trial(slo=[*HARD, {"metric": "error_rate", "max": 0.01}])
    trial.report({"cost": 1, "p99_ttft": 0.5})
    assert not judged(trial).compliance.feasible
    assert judged(trial, Ending.CUT_SHORT).compliance.feasible


def test_a_trial_can_be_given_up() -> None:
    with pytest.raises(TrialPruned, match="saturated at 8"):
        make_trial().prune("saturated at 8")
    with pytest.raises(TrialPruned, match="given up early"):
        make_trial().prune()
    with pytest.raises(TrialPruned, match="slow") as raised:
        make_trial().prune("slow", estimate=2.5)
    assert raised.value.estimate == 2.5
    with pytest.raises(TypeError, match="'estimate' is '12 ms', which is not a number"):
        make_trial().prune("slow", estimate="12 ms")  # type: ignore[arg-type]
    assert TrialPruned("slow").estimate is None


@pytest.mark.parametrize("estimate", [float("inf"), float("nan")])
def test_an_estimate_that_is_no_number_is_none(estimate: float) -> None:
    assert make_trial().measurement(Ending.PRUNED, estimate=estimate).estimate is None
