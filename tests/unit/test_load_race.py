"""A level is given up for its trial by bets that rarely win unless it is too slow."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from statistics import NormalDist
from typing import Any, Final, TypeAlias

import pytest

from pytest_autotune.load.job import Job
from pytest_autotune.load.race import MIN_REQUESTS, MIN_SECONDS, Bets, Contest, LevelRace
from pytest_autotune.load.statistics import RequestRecord

Draws: TypeAlias = Callable[[random.Random], Iterator[float]]

ALPHA: Final = 0.01
REQUESTS: Final = 200
LONG: Final = (0.02, 20.0)


def exponential(rng: random.Random) -> Iterator[float]:
    while True:
        yield rng.expovariate(1)


def lognormal(rng: random.Random, correlation: float = 0.0) -> Iterator[float]:
    state = rng.gauss(0, 1)
    while True:
        yield math.exp(state)
        fresh = rng.gauss(0, math.sqrt(1 - correlation**2))
        state = correlation * state + fresh


def two_scales(rng: random.Random) -> Iterator[float]:
    """One in fifty requests takes twenty times as long."""
    share, factor = LONG
    while True:
        yield rng.expovariate(1) * (factor if rng.random() < share else 1)


def bursts(rng: random.Random) -> Iterator[float]:
    """Sixteen neighbours are slow together, as they are when a server pauses; 1 % are."""
    while True:
        slow = rng.random() < 0.01
        for _ in range(16):
            yield rng.random() + 2 * slow


def two_scales_quantile(share: float) -> float:
    rare, factor = LONG
    low, high = 0.0, 1000.0
    for _ in range(100):
        middle = (low + high) / 2
        above = rare * math.exp(-middle / factor) + (1 - rare) * math.exp(-middle)
        low, high = (middle, high) if above > 1 - share else (low, middle)
    return high


NORMAL: Final = NormalDist().inv_cdf
#: The true mean and quantiles of each, and so limits that are just kept.
LIMITS: Final[Mapping[str, tuple[Draws, Mapping[str, float]]]] = {
    "exponential": (
        exponential,
        {"mean": 1.0, "p50": math.log(2), "p90": math.log(10), "p99": math.log(100)},
    ),
    "lognormal": (
        lognormal,
        {
            "mean": math.exp(0.5),
            "p50": 1.0,
            "p90": math.exp(NORMAL(0.9)),
            "p99": math.exp(NORMAL(0.99)),
        },
    ),
    "two scales": (
        two_scales,
        {
            "mean": 1 + LONG[0] * (LONG[1] - 1),
            "p50": two_scales_quantile(0.5),
            "p90": two_scales_quantile(0.9),
            "p99": two_scales_quantile(0.99),
        },
    ),
    "bursts": (bursts, {"mean": 0.52, "p99": 1.0}),
    "alike": (
        lambda rng: lognormal(rng, 0.5),
        {"mean": math.exp(0.5), "p50": 1.0, "p90": math.exp(NORMAL(0.9))},
    ),
}
CASES: Final = [(name, statistic) for name, (_, found) in LIMITS.items() for statistic in found]


def make_race(statistic: str, limit: float, **fields: Any) -> LevelRace:
    return LevelRace(metric="ttft", statistic=statistic, limit=limit, **fields)


def lost_after(values: Iterator[float], race: LevelRace) -> int:
    """Return after how many requests a race is lost that is looked at after each; 0 if never."""
    bets = Bets(block=race.block)
    for count in range(1, REQUESTS + 1):
        bets.add(race.share(next(values)))
        if count % race.block == 0 and bets.won(ALPHA):
            return count
    return 0


def most_by_chance(paths: int, alpha: float) -> int:
    """Return the number that Binomial(paths, alpha) exceeds once in a thousand times."""
    total, k = 0.0, -1
    while total < 0.999:
        k += 1
        total += math.comb(paths, k) * alpha**k * (1 - alpha) ** (paths - k)
    return k


# How often it is wrong


@pytest.mark.parametrize(("name", "statistic"), CASES)
def test_what_is_just_at_the_limit_loses_no_more_often_than_is_said(
    name: str, statistic: str
) -> None:
    draws, limits = LIMITS[name]
    race = make_race(statistic, limits[statistic])
    rng = random.Random(f"{name} {statistic}")
    paths = 400
    lost = sum(lost_after(draws(rng), race) > 0 for _ in range(paths))
    assert lost <= most_by_chance(paths, ALPHA)


def test_with_nothing_alike_it_is_wrong_far_less_often() -> None:
    lost = 0
    for name in ("exponential", "lognormal", "two scales"):
        draws, limits = LIMITS[name]
        for statistic, limit in limits.items():
            rng = random.Random(f"independent {name} {statistic}")
            race = make_race(statistic, limit)
            lost += sum(lost_after(draws(rng), race) > 0 for _ in range(150))
    assert lost <= 5  # of 1800


@pytest.mark.parametrize(
    ("name", "statistic", "slower"),
    [
        ("exponential", "mean", 2.0),
        ("exponential", "p50", 2.5),
        ("exponential", "p99", 2.0),
        ("lognormal", "mean", 2.0),
        ("lognormal", "p90", 2.0),
        ("two scales", "mean", 3.0),
    ],
)
def test_what_is_clearly_slower_is_found_out(name: str, statistic: str, slower: float) -> None:
    draws, limits = LIMITS[name]
    race = make_race(statistic, limits[statistic] / slower)
    rng = random.Random(f"slow {name} {statistic}")
    found = sorted(lost_after(draws(rng), race) or REQUESTS + 1 for _ in range(60))
    assert found[len(found) // 2] <= 0.6 * REQUESTS
    assert found[-3] <= REQUESTS


# What requests correlate


def bets_on(*values: float) -> Bets:
    bets = Bets()
    for value in values:
        bets.add(value)
    return bets


def test_neighbours_that_are_alike_count_for_less() -> None:
    rng = random.Random(1)
    independent = bets_on(*(rng.expovariate(1) for _ in range(1000)))
    values = lognormal(rng, 0.9)
    alike = bets_on(*(next(values) for _ in range(1000)))
    assert 1 < independent.factor < 1.3
    assert alike.factor > 4
    assert not any(bets_on(*[9.0] * n).won(ALPHA) for n in range(MIN_REQUESTS))
    assert bets_on(*[9.0] * MIN_REQUESTS).won(ALPHA)


@pytest.mark.parametrize("value", [0.0, 1.0, 2.0, 0.1])
def test_values_that_are_all_equal_do_not_correlate(value: float) -> None:
    r = 0.5 / math.sqrt(100)
    assert bets_on(*[value] * 100).factor == pytest.approx((1 + r) / (1 - r))


def test_opposite_neighbours_count_for_no_more_than_independent_ones() -> None:
    assert bets_on(*[0.0, 2.0] * 50).factor >= 1


def test_money_is_what_the_stakes_say() -> None:
    stakes = (0.02, 0.06, 0.2, 0.5, 0.9)
    money = sum((1 + s) * (1 - s) * (1 + 0.5 * s) for s in stakes) / len(stakes)
    assert math.exp(bets_on(2.0, 0.0, 1.5).log_money) == pytest.approx(money)


# A level


def request(seconds: float, **fields: Any) -> RequestRecord:
    return RequestRecord(
        **{
            "scheduled": 0.0, "sent": 0.0, "first": seconds, "last": 2 * seconds,
            "ended": 2 * seconds, "input_tokens": 8, "output_tokens": 4, **fields,
        }
    )  # fmt: skip


def contest_of(race: LevelRace, *requests: RequestRecord) -> Contest:
    contest = Contest(race)
    for number, one in enumerate(requests, start=1):
        contest.add(one, number)
    return contest


def is_lost(contest: Contest, at_most: int = 10**9, seconds: float = 10.0) -> bool:
    return contest.lost(at_most, seconds)


@pytest.mark.parametrize("statistic", ["mean", "p50", "p90", "p99"])
def test_a_level_is_lost_by_requests_that_are_too_slow(statistic: str) -> None:
    race = make_race(statistic, 1.0)
    assert is_lost(contest_of(race, *[request(2.0)] * 60))
    assert not is_lost(contest_of(race, *[request(2.0)] * (MIN_REQUESTS - 1)))
    # A block that is not full does not count.
    assert not is_lost(contest_of(race, *[request(2.0)] * 31))
    assert not is_lost(contest_of(race, *[request(2.0)] * 60), seconds=MIN_SECONDS / 2)
    assert not is_lost(contest_of(race, *[request(1.0)] * 400))


def test_the_requests_that_a_level_begins_with_do_not_count() -> None:
    race = make_race("p50", 1.0, skip=50)
    slow_start = [*[request(9.0)] * 50, *[request(0.5)] * 60]
    assert not is_lost(contest_of(race, *slow_start))
    assert not is_lost(contest_of(race, *[request(9.0)] * 81))
    assert is_lost(contest_of(race, *[request(9.0)] * 110))
    wide = replace(race, block=50)
    assert not is_lost(contest_of(wide, *[request(9.0)] * 249))
    assert is_lost(contest_of(wide, *[request(9.0)] * 800))


@pytest.mark.parametrize("fields", [{"error": "timeout"}, {"cut": True}])
def test_what_was_not_answered_says_nothing(fields: dict[str, Any]) -> None:
    assert not is_lost(contest_of(make_race("mean", 1.0), *[request(9.0, **fields)] * 400))


def test_what_is_certain_needs_few_requests_and_no_time() -> None:
    race = make_race("mean", 1.0, certain=1.0, skip=10)
    assert is_lost(contest_of(race, *[request(4.0)] * 3), at_most=10, seconds=0.0)
    assert not is_lost(contest_of(race, *[request(4.0)] * 3), at_most=13, seconds=0.0)
    contest = contest_of(race, *[request(4.0)] * 2)
    assert contest.lost(10, 0.0, [3.0])


@pytest.mark.parametrize("statistic", ["max", "std", "min"])
def test_a_statistic_that_is_no_mean_and_no_quantile_is_lost_for_certain_or_not(
    statistic: str,
) -> None:
    race = make_race(statistic, 1.0)
    assert not is_lost(contest_of(race, *[request(9.0)] * 400))
    certain = replace(race, certain=1.0)
    assert is_lost(contest_of(certain, request(9.0))) is (statistic == "max")


def test_a_throughput_is_lost_by_the_time_that_a_token_takes() -> None:
    race = LevelRace(
        metric="e2e_latency", statistic="mean", limit=0.1, per=("input_tokens", "output_tokens")
    )
    # 12 tokens in 4 s, and in 0.96 s.
    assert is_lost(contest_of(race, *[request(2.0)] * 60))
    assert not is_lost(contest_of(race, *[request(0.48)] * 400))


def test_unequal_numbers_of_tokens_say_nothing_of_a_throughput() -> None:
    race = LevelRace(
        metric="e2e_latency", statistic="mean", limit=0.1, certain=0.1, per=("output_tokens",)
    )
    requests = [request(2.0, output_tokens=count) for count in [4] * 59 + [5]]
    assert not is_lost(contest_of(race, *requests), at_most=60)
    assert is_lost(contest_of(race, *requests[:-1]), at_most=60)


def test_it_survives_the_way_to_another_process() -> None:
    race = make_race("p99", 0.5, alpha=0.005, skip=8, per=("output_tokens",))
    job = Job(url="http://x", endpoint="chat", model="m", scenario="D(1,1)", seed="0", race=race)
    assert Job.of(json.loads(json.dumps(asdict(job)))) == job
    plain = replace(job, race=None)
    assert Job.of(json.loads(json.dumps(asdict(plain)))) == plain
