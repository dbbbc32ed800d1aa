"""Statistics of timings: quantiles, and the confidence interval of the median.

No distribution is assumed. The interval of the median is made of order statistics: the k-th
smallest and the k-th largest sample enclose the true median unless fewer than k samples fall on one
side of it. That number is binomial with p = 1/2 (David and Nagaraja, *Order Statistics*, 3rd ed.,
section 7.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import Final

#: Percentiles that are reported, as metrics call them.
PERCENTILES: Final = (25, 50, 75, 90, 99)
#: Autocorrelation cannot be told from chance in fewer samples than this.
MIN_CORRELATED: Final = 20
#: With neighbours this much alike, the samples say next to nothing.
_MAX_CORRELATION: Final = 0.9
_UPPER: Final = 1.645
_NEGLIGIBLE: Final = 1e-3
#: Up to here the binomial distribution is summed, beyond it is as good as normal.
_MAX_EXACT: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A confidence interval of a median, in the samples' unit.

    ``confidence`` is the one that was asked for, or less if there are too few samples for it.
    """

    low: float
    high: float
    confidence: float

    @property
    def relative_width(self) -> float:
        """Width as a share of the middle."""
        middle = (self.low + self.high) / 2
        return (self.high - self.low) / middle if middle > 0 else 0.0

    def is_sharp(self, width: float, confidence: float) -> bool:
        """Return whether it is as narrow as ``width`` (relative), and as sure as ``confidence``."""
        return self.confidence >= confidence and self.relative_width <= width


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSummary:
    """The usual statistics of some samples, in their unit."""

    mean: float
    std: float
    min: float
    max: float
    percentiles: tuple[tuple[int, float], ...]

    @property
    def median(self) -> float:
        """The 50th percentile."""
        return dict(self.percentiles)[50]


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile of samples in rising order, interpolated as NumPy does by default."""
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def summarize(samples: Sequence[float]) -> SampleSummary:
    """Return the statistics of at least one sample."""
    ordered = sorted(samples)
    mean = math.fsum(ordered) / len(ordered)
    squares = math.fsum((value - mean) ** 2 for value in ordered)
    return SampleSummary(
        mean=mean,
        std=math.sqrt(squares / (len(ordered) - 1)) if len(ordered) > 1 else 0.0,
        min=ordered[0],
        max=ordered[-1],
        percentiles=tuple((p, quantile(ordered, p / 100)) for p in PERCENTILES),
    )


def median_interval(samples: Sequence[float], confidence: float) -> Interval:
    """Return an interval that encloses the true median with ``confidence``.

    Samples that follow their neighbours count for fewer (see :func:`correlation_factor`). Too
    few of them give the whole range, and the confidence that it has.
    """
    ordered = sorted(samples)
    count = len(ordered)
    factor = correlation_factor(samples)
    rank = _spread(count, _rank(count, (1 - confidence) / 2), factor)
    if rank < 1:
        reached = max(0.0, 1 - 2.0 ** (1 - count / factor))
        return Interval(low=ordered[0], high=ordered[-1], confidence=min(reached, confidence))
    return Interval(low=ordered[rank - 1], high=ordered[count - rank], confidence=confidence)


def median_lower_bound(samples: Sequence[float], alpha: float) -> float | None:
    """Return a bound that the true median is below with a probability of at most ``alpha``.

    None if there are too few samples. It is corrected for correlation as the interval is, but by
    the upper end of what the correlation may be.
    """
    ordered = sorted(samples)
    factor = correlation_factor(samples, cautious=True)
    rank = _spread(len(ordered), _rank(len(ordered), alpha), factor)
    return ordered[rank - 1] if rank >= 1 else None


def correlation_factor(samples: Sequence[float], *, cautious: bool = False) -> float:
    """Return the median's variance as a multiple of its variance for independent samples.

    It follows from how often neighbours are on the same side of the median, for a normal process
    of first order. There, sides correlate by ``2/π · asin(rho^k)`` at distance k (Sheppard, 1899).
    It is 1 if neighbours agree no more than by chance. ``cautious`` takes the upper end of what
    their correlation may be (95 %, by its standard error of 1/√n) instead of the likeliest value.
    """
    count = len(samples)
    if count < MIN_CORRELATED:
        return 1.0
    middle = quantile(sorted(samples), 0.5)
    signs = [1 if value > middle else -1 if value < middle else 0 for value in samples]
    weight = sum(sign * sign for sign in signs)
    if weight == 0:
        return 1.0
    r = sum(a * b for a, b in pairwise(signs)) / weight
    if cautious:
        r = max(r, 0.0) + _UPPER / math.sqrt(count)
    elif r <= 2 / math.sqrt(count):
        return 1.0
    rho = math.sin(math.pi / 2 * min(r, _MAX_CORRELATION))
    factor, power = 1.0, rho
    while power > _NEGLIGIBLE:
        factor += 4 / math.pi * math.asin(power)
        power *= rho
    return factor


def _spread(count: int, rank: int, factor: float) -> int:
    """Move a rank away from the middle, for a variance that is ``factor`` times as large.

    Below 1 there is no such sample.
    """
    half = count / 2
    return rank if factor == 1 else math.floor(half - (half - rank) * math.sqrt(factor))


@lru_cache(maxsize=4096)
def _rank(count: int, tail: float) -> int:
    """Return the largest k with P(Binomial(count, 1/2) < k) ≤ ``tail``, 0 if there is none."""
    if count > _MAX_EXACT:
        return math.floor(count / 2 + NormalDist().inv_cdf(tail) * math.sqrt(count) / 2)
    # In whole numbers, as 2.0**count overflows.
    numerator, denominator = tail.as_integer_ratio()
    limit = (numerator << count) // denominator
    total, rank = 0, 0
    while rank <= count // 2:
        total += math.comb(count, rank)
        if total > limit:
            break
        rank += 1
    return rank
