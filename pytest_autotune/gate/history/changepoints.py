"""Where a series of measurements changed its level for good.

The method is E-divisive (Matteson and James, "A Nonparametric Approach for Multiple Change Point
Analysis of Multivariate Data", JASA 109, 2014), as MongoDB watches its performance tests with it
(Daly et al., "The Use of Change Point Detection to Identify Software Performance Regressions in
a Continuous Integration System", ICPE 2020). A series is split where the energy distance between
what is before and what is after is largest, and that is a change point if random orders of the
same values hardly ever can be split as well. Then the pieces are split in the same way, until
no split is significant. Logarithms are compared, so 5 % is 5 % at every level.

No distribution is assumed, but that without a change any order of the values is as likely as any
other. A drift is no such thing: it is reported as a stair of one to three steps, none of which is
where anything happened. Values that follow their neighbours, as on a machine with good and bad
days, give false alarms: at an alpha of 0.01 and in 60 values, in one series of 20 where neighbours
correlate by 0.2, in every second where by 0.5.

How small a change is found depends on the noise. Of steps by 2.5 standard deviations of it (5 %
where sessions differ by 2 %), after some 30 values and at an alpha of 0.01, 30 % are found when 3
values are past them and 70 % when 5 are. With 15 on either side it is 97 %, and 91 % are placed
within one value of where they are; least squares, told that there is one step, places 93 % there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[np.float64]

#: Smaller probabilities would take too many random orders to tell.
MIN_ALPHA: Final = 1e-4
_SEED: Final = 2014
#: Random orders per test: enough to tell alpha by, and more where they are cheap.
_ORDERS_PER_ALPHA: Final = 10
_MAX_ORDERS: Final = 10_000
_CHEAP: Final = 4_000_000
#: Distances that are worked on at once, so that they stay in a processor's cache.
_CHUNK: Final = 20_000
#: What rounding may take off a sum of distances, as a share of it.
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """A change of level.

    ``index`` is that of the first value of the new level. ``before`` and ``after`` are medians
    from the change point before to this one and from here to the next, in the values' unit.
    ``p_value`` is the probability of a split as good as this in a piece without a change.
    """

    index: int
    before: float
    after: float
    p_value: float

    @property
    def ratio(self) -> float:
        """New level by old level. 1 where only the spread changed."""
        return self.after / self.before


def smallest(alpha: float, least: int) -> int:
    """Return how many values are needed for any change to be significant at ``alpha``.

    The clearest of all changes, between two levels of k values each, is seen by chance in
    2 of ``comb(2 * k, k)`` orders. So this is 10 for an alpha of 0.01, with the change in the
    middle. One with only ``least`` values after (or before) it needs more: for 3 of them, 12.
    """
    length = 2 * least
    while 2 / math.comb(length, length // 2) > alpha:
        length += 1
    return length


def find(values: Sequence[float], *, alpha: float = 0.01, least: int = 3) -> list[ChangePoint]:
    """Return the change points of positive ``values``, from first to last.

    In a series without a change, the probability of finding any is ``alpha`` or a little less.
    Levels of fewer than ``least`` values are not looked for, and nothing is found in fewer than
    ``smallest(alpha, least)`` values. Equal values always give equal results. Time grows with
    the square of the length, times the number of change points. Raises ValueError where a
    value is not positive and finite, ``least`` is below 2, or alpha not in 0.0001 … 0.5.
    """
    if least < 2 or not MIN_ALPHA <= alpha <= 0.5:  # noqa: PLR2004
        msg = f"least must be 2 or more and alpha in {MIN_ALPHA} … 0.5, not {least} and {alpha}"
        raise ValueError(msg)
    if not all(math.isfinite(value) and value > 0 for value in values):
        msg = "change points are found in positive, finite values only"
        raise ValueError(msg)
    if len(values) < smallest(alpha, least):
        return []
    import numpy as np

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
    # The first splits were placed when the other changes were not known.
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
    """Return how probable a split with ``gain`` is if no piece has a change; None above alpha.

    Values are put into random order within their pieces, so changes already found remain.
    """
    import numpy as np

    distances = sum(len(piece) ** 2 for piece in pieces)
    # The given order is one of them.
    orders = max(math.ceil(_ORDERS_PER_ALPHA / alpha), min(_MAX_ORDERS, _CHEAP // distances))
    # Orders that can be split equally well must not differ by how their sums were rounded.
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
    """Return by how much the best split of each row separates it, and where that is.

    A split at ``t`` compares the first ``t`` values with the values from there to some ``k``,
    not always the end: else two changes, up and down again, would hide each other. With
    ``to_the_end`` it is the end.
    """
    import numpy as np

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
    """What sums of distances count for in a split, by ``t`` (rows) and ``k`` (columns).

    ``first`` is for the sum among the first ``t`` values, ``whole`` for that among the first
    ``k``, ``oblong`` for that between the two. ``invalid`` is where too few values are between.
    """

    first: Array
    whole: Array
    oblong: Array
    invalid: npt.NDArray[np.bool_]


@lru_cache(maxsize=16)
def _weights(count: int, least: int) -> _Weights:
    """Write the energy distance of two samples, times left · right / both, as such a sum.

    It is twice the mean distance between them, less the mean distances within each (the unbiased
    ones, of a value to the others).
    """
    import numpy as np

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
