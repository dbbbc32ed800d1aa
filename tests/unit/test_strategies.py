"""Whatever a strategy proposes is valid, new, and a function of the history and the seed."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from builders import (
    GEMM,
    MIXED,
    STRATEGIES,
    TASK_FILE,
    changed,
    choice,
    feasible,
    in_space,
    integer,
    make_record,
    make_space,
    make_spec,
    real,
    search,
    strategy_for,
)

from pytest_autotune.errors import OptionError, SpecError
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import MAX_SCORE
from pytest_autotune.space.parameters import Point, point_key
from pytest_autotune.space.space import Space
from pytest_autotune.spec.model import Optimization
from pytest_autotune.strategies import (
    BUILT_IN,
    History,
    Strategy,
    StrategyContext,
    make_strategy,
)
from pytest_autotune.strategies.unseen import nearest_unseen

SPACES: Mapping[str, Mapping[str, Any]] = {
    "task": {key: TASK_FILE[key] for key in ("parameters", "parallel_config", "quant_config")},
    "mixed": MIXED,
    "gemm": GEMM,
    "conditional": {
        "parameters": {
            "engine": ["eager", "graph"],
            "graph_size": integer(1, 8, when="engine == 'graph'"),
            "pool": choice([1, 2, 4], when="graph_size > 4"),
            "batch": [1, 2, 4, 8],
        },
        "constraints": ["batch * graph_size <= 32"],
    },
    "continuous": {
        "parameters": {
            "x": real(-1.0, 1.0, n=9),
            "y": real(1e-6, 1.0, log=True, n=9),
        },
        "constraints": ["x + y < 1"],
    },
    "huge": {
        "parameters": {
            "pages": integer(1, 10**12),
            "bytes": integer(1, 10**9, log=True),
            "mode": ["a", "b"],
        },
        "constraints": ["pages % 2 == 0", "pages > bytes"],
    },
    "anything": {
        "parameters": {
            "layout": [[1, 2], [2, 1], {"rows": 4, "columns": [1]}, None, True, 1, 1.0, "1"],
            "nested": [[[]], [[0]], []],
        }
    },
}
by_strategy = pytest.mark.parametrize("name", STRATEGIES)
by_space = pytest.mark.parametrize("kind", SPACES)


def space_of(kind: str) -> Space:
    return make_spec(SPACES[kind]).space


def varied(point: Point) -> tuple[Outcome, float | None, float]:
    """An outcome of every kind, decided by the point."""
    number = sum(point_key(point).encode())
    match number % 5:
        case 0:
            return Outcome.INFEASIBLE, None, 0.1 + number % 7
        case 1:
            return Outcome.FAILED, None, 0.0
        case 2:
            return Outcome.PRUNED, None, 0.0
    return Outcome.FEASIBLE, float(number % 89), 0.0


def squared(centre: float, name: str = "x") -> Callable[[Point], float]:
    return lambda point: float((point[name] - centre) ** 2)


@by_strategy
@by_space
def test_every_strategy_takes_every_kind_of_parameter(name: str, kind: str) -> None:
    space = space_of(kind)
    records = search(strategy_for(name, space, limit=25, n_initial_random=5), 25, varied)
    size = len(space.pool) if space.pool is not None else 25
    assert len(records) == min(25, size)
    assert all(in_space(space, record.params) for record in records)
    assert len({record.key for record in records}) == len(records)


@by_strategy
def test_a_small_space_is_exhausted_and_never_repeated(name: str) -> None:
    space = make_space({"a": [1, 2], "b": [1, 2]})
    records = search(strategy_for(name, space, limit=20, n_initial_random=2), 20, varied)
    assert len({record.key for record in records}) == len(records) == 4


@by_strategy
def test_a_small_space_that_cannot_be_listed_is_exhausted_too(name: str) -> None:
    fixed = {f"p{at}": [at] for at in range(70)}
    space = make_space({**fixed, "a": [1, 2]})
    assert space.pool is None
    records = search(strategy_for(name, space, n_initial_random=1), 20, varied)
    assert len({record.key for record in records}) == len(records) == 2


@by_strategy
@pytest.mark.parametrize("parameters", [{}, {"only": ["value"]}], ids=["none", "one"])
def test_a_space_of_one_point_gives_one_trial(name: str, parameters: dict[str, Any]) -> None:
    records = search(strategy_for(name, make_space(parameters), n_initial_random=1), 5, varied)
    assert [record.params for record in records] == [{k: v[0] for k, v in parameters.items()}]


@by_strategy
@by_space
def test_what_is_running_is_not_proposed_again(name: str, kind: str) -> None:
    space = space_of(kind)
    strategy = strategy_for(name, space, limit=40, n_initial_random=2)
    records = list(search(strategy, 6, feasible(lambda point: 1.0)))
    for number in range(6, 18):
        point = strategy.propose(History(records=records), [0, number])
        if point is None:
            break
        records.append(make_record(number, point, Outcome.RUNNING, None))
    assert len({record.key for record in records}) == len(records)


@by_strategy
def test_a_space_that_is_all_running_has_nothing_left(name: str) -> None:
    space = make_space({"a": [1, 2], "b": [1, 2]})
    running = [
        make_record(number, {"a": a, "b": b}, Outcome.RUNNING, None)
        for number, (a, b) in enumerate([(1, 1), (1, 2), (2, 1), (2, 2)])
    ]
    strategy = strategy_for(name, space, n_initial_random=1)
    assert strategy.propose(History(records=running), [0, 4]) is None
    assert strategy.propose(History(records=running[:3]), [0, 3]) == {"a": 2, "b": 2}


@pytest.mark.parametrize("name", ["bayesian", "random"])
def test_another_seed_gives_other_trials(name: str) -> None:
    space = space_of("gemm")
    first, second = (
        [r.key for r in search(strategy_for(name, space, n_initial_random=3), 8, varied, seed=seed)]
        for seed in (0, 1)
    )
    assert not set(first[:3]) & set(second[:3])


@by_strategy
@by_space
def test_a_study_resumed_from_json_goes_on_as_if_never_interrupted(name: str, kind: str) -> None:
    whole = search(strategy_for(name, space_of(kind), n_initial_random=3), 10, varied, seed=7)
    known = [replace(record, params=json.loads(json.dumps(record.params))) for record in whole]
    for number, record in enumerate(whole):
        if number in {0, 6}:  # as when it is run again, and when it is resumed
            strategy = strategy_for(name, space_of(kind), n_initial_random=3)
        point = strategy.propose(History(records=known[:number]), [7, number])
        assert point == record.params


def test_a_proposal_does_not_depend_on_what_this_process_saw_on_the_way() -> None:
    space = space_of("gemm")
    finished = list(search(strategy_for("random", space), 40, feasible(gemm_time)))
    watching = strategy_for("bayesian", space, n_initial_random=3)
    slow = {record.number for record in sorted(finished, key=lambda r: r.rank)[:6:2]}
    for count in range(8, 41, 4):
        at_the_time = [
            changed(record, outcome=Outcome.RUNNING, score=None) if number in slow else record
            for number, record in enumerate(finished[:count])
        ]
        watching.propose(History(records=at_the_time), [0, count])
    fresh = strategy_for("bayesian", space, n_initial_random=3)
    history = History(records=finished)
    for seed in range(10):
        assert watching.propose(history, [seed]) == fresh.propose(history, [seed])


def test_asking_twice_gives_the_same_answer() -> None:
    strategy = strategy_for("bayesian", space_of("gemm"), n_initial_random=3)
    history = History(records=search(strategy, 12, varied))
    assert strategy.propose(history, [1, 2]) == strategy.propose(history, [1, 2])


@by_strategy
@pytest.mark.parametrize("kind", ["mixed", "gemm"])
def test_the_process_wide_random_generators_are_left_alone(name: str, kind: str) -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = random.getstate(), json.dumps(str(np.random.get_state()))  # noqa: NPY002
    search(strategy_for(name, space_of(kind), n_initial_random=2), 6, varied)
    assert (random.getstate(), json.dumps(str(np.random.get_state()))) == before  # noqa: NPY002


def test_the_verbosity_of_optuna_is_left_alone() -> None:
    before = optuna.logging.get_verbosity()
    search(strategy_for("bayesian", space_of("mixed"), n_initial_random=1), 4, varied)
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize("name", ["bayesian", "random"])
def test_nothing_is_planned_where_each_trial_depends_on_the_last(name: str) -> None:
    assert strategy_for(name, space_of("gemm")).plan() is None


def gemm_time(point: Point) -> float:
    """A made-up running time: large, balanced tiles with wide loads are fast."""
    imbalance = abs(math.log2(point["MWG"] / point["NWG"]))
    width = math.log2(point["VWM"] * point["VWN"])
    return float(
        1000 / (point["MWG"] * point["NWG"]) + imbalance + abs(width - 3)
        + 0.5 * (1 - point["SA"]) + 0.5 * (1 - point["SB"])
    )  # fmt: skip


def test_bayesian_search_takes_a_hundred_valid_new_points_at_one_proposal_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    sample = optuna.samplers.TPESampler.sample_relative

    def counted(self: Any, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        asked.append(1)
        return sample(self, study, trial, search_space)

    monkeypatch.setattr(optuna.samplers.TPESampler, "sample_relative", counted)
    space = space_of("gemm")
    records = search(strategy_for("bayesian", space, limit=100), 100, feasible(gemm_time))
    assert len({record.key for record in records}) == 100
    assert all(in_space(space, record.params) for record in records)
    assert len(asked) == 100 - 10


def best(records: Sequence[TrialRecord]) -> float:
    return min(record.score for record in records if record.score is not None)


def test_bayesian_search_finds_better_points_than_random_search() -> None:
    space = space_of("gemm")
    found = {
        name: [
            best(search(strategy_for(name, space), 50, feasible(gemm_time), seed=seed))
            for seed in range(10)
        ]
        for name in ("bayesian", "random")
    }
    assert np.mean(found["bayesian"]) < 0.75 * np.mean(found["random"])


@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
@pytest.mark.parametrize("kind", ["continuous", "integer"])
def test_bayesian_search_closes_in_on_the_minimum_of_a_range(kind: str, *, log: bool) -> None:
    space = make_space({"x": {"type": kind, "low": 1, "high": 10**6, "log": log}})
    centre = 100.0 if log else 300_000.0

    def score(point: Point) -> float:
        return float(np.log(point["x"] / centre) ** 2 if log else (point["x"] - centre) ** 2)

    ratios = []
    for seed in range(5):
        records = search(strategy_for("bayesian", space), 40, feasible(score), seed=seed)
        early, late = ([score(r.params) for r in part] for part in (records[:10], records[25:]))
        ratios.append(np.median(late) / np.median(early))
    assert np.median(ratios) < 0.4


def share_above(records: Sequence[TrialRecord], limit: float) -> float:
    above = [record for record in records if record.params["x"] > limit]
    return len(above) / len(records)


SQUARE = {
    "x": integer(0, 99),
    "y": integer(0, 99),
}


@pytest.mark.parametrize("seed", range(3))
def test_infeasible_trials_steer_the_search_away(seed: int) -> None:
    space = make_space(SQUARE)

    def judge(point: Point) -> tuple[Outcome, float | None, float]:
        if point["x"] > 50:
            return Outcome.INFEASIBLE, -1e9, (point["x"] - 50) / 50
        return Outcome.FEASIBLE, 1.0 + point["y"], 0.0

    records = search(strategy_for("bayesian", space), 80, judge, seed=seed)
    at_random = search(strategy_for("random", space), 80, judge, seed=seed)
    assert share_above(at_random[10:], 50) > 0.4
    assert share_above(records[10:], 50) < 0.25


def test_of_infeasible_trials_the_search_prefers_the_lesser_violation() -> None:
    space = make_space(SQUARE)

    def judge(point: Point) -> tuple[Outcome, float | None, float]:
        return Outcome.INFEASIBLE, None, 1.0 + point["x"]

    records = search(strategy_for("bayesian", space), 60, judge)
    assert share_above(records[30:], 50) < 0.2


def test_crashed_trials_tell_the_sampler_nothing_about_scores() -> None:
    strategy = strategy_for("bayesian", space_of("gemm"), n_initial_random=3)
    told = list(search(strategy, 12, feasible(gemm_time)))
    silent = strategy_for("random", space_of("gemm"))
    seen = {record.key for record in told}
    crashed: list[TrialRecord] = []
    for record in search(silent, 20, feasible(gemm_time), seed=5):
        if record.key not in seen:
            crashed.append(changed(record, number=len(told) + len(crashed), outcome=Outcome.FAILED))
    without = strategy.propose(History(records=told), [9])
    with_crashed = strategy_for("bayesian", space_of("gemm"), n_initial_random=3).propose(
        History(records=told + crashed), [9]
    )
    assert without == with_crashed or point_key(without or {}) in {r.key for r in crashed}


def test_the_first_trials_are_random_until_enough_of_them_say_something() -> None:
    space = space_of("gemm")
    bayesian = strategy_for("bayesian", space, n_initial_random=5)
    at_random = strategy_for("random", space)
    silent = [
        make_record(number, record.params, outcome, None)
        for number, (record, outcome) in enumerate(
            zip(
                search(at_random, 20, varied, seed=3),
                [Outcome.FAILED, Outcome.RUNNING] * 10,
                strict=True,
            )
        )
    ]
    history = History(records=silent)
    assert bayesian.propose(history, [0, 20]) == at_random.propose(history, [0, 20])
    telling = [changed(r, outcome=Outcome.FEASIBLE, score=float(r.number)) for r in silent]
    history = History(records=telling)
    proposals = [
        bayesian.propose(history, [0, n]) == at_random.propose(history, [0, n]) for n in range(5)
    ]
    assert not all(proposals)


@pytest.mark.parametrize(
    "outcomes",
    [[Outcome.PRUNED], [Outcome.INFEASIBLE], [Outcome.PRUNED, Outcome.INFEASIBLE, Outcome.FAILED]],
)
@pytest.mark.parametrize("kind", ["gemm", "mixed", "huge"])
def test_a_search_without_a_single_score_goes_on(kind: str, outcomes: list[Outcome]) -> None:
    space = space_of(kind)
    strategy = strategy_for("bayesian", space, n_initial_random=2)
    count = iter(range(1000))

    def judge(point: Point) -> tuple[Outcome, float | None, float]:
        return outcomes[next(count) % len(outcomes)], None, 1.0

    records = search(strategy, 15, judge)
    assert len(records) == 15


@pytest.mark.parametrize("score", [MAX_SCORE, -MAX_SCORE, 0.0])
def test_extreme_scores_do_no_harm(score: float) -> None:
    strategy = strategy_for("bayesian", space_of("mixed"), n_initial_random=2)
    records = search(strategy, 10, feasible(lambda point: score * (point["tile"] > 20)))
    assert len(records) == 10


def test_random_search_takes_every_order() -> None:
    space = make_space({"a": [1, 2, 3]})
    orders = Counter(
        tuple(r.params["a"] for r in search(strategy_for("random", space), 9, varied, seed=seed))
        for seed in range(120)
    )
    assert len(orders) == 6
    assert min(orders.values()) >= 8


WIDE_GRID: Mapping[str, Sequence[Any]] = {
    "tp": [1, 2, 4],
    "mem": [0.7, 0.8, 0.9],
    "graph": [True, False],
}


def plan_of(space: Space, limit: int, seed: int = 0) -> list[Point]:
    points = strategy_for("grid_search", space, limit=limit, seed=seed).plan()
    assert points is not None
    return list(points)


def test_a_grid_that_fits_is_the_whole_product_in_declaration_order() -> None:
    points = plan_of(make_space({"a": [2, 1], "b": ["x", "y"]}), 4)
    assert points == [
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_truncated_grid_is_spread_over_every_value(seed: int) -> None:
    points = plan_of(make_space(WIDE_GRID), 6, seed)
    assert len({point_key(point) for point in points}) == 6
    for name, values in WIDE_GRID.items():
        counts = Counter(point[name] for point in points)
        assert set(counts) == set(values)
        assert max(counts.values()) - min(counts.values()) <= 2


def test_a_truncated_grid_is_seeded_and_reproducible() -> None:
    space = make_space(WIDE_GRID)
    assert plan_of(space, 6, 1) == plan_of(make_space(WIDE_GRID), 6, 1)
    assert len({json.dumps(plan_of(space, 6, seed)) for seed in range(10)}) > 5


def test_a_truncated_grid_keeps_the_order_of_the_whole_one() -> None:
    space = make_space(WIDE_GRID)
    order = {point_key(point): at for at, point in enumerate(plan_of(space, 100))}
    places = [order[point_key(point)] for point in plan_of(space, 7)]
    assert places == sorted(places)


@pytest.mark.parametrize("limit", [3, 17, 64])
def test_a_truncated_grid_of_a_constrained_space_is_valid_and_spread(limit: int) -> None:
    space = space_of("gemm")
    points = plan_of(space, limit)
    assert len({point_key(point) for point in points}) == limit
    assert all(space.is_valid(point) for point in points)
    for name, values in GEMM["parameters"].items():
        assert len({point[name] for point in points}) >= min(len(values) - 1, limit)


@pytest.mark.parametrize("seed", range(3))
def test_a_truncated_grid_of_a_space_too_large_to_list_is_spread(seed: int) -> None:
    space = make_space({name: integer(0, 99) for name in "abcd"})
    assert space.pool is None
    points = plan_of(space, 50, seed)
    assert len({point_key(point) for point in points}) == 50
    for name in "abcd":
        values = sorted(point[name] for point in points)
        assert len(set(values)) >= 40
        assert values[0] < 10
        assert values[-1] > 90


def test_duplicate_values_do_not_make_duplicate_points() -> None:
    points = plan_of(make_space({"a": [1, 1, 2], "b": [0.5, 0.5]}), 10)
    assert points == [{"a": 1, "b": 0.5}, {"a": 2, "b": 0.5}]


def test_a_grid_proposes_its_points_in_order_and_leaves_out_what_was_seen() -> None:
    strategy = strategy_for("grid_search", make_space({"a": [1, 2, 3]}), limit=3)
    records = [make_record(0, {"a": 2}, Outcome.RUNNING, None)]
    assert strategy.propose(History(records=records), [0]) == {"a": 1}
    records.append(make_record(1, {"a": 1}))
    assert strategy.propose(History(records=records), [0]) == {"a": 3}


def test_a_grid_asks_for_a_step_or_a_number_of_points() -> None:
    space = make_space({"x": real(0, 1)})
    with pytest.raises(SpecError) as caught:
        strategy_for("grid_search", space)
    assert str(caught.value) == (
        "parameter 'x' is continuous: a grid needs 'step' or 'n' (the number of points) in it, "
        "or choose the strategy auto, bayesian or random"
    )


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        (integer(1, 4), [1, 2, 3, 4]),
        (integer(1, 10, step=4), [1, 5, 9]),
        (integer(0, 100, n=3), [0, 50, 100]),
        (integer(0, 100, n=3.0), [0, 50, 100]),
        (integer(1, 1000, log=True, n=4), [1, 10, 100, 1000]),
        (integer(1, 3, n=9), [1, 2, 3]),
        (integer(0, 7, step=4, n=2), [0, 4]),
        (integer(3, 9, n=1), [3]),
        (real(0, 1, n=5), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (real(0, 1, n=3.0), [0.0, 0.5, 1.0]),
        (real(0, 1, step=0.5), [0.0, 0.5, 1.0]),
        (real(0, 1, step=0.01, n=3), [0.0, 0.5, 1.0]),
        (real(0.01, 1, log=True, n=3), [0.01, 0.1, 1.0]),
        (real(2, 2), [2.0]),
    ],
)
def test_a_grid_lists_every_kind_of_range(parameter: dict[str, Any], values: list[float]) -> None:
    assert [point["x"] for point in plan_of(make_space({"x": parameter}), 1000)] == values


@pytest.mark.parametrize(
    ("low", "high"), [(1_000_000.5, 1_000_001.5), (1.0, 1.0000001), (0.1, 0.1 + 1e-12)]
)
def test_a_grid_of_a_narrow_range_stays_in_it_and_repeats_nothing(low: float, high: float) -> None:
    points = plan_of(make_space({"x": real(low, high, n=4)}), 9)
    values = [point["x"] for point in points]
    assert len(set(values)) == len(values)
    assert all(low <= value <= high for value in values)


def test_a_misspelt_strategy_is_an_error_naming_the_nearest() -> None:
    with pytest.raises(OptionError) as caught:
        strategy_for("baysian", space_of("task"))
    message = str(caught.value)
    assert "unknown strategy 'baysian' (did you mean 'bayesian'?)" in message
    assert "built in: auto, bayesian, grid_search, random" in message
    with pytest.raises(OptionError, match="unknown strategy 'zzz'; built in"):
        strategy_for("zzz", space_of("task"))


def test_a_plugin_may_offer_a_strategy_and_replace_a_built_in_one() -> None:
    context = StrategyContext(space=space_of("task"), optimization=Optimization(), limit=3, seed=5)
    own = strategy_for("random", context.space)
    asked: list[tuple[str, StrategyContext]] = []

    def extension(name: str, given: StrategyContext) -> Strategy | None:
        asked.append((name, given))
        return own if name in {"mine", "bayesian"} else None

    assert make_strategy("mine", context, extension) is own
    assert make_strategy("bayesian", context, extension) is own
    assert make_strategy("random", context, extension) is not own
    assert asked == [("mine", context), ("bayesian", context), ("random", context)]
    with pytest.raises(OptionError):
        make_strategy("theirs", context, extension)


def test_the_known_strategies_are_those_documented() -> None:
    assert sorted(BUILT_IN) == sorted(STRATEGIES)


def nearest(space: Space, wanted: Point, *seen: Point) -> Point | None:
    history = History(records=[make_record(at, point) for at, point in enumerate(seen)])
    return nearest_unseen(space, wanted, history, np.random.default_rng(0))


def test_a_proposal_that_is_valid_and_new_is_taken_as_it_is() -> None:
    space = make_space({"a": [1, 2, 3], "b": ["x", "y"]})
    assert nearest(space, {"a": 2, "b": "y"}) == {"a": 2, "b": "y"}
    smooth = make_space({"x": real(0, 1)})
    assert nearest(smooth, {"x": 0.25}) == {"x": 0.25}


def test_a_proposal_that_was_seen_moves_to_its_neighbour() -> None:
    space = make_space({"a": integer(0, 100), "b": ["x", "y"]})
    seen = [{"a": 50, "b": "x"}, {"a": 51, "b": "x"}]
    assert nearest(space, {"a": 50, "b": "x"}, *seen) == {"a": 49, "b": "x"}


def test_an_invalid_proposal_moves_to_the_nearest_valid_point() -> None:
    space = make_space({"a": integer(0, 100)}, "a % 10 == 0")
    assert nearest(space, {"a": 52}) == {"a": 50}
    assert nearest(space, {"a": 58}) == {"a": 60}
    assert nearest(space, {"a": 58}, {"a": 60}) == {"a": 50}


def test_distance_counts_each_parameter_by_its_own_range() -> None:
    space = make_space(
        {
            "wide": integer(0, 1000),
            "narrow": integer(0, 4),
        },
        "wide > 100 or narrow > 0",
    )
    assert nearest(space, {"wide": 90, "narrow": 0}) == {"wide": 101, "narrow": 0}


def test_an_inactive_parameter_is_no_distance() -> None:
    space = make_space({"on": [0, 1], "size": integer(1, 9, when="on == 1")})
    assert nearest(space, {"on": 0, "size": 9}) == {"on": 0}
    assert nearest(space, {"on": 1, "size": 9}) == {"on": 1, "size": 9}


def test_in_a_space_too_large_to_list_a_seen_proposal_moves_a_little() -> None:
    wide = integer(0, 10**9)
    space = make_space({"a": wide, "b": wide, "c": real(0, 1)})
    wanted = {"a": 500, "b": 700, "c": 0.5}
    moved = nearest(space, wanted, wanted)
    assert moved is not None
    assert moved != wanted
    assert sum(moved[name] != wanted[name] for name in wanted) == 1
    assert abs(moved["a"] - 500) + abs(moved["b"] - 700) < 40
    assert abs(moved["c"] - 0.5) < 0.25


def test_nothing_is_near_where_everything_was_seen() -> None:
    space = make_space({"a": [1, 2]})
    assert nearest(space, {"a": 1}, {"a": 1}, {"a": 2}) is None


def test_a_history_knows_what_was_seen_and_what_says_something() -> None:
    history = History(
        records=[make_record(at, {"a": at}, outcome) for at, outcome in enumerate(Outcome)]
    )
    assert history.seen == {point_key({"a": at}) for at in range(len(Outcome))}
    assert history.informative == 3
