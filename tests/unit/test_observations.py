"""What a model learns of the trials: losses, signals of the SLO, and failures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from builders import LATENCY, THROUGHPUT, make_bound, make_record, make_slo, seen

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import MAX_SCORE, SLO
from pytest_autotune.strategies.observations import Observations

NO_SLO = make_slo()


def feasible(number: int, score: float) -> TrialRecord:
    return make_record(number, outcome=Outcome.FEASIBLE, score=score)


def losses(records: list[TrialRecord], objective: Objective = LATENCY) -> Any:
    return Observations.of(records, NO_SLO, objective).loss


def test_times_count_by_their_ratio() -> None:
    found = losses([feasible(0, 2.0), feasible(1, 3.0), feasible(2, 6.0)])
    assert np.diff(found) == pytest.approx([math.log(1.5), math.log(2)])


def test_rates_count_by_their_ratio_too() -> None:
    found = losses([feasible(0, -100.0), feasible(1, -50.0), feasible(2, -25.0)], THROUGHPUT)
    assert np.diff(found) == pytest.approx([math.log(2)] * 2)


def test_a_penalty_that_outweighs_a_rate_is_as_bad_as_can_be() -> None:
    found = losses([feasible(0, -100.0), feasible(1, -50.0), feasible(2, 1e9)], THROUGHPUT)
    assert np.isfinite(found).all()
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize("scores", [[-1.0, 0.0, 2.0], [0.0, 1.0, 5.0], [-3.0, -2.0, -1.0]])
def test_scores_of_any_sign_keep_their_order(scores: list[float]) -> None:
    found = losses([feasible(number, score) for number, score in enumerate(scores)])
    assert list(np.argsort(found)) == [0, 1, 2]


def test_scores_keep_their_order_where_what_is_infeasible_is_better() -> None:
    broken = [
        make_record(n, outcome=Outcome.INFEASIBLE, value=value, violation=1.0)
        for n, value in enumerate([-10.0, -8.0, -7.0])
    ]
    found = losses([*broken, feasible(3, -1.0), feasible(4, 2.0)])
    assert (np.diff(found) >= 0).all()
    assert found[0] < found[3] < found[4]


def test_what_is_far_worse_than_the_best_does_not_stretch_the_scale() -> None:
    found = losses([feasible(0, 1.0), feasible(1, 1e6), feasible(2, 1e12)])
    assert found[1] == found[2] == pytest.approx(math.log(1e4))


def test_all_that_a_space_may_hold_keeps_its_order() -> None:
    found = losses([feasible(number, 4.0**number) for number in range(7)])
    assert np.diff(found) == pytest.approx([math.log(4)] * 6)


def test_what_is_infeasible_is_no_measure_of_what_is_good() -> None:
    broken = make_record(0, outcome=Outcome.INFEASIBLE, value=9000.0, violation=1.0)
    found = losses([broken, feasible(1, -100.0), feasible(2, -50.0)], THROUGHPUT)
    assert found == pytest.approx([-math.log(90), 0.0, math.log(2)])


def test_equal_scores_and_extreme_ones_are_no_failure() -> None:
    assert losses([feasible(0, 0.0), feasible(1, 0.0)]) == pytest.approx([0.0, 0.0])
    found = losses([feasible(0, 1.0), feasible(1, MAX_SCORE)])
    assert found[0] == 0.0
    assert math.isnan(found[1])


def test_a_pruned_trial_counts_as_what_it_had_reached() -> None:
    records = [feasible(0, -100.0), make_record(1, outcome=Outcome.PRUNED, estimate=50.0)]
    assert losses(records, THROUGHPUT) == pytest.approx([0.0, math.log(2)])


def test_a_pruned_trial_that_reached_nothing_counts_as_an_average_one() -> None:
    records = [feasible(0, 1.0), feasible(1, 2.0), feasible(2, 4.0)]
    found = losses([*records, make_record(3, outcome=Outcome.PRUNED)])
    assert found[3] == pytest.approx(found[1])


def test_an_infeasible_trial_tells_its_objective_without_penalties() -> None:
    broken = make_record(
        1, outcome=Outcome.INFEASIBLE, score=900.0, value=2.0, bounds=[seen("ttft", 3.0, hard=True)]
    )
    slo = make_slo(make_bound("ttft", 1.0, hard=True, fail_ratio=0.0))
    found = Observations.of([feasible(0, 1.0), broken], slo, LATENCY)
    assert found.loss[1] == pytest.approx(math.log(2))
    assert not found.failed.any()
    assert list(found.feasible) == [True, False]


@pytest.mark.parametrize(
    ("bound", "actual", "excess"),
    [
        ({"threshold": 2.0, "fail_ratio": 0.0}, 4.0, math.log(2)),
        ({"threshold": 2.0, "fail_ratio": 0.5}, 3.0, 0.0),
        ({"threshold": 10.0, "fail_ratio": 0.0, "upper": False}, 5.0, math.log(2)),
        ({"threshold": 0.0, "fail_ratio": 0.0}, 0.25, 0.25),
        ({"threshold": 0.01, "fail_ratio": 0.0}, 0.0, -math.log(50)),
        ({"threshold": 10.0, "fail_ratio": 0.0, "upper": False}, 0.0, math.log(50)),
        ({"threshold": 2.0, "fail_ratio": 0.0}, None, math.nan),
    ],
)
def test_a_hard_bound_is_a_signal_positive_where_it_is_broken(
    bound: dict[str, Any], actual: float | None, excess: float
) -> None:
    slo: SLO = make_slo(make_bound("m", **bound, hard=True), make_bound("soft", 1.0))
    bounds = [seen("m", actual), seen("soft", 9.0)]
    record = make_record(0, outcome=Outcome.FEASIBLE, score=1.0, bounds=bounds)
    (signal,) = Observations.of([record], slo, LATENCY).signals
    assert signal == pytest.approx([excess], nan_ok=True)


def test_what_is_infeasible_for_no_known_reason_counts_as_failed() -> None:
    slo = make_slo(make_bound("m", 1.0, hard=True, fail_ratio=0.0))
    missing = make_record(0, outcome=Outcome.INFEASIBLE, bounds=[seen("m", None)])
    crashed = make_record(1, outcome=Outcome.FAILED)
    assert list(Observations.of([missing, crashed], slo, LATENCY).failed) == [True, True]


def test_running_trials_are_pending() -> None:
    running = make_record(1, outcome=Outcome.RUNNING)
    found = Observations.of([feasible(0, 1.0), running], NO_SLO, LATENCY)
    assert found.pending == [running]
    assert len(found.records) == 1
