"""What evaluations would have taken, by a simulated clock: the time side of ``search.py``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from search_spaces import Array, Table, Trace, curve

from pytest_autotune.bench.sampler import Goal, Race, Sampling, sample
from pytest_autotune.scoring.objective import RACE_MARGIN

#: Where the table does not say how a kernel's times scatter, or says not at all.
LEAST_CV: Final = 1e-3
#: Samples of a row for which the table does not say how many were taken.
SAMPLES: Final = 10
#: What counts as found: within 5 % and within 1 % of the optimum.
WITHIN: Final = (0.05, 0.01)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What an evaluation costs besides measuring; times in seconds.

    ``requests`` are those of a load level, for each of its concurrent streams.
    """

    compile_seconds: float = 1.0
    start_seconds: float = 120.0
    requests: int = 10
    output_tokens: int = 1024

    def overhead(self, table: Table) -> float:
        """Return what every evaluation costs, a failed one too."""
        return self.compile_seconds if table.kind == "kernel" else self.start_seconds

    def rows(self, table: Table) -> Array:
        """Return what each row costs, measured as often as it was for the table."""
        nothing = np.full(len(table), math.nan)
        if table.kind == "kernel":
            count = np.nan_to_num(table.columns.get("n_samples", nothing), nan=SAMPLES)
            measuring = count * kernel_seconds(table)
        else:
            # All streams at once, each with its requests one after the other.
            first = table.columns.get("ttft_ms", nothing)
            each = table.columns.get("tpot_ms", nothing)
            measuring = self.requests * (first + self.output_tokens * each) / 1e3
        return self.overhead(table) + np.where(table.failed, 0.0, np.nan_to_num(measuring))


def kernel_seconds(table: Table) -> Array:
    """Return how long one call of each row takes, 0 where it is not known."""
    if table.objective != "time_ms":
        return np.zeros(len(table))
    return np.nan_to_num(table.columns["time_ms"] / 1e3)


class Simulated:
    """A kernel's timer and the clock that goes with it; noise is normal, as the table says."""

    def __init__(self, seconds: float, cv: float, rng: np.random.Generator) -> None:
        self._seconds = seconds
        self._cv = cv
        self._rng = rng
        self._now = 0.0

    def batch(self, count: int) -> list[float]:
        """Take samples, which takes as long as they are."""
        drawn = self._seconds * (1 + self._cv * self._rng.standard_normal(count))
        samples: list[float] = np.maximum(drawn, self._seconds * 0.1).tolist()
        self._now += sum(samples)
        return samples

    def clock(self) -> float:
        """Return the time."""
        return self._now


def measured(table: Table, row: int, rng: np.random.Generator, race: Race | None) -> Sampling:
    """Measure a row that does not fail, by the rule that ``gpu_benchmark`` stops by."""
    spread = table.columns.get("time_cv")
    cv = LEAST_CV if spread is None else max(float(np.nan_to_num(spread[row])), LEAST_CV)
    timer = Simulated(max(float(kernel_seconds(table)[row]), 1e-9), cv, rng)
    return sample(timer, Goal(), race, timer.clock)


class Racing:
    """Measures one kernel after the other, and gives up those that have lost to the best.

    ``costs`` are the seconds of each, without overhead. Of ``better`` ones, faster in truth than
    the best before them, ``wronged`` were given up. ``seconds`` are what simulating took.
    """

    def __init__(self, table: Table, seed: int) -> None:
        self._table = table
        self._rng = np.random.default_rng(seed)
        self._best_measured = math.inf
        self._best = math.inf
        self.costs: list[float] = []
        self.better = 0
        self.wronged = 0
        self.seconds = 0.0

    def lost(self, row: int) -> float | None:
        """Measure a row; return its time in ms, as far as it got, if it lost the race."""
        if self._table.failed[row]:
            self.costs.append(0.0)
            return None
        began = time.perf_counter()
        limit = self._best_measured * (1 + RACE_MARGIN)
        race = Race(limit=limit) if math.isfinite(limit) else None
        found = measured(self._table, row, self._rng, race)
        self.seconds += time.perf_counter() - began
        self.costs.append(found.seconds)
        seconds = float(kernel_seconds(self._table)[row])
        lost = found.ending == "race"
        middle = float(np.median(found.samples))
        if seconds < self._best:
            self.better += 1
            self.wronged += lost
        if not lost:
            self._best = min(self._best, seconds)
            self._best_measured = min(self._best_measured, middle)
        return 1e3 * middle if lost else None


class Stopwatch:
    """Looks up what measuring a row takes by our own rule without a race, once for each row."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._known: dict[int, float] = {}

    def seconds(self, row: int) -> float:
        """Return the seconds of a row, without overhead."""
        if self._table.failed[row]:
            return 0.0
        if row not in self._known:
            rng = np.random.default_rng(row)
            self._known[row] = measured(self._table, row, rng, None).seconds
        return self._known[row]


def until_found(table: Table, trace: Trace, costs: Sequence[float] | Array) -> list[float]:
    """Return the seconds until a row within each share of the optimum was found, or infinity.

    ``costs`` are those of the trace's rows; searching is added, spread evenly over them.
    """
    best = curve(table, trace)
    searching = trace.seconds / max(len(best), 1) * np.arange(1, len(best) + 1)
    elapsed = np.cumsum(costs) + searching
    found = []
    for share in WITHIN:
        good = np.flatnonzero(best >= 1 - share)
        found.append(float(elapsed[good[0]]) if len(good) else math.inf)
    return found


def medians(times: Sequence[Sequence[float]]) -> list[float]:
    """Return the median over searches for each share, infinite where half never got there."""
    # The upper one of two in the middle: halfway to infinity is no time.
    return [sorted(column)[len(column) // 2] for column in zip(*times, strict=True)]
