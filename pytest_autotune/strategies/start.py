"""The first points of a search: few, and spread evenly over the values of every parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import numpy as np

from pytest_autotune.space.parameters import Point, point_key
from pytest_autotune.space.pool import FloatArray
from pytest_autotune.space.sampling import draw_some
from pytest_autotune.space.space import Space
from pytest_autotune.strategies.encoding import Encoding

#: Points to choose from: of a listed space, and of one that is sampled, where each takes longer.
_LISTED: Final = 3_000
_SAMPLED: Final = 300
#: Where few combinations are valid: tries to draw one, and points that there must be.
_TRIES: Final = 1_500
_LEAST: Final = 16
#: How fast a value's neighbours along an order cease to count as used, per whole range.
_STEEPNESS: Final = 6.0


class Start:
    """A design without an end: each next point has the values that were used least so far.

    Depends on the space and the seed alone.
    """

    def __init__(self, space: Space, encoding: Encoding, seed: int) -> None:
        self._chosen: list[Point] = []
        self._further = _design(space, encoding, seed)

    def points(self, count: int) -> Sequence[Point]:
        """Return the first ``count`` points, fewer where there are no more to choose from."""
        self._chosen += islice(self._further, max(count - len(self._chosen), 0))
        return self._chosen[:count]


def _design(space: Space, encoding: Encoding, seed: int) -> Iterator[Point]:
    rng = np.random.default_rng([seed, 0x57A27])
    pool = space.pool
    if pool is not None:
        rows = rng.permutation(len(pool))[:_LISTED]
        points = [pool.point(int(row)) for row in rows]
        x = encoding.rows(pool, rows)
    else:
        drawn = draw_some(space, rng, _TRIES, least=_LEAST)[:_SAMPLED]
        points = list({point_key(point): point for point in drawn}.values())
        x = encoding.points(points)
    burden: FloatArray = np.zeros(len(points))
    for _ in points:
        at = int(np.argmin(burden))
        yield points[at]
        for group, weight in enumerate(encoding.sizes):
            columns = x[:, encoding.groups == group]
            distance = np.sqrt(((columns - columns[at]) ** 2).sum(axis=1))
            # The more values there are, the more it says that this one was taken.
            burden += weight * (0.5 * (distance == 0) + 0.5 * np.exp(-_STEEPNESS * distance))
        burden[at] = np.inf
