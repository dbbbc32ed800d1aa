"""The first points of a search: few, and spread evenly over the values of every parameter."""

from __future__ import annotations

from collections.abc import Sequence
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
        self._space = space
        self._encoding = encoding
        self._seed = seed
        self._chosen: list[Point] = []
        self._points: Sequence[Point] | None = None

    def points(self, count: int) -> Sequence[Point]:
        """Return the first ``count`` points, fewer where there are no more to choose from."""
        if self._points is None:
            self._prepare()
        assert self._points is not None
        while len(self._chosen) < min(count, len(self._points)):
            self._choose()
        return self._chosen[:count]

    def _prepare(self) -> None:
        rng = np.random.default_rng([self._seed, 0x57A27])
        pool = self._space.pool
        if pool is not None:
            rows = rng.permutation(len(pool))[:_LISTED]
            self._points = [pool.point(int(row)) for row in rows]
            self._x = self._encoding.rows(pool, rows)
        else:
            drawn = draw_some(self._space, rng, _TRIES, least=_LEAST)[:_SAMPLED]
            distinct = {point_key(point): point for point in drawn}
            self._points = list(distinct.values())
            self._x = self._encoding.points(self._points)
        self._burden: FloatArray = np.zeros(len(self._points))

    def _choose(self) -> None:
        assert self._points is not None
        at = int(np.argmin(self._burden))
        self._chosen.append(self._points[at])
        for group, weight in enumerate(self._encoding.sizes):
            columns = self._x[:, self._encoding.groups == group]
            distance = np.sqrt(((columns - columns[at]) ** 2).sum(axis=1))
            # The more values there are, the more it says that this one was taken.
            used = 0.5 * (distance == 0) + 0.5 * np.exp(-_STEEPNESS * distance)
            self._burden += weight * used
        self._burden[at] = np.inf
