"""Change points: places where a series of measurements changed its level for good.

The method is E-divisive (Matteson and James, "A Nonparametric Approach for Multiple Change Point
Analysis of Multivariate Data", JASA 109, 2014). MongoDB uses it for its performance tests: Daly et
al., "The Use of Change Point Detection to Identify Software Performance Regressions in a Continuous
Integration System", ICPE 2020. A series is split where the energy distance between both parts is
largest. It is a change point if random orders of the same values rarely have a split as good. Then
the parts are split in the same way, until no split is significant. Logarithms are compared, so 5 %
is 5 % at every level.

The only assumption is that without a change, all orders of the values are equally likely. A drift
breaks it and appears as one to three steps at arbitrary places. Values that resemble their
neighbours, as on a machine with good and bad days, give false alarms. At an alpha of 0.01 and with
60 values, 5 % of the series have one if neighbours correlate by 0.2. If they do by 0.5, 50 % do.

The noise limits the size of changes that are found. Take steps of 2.5 standard deviations (5 % if
sessions differ by 2 %), after some 30 values, at an alpha of 0.01. With 3 values after a step 30 %
are found, with 5 values 70 %. With 15 values on either side it is 97 %, of which 91 % are placed
within one value. Least squares for a single step places 93 % there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import median
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]

#: Smaller probabilities would need too many random orders.
MIN_ALPHA: Final = 1e-4
_SEED: Final = 2014
#: Random orders per test: enough for alpha, and more if they are cheap.
_ORDERS_PER_ALPHA: Final = 10
_MAX_ORDERS: Final = 10_000
_CHEAP: Final = 4_000_000
#: Distances that are computed at once, so that they fit into a processor's cache.
_CHUNK: Final = 20_000
#: The rounding error of a sum of distances, as a share of it.
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """A change of level.

    ``index`` is that of the first value of the new level. ``before`` is the median since the last
    change point, ``after`` the one up to the next, in the values' unit. ``p_value`` is the
    probability of an equally good split without a change.
    """

    index: int
    before: float
    after: float
    p_value: float

    @property
    def ratio(self) -> float:
        """New level by old level. It is 1 if only the spread changed."""
        return self.after / self.before


def smallest(alpha: float, least: int) -> int:
    """Return the number of values that any change needs to be significant at ``alpha``.

    The clearest change, between two levels of k values each, appears by chance in 2 of
    ``comb(2 * k, k)`` orders. So this is 10 for an alpha of 0.01, with the change in the middle.
    A change with only ``least`` values on one side needs more: 12 values for 3.
    """
    length = 2 * least
    while 2 / math.comb(length, length // 2) > alpha:
        length += 1
    return length


def find(values: Sequence[float], *, alpha: float = 0.01, least: int = 3) -> list[ChangePoint]:
    """Return the change points of positive ``values``, from first to last.

    In a series without a change, the probability to find one is at most ``alpha``. Levels have at
    least ``least`` values, and series at least ``smallest(alpha, least)``. Equal values give equal
    results. The time grows with the square of the length, times the number of change points. Raises
    ValueError for values that are not positive and finite, and for arguments out of range.
    """
    if least < 2 or not MIN_ALPHA <= alpha <= 0.5:  # noqa: PLR2004
        raise ValueError(
            f"least must be 2 or more and alpha in {MIN_ALPHA} … 0.5, not {least} and {alpha}"
        )
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError("change points are found in positive, finite values only")
    if len(values) < smallest(alpha, least):
        return []
    levels = [float(value) for value in values]
    logs = np.log(levels)
    random = np.random.default_rng(_SEED)
    ends = [0, len(values)]
    significant: dict[int, float] = {}
    while True:
        pieces = {start: logs[start:end] for start, end in pairwise(ends)}
        pieces = {start: piece for start, piece in pieces.items() if len(piece) >= 2 * least}
        if not pieces:
            break
        splits = {start: _split(piece[None], least) for start, piece in pieces.items()}
        start = max(splits, key=lambda start: float(splits[start][0][0]))
        gains, places = splits[start]
        p_value = _p_value(list(pieces.values()), float(gains[0]), alpha, least, random)
        if p_value is None:
            break
        index = start + int(places[0])
        significant[index] = p_value
        ends = sorted([*ends, index])
    p_values = [significant[index] for index in ends[1:-1]]
    # The first splits were placed before the other changes were known.
    for at in range(1, len(ends) - 1):
        piece = logs[ends[at - 1] : ends[at + 1]]
        ends[at] = ends[at - 1] + int(_split(piece[None], least, to_the_end=True)[1][0])
    return [
        ChangePoint(
            index=index,
            before=median(levels[start:index]),
            after=median(levels[index:end]),
            p_value=p_value,
        )
        for start, index, end, p_value in zip(ends, ends[1:], ends[2:], p_values, strict=False)
    ]


def _p_value(
    pieces: Sequence[Array], gain: float, alpha: float, least: int, random: np.random.Generator
) -> float | None:
    """Return the probability of a split with ``gain`` without a change, None above alpha.

    Values are shuffled within their pieces, so changes already found remain.
    """
    distances = sum(len(piece) ** 2 for piece in pieces)
    # The given order is one of them.
    orders = max(math.ceil(_ORDERS_PER_ALPHA / alpha), min(_MAX_ORDERS, _CHEAP // distances))
    # Rounding must not tell equally good splits apart.
    spread = max(float(np.ptp(piece)) * len(piece) for piece in pieces)
    enough = gain - _ROUNDING * spread
    as_good = tried = 1
    while tried < orders:
        rows = min(max(1, _CHUNK // distances), orders - tried)
        best = np.full(rows, -np.inf)
        for piece in pieces:
            shuffled = random.permuted(np.tile(piece, (rows, 1)), axis=1)
            best = np.maximum(best, _split(shuffled, least)[0])
        as_good += int(np.count_nonzero(best >= enough))
        tried += rows
        if as_good / orders > alpha:
            return None
    return as_good / orders


def _split(
    rows: Array, least: int, *, to_the_end: bool = False
) -> tuple[Array, npt.NDArray[np.intp]]:
    """Return the gain of the best split of each row, and its place.

    A split at ``t`` compares the first ``t`` values with those from there to some ``k``. If ``k``
    were always the end, two changes, up and down again, would hide each other. With
    ``to_the_end`` it is the end.
    """
    count = rows.shape[1]
    weights = _weights(count, least)
    sums = rows[:, :, None] - rows[:, None, :]
    np.abs(sums, out=sums)
    # Now sums[a - 1, b - 1] is of the distances of each of the first a values to the first b.
    np.cumsum(sums, axis=2, out=sums)
    np.cumsum(sums, axis=1, out=sums)
    squares = sums[:, np.arange(count), np.arange(count)]
    gains = sums[:, least - 1 : count - least, 2 * least - 1 :] * weights.oblong
    gains += squares[:, least - 1 : count - least, None] * weights.first
    gains += squares[:, None, 2 * least - 1 :] * weights.whole
    gains[:, weights.invalid] = -np.inf
    if to_the_end:
        gains = gains[:, :, -1:]
    flat = gains.reshape(len(rows), -1)
    best = flat.argmax(axis=1)
    return flat[np.arange(len(rows)), best], best // gains.shape[2] + least


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """The weights of sums of distances in a split, by ``t`` (rows) and ``k`` (columns).

    ``first`` is for the sum among the first ``t`` values, ``whole`` for that among the first
    ``k``, ``oblong`` for that between the two. ``invalid`` marks splits with too few values.
    """

    first: Array
    whole: Array
    oblong: Array
    invalid: npt.NDArray[np.bool_]


@lru_cache(maxsize=16)
def _weights(count: int, least: int) -> _Weights:
    """Return the weights for the energy distance of two samples, times left · right / both.

    It is twice the mean distance between them, less the mean distances within each (the unbiased
    ones, of a value to the others).
    """
    t = np.arange(least, count - least + 1, dtype=np.float64)[:, None]
    k = np.arange(2 * least, count + 1, dtype=np.float64)[None, :]
    left, right = t, np.maximum(k - t, least)
    both = left + right
    # As the sum between left and right is that between left and whole, less that within left,
    # and the sum within right is (whole - 2 * oblong + first).
    within_left = right / (left - 1) / both
    within_right = left / (right - 1) / both
    return _Weights(
        first=-2 / both - within_left - within_right,
        whole=-within_right,
        oblong=2 / both + 2 * within_right,
        invalid=k - t < least,
    )
