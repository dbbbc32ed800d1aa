"""The default strategy: what it starts with, what it learns from, and what it costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from builders import (
    feasible,
    in_space,
    integer,
    make_bound,
    make_record,
    make_slo,
    make_space,
    real,
    search,
    strategy_for,
)

from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import SLO, check, check_bound
from pytest_autotune.space import sampling
from pytest_autotune.space.parameters import Point
from pytest_autotune.space.space import Space
from pytest_autotune.spec.model import Optimization
from pytest_autotune.strategies import History, StrategyContext, make_strategy, unseen
from pytest_autotune.strategies.auto import N_START, AutoStrategy

TILES = {"x": [2**i for i in range(8)], "y": [2**i for i in range(8)], "pad": [0, 1]}


def bowl(point: Point) -> float:
    """Return a time that is least at x = 16, y = 4, pad = 1."""
    off = abs(math.log2(point["x"] / 16)) + 2 * abs(math.log2(point["y"] / 4))
    return float(1.0 + 0.2 * off + 0.1 * (1 - point["pad"]))


def best_of(records: Sequence[TrialRecord]) -> float:
    return min((r.score for r in records if r.rank[0] == 0 and r.score is not None), default=9e9)


def with_slo(
    space: Space, slo: SLO, objective: str, n_initial_random: int | None = None, **changes: Any
) -> Any:
    context = StrategyContext(
        space=space, optimization=Optimization(n_initial_random=n_initial_random), limit=50,
        seed=0, slo=slo, objective=Objective.parse(objective), **changes,
    )  # fmt: skip
    return make_strategy("auto", context)


def test_the_start_uses_every_value_about_equally_often() -> None:
    space = make_space({"a": [1, 2, 4, 8], "b": ["x", "y"], "c": [0, 1]})
    strategy = strategy_for("auto", space)
    records = search(strategy, N_START, feasible(lambda point: 1.0))
    for name, each in (("a", 2), ("b", 4), ("c", 4)):
        assert set(Counter(record.params[name] for record in records).values()) == {each}


def test_the_start_is_spread_over_a_range_too() -> None:
    space = make_space({"x": real(0.0, 1.0)})
    records = search(strategy_for("auto", space), N_START, feasible(lambda point: 1.0))
    assert max(np.diff(sorted([0.0, 1.0, *(record.params["x"] for record in records)]))) < 0.35


def test_it_closes_in_within_a_sixth_of_the_space() -> None:
    space = make_space(TILES)
    found = [
        best_of(search(strategy_for("auto", space, seed=seed), 20, feasible(bowl), seed=seed))
        for seed in range(5)
    ]
    assert np.median(found) == pytest.approx(1.0)


def test_real_numbers_are_refined() -> None:
    space = make_space({"x": real(-1.0, 1.0), "y": real(1e-6, 1.0, log=True)})

    def time(point: Point) -> float:
        return float(1 + (point["x"] - 0.3) ** 2 + (math.log10(point["y"]) + 2) ** 2 / 10)

    records = search(strategy_for("auto", space), 40, feasible(time))
    assert best_of(records) < 1.002


def test_a_space_of_10_to_the_20_points_is_sampled() -> None:
    space = make_space({f"p{i}": list(range(100)) for i in range(10)}, "p0 < p1")
    strategy = strategy_for("auto", space)

    def time(point: Point) -> float:
        return float(1 + sum(abs(point[f"p{i}"] - 50) / 50 for i in range(10)))

    records = search(strategy, 60, feasible(time))
    assert len({record.key for record in records}) == 60
    assert all(in_space(space, record.params) for record in records)
    found = {
        name: [
            best_of(search(strategy_for(name, space, seed=s), 60, feasible(time), seed=s))
            for s in range(3)
        ]
        for name in ("auto", "random")
    }
    assert np.mean(found["auto"]) < np.mean(found["random"]) - 0.5


def test_it_learns_where_trials_fail() -> None:
    space = make_space({"x": list(range(30)), "y": list(range(30))})

    def judge(point: Point) -> tuple[Outcome, float | None, float]:
        # Where it would get ever faster, it does not run.
        if point["x"] + point["y"] > 40:
            return Outcome.FAILED, None, 0.0
        return Outcome.FEASIBLE, float(5 - (point["x"] + point["y"]) / 10), 0.0

    strategy = strategy_for("auto", space)
    records = search(strategy, 30, judge)
    assert best_of(records) == pytest.approx(1.0)
    assert isinstance(strategy, AutoStrategy)
    models = strategy._models.of(strategy._read(records))
    assert models is not None
    fails, runs = [(29, 29), (25, 25), (20, 27)], [(0, 29), (10, 10), (5, 25)]
    x = strategy._encoding.points([{"x": a, "y": b} for a, b in fails + runs])
    probability = np.exp(models._log_feasible(x))
    assert max(probability[:3]) < 0.1
    assert min(probability[3:]) > 0.9


def _all(space: Space) -> Sequence[Point]:
    pool = space.pool
    assert pool is not None
    return [pool.point(row) for row in range(len(pool))]


def served(strategy: Any, space: Space, trials: int, limit: float) -> list[TrialRecord]:
    """Serve more at once, which is faster in all and slower for each."""
    bound = make_bound("ttft", limit, hard=True, fail_ratio=0.0)
    records: list[TrialRecord] = []
    for number in range(trials):
        point = strategy.propose(History(records=records), [0, number])
        ttft = 0.05 * point["batch"] / point["cards"] ** 0.7
        rate = 100.0 * point["batch"] ** 0.8 / point["cards"] ** 0.3
        met = ttft <= limit
        records.append(
            make_record(
                number,
                params=point,
                outcome=Outcome.FEASIBLE if met else Outcome.INFEASIBLE,
                score=-rate if met else None,
                value=rate,
                bounds=[check_bound(bound, {"ttft": ttft}, 0.1)],
            )
        )
    return records


def test_the_metric_of_a_bound_is_a_signal_of_its_own() -> None:
    space = make_space({"batch": [2**i for i in range(11)], "cards": [1, 2, 4, 8, 16]})
    slo = make_slo(make_bound("ttft", 0.4, hard=True, fail_ratio=0.0))
    strategy = with_slo(space, slo, "maximize:rate")
    records = served(strategy, space, 18, 0.4)
    best = max(
        100.0 * p["batch"] ** 0.8 / p["cards"] ** 0.3
        for p in _all(space)
        if 0.05 * p["batch"] / p["cards"] ** 0.7 <= 0.4
    )
    assert -best_of(records) == pytest.approx(best)
    late = records[N_START:]
    assert sum(record.outcome is Outcome.INFEASIBLE for record in late) <= len(late) // 2 + 1


def test_without_a_feasible_trial_it_heads_for_where_the_bounds_are_met() -> None:
    space = make_space({"x": list(range(40)), "y": list(range(40))})
    slo = make_slo(make_bound("ttft", 1.0, hard=True, fail_ratio=0.0))
    strategy = with_slo(space, slo, "minimize:time")
    records: list[TrialRecord] = []
    for number in range(25):
        point = strategy.propose(History(records=records), [0, number])
        # Broken early: nothing is known of the objective.
        ttft = 0.8 + 0.1 * (abs(point["x"] - 37) + abs(point["y"] - 2))
        outcome = Outcome.FEASIBLE if ttft <= 1 else Outcome.INFEASIBLE
        score = 1.0 if ttft <= 1 else None
        bounds = check(slo, {"ttft": ttft}).results
        records.append(
            make_record(number, params=point, outcome=outcome, score=score, bounds=bounds)
        )
        if outcome is Outcome.FEASIBLE:
            break
    assert records[-1].outcome is Outcome.FEASIBLE


def test_noise_does_not_tie_it_to_a_lucky_measurement() -> None:
    space, rng = make_space(TILES), np.random.default_rng(0)
    noisy = feasible(lambda point: bowl(point) * math.exp(rng.normal(0, 0.05)))
    records = search(strategy_for("auto", space), 45, noisy)
    near = [record for record in records if bowl(record.params) < 1.45]
    assert len(near) > 8


def test_pending_trials_are_not_asked_for_again_nor_next_to() -> None:
    space = make_space({"x": list(range(200))})
    strategy = strategy_for("auto", space)
    known = list(search(strategy, 12, feasible(lambda point: 1 + abs(point["x"] - 120) / 50)))
    for number in range(12, 20):
        point = strategy.propose(History(records=known), [0, number])
        known.append(make_record(number, params=point, outcome=Outcome.RUNNING))
    pending = sorted(record.params["x"] for record in known[12:])
    assert len(set(pending)) == 8
    assert max(pending) - min(pending) > 8


@pytest.mark.parametrize("count", [9, 12, 13, 17, 26])
def test_a_resumed_search_goes_the_same_way(count: int) -> None:
    space = make_space(TILES)

    def judge(point: Point) -> tuple[Outcome, float | None, float]:
        fails = point["x"] * point["y"] > 2048
        return (Outcome.FAILED, None, 0.0) if fails else (Outcome.FEASIBLE, bowl(point) ** 4, 0.0)

    whole = search(strategy_for("auto", space), count + 1, judge)
    resumed = strategy_for("auto", space)
    assert resumed.propose(History(records=whole[:count]), [0, count]) == whole[count].params


def test_where_all_is_given_up_early_it_goes_by_what_was_reached() -> None:
    space = make_space({"a": list(range(60)), "b": list(range(60))})
    strategy = strategy_for("auto", space)
    records: list[TrialRecord] = []
    for number in range(20):
        point = strategy.propose(History(records=records), [0, number])
        assert point is not None
        reached = 1.0 + abs(point["a"] - 40) / 10 + abs(point["b"] - 15) / 10
        pruned = make_record(number, params=point, outcome=Outcome.PRUNED, estimate=reached)
        records.append(pruned)
    assert min(r.estimate for r in records if r.estimate is not None) < 1.5


def test_all_hints_are_tried_however_short_the_start() -> None:
    space = make_space(TILES)
    hints = [{"x": 2**n, "y": 1, "pad": 0} for n in range(4)]
    strategy = with_slo(space, make_slo(), "minimize:time", hints=hints, n_initial_random=2)
    assert [r.params for r in search(strategy, 4, feasible(bowl))] == hints


def test_a_space_of_which_hardly_a_point_is_valid_is_searched_in_bounded_time() -> None:
    space = make_space(
        {
            "a": integer(1, 4000),
            "b": integer(1, 4000),
            "x": real(0.0, 1.0),
        },
        "a + b == 4000",
    )
    drawn = 0
    whole = sampling.draw

    def counted(*arguments: Any) -> Point | None:
        nonlocal drawn
        drawn += 1
        return whole(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "draw", counted)
        patch.setattr(unseen, "draw", counted)
        strategy = strategy_for("auto", space)
        records = search(strategy, 12, feasible(lambda point: 1 + abs(point["a"] - 900) / 1000))
    assert len({record.key for record in records}) == 12
    assert drawn < 40


def test_a_range_of_very_many_values_brings_few_candidates() -> None:
    space = make_space({"x": integer(1, 65_536)})
    strategy = strategy_for("auto", space)
    history = History(records=search(strategy, 12, feasible(lambda p: 1 + abs(p["x"] - 5000))))
    assert isinstance(strategy, AutoStrategy)
    x, point = strategy._candidates.offer(history, [{"x": 5000}], np.random.default_rng(0))
    assert len(x) <= 2_500
    assert {"x": 5001} in [point(at) for at in range(len(x))]


def test_hints_come_first() -> None:
    space = make_space(TILES)
    hints: Sequence[Mapping[str, Any]] = [
        {"x": 64, "y": 2, "pad": 1},
        {"x": 1, "y": 1, "pad": 0},
    ]
    strategy = with_slo(space, make_slo(), "minimize:time", hints=hints)
    records = search(strategy, 4, feasible(bowl))
    assert [record.params for record in records[:2]] == [hints[0], hints[1]]
    assert records[2].params not in hints


def test_more_trials_than_the_model_takes_go_on() -> None:
    space = make_space({"x": list(range(60)), "y": list(range(60))})
    rng = np.random.default_rng(1)
    rows = rng.permutation(3600)[:1500]
    told = [
        make_record(
            number,
            params={"x": int(row) // 60, "y": int(row) % 60},
            outcome=Outcome.FEASIBLE,
            score=1 + abs(int(row) // 60 - 30) + abs(int(row) % 60 - 20) / 7,
        )
        for number, row in enumerate(rows)
        if row not in {30 * 60 + 20, 30 * 60 + 21, 30 * 60 + 19}
    ]
    strategy = strategy_for("auto", space)
    points = []
    for number in range(len(told), len(told) + 4):
        points.append(strategy.propose(History(records=told), [0, number]))
        told.append(make_record(number, params=points[-1], outcome=Outcome.FEASIBLE, score=2.0))
    assert {"x": 30, "y": 20} in points


def steps(point: Point) -> float:
    """Return a time that rises from 1 s by the squared number of steps to the best point."""
    return float(1 + (point["x"] - 7) ** 2 + (point["y"] - 8) ** 2 + (point["z"] - 24) ** 2)


def factors(point: Point) -> float:
    """Return a time that rises from 1 s to about 10,000 s by factors."""
    off = (
        ((point["x"] - 7) / 15) ** 2 + ((point["y"] - 8) / 15) ** 2 + ((point["z"] - 24) / 31) ** 2
    )
    return float(math.exp(8 * off))


@pytest.mark.parametrize(("time", "limit"), [(steps, None), (steps, 20.0), (factors, 10.0)])
def test_on_a_smooth_bowl_it_stays_near_the_best_whatever_the_bound(
    time: Callable[[Point], float], limit: float | None
) -> None:
    space = make_space({"x": list(range(16)), "y": list(range(16)), "z": list(range(32))})
    bounds = [] if limit is None else [make_bound("time", limit, hard=True, fail_ratio=0.0)]
    slo = make_slo(*bounds)
    strategy = with_slo(space, slo, "minimize:time")
    records: list[TrialRecord] = []
    for number in range(60):
        point = strategy.propose(History(records=records), [0, number])
        compliance = check(slo, {"time": time(point)})
        outcome = Outcome.FEASIBLE if compliance.feasible else Outcome.INFEASIBLE
        records.append(
            make_record(
                number, params=point, outcome=outcome, score=time(point), value=time(point),
                bounds=compliance.results,
            )
        )  # fmt: skip
    found = [time(record.params) for record in records]
    ideal = np.sort([time(point) for point in _all(space)])[30:60]
    assert min(found[:30]) == 1.0
    assert np.median(found[30:]) <= 1.25 * np.median(ideal)
