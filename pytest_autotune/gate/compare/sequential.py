"""A paired test that may be looked at after every pair, and stopped as soon as it is decided.

Each pair of launches gives one number: the logarithm of how many times slower the new one was.
Wilcoxon's signed rank test asks whether their median lies above the tolerance; the mirrored test
whether it lies below. Both assume only that, where they lie is aside, either sign of a deviation
is as likely as the other, which tossing a coin for the order of each pair makes true whatever
else the machine does. At every look the test has the same nominal level (as in Pocock's design;
Jennison and Turnbull, *Group Sequential Methods*, 2000, chapter 2), chosen such that the error over
all looks together is what was asked for. As the joint distribution of the signed ranks does not
depend on that of the data, the level can be found by simulation, once and for all. (That is so
where large deviations may come at any time. Were each larger than all before it, 1.5 % would be
called where 1 % was asked for.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: The error that is found by simulating so many paths is known to about 2 % of itself at 1 %.
_PATHS: Final = 200_000
_CHUNK: Final = 20_000
_SEED: Final = 20_000_301
#: So many standard errors of the simulation are taken off, to stay on the safe side.
_CAUTION: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A sequential comparison, before it begins.

    ``alpha`` is how often a slowdown of no more than the tolerance may be called a regression,
    ``beta`` how often one of more may be passed, each over all looks together. ``max_pairs``
    ends it undecided.
    """

    alpha: float = 0.01
    beta: float = 0.05
    max_pairs: int = 27

    @property
    def least_pairs(self) -> int:
        """How many pairs there must be before it can be decided either way."""
        level = max(nominal_level(error, self.max_pairs) for error in (self.alpha, self.beta))
        return math.ceil(-math.log2(level)) if level > 0 else self.max_pairs + 1

    @property
    def confidence(self) -> float:
        """How sure ``low`` and ``high`` of :class:`Bounds` are, over all looks together."""
        return 1 - 2 * self.beta

    @property
    def can_decide(self) -> bool:
        """Whether ``max_pairs`` are enough to call a regression at all."""
        return nominal_level(self.alpha, self.max_pairs) > 0

    @property
    def can_pass(self) -> bool:
        """Whether ``max_pairs`` are enough to pass anything at all."""
        return nominal_level(self.beta, self.max_pairs) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What is known of the median of some numbers, in their unit.

    It is below ``low`` with an error of at most the design's ``beta``, and as often above
    ``high``; below ``surely_above`` with one of at most ``alpha``: each over all looks together.
    Infinite while there are too few numbers.
    """

    estimate: float
    low: float
    high: float
    surely_above: float


def bounds(values: Sequence[float], design: Design) -> Bounds:
    """Return what ``values``, at least one, say at this look.

    The estimate is that of Hodges and Lehmann: the median of the means of all pairs, each value
    with itself included. The bounds are the means that the test's critical values point at, so
    that a bound is beyond the tolerance exactly if the test says so.
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
    """Return how likely a signed rank sum of ``count`` of at least 0, at least 1, and so on is."""
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

    None where there is none, as there are too few.
    """
    return next((value for value, chance in enumerate(_tail(count)) if chance <= level), None)


@cache
def nominal_level(error: float, max_pairs: int) -> float:
    """Return the level for every look at which the error over all of them is at most ``error``.

    Looks are taken after each of ``max_pairs`` pairs. 0 where no level is low enough.
    """
    import numpy as np

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
    import numpy as np

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
