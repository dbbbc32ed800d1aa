"""From everything a trial reported to one verdict, with nothing swept under the carpet."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from builders import LATENCY, THROUGHPUT, evaluate, make_bound, make_level, make_slo, make_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.errors import MissingMetricError
from pytest_autotune.scoring.compliance import broken_so_far
from pytest_autotune.scoring.judgement import MAX_LEVEL, Question
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import SLO, Bound, LevelPolicy, Severity

TTFT = make_bound("p99_ttft", 1.0, hard=True, fail_ratio=0.0)
SOFT_TTFT = make_bound("p99_ttft", 1.0)
COST = Objective.parse("minimize:cost")


def three_levels(*ttft: float, **others: tuple[float, ...]) -> list[Level]:
    return [
        make_level(2**at, p99_ttft=value, **{name: row[at] for name, row in others.items()})
        for at, value in enumerate(ttft)
    ]


def test_a_trial_without_an_slo_scores_its_objective() -> None:
    result = evaluate({"mean_e2e_latency": 2.0}, [], make_slo(), LATENCY)
    assert (result.metric, result.value, result.score) == ("mean_e2e_latency", 2.0, 2.0)
    assert result.compliance.met
    assert result.dropped == ()


def test_a_maximized_value_keeps_its_sign_and_lowers_the_score() -> None:
    result = evaluate({"mean_total_throughput": 500.0}, [], make_slo(), THROUGHPUT)
    assert (result.value, result.score) == (500.0, -500.0)


@pytest.mark.parametrize(
    ("objective", "value"), [(COST, 10.0), (Objective.parse("maximize:cost"), 10.0)]
)
def test_a_soft_violation_worsens_the_score_in_either_direction(
    objective: Objective, value: float
) -> None:
    slo = make_slo(SOFT_TTFT)
    met = evaluate({"cost": value, "p99_ttft": 1.0}, [], slo, objective)
    missed = evaluate({"cost": value, "p99_ttft": 1.1}, [], slo, objective)
    assert met.score is not None
    assert missed.score is not None
    assert missed.compliance.feasible
    assert missed.score == pytest.approx(met.score + (math.e - 1) * value)
    assert missed.value == met.value


def test_a_hard_violation_is_infeasible_and_not_an_infinite_score() -> None:
    metrics = {"mean_total_throughput": 9e9, "p99_ttft": 50.0}
    result = evaluate(metrics, [], make_slo(TTFT), THROUGHPUT)
    assert not result.compliance.feasible
    assert result.compliance.violation == pytest.approx(49.0)
    assert result.score is not None
    assert math.isfinite(result.score)


@pytest.mark.parametrize("metrics", [{}, {"other": 1.0}, {"cost": math.nan}, {"cost": math.inf}])
def test_a_feasible_trial_without_its_objective_is_a_mistake_in_the_test(
    metrics: Mapping[str, float],
) -> None:
    with pytest.raises(MissingMetricError, match="needs") as caught:
        evaluate(metrics, [], make_slo(), COST)
    assert "'minimize:cost'" in str(caught.value)


def test_the_message_about_a_missing_objective_says_what_was_reported() -> None:
    with pytest.raises(MissingMetricError) as caught:
        evaluate({"b": 1.0, "a": 2.0}, [], make_slo(), LATENCY)
    assert str(caught.value) == (
        "the objective 'minimize_latency' needs mean_e2e_latency or p50_e2e_latency, "
        "but the trial reported: a, b"
    )
    many = {n * "z": 1.0 for n in range(1, 10)}
    with pytest.raises(MissingMetricError, match=r"reported: z, zz, .*, z{6} and 3 more$"):
        evaluate(many, [], make_slo(), LATENCY)
    with pytest.raises(MissingMetricError, match=r"latncy, z, .* 4 more \(did you mean 'latncy'"):
        evaluate({**many, "latncy": 1.0}, [], make_slo(), LATENCY)
    with pytest.raises(MissingMetricError, match="but cost = nan"):
        evaluate({"cost": math.nan}, [], make_slo(), COST)
    with pytest.raises(MissingMetricError, match="reported: nothing"):
        evaluate({}, [], make_slo(), COST)


def test_an_infeasible_trial_without_its_objective_has_no_score() -> None:
    result = evaluate({"p99_ttft": 2.0}, [], make_slo(TTFT), COST)
    assert (result.metric, result.value, result.score) == (None, None, None)
    assert result.compliance.violation == pytest.approx(1.0)


@pytest.mark.parametrize("policy", ["all", "filter", "max"])
def test_an_slo_on_a_metric_that_nobody_reported_fails_closed(policy: LevelPolicy) -> None:
    slo = make_slo(TTFT, make_bound("error_rate", 0.01, hard=True), levels=policy)
    with_levels = evaluate({"cost": 1.0}, three_levels(0.1, 0.2), slo, COST)
    without = evaluate({"cost": 1.0}, [], slo, COST)
    for result in (with_levels, without):
        assert not result.compliance.feasible
        missing = {r.bound.label for r in result.compliance.results if r.actual is None}
        assert "error_rate" in missing


def test_levels_aggregate_to_the_metrics_of_the_trial() -> None:
    levels = three_levels(0.1, 0.2, 0.6, mean_e2e_latency=(1.0, 2.0, 6.0))
    result = evaluate({}, levels, make_slo(), LATENCY)
    assert result.value == pytest.approx(3.0)
    assert result.metrics["p99_ttft"] == pytest.approx(0.3)


def test_what_the_trial_reports_itself_wins_over_the_aggregate() -> None:
    levels = three_levels(0.1, 0.2, mean_e2e_latency=(1.0, 2.0))
    assert evaluate({"mean_e2e_latency": 9.0}, levels, make_slo(), LATENCY).value == 9.0


def test_by_default_one_failing_level_makes_the_trial_infeasible() -> None:
    result = evaluate({"cost": 1.0}, three_levels(0.1, 0.2, 4.0), make_slo(TTFT), COST)
    assert not result.compliance.feasible
    (broken,) = result.compliance.results
    assert (broken.level, broken.actual) == ("4", 4.0)
    assert result.dropped == ()


def test_a_collapse_at_the_highest_load_does_not_beat_holding_it() -> None:
    throughput = {"mean_total_throughput": (100.0, 200.0, 5.0)}
    steady = {"mean_total_throughput": (50.0, 60.0, 70.0)}
    collapsing = evaluate({}, three_levels(0.1, 0.2, 9.0, **throughput), make_slo(TTFT), THROUGHPUT)
    holding = evaluate({}, three_levels(0.1, 0.2, 0.9, **steady), make_slo(TTFT), THROUGHPUT)
    assert not collapsing.compliance.feasible
    assert holding.compliance.feasible


def test_a_dropped_level_is_named_by_the_filter_policy() -> None:
    levels = three_levels(0.1, 0.2, 4.0, mean_e2e_latency=(1.0, 3.0, 100.0))
    result = evaluate({}, levels, make_slo(TTFT, levels="filter"), LATENCY)
    assert result.compliance.feasible
    assert result.dropped == ("4",)
    assert result.value == pytest.approx(2.0)
    assert result.compliance.results[0].actual == 0.2


def test_the_filter_policy_keeps_levels_that_miss_softly() -> None:
    levels = three_levels(0.1, 1.1, mean_e2e_latency=(1.0, 3.0))
    result = evaluate({}, levels, make_slo(SOFT_TTFT, levels="filter"), LATENCY)
    assert result.dropped == ()
    assert result.compliance.penalty > 0


@pytest.mark.parametrize("policy", ["filter", "max"])
def test_a_trial_whose_levels_all_fail_is_infeasible_by_its_closest_level(
    policy: LevelPolicy,
) -> None:
    levels = three_levels(5.0, 3.0, 9.0, mean_e2e_latency=(1.0, 2.0, 3.0))
    result = evaluate({}, levels, make_slo(TTFT, levels=policy), LATENCY)
    assert not result.compliance.feasible
    assert result.compliance.violation == pytest.approx(2.0)
    assert result.compliance.results[0].level == "2"
    assert result.dropped == ()


@pytest.mark.parametrize(
    ("ttft", "goodput"), [((0.1, 0.2, 0.9), 4.0), ((0.1, 0.2, 1.1), 2.0), ((0.1, 2.0, 0.9), 4.0)]
)
@pytest.mark.parametrize("bound", [TTFT, SOFT_TTFT], ids=["hard", "soft"])
def test_the_max_policy_scores_the_highest_concurrency_that_complies(
    ttft: tuple[float, ...], goodput: float, bound: Bound
) -> None:
    slo = make_slo(bound, levels="max")
    result = evaluate({}, three_levels(*ttft), slo, LATENCY)
    assert (result.metric, result.value) == ("max_compliant_concurrency", goodput)
    assert result.score == -goodput
    assert Question(slo=slo, objective=LATENCY).target is MAX_LEVEL


def test_the_max_policy_counts_a_soft_miss_at_every_level_as_failure_by_the_closest() -> None:
    levels = three_levels(1.9, 1.2, 1.5)
    result = evaluate({}, levels, make_slo(SOFT_TTFT, levels="max"), LATENCY)
    assert not result.compliance.feasible
    assert result.compliance.violation == pytest.approx(0.2)
    assert result.value == 0.0


def test_the_max_policy_without_any_level_has_no_objective() -> None:
    with pytest.raises(MissingMetricError):
        evaluate({"p99_ttft": 0.1, "cost": 1.0}, [], make_slo(TTFT, levels="max"), COST)


def test_a_level_that_lacks_a_metric_of_the_others_fails_closed() -> None:
    levels = [make_level(1, p99_ttft=0.1), make_level(2, p50_ttft=0.1)]
    result = evaluate({"cost": 1.0}, levels, make_slo(TTFT), COST)
    assert not result.compliance.feasible
    (missing,) = result.compliance.results
    assert (missing.severity, missing.level) == (Severity.MISSING, "2")


def test_a_bound_on_a_metric_of_the_whole_trial_is_checked_once() -> None:
    slo = make_slo(TTFT, make_bound("error_rate", 0.01, hard=True, fail_ratio=0.0))
    good = evaluate({"cost": 1.0, "error_rate": 0.0}, three_levels(0.1, 0.2), slo, COST)
    bad = evaluate({"cost": 1.0, "error_rate": 0.5}, three_levels(0.1, 0.2), slo, COST)
    assert good.compliance.met
    assert not bad.compliance.feasible
    assert [r.level for r in bad.compliance.results] == ["2", None]


def test_a_broken_metric_of_the_whole_trial_is_not_hidden_by_good_levels() -> None:
    levels = three_levels(0.1, 0.2)
    result = evaluate({"cost": 1.0, "p99_ttft": 5.0}, levels, make_slo(TTFT), COST)
    assert not result.compliance.feasible


def test_each_bound_is_reported_at_its_worst_level() -> None:
    slo = make_slo(SOFT_TTFT, make_bound("error_rate", 0.01))
    levels = [
        make_level(1, p99_ttft=0.5, error_rate=0.02),
        make_level(8, p99_ttft=1.5, error_rate=0.0),
    ]
    ttft, errors = evaluate({"cost": 1.0}, levels, slo, COST).compliance.results
    assert (ttft.level, ttft.actual) == ("8", 1.5)
    assert (errors.level, errors.actual) == ("1", 0.02)


def test_an_early_check_leaves_out_what_is_not_there_yet() -> None:
    slo = make_slo(TTFT, make_bound("error_rate", 0.01, hard=True, fail_ratio=0.0))
    assert broken_so_far({}, slo).feasible
    assert broken_so_far({"p99_ttft": 0.5}, slo).feasible
    early = broken_so_far({"p99_ttft": 1.5}, slo, level="4")
    assert not early.feasible
    assert [r.level for r in early.results] == ["4"]
    assert not broken_so_far({"p99_ttft": math.nan}, slo).feasible


def test_a_throughput_per_gpu_that_one_level_lacks_is_not_replaced_by_a_total() -> None:
    levels = [
        make_level(1, mean_total_throughput=800.0, mean_total_throughput_per_gpu=100.0),
        make_level(2, mean_total_throughput=1600.0),
    ]
    with pytest.raises(MissingMetricError):
        evaluate({}, levels, make_slo(), THROUGHPUT)


values = st.floats(allow_nan=True, allow_infinity=True)


objectives = st.sampled_from([COST, Objective.parse("maximize:cost")])
policies: st.SearchStrategy[LevelPolicy] = st.sampled_from(["all", "filter", "max"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    ttft=st.lists(values, min_size=0, max_size=4),
    metrics=st.fixed_dictionaries({"cost": values}, optional={"p99_ttft": values}),
    slo=st.builds(
        lambda hard, policy: make_slo(make_bound("p99_ttft", 1.0, hard=hard), levels=policy),
        st.booleans(),
        policies,
    ),
    objective=objectives,
)
def test_whatever_is_reported_gives_a_finite_verdict(
    ttft: list[float], metrics: dict[str, float], slo: SLO, objective: Objective
) -> None:
    try:
        result = evaluate(metrics, three_levels(*ttft), slo, objective)
    except MissingMetricError:
        assert slo.levels == "max" or not math.isfinite(metrics["cost"])
        return
    assert result.score is None or math.isfinite(result.score)
    assert math.isfinite(result.compliance.violation)
    assert result.compliance.feasible == (result.compliance.violation == 0.0)
    kept = {2**at for at in range(len(ttft))} - set(map(int, result.dropped))
    assert kept or not ttft


def test_the_specs_slo_judges_a_task_file_as_a_whole() -> None:
    spec = make_spec(
        parameters={"a": [1]},
        slo={"latency": {"p90": {"threshold": 5.0, "hard_fail": True, "fail_ratio": 0.2}}},
    )
    near = evaluate({"p90_e2e_latency": 5.9, "cost": 1.0}, [], spec.slo, COST)
    far = evaluate({"p90_e2e_latency": 6.1, "cost": 1.0}, [], spec.slo, COST)
    assert near.compliance.feasible
    assert near.compliance.penalty > 0
    assert not far.compliance.feasible
