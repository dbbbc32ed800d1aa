"""What a trial's objective can still come to, and what one of its levels decides of it."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, quantiles
from typing import Any

import pytest
from builders import changed, make_level, make_record
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.load.race import Contest
from pytest_autotune.load.standing import Bar, Reached, Standing, bar, best_possible, bound_of
from pytest_autotune.load.statistics import RequestRecord
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.metrics import aggregate
from pytest_autotune.scoring.objective import RACE_MARGIN, Objective
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import MAX_SCORE, penalized

PROPERTY = settings(derandomize=True, max_examples=300, deadline=None)
LOADS = (1, 4, 16)


def closed(*loads: int, scenario: str | None = None) -> list[Level]:
    return [Level(concurrency=load, scenario=scenario, metrics={}) for load in loads]


def opened(*rates: float) -> list[Level]:
    return [Level(request_rate=rate, metrics={}) for rate in rates]


def best(
    objective: str,
    levels: Sequence[Mapping[str, Any]],
    penalty: float = 0.0,
    loads: Sequence[int] = LOADS,
    **fields: Any,
) -> TrialRecord:
    """Return a feasible trial that was measured so at its levels."""
    goal = Objective.parse(objective)
    measured = goal.measure(aggregate(list(levels)))
    assert measured is not None
    metric, value = measured
    score = penalized(goal.score(value), penalty)
    entries = [make_level(load, **found) for load, found in zip(loads, levels, strict=True)]
    return make_record(
        fields.pop("number", 0),
        **{"metric": metric, "value": value, "score": score, "levels": entries, **fields},
    )


def ttfts(*values: float) -> list[dict[str, float]]:
    return [{"mean_ttft": value, "p90_ttft": 2 * value, "max_ttft": 3 * value} for value in values]


def rates(*values: float) -> list[dict[str, float]]:
    """Return levels at which every client gets as much as the heavier, or more."""
    return [
        {
            "total_throughput": value,
            "total_throughput_per_gpu": value / 2,
            "request_throughput": value / 10,
            "mean_e2e_latency": load * 10 / value,
            "mean_input_tokens": 6.0,
            "mean_output_tokens": 4.0,
        }
        for load, value in zip(LOADS, values, strict=True)
    ]


def bar_of(objective: str, *records: TrialRecord, levels: Sequence[Level] = ()) -> Bar | None:
    return bar(records, Objective.parse(objective), levels or closed(*LOADS))


# What there is to beat


def test_the_incumbent_and_a_margin_are_what_to_beat() -> None:
    found = bar_of("minimize_ttft", best("minimize_ttft", ttfts(0.1, 0.2, 0.3)))
    assert found is not None
    assert found.limit == pytest.approx(0.2 * 1.05)
    assert (found.metric, found.of_level, found.pool) == ("mean_ttft", "mean_ttft", "mean")
    assert RACE_MARGIN == 0.05
    assert found.loses(0.22)
    assert not found.loses(0.2)


def test_a_throughput_to_beat_is_less_by_the_margin() -> None:
    record = best("maximize_throughput", rates(100, 200, 300), penalty=0.1)
    found = bar_of("maximize_throughput", record)
    assert found is not None
    assert found.of_level == "total_throughput_per_gpu"
    assert found.work == ("input_tokens", "output_tokens")
    assert found.limit == pytest.approx(100 * 0.9 / 1.05)
    assert found.loses(80.0)
    assert not found.loses(90.0)


@pytest.mark.parametrize(
    ("objective", "metrics"),
    [
        ("minimize:std_ttft", {"std_ttft": 1.0}),
        ("minimize:min_ttft", {"min_ttft": 1.0}),
        ("minimize:p50_itl", {"p50_itl": 1.0}),
        ("minimize:error_rate", {"error_rate": 0.1}),
        ("minimize:energy_per_token", {"energy_per_token": 0.1}),
        ("maximize:p50_ttft", {"p50_ttft": 1.0}),
        ("maximize:goodput_ratio", {"goodput_ratio": 0.5}),
        ("minimize:total_throughput", {"total_throughput": 0.5}),
        ("maximize:min_total_throughput", {"min_total_throughput": 0.5}),
    ],
)
def test_of_another_objective_nothing_is_known(objective: str, metrics: dict[str, float]) -> None:
    assert bar_of(objective, best(objective, [metrics] * 3)) is None


def test_the_incumbent_must_have_been_measured_alike() -> None:
    record = best("minimize_ttft", ttfts(0.1, 0.2, 0.3))
    for levels in (closed(1, 4), closed(1, 4, 8), opened(1, 4, 16), closed(*LOADS, scenario="D")):
        assert bar_of("minimize_ttft", record, levels=levels) is None
    # It reported another value than its levels'.
    assert bar_of("minimize_ttft", changed(record, value=0.15)) is None
    assert bar_of("minimize_ttft", changed(record, levels=())) is None
    assert bar_of("minimize_ttft", changed(record, value=None)) is None


def test_without_an_incumbent_there_is_nothing_to_beat() -> None:
    record = best("minimize_ttft", ttfts(0.1, 0.2, 0.3))
    assert bar_of("minimize_ttft") is None
    assert bar_of("minimize_ttft", changed(record, outcome=Outcome.INFEASIBLE)) is None
    assert bar_of("minimize_ttft", changed(record, score=MAX_SCORE)) is None
    assert bar_of("minimize_ttft", changed(record, metric=None)) is None
    zero = best("minimize_ttft", ttfts(0.0, 0.0, 0.0))
    assert bar_of("minimize_ttft", zero) is None
    penalised = best("maximize_throughput", rates(100, 200, 300), penalty=1.5)
    assert bar_of("maximize_throughput", penalised) is None


@pytest.mark.parametrize(
    ("objective", "orderly", "disorderly"),
    [
        ("minimize_ttft", ttfts(0.2, 0.2, 0.195), ttfts(0.2, 0.3, 0.1)),
        ("maximize_throughput", rates(100, 350, 1300), rates(100, 500, 600)),
    ],
)
def test_nothing_is_concluded_for_heavier_levels_once_one_was_faster(
    objective: str, orderly: list[dict[str, float]], disorderly: list[dict[str, float]]
) -> None:
    record = best(objective, orderly)
    other = best(objective, disorderly, number=1, outcome=Outcome.INFEASIBLE)
    for records, expected in (([record], True), ([record, other], False)):
        found = bar_of(objective, *records)
        assert found is not None
        assert found.orderly is expected


# What is still possible

LATENCY = Bar(metric="mean_ttft", of_level="mean_ttft", pool="mean", limit=0.2, maximize=False)
RATE = Bar(
    metric="mean_request_throughput", of_level="request_throughput", pool="mean", limit=100.0,
    maximize=True,
)  # fmt: skip


def test_heavier_levels_take_no_less() -> None:
    one, four, sixteen = closed(*LOADS)
    first = Reached(level=one, value=0.1, bound=0.09)
    assert best_possible(LATENCY, [one, four, sixteen], [first]) == pytest.approx(0.28 / 3)
    second = Reached(level=four, value=0.3, bound=0.25)
    found = best_possible(LATENCY, [one, four, sixteen], [first, second])
    assert found == pytest.approx(0.65 / 3)


def test_of_lighter_levels_nothing_is_known() -> None:
    one, four, sixteen = closed(*LOADS)
    heavy = Reached(level=sixteen, value=0.9, bound=0.8)
    assert best_possible(LATENCY, [one, four, sixteen], [heavy]) == pytest.approx(0.3)
    most = Reached(level=sixteen, value=10.0, bound=1.0)
    assert best_possible(RATE, [one, four, sixteen], [most]) == math.inf


def test_a_client_gets_no_more_at_a_heavier_level() -> None:
    levels = closed(*LOADS)
    first = Reached(level=levels[0], value=5.0, bound=6.0)
    assert best_possible(RATE, levels, [first]) == pytest.approx((5 + 4 * 6 + 16 * 6) / 3)
    pooled = replace(RATE, pool="max")
    assert best_possible(pooled, levels, [first]) == pytest.approx(96)


def test_levels_of_other_scenarios_say_nothing() -> None:
    levels = [*closed(1, scenario="A"), *closed(4, scenario="B")]
    found = best_possible(LATENCY, levels, [Reached(level=levels[0], value=0.1, bound=0.1)])
    assert found == pytest.approx(0.05)


def test_rates_bound_latencies_and_no_throughput() -> None:
    levels = opened(1, 2)
    reached = [Reached(level=levels[0], value=0.1, bound=0.1)]
    assert best_possible(LATENCY, levels, reached) == pytest.approx(0.1)
    assert best_possible(RATE, levels, reached) == math.inf


@given(
    st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
    st.permutations(range(3)),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from(["mean", "max"]),
)
@PROPERTY
def test_whatever_the_order_no_trial_comes_to_more_than_is_possible(
    draws: list[float],
    order: list[int],
    measured: int,
    maximize: Any,
    pool: Any,
) -> None:
    levels = closed(*LOADS)
    seconds = sorted(draws)  # of an answer, at each level
    values = [lv.load / s for lv, s in zip(levels, seconds, strict=True)] if maximize else seconds
    objective = max(values) if pool == "max" else fmean(values)
    found = replace(RATE if maximize else LATENCY, pool=pool)
    reached = [
        Reached(
            level=levels[at],
            value=values[at],
            bound=1 / seconds[at] if maximize else None if pool == "max" else seconds[at],
        )
        for at in order[:measured]
    ]
    possible = best_possible(found, levels, reached)
    if maximize:
        assert possible >= objective * (1 - 1e-12)
    else:
        assert possible <= objective * (1 + 1e-12)


# What requests say of heavier levels


def request(seconds: float, **fields: Any) -> RequestRecord:
    return RequestRecord(
        **{
            "scheduled": 0.0, "sent": 0.0, "first": seconds / 2, "last": seconds, "ended": seconds,
            "input_tokens": 6, "output_tokens": 4, **fields,
        }
    )  # fmt: skip


def test_what_a_sample_says_of_a_mean_is_less_than_its_mean() -> None:
    rng = random.Random(1)
    requests = [request(rng.uniform(0.1, 0.3)) for _ in range(100)]
    found = bound_of(LATENCY, requests, gpus=1, alpha=0.01)
    mean = fmean(r.ttft or 0.0 for r in requests)
    assert found is not None
    assert 0.9 * mean < found < mean
    assert bound_of(LATENCY, [request(0.2)] * 5, gpus=1, alpha=0.01) == pytest.approx(0.1)


def test_what_a_sample_says_of_a_percentile_is_an_order_statistic_below_it() -> None:
    requests = [request(n / 50) for n in range(1, 101)]
    median = replace(LATENCY, of_level="p50_ttft")
    # P(Binomial(100, 1/2) < 38) is 0.6 %, and < 39 would be 1.05 %.
    assert bound_of(median, requests, gpus=1, alpha=0.01) == pytest.approx(0.38)
    assert bound_of(median, requests[:5], gpus=1, alpha=0.01) is None


def test_what_a_client_gets_is_work_for_time() -> None:
    requests = [request(0.5)] * 20
    assert bound_of(RATE, requests, gpus=2, alpha=0.01) == pytest.approx(2)
    for name, expected in (("total_throughput", 20), ("output_throughput", 8), ("goodput", 2)):
        found = replace(RATE, of_level=name)
        assert bound_of(found, requests, gpus=2, alpha=0.01) == pytest.approx(expected)
        found = replace(RATE, of_level=f"{name}_per_gpu")
        assert bound_of(found, requests, gpus=2, alpha=0.01) == pytest.approx(expected / 2)


@pytest.mark.parametrize("spoiled", [request(0.2, error="timeout"), request(0.2, cut=True)])
def test_what_failed_may_be_why_others_were_fast(spoiled: RequestRecord) -> None:
    assert bound_of(LATENCY, [*[request(0.2)] * 9, spoiled], gpus=1, alpha=0.01) is None


def test_who_was_disorderly_once_says_nothing() -> None:
    found = replace(LATENCY, orderly=False)
    assert bound_of(found, [request(0.2)] * 9, gpus=1, alpha=0.01) is None


# What one level decides


@pytest.mark.parametrize("maximize", [False, True])
@given(
    draws=st.lists(st.floats(0.02, 1), min_size=3, max_size=3),
    measured=st.integers(0, 2),
    slack=st.floats(0.2, 5),
)
@PROPERTY
def test_a_level_loses_just_where_the_trial_does(
    draws: list[float], measured: int, slack: float, *, maximize: bool
) -> None:
    levels = closed(*LOADS)
    base = RATE if maximize else LATENCY
    seconds = sorted(draws)
    values = [lv.load / s for lv, s in zip(levels, seconds, strict=True)] if maximize else seconds
    found = replace(base, limit=fmean(values) * slack)
    standing = Standing(found, levels, 1)
    reached = []
    for level, value, each in list(zip(levels, values, seconds, strict=True))[:measured]:
        standing._reached.append(
            Reached(level=level, value=value, bound=1 / each if maximize else each)
        )
        reached = list(standing._reached)
    if found.loses(best_possible(found, levels, reached)):
        return
    level = levels[measured]
    race = standing.race(level, fixed=True)

    def loses(time: float) -> bool:
        value = level.load / time if maximize else time
        supposed = Reached(level=level, value=value, bound=1 / time if maximize else time)
        return found.loses(best_possible(found, levels, [*reached, supposed]))

    if race is None:
        assert maximize
        assert not loses(1e9)
        return
    assert loses(race.limit * (1 + 1e-6))
    assert not loses(race.limit * (1 - 1e-6))
    assert race.certain >= race.limit * (1 - 1e-9)
    assert (race.skip, race.block) == (level.concurrency, max(4, level.concurrency or 0))
    assert race.alpha == pytest.approx(0.01 / 6)


@pytest.mark.parametrize(
    ("levels", "fixed", "of_level", "raced"),
    [
        (closed(1, 4), True, "total_throughput", True),
        (closed(1, 4), False, "total_throughput", False),
        (closed(1, 4), False, "request_throughput", True),
        (opened(1, 4), True, "request_throughput", False),
    ],
)
def test_a_throughput_is_raced_where_time_decides_it(
    levels: list[Level], of_level: str, *, fixed: bool, raced: bool
) -> None:
    standing = Standing(replace(RATE, of_level=of_level), levels, 1)
    assert (standing.race(levels[0], fixed=fixed) is not None) is raced


def test_a_trial_that_cannot_win_says_why_and_what_it_came_to() -> None:
    levels = closed(*LOADS)
    standing = Standing(LATENCY, levels, 1)
    requests = [request(0.5)] * 40
    pruned = standing.add(levels[0], {"mean_ttft": 0.25}, requests)
    assert pruned is not None
    assert pruned.estimate == pytest.approx(0.25)
    assert str(pruned) == (
        "lost the race: mean_ttft would come to 250 ms at best over 3 levels (level 1: 250 ms in "
        "40 requests), and 200 ms would have lost (error rate 1%; measure a baseline "
        "with race=False)"
    )


def test_a_trial_that_may_win_goes_on_and_one_that_is_through_is_reported() -> None:
    levels = closed(1, 4)
    standing = Standing(LATENCY, levels, 1)
    assert standing.add(levels[0], {"mean_ttft": 0.15}, [request(0.3)] * 9) is None
    assert standing.add(levels[1], {"mean_ttft": 9.0}, [request(18)] * 9) is None
    single = Standing(LATENCY, levels[:1], 1)
    assert single.add(levels[0], {"mean_ttft": 9.0}, [request(18)] * 9) is None


def test_a_level_that_was_not_finished_counts_for_what_it_lost_by() -> None:
    levels = closed(1, 4)
    standing = Standing(RATE, levels, 1)
    race = standing.race(levels[0], fixed=True)
    assert race is not None
    # 200 requests/s in all are 40 per client.
    assert race.limit == pytest.approx(1 / 40)
    pruned = standing.lose(levels[0], {"request_throughput": 30.0}, [request(0.03)] * 9, race)
    assert pruned.estimate == pytest.approx((30 + 4 * 30) / 2)
    assert "(level 1: 30 in 9 requests so far)" in str(pruned)
    pruned = standing.lose(levels[0], {"request_throughput": 90.0}, [request(0.03)] * 9, race)
    assert pruned.estimate == pytest.approx(100)


# A closed loop, in earnest


def closed_loop(
    rng: random.Random, clients: int, requests: int, servers: int
) -> list[RequestRecord]:
    """Run clients that ask again at once, for servers that each take an exponential time."""
    free = [0.0] * servers
    heapq.heapify(free)
    asking = [(0.0, client) for client in range(clients)]
    found = []
    for _ in range(requests):
        at, client = heapq.heappop(asking)
        began = max(at, heapq.heappop(free))
        done = began + rng.expovariate(1)
        heapq.heappush(free, done)
        heapq.heappush(asking, (done, client))
        found.append(RequestRecord(scheduled=at, sent=at, first=began, last=done, ended=done))
    return found


@pytest.mark.parametrize(("clients", "servers"), [(1, 1), (8, 4), (16, 16), (32, 4)])
def test_clients_that_wait_never_get_more_than_their_latency_allows(
    clients: int, servers: int
) -> None:
    for seed in range(50):
        requests = closed_loop(random.Random(seed), clients, 10 + 7 * seed, servers)
        duration = max(r.ended for r in requests)
        latency = fmean(r.ended - r.scheduled for r in requests)
        assert len(requests) / duration <= clients / latency * (1 + 1e-9)


def open_loop(rng: random.Random, requests: int, servers: int, load: float) -> list[RequestRecord]:
    """Let requests arrive at random, so many that servers are busy for a share of ``load``."""
    free = [0.0] * servers
    heapq.heapify(free)
    at, found = 0.0, []
    for _ in range(requests):
        at += rng.expovariate(load * servers)
        began = max(at, heapq.heappop(free))
        done = began + rng.expovariate(1)
        heapq.heappush(free, done)
        found.append(RequestRecord(scheduled=at, sent=at, first=began, last=done, ended=done))
    return found


def lost_at_the_limit(
    run: Callable[[random.Random, int], list[RequestRecord]], level: Level, statistic: str
) -> int:
    """Return how many of 150 levels of 300 requests lose whose limit is the true value."""
    latencies = [r.e2e_latency or 0.0 for r in run(random.Random("long"), 40_000)[1000:]]
    cuts = quantiles(latencies, n=100)
    limit = fmean(latencies) if statistic == "mean" else cuts[int(statistic[1:]) - 1]
    name = f"{statistic}_e2e_latency"
    there = replace(LATENCY, metric=name, of_level=name, limit=limit)
    race = Standing(there, [level], 1).race(level, fixed=True)
    assert race is not None
    race = replace(race, certain=math.inf, alpha=0.01)
    rng, lost = random.Random(f"{level.label} {statistic}"), 0
    for _ in range(150):
        contest = Contest(race)
        requests = run(rng, 300)
        places = {id(r): number for number, r in enumerate(requests, start=1)}
        for one in sorted(requests, key=lambda r: r.ended):
            contest.add(one, places[id(one)])
            if contest.lost(10**9, 10.0):
                lost += 1
                break
    return lost


LOOPS = [(1, 1), (8, 4), (16, 16), (16, 4), (32, 8)]
#: Binomial(150, 1 %) has more once in a thousand times.
RARELY = 6


@pytest.mark.parametrize(
    ("clients", "servers"),
    [(4, 1), *(pytest.param(*loop, marks=pytest.mark.slow) for loop in LOOPS)],
)
@pytest.mark.parametrize("statistic", ["mean", "p50", "p90"])
def test_a_closed_loop_at_the_limit_loses_rarely(
    clients: int, servers: int, statistic: str
) -> None:
    (level,) = closed(clients)
    lost = lost_at_the_limit(
        lambda rng, count: closed_loop(rng, clients, count, servers), level, statistic
    )
    assert lost <= RARELY


@pytest.mark.parametrize("load", [pytest.param(0.5, marks=pytest.mark.slow), 0.8])
@pytest.mark.parametrize("statistic", ["mean", "p50", "p90"])
def test_an_open_loop_at_the_limit_loses_rarely(load: float, statistic: str) -> None:
    (level,) = opened(4 * load)
    lost = lost_at_the_limit(lambda rng, count: open_loop(rng, count, 4, load), level, statistic)
    assert lost <= RARELY
