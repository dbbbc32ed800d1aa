"""A paired test that may be evaluated after every pair, and stopped as soon as it is decided.

Each pair of launches gives a number: the logarithm of the factor by which the new one is slower. By
Wilcoxon's signed rank test, their median lies above the tolerance or not. The mirrored test asks
whether it lies below. Both assume that deviations from the median have either sign with the same
probability. A coin that decides the order of each pair ensures that.

At every look the test has the same nominal level, as in Pocock's design (Jennison and Turnbull,
*Group Sequential Methods*, 2000, chapter 2). It is chosen for the error over all looks. The joint
distribution of the signed ranks does not depend on that of the data, so simulation finds it. This
assumes that large deviations come at any time. If each were larger than all before it, the error
would be 1.5 % instead of 1 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from typing import Final

import numpy as np
import numpy.typing as npt

#: With so many simulated paths, an error of 1 % is known to about 2 % of itself.
_PATHS: Final = 200_000
_CHUNK: Final = 20_000
_SEED: Final = 20_000_301
#: The standard errors of the simulation that are subtracted for safety.
_CAUTION: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The design of a sequential comparison.

    ``alpha`` is the probability to call a slowdown within the tolerance a regression. ``beta`` is
    that to pass a larger one. Both are over all looks together. ``max_pairs`` ends it undecided.
    """

    alpha: float = 0.01
    beta: float = 0.05
    max_pairs: int = 27

    @property
    def least_pairs(self) -> int:
        """The number of pairs before which it cannot be decided either way."""
        level = max(nominal_level(error, self.max_pairs) for error in (self.alpha, self.beta))
        return math.ceil(-math.log2(level)) if level > 0 else self.max_pairs + 1

    @property
    def confidence(self) -> float:
        """The confidence of ``low`` and ``high`` of :class:`Bounds`, over all looks together."""
        return 1 - 2 * self.beta

    @property
    def can_decide(self) -> bool:
        """True if ``max_pairs`` are enough to call a regression."""
        return nominal_level(self.alpha, self.max_pairs) > 0

    @property
    def can_pass(self) -> bool:
        """True if ``max_pairs`` are enough to pass anything."""
        return nominal_level(self.beta, self.max_pairs) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """An estimate of the median of some numbers and bounds of it, in their unit.

    The median lies below ``low`` with a probability of at most the design's ``beta``, and so above
    ``high``. It lies below ``surely_above`` with one of at most ``alpha``. Each is over all looks
    together. Bounds are infinite while there are too few numbers.
    """

    estimate: float
    low: float
    high: float
    surely_above: float


def bounds(values: Sequence[float], design: Design) -> Bounds:
    """Return the estimate and the bounds for ``values``, at least one, at this look.

    The estimate is that of Hodges and Lehmann: the median of the means of all pairs, each value
    with itself included. The critical values of the test select the bounds among these means. So a
    bound lies beyond the tolerance exactly if the test rejects.
    """
    means = sorted((a + b) / 2 for a, b in combinations_with_replacement(values, 2))
    count, total = len(values), len(means)
    middle = (means[(total - 1) // 2] + means[total // 2]) / 2
    sure = critical(count, nominal_level(design.alpha, design.max_pairs))
    rank = critical(count, nominal_level(design.beta, design.max_pairs))
    return Bounds(
        estimate=middle,
        low=-math.inf if rank is None else means[total - rank],
        high=math.inf if rank is None else means[rank - 1],
        surely_above=-math.inf if sure is None else means[total - sure],
    )


@cache
def _tail(count: int) -> tuple[float, ...]:
    """Return the probabilities of a signed rank sum of at least 0, at least 1, and so on."""
    chances = [1.0]
    for rank in range(1, count + 1):
        grown = [0.0] * (len(chances) + rank)
        for value, chance in enumerate(chances):
            grown[value] += chance / 2
            grown[value + rank] += chance / 2
        chances = grown
    sums, total = [], 0.0
    for chance in reversed(chances):
        total += chance
        sums.append(total)
    return tuple(reversed(sums))


@cache
def critical(count: int, level: float) -> int | None:
    """Return the least signed rank sum of ``count`` that a one-sided test at ``level`` rejects.

    None if ``count`` is too small for any.
    """
    return next((value for value, chance in enumerate(_tail(count)) if chance <= level), None)


@cache
def nominal_level(error: float, max_pairs: int) -> float:
    """Return the level for every look at which the error over all of them is at most ``error``.

    Looks are taken after each of ``max_pairs`` pairs. 0 where no level is low enough.
    """
    if max_pairs < 1:
        return 0.0
    least = _least_chances(max_pairs)
    allowed = error - _CAUTION * math.sqrt(error * (1 - error) / _PATHS)
    levels = np.unique(least)
    reached = np.searchsorted(least, levels, side="right") <= allowed * _PATHS
    return float(levels[reached][-1]) if reached.any() else 0.0


@cache
def _least_chances(max_pairs: int) -> npt.NDArray[np.float64]:
    """Return the least p-value of every simulated path without a difference, in rising order."""
    generator = np.random.default_rng(_SEED)
    tails = [np.array(_tail(count)) for count in range(max_pairs + 1)]
    found = []
    for _ in range(_PATHS // _CHUNK):
        # Any symmetric distribution has the same signed ranks.
        values = generator.standard_normal((_CHUNK, max_pairs))
        above, sizes = values > 0, np.abs(values)
        sums = np.zeros(_CHUNK, dtype=np.int64)
        least = np.ones(_CHUNK)
        for count in range(1, max_pairs + 1):
            new = slice(count - 1, count)
            smaller = sizes[:, : count - 1] < sizes[:, new]
            # The new one takes its rank, and those that are larger move up by one.
            sums += (above[:, : count - 1] & ~smaller).sum(axis=1)
            sums += above[:, count - 1] * (1 + smaller.sum(axis=1))
            least = np.minimum(least, tails[count][sums])
        found.append(least)
    return np.sort(np.concatenate(found))
