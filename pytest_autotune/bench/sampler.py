"""Sampling until the median is known well enough, or the time is up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol, TypeAlias

from pytest_autotune.bench.statistics import (
    MIN_CORRELATED,
    Interval,
    median_interval,
    median_lower_bound,
)

#: Why sampling ended.
SamplingEnd: TypeAlias = Literal["interval", "time", "samples", "race"]

#: Taken however long they last.
LEAST_SAMPLES: Final = 3
#: A race is decided after at least this time, as other work on the machine disturbs for less, as
#: a rule (seconds).
_RACE_SECONDS: Final = 0.5
#: Looks are taken at sample counts that grow by this factor, so that there are few of them.
_GROWTH: Final = 1.5
#: Stopping at a chosen moment errs more often than each look by itself: at 95 % such intervals
#: covered the median in 93 to 95 % of simulated runs. Asking each look for this much less error
#: brings that to 95 % and above (``benchmarks/timing.py`` prints it).
_LOOK_SHARE: Final = 0.7
_MAX_BATCH: Final = 200
#: A batch lasts about this long, so that time limits are kept (seconds).
_BATCH_SECONDS: Final = 0.1


class Timer(Protocol):
    """Takes samples of one callable."""

    def batch(self, count: int) -> list[float]:
        """Return ``count`` samples, in seconds per call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """A time to beat, in seconds per call.

    A candidate is out once its median is above ``limit`` with an error of at most ``alpha``
    over all looks together; so of those that are as fast as the limit at most that share is
    lost. ``clock`` is the mean clock of the GPU (MHz) that the limit was reached with, None where
    that is not known.
    """

    limit: float
    alpha: float = 0.01
    clock: float | None = None

    def eased(self, handicap: float) -> Race:
        """Return the race in which a candidate may be so many times slower."""
        return self if handicap == 1 else replace(self, limit=self.limit * handicap)

    def lost(self, samples: Sequence[float], look: int) -> bool:
        """Return whether the samples so far settle it, at the ``look``-th look (from 1).

        The error is spent on looks beforehand, so that nothing in the samples can choose among
        them: four fifths on the first, the rest as 1 / (k (k - 1)), which adds up to 1.
        """
        share = 0.8 if look == 1 else 0.2 / (look * (look - 1))
        bound = median_lower_bound(samples, self.alpha * share)
        return bound is not None and bound > self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """When to stop.

    ``width`` is the relative width that the interval of the median is to have at
    ``confidence``; ``max_time`` is in seconds.
    """

    width: float = 0.02
    confidence: float = 0.95
    min_time: float = 0.1
    max_time: float = 2.0
    min_samples: int = 10
    max_samples: int = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The samples in seconds per call, in the order they were taken, and why sampling ended.

    ``seconds`` is the time that sampling took in all.
    """

    samples: tuple[float, ...]
    interval: Interval
    ending: SamplingEnd
    seconds: float


def sample(
    timer: Timer,
    goal: Goal,
    race: Race | None = None,
    clock: Callable[[], float] = time.perf_counter,
    handicap: Callable[[], float] = lambda: 1.0,
) -> Sampling:
    """Sample until ``goal`` is reached, the time is up, or the race is lost.

    At least three samples are taken, however long they last. ``handicap`` returns how many times
    slower than the limit of the race a candidate may be without losing it.
    """
    began = clock()
    samples: list[float] = []
    looks = 0
    for count in _looks(goal):
        while len(samples) < count:
            spent = clock() - began
            if spent >= goal.max_time and len(samples) >= LEAST_SAMPLES:
                return _ended("time", samples, goal, spent)
            samples += timer.batch(_batch(len(samples), count, spent, goal))
        spent = clock() - began
        if spent >= min(goal.min_time, goal.max_time) and _interval(samples, goal).is_sharp(
            goal.width, goal.confidence
        ):
            return _ended("interval", samples, goal, spent)
        # With fewer it is not seen whether they are alike, and so count for less.
        looks += count >= MIN_CORRELATED
        decided = race is not None and looks and spent >= _RACE_SECONDS
        if race is not None and decided and race.eased(handicap()).lost(samples, looks):
            return _ended("race", samples, goal, spent)
    return _ended("samples", samples, goal, clock() - began)


def _looks(goal: Goal) -> Iterator[int]:
    """Yield the sample counts at which to look, the last one the largest allowed."""
    count = goal.min_samples
    while count < goal.max_samples:
        yield count
        count = math.ceil(count * _GROWTH)
    yield goal.max_samples


def _batch(taken: int, wanted: int, spent: float, goal: Goal) -> int:
    """Return the number of samples to take at once: up to the next look, but not for long."""
    most = min(wanted - taken, _MAX_BATCH)
    if not taken:
        return min(most, LEAST_SAMPLES)
    each = max(spent / taken, 1e-9)
    return max(1, min(most, int(min(_BATCH_SECONDS, goal.max_time - spent) / each)))


def _interval(samples: Sequence[float], goal: Goal) -> Interval:
    return median_interval(samples, 1 - (1 - goal.confidence) * _LOOK_SHARE)


def _ended(ending: SamplingEnd, samples: Sequence[float], goal: Goal, spent: float) -> Sampling:
    found = _interval(samples, goal)
    interval = Interval(
        low=found.low, high=found.high, confidence=min(found.confidence, goal.confidence)
    )
    return Sampling(samples=tuple(samples), interval=interval, ending=ending, seconds=spent)
