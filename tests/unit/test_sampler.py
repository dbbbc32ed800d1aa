"""Sampling ends for a reason, in time, and a race is lost by who is slower and nobody else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from pytest_autotune.bench import sampler
from pytest_autotune.bench.sampler import LEAST_SAMPLES, Goal, Race, Sampling, sample
from pytest_autotune.bench.statistics import median_interval

Array: TypeAlias = npt.NDArray[np.float64]
Draw: TypeAlias = Callable[[np.random.Generator, int], Array]


class Scripted:
    """Samples that are known beforehand, each of which takes its time on a clock of its own.

    ``cost`` is what a sample takes besides, or in place of what it says.
    """

    def __init__(self, times: Iterator[float], cost: float | None = None) -> None:
        self._times = times
        self._cost = cost
        self.now = 1000.0
        self.batches: list[int] = []

    def batch(self, count: int) -> list[float]:
        self.batches.append(count)
        found = list(itertools.islice(self._times, count))
        self.now += sum(found) if self._cost is None else self._cost * count
        return found

    def clock(self) -> float:
        return self.now


def steady(value: float) -> Iterator[float]:
    return itertools.repeat(value)


def scattered(middle: float = 1e-3, share: float = 0.5) -> Iterator[float]:
    """Yield times far apart, in an order that is no trend, of which no interval gets narrow."""
    rng = np.random.default_rng(1)
    while True:
        yield float(middle * (1 + share * rng.uniform(-1, 1)))


def drawn(draw: Draw, rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from (float(value) for value in draw(rng, 16))


def run(timer: Scripted, goal: Goal | None = None, race: Race | None = None) -> Sampling:
    return sample(timer, goal or Goal(), race, clock=timer.clock)


# How it ends


def test_it_ends_once_the_interval_is_narrow() -> None:
    timer = Scripted(steady(1e-3))
    found = run(timer)
    assert found.ending == "interval"
    assert found.interval.relative_width <= 0.02
    assert (found.interval.low, found.interval.high) == (1e-3, 1e-3)
    assert found.interval.confidence == 0.95
    assert found.seconds == pytest.approx(timer.now - 1000)


def test_a_wider_interval_takes_fewer_samples() -> None:
    counts = [
        len(run(Scripted(scattered(share=0.1)), Goal(width=width, max_time=100)).samples)
        for width in (0.2, 0.05, 0.02, 0.01)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] / 4


def test_it_ends_when_the_time_is_up() -> None:
    timer = Scripted(scattered())
    found = run(timer, Goal(width=1e-4, max_time=0.7))
    assert found.ending == "time"
    assert 0.7 <= found.seconds < 0.8
    assert found.interval.relative_width > 1e-4


def test_it_ends_with_the_last_sample_allowed() -> None:
    found = run(Scripted(scattered(1e-5)), Goal(width=1e-6, max_samples=77))
    assert found.ending == "samples"
    assert len(found.samples) == 77


def test_what_becomes_narrow_with_the_last_sample_is_narrow() -> None:
    goal = Goal(min_samples=10, max_samples=10, min_time=0.0)
    assert run(Scripted(steady(1e-3)), goal).ending == "interval"


def test_it_ends_once_the_race_is_lost() -> None:
    found = run(Scripted(scattered()), Goal(width=1e-4), Race(limit=1e-4))
    assert found.ending == "race"
    assert 0.5 <= found.seconds < 1.0


def test_samples_come_back_in_the_order_they_were_taken() -> None:
    times = [1e-3 * (1 + (7 * k) % 10) for k in range(20)]
    found = run(Scripted(iter(times)), Goal(width=1e-6, max_samples=20))
    assert found.samples == tuple(times)


@pytest.mark.parametrize("seconds", [1.0, 50.0, 1e6])
def test_three_samples_are_taken_whatever_they_cost(seconds: float) -> None:
    found = run(Scripted(steady(seconds)), Goal(max_time=2.0))
    assert found.samples == (seconds,) * LEAST_SAMPLES
    assert LEAST_SAMPLES == 3
    assert found.ending == "time"
    # And nobody is told that three are worth more than they are.
    assert found.interval.confidence == 0.75


def test_it_goes_on_for_the_least_time_even_if_the_interval_is_narrow() -> None:
    found = run(Scripted(steady(1e-4)), Goal(min_time=0.1))
    assert found.ending == "interval"
    assert 0.1 <= found.seconds < 0.2
    quick = run(Scripted(steady(1e-4)), Goal(min_time=0.0))
    assert len(quick.samples) == 10


def test_the_least_time_gives_way_to_the_longest() -> None:
    found = run(Scripted(steady(1e-4)), Goal(min_time=10.0, max_time=0.05))
    assert found.seconds < 0.1
    # What is sharp when the time is up is sharp.
    last = run(Scripted(steady(1 / 256)), Goal(min_time=10.0, max_time=10 / 256))
    assert last.ending == "interval"
    assert len(last.samples) == 10


def test_no_less_than_the_least_number_of_samples_is_taken_to_be_sure() -> None:
    found = run(Scripted(steady(0.05)), Goal(min_samples=10))
    assert len(found.samples) == 10
    assert found.ending == "interval"


def test_confidence_is_what_was_asked_for_and_no_more() -> None:
    for confidence in (0.5, 0.9, 0.99):
        found = run(Scripted(scattered()), Goal(confidence=confidence))
        assert found.interval.confidence == confidence


def test_looking_often_is_paid_for_by_a_wider_interval() -> None:
    goal = Goal(width=1e-6, max_samples=500)
    found = run(Scripted(scattered()), goal)
    plain = median_interval(found.samples, 0.95)
    assert found.interval.low < plain.low
    assert plain.high < found.interval.high


# Batches


@pytest.mark.parametrize("seconds", [1e-6, 1e-4, 1e-3, 0.02, 0.09, 0.3])
def test_a_batch_lasts_no_longer_than_a_tenth_of_a_second_or_one_sample(seconds: float) -> None:
    timer = Scripted(scattered(seconds), cost=seconds)
    run(timer, Goal(width=1e-6, max_time=3.0, max_samples=5000))
    assert timer.batches[0] == LEAST_SAMPLES
    for count in timer.batches[1:]:
        assert count * seconds <= max(0.1, seconds) * (1 + 1e-9)
        assert 1 <= count <= 200


@pytest.mark.parametrize("max_time", [0.05, 0.33, 2.0])
@pytest.mark.parametrize("seconds", [1e-3, 0.013, 0.04])
def test_the_time_is_overrun_by_less_than_one_sample(seconds: float, max_time: float) -> None:
    timer = Scripted(scattered(seconds), cost=seconds)
    found = run(timer, Goal(width=1e-6, max_time=max_time))
    assert found.ending == "time"
    assert found.seconds <= max(max_time + seconds, LEAST_SAMPLES * seconds) + 1e-9
    assert found.seconds >= max_time


def test_batches_go_by_what_samples_cost_and_not_by_what_they_say() -> None:
    # As with a flush before each: a kernel of a microsecond every 10 ms.
    timer = Scripted(scattered(1e-6), cost=0.01)
    run(timer, Goal(width=1e-6, max_time=1.0))
    assert max(timer.batches) <= 10


def test_samples_that_take_no_time_at_all_do_not_divide_by_it() -> None:
    found = run(Scripted(steady(0.0), cost=0.0), Goal(min_time=0.0))
    assert found.ending == "interval"
    assert set(found.samples) == {0.0}


def test_looks_are_few() -> None:
    looks = list(sampler._looks(Goal()))
    assert looks[:5] == [10, 15, 23, 35, 53]
    assert looks[-1] == 100_000
    assert looks == sorted(set(looks))
    assert len(looks) < 30


# Races


def test_a_race_is_never_lost_in_less_than_half_a_second() -> None:
    for seconds in (1e-5, 1e-4, 1e-3, 0.05):
        timer = Scripted(steady(seconds))
        # All samples are alike, so that only the race could end it sooner.
        goal = Goal(min_time=5.0, max_time=5.0)
        found = run(timer, goal, Race(limit=seconds / 100))
        assert found.ending == "race"
        assert found.seconds >= 0.5
    short = run(Scripted(scattered()), Goal(width=1e-6, max_time=0.4), Race(limit=1e-6))
    assert short.ending == "time"


def test_slow_calls_lose_once_it_is_seen_whether_they_are_alike() -> None:
    found = run(Scripted(scattered(0.1)), Goal(width=1e-6, max_time=10), Race(limit=0.01))
    assert found.ending == "race"
    assert len(found.samples) == 23


@pytest.mark.parametrize(
    "slow",
    [
        pytest.param([0.1 + k / 1000 for k in range(20)], id="drifting"),
        pytest.param([0.1 + k / 1000 for k in range(30)], id="drifting for longer"),
        pytest.param(list(itertools.islice(scattered(0.1), 20)), id="scattered"),
    ],
)
def test_a_spell_of_slow_calls_does_not_lose_a_race(slow: list[float]) -> None:
    fast = (0.005 * (1 + 0.2 * (k * 0.6180339887 % 1)) for k in itertools.count())
    times = itertools.chain(slow, fast)
    found = run(Scripted(times), Goal(width=1e-6, max_time=60, max_samples=80), Race(limit=0.01))
    assert found.ending == "samples"


def test_with_less_error_allowed_more_samples_are_needed() -> None:
    found = run(
        Scripted(scattered(0.1)), Goal(width=1e-6, max_time=20), Race(limit=0.01, alpha=1e-7)
    )
    assert found.ending == "race"
    assert len(found.samples) > 23


def test_who_is_faster_than_the_limit_runs_to_the_end() -> None:
    found = run(Scripted(scattered(0.01)), Goal(), Race(limit=0.02))
    assert found.ending != "race"


def test_the_interval_has_the_first_word() -> None:
    # A sharp result is one, also where it loses: it costs no more.
    found = run(Scripted(steady(1e-2)), Goal(min_time=0.5), Race(limit=1e-3))
    assert found.ending == "interval"
    assert len(found.samples) == 53


def spent(race: Race, looks: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    asked: list[float] = []

    def bound(samples: object, alpha: float) -> None:
        asked.append(alpha)

    monkeypatch.setattr(sampler, "median_lower_bound", bound)
    for look in range(1, looks + 1):
        assert not race.lost([1.0] * 10, look)
    return asked


@pytest.mark.parametrize("alpha", [0.01, 0.2])
def test_all_looks_together_spend_the_error_and_no_more(
    alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spent(Race(limit=1.0, alpha=alpha), 5000, monkeypatch)
    assert math.fsum(asked) <= alpha
    assert math.fsum(asked) == pytest.approx(alpha, rel=1e-3)
    assert asked[0] == pytest.approx(0.8 * alpha)
    assert all(before >= after > 0 for before, after in itertools.pairwise(asked))


def test_each_look_spends_its_own_share(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[tuple[int, int]] = []

    class Recording(Race):
        def lost(self, samples: Sequence[float], look: int) -> bool:
            looks.append((look, len(samples)))
            return False

    goal = Goal(width=1e-6, max_samples=120, max_time=100)
    run(Scripted(scattered(0.1)), goal, Recording(limit=1.0))
    assert looks == [(1, 23), (2, 35), (3, 53), (4, 80), (5, 120)]


def lost(draw: Draw, limit: float, alpha: float, races: int) -> float:
    """Return the share of races that were lost, each of up to five looks."""
    rng = np.random.default_rng(30)
    goal = Goal(width=1e-9, max_samples=120, max_time=1e9)
    outcomes = [
        run(Scripted(drawn(draw, rng), cost=0.1), goal, Race(limit=limit, alpha=alpha)).ending
        for _ in range(races)
    ]
    assert set(outcomes) <= {"race", "samples"}
    return outcomes.count("race") / races


@pytest.mark.parametrize("alpha", [0.01, 0.2])
@pytest.mark.parametrize(
    ("draw", "median"),
    [
        pytest.param(lambda rng, count: rng.normal(1, 0.1, count), 1.0, id="normal"),
        pytest.param(
            lambda rng, count: rng.exponential(1, count),
            math.log(2),
            id="exponential",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_who_is_as_fast_as_the_limit_is_lost_no_more_often_than_allowed(
    draw: Draw, median: float, alpha: float
) -> None:
    races = 2000
    share = lost(draw, median, alpha, races)
    assert share <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / races)
    # It is spent with caution, as resemblance is allowed for that may be there.
    assert alpha < 0.1 or share > alpha / 20


def test_who_is_faster_is_as_good_as_never_lost() -> None:
    def draw(rng: np.random.Generator, count: int) -> Array:
        return np.asarray(rng.lognormal(0, 0.1, count))

    assert lost(draw, 1.05, 0.01, 1000) <= 0.001


@pytest.mark.parametrize("times", [1.2, 1.5, 3.0])
def test_who_is_clearly_slower_is_found_out(times: float) -> None:
    def draw(rng: np.random.Generator, count: int) -> Array:
        return np.asarray(times * rng.lognormal(0, 0.1, count))

    assert lost(draw, 1.0, 0.01, 300) == 1.0


def test_who_is_as_fast_as_the_limit_in_spells_is_lost_no_more_often_than_allowed() -> None:
    races, alpha = 1000, 0.01
    rng = np.random.default_rng(31)
    endings = []
    for _ in range(races):
        state = [float(rng.normal())]

        def draw(rng: np.random.Generator, count: int, state: list[float] = state) -> Array:
            values = []
            for step in rng.normal(0, math.sqrt(1 - 0.8**2), count):
                state[0] = 0.8 * state[0] + float(step)
                values.append(1 + 0.02 * state[0])
            return np.asarray(values)

        timer = Scripted(drawn(draw, rng), cost=0.02)
        goal = Goal(width=1e-9, max_samples=80, max_time=1e9)
        endings.append(run(timer, goal, Race(limit=1.0, alpha=alpha)).ending)
    assert endings.count("race") / races <= alpha + 3 * math.sqrt(alpha / races)


# Stopping when it looks good


def two_modes(rng: np.random.Generator, count: int) -> Array:
    return np.where(rng.random(count) < 0.4, 1.0, 1.1) * rng.normal(1, 0.01, count)


def spikes(rng: np.random.Generator, count: int) -> Array:
    return np.asarray(
        rng.normal(1, 0.02, count) + (rng.random(count) < 0.1) * rng.exponential(1.0, count)
    )


@pytest.mark.parametrize("width", [pytest.param(0.02, marks=pytest.mark.slow), 0.05])
@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda rng, count: rng.normal(1, 0.05, count), id="normal"),
        pytest.param(lambda rng, count: rng.lognormal(0, 0.15, count), id="lognormal"),
        pytest.param(lambda rng, count: 1 + rng.exponential(0.2, count), id="exponential"),
        two_modes,
        spikes,
    ],
)
def test_the_interval_encloses_the_true_median_though_it_chose_when_to_stop(
    draw: Draw, width: float
) -> None:
    rng = np.random.default_rng(40)
    true = 1e-3 * float(np.median(draw(rng, 1_000_000)))
    runs, hits, endings = 600, 0, set()
    for _ in range(runs):
        timer = Scripted(drawn(lambda r, n: 1e-3 * draw(r, n), rng))
        found = run(timer, Goal(width=width, min_time=0.0, max_time=4.0))
        hits += found.interval.low <= true <= found.interval.high
        endings.add(found.ending)
    assert "interval" in endings
    assert hits / runs >= 0.93
