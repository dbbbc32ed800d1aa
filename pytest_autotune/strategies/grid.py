"""Grid search: every combination, or a seeded, stratified subset of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

import numpy as np

from pytest_autotune.space.effort import Effort
from pytest_autotune.space.parameters import Point, point_key
from pytest_autotune.space.pool import IntArray
from pytest_autotune.space.sampling import draw
from pytest_autotune.space.space import Space
from pytest_autotune.strategies.protocol import History, StrategyContext
from pytest_autotune.strategies.unseen import first_unseen

#: From a larger grid the subset is chosen among this many randomly drawn points, or as many as
#: are wanted.
_CANDIDATES: Final = 5_000


class GridStrategy:
    """The valid combinations in declaration order, the last parameter fastest.

    A grid larger than the budget is not cut at its head, which would leave the first parameter
    at its first value: a subset is chosen that spreads evenly over every parameter's values.
    """

    def __init__(self, context: StrategyContext) -> None:
        parameters = tuple(parameter.grid() for parameter in context.space.parameters)
        self._space = replace(context.space, parameters=parameters)
        self._limit = context.limit
        self._seed = context.seed

    @cached_property
    def _points(self) -> Sequence[Point]:
        rng = np.random.default_rng([self._seed, 0x6121D])
        pool = self._space.pool
        if pool is not None:
            rows = np.arange(len(pool))
            if len(rows) > self._limit:
                rows = np.sort(rows[_spread(pool.indices, self._limit, rng)])
            return [pool.point(int(row)) for row in rows]
        drawn: dict[str, Point] = {}
        effort = Effort()
        for _ in range(max(_CANDIDATES, 2 * self._limit)):
            point = draw(self._space, rng, effort)
            if point is None:
                break
            drawn.setdefault(point_key(point), point)
        points = list(drawn.values())
        digits = _digits(self._space, points)
        chosen = np.arange(len(points))
        if len(points) > self._limit:
            chosen = _spread(digits, self._limit, rng)
        return [points[int(row)] for row in chosen[np.lexsort(digits[chosen].T[::-1])]]

    def plan(self) -> Sequence[Point]:
        """Return the points, at most the budget's number of them."""
        return self._points

    def propose(self, history: History, seed: Sequence[int]) -> Point | None:  # noqa: ARG002
        """Return the first point that was not seen."""
        return first_unseen(self._points, history)


def _digits(space: Space, points: Sequence[Point]) -> IntArray:
    rows = [
        [p.index(pt[p.name]) if p.name in pt else -1 for p in space.parameters] for pt in points
    ]
    return np.array(rows, dtype=np.int64).reshape(len(points), len(space.parameters))


def _spread(digits: IntArray, wanted: int, rng: np.random.Generator) -> IntArray:
    """Choose ``wanted`` rows so that every value of every column appears about equally often.

    Greedy: in random order of candidates, take the row whose values were taken least so far
    (relative to how many values the column has).
    """
    order = rng.permutation(len(digits))[: max(_CANDIDATES, wanted)]
    columns = digits.shape[1]
    # Values renumbered from 0, as a range may have far more of them than there are candidates.
    numbered = [np.unique(digits[order, c], return_inverse=True) for c in range(columns)]
    candidates = np.stack([inverse.reshape(-1) for _, inverse in numbered], axis=1)
    counts = [np.zeros(len(values)) for values, _ in numbered]
    weights = [float(len(values)) for values, _ in numbered]
    burden = np.zeros(len(candidates))
    chosen: list[int] = []
    for _ in range(wanted):
        at = int(np.argmin(burden))
        chosen.append(int(order[at]))
        for column in range(columns):
            same = candidates[:, column] == candidates[at, column]
            # Squared counts: the second use of a value weighs more than the first.
            taken = counts[column][candidates[at, column]]
            counts[column][candidates[at, column]] += 1
            burden[same] += weights[column] * (2 * taken + 1)
        burden[at] = np.inf
    return np.array(chosen, dtype=np.int64)
