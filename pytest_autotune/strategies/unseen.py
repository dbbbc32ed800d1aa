"""Valid points that have not been run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from pytest_autotune.space.effort import Effort
from pytest_autotune.space.parameters import INACTIVE, Point, point_key
from pytest_autotune.space.pool import FloatArray, IntArray, Pool
from pytest_autotune.space.sampling import draw
from pytest_autotune.space.space import Space
from pytest_autotune.strategies.protocol import History

#: Draws before a space too large to list counts as exhausted.
MAX_UNSEEN_DRAWS: Final = 1_000
#: Neighbours tried around a proposal before falling back to a random point.
MAX_NEIGHBOURS: Final = 300


def unseen_rows(pool: Pool, history: History) -> IntArray:
    """Return the rows of ``pool`` that ``history`` has not seen, in order."""
    unseen = history.points.unseen(pool)
    if history.later:
        unseen = unseen.copy()
        for key in history.later:
            row = pool.row(json.loads(key), key)
            if row is not None:
                unseen[row] = False
    return np.flatnonzero(unseen)


def first_unseen(points: Iterable[Point], history: History) -> Point | None:
    """Return the first of ``points`` that was not seen, None where there is none."""
    return next((point for point in points if point_key(point) not in history.seen), None)


def random_unseen(space: Space, history: History, rng: np.random.Generator) -> Point | None:
    """Draw a valid point that was not seen, uniformly; None where none is left."""
    pool = space.pool
    if pool is not None:
        rows = unseen_rows(pool, history)
        return pool.point(int(rows[rng.integers(len(rows))])) if len(rows) else None
    effort = Effort()
    for _ in range(MAX_UNSEEN_DRAWS):
        point = draw(space, rng, effort)
        if point is None:
            return None
        if point_key(point) not in history.seen:
            return point
    return None


def nearest_unseen(
    space: Space, wanted: Point, history: History, rng: np.random.Generator
) -> Point | None:
    """Return the valid, unseen point closest to ``wanted``; None where none is left.

    ``wanted`` assigns every parameter, also those that turn out inactive. Distance is the sum
    over parameters of the share of their range that lies between (0 or 1 for unordered ones);
    ties are broken at random.
    """
    pool = space.pool
    if pool is not None:
        return _nearest_in_pool(pool, wanted, history, rng)
    exact = space.activate(wanted)
    if space.is_valid(exact) and point_key(exact) not in history.seen:
        return exact
    for attempt in range(MAX_NEIGHBOURS):
        # Change one parameter at first, then ever more of them.
        changes = 1 + attempt * len(space.parameters) // MAX_NEIGHBOURS
        moved: dict[str, Any] = dict(wanted)
        for index in rng.permutation(len(space.parameters))[:changes]:
            parameter = space.parameters[int(index)]
            moved[parameter.name] = parameter.neighbour(wanted[parameter.name], rng)
        point = space.activate(moved)
        if space.is_valid(point) and point_key(point) not in history.seen:
            return point
    return random_unseen(space, history, rng)


def _nearest_in_pool(
    pool: Pool, wanted: Point, history: History, rng: np.random.Generator
) -> Point | None:
    rows = unseen_rows(pool, history)
    if not len(rows):
        return None
    distance: FloatArray = np.zeros(len(rows))
    for column, parameter in enumerate(pool.parameters):
        present = pool.indices[rows, column]
        target = parameter.index(wanted[parameter.name])
        if parameter.ordered:
            part = np.abs(present - target) / max((parameter.size or 1) - 1, 1)
        else:
            part = (present != target).astype(np.float64)
        # A parameter that does not exist in a point cannot be far from anything.
        distance += np.where(present == INACTIVE, 0.0, part)
    closest = rows[distance <= distance.min() + 1e-12]
    return pool.point(int(closest[rng.integers(len(closest))]))
