"""Valid points of a space, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pytest_autotune.space.effort import Effort
from pytest_autotune.space.parameters import Point
from pytest_autotune.space.ranges import MAX_LISTED
from pytest_autotune.space.space import Space

if TYPE_CHECKING:
    import numpy as np

#: Rejection sampling gives up after this many draws, then searches by backtracking.
MAX_DRAWS: Final = 2_000
MAX_BACKTRACK: Final = 50_000
#: Steps of work that one draw takes, at most.
MAX_DRAW_STEPS: Final = 2_000_000


def example(space: Space) -> Point:
    """Return some valid point, the same every time; empty where there is none."""
    return _first(space) or {}


def is_empty(space: Space) -> bool:
    """Return whether no point is valid, or none is found where they cannot be listed."""
    return _first(space) is None


def _first(space: Space) -> Point | None:
    early = space.early()
    if early is not None:
        return early
    if space.pool is not None:
        return space.pool.point(0) if len(space.pool) else None
    # As in the space: imported only where a study needs it.
    import numpy as np

    return draw(space, np.random.default_rng(0))


def draw(space: Space, rng: np.random.Generator, effort: Effort | None = None) -> Point | None:
    """Draw one valid point at random, or None where none can be found.

    Uniform among listed points, and by rejection where constraints leave at least about one
    combination in ``MAX_DRAWS``; below that by randomized backtracking, which is not uniform.
    Several draws may share an ``effort``, and find nothing once it is spent.
    """
    effort = effort or Effort(MAX_DRAW_STEPS)
    if space.listed is not None:
        return _draw_once(space, rng, effort)
    for _ in range(MAX_DRAWS):
        if effort.spent:
            return None
        point = _draw_once(space, rng, effort)
        if point is not None:
            return point
    return _backtrack(space, 0, dict(space.variables), {}, rng, [MAX_BACKTRACK], effort)


def draw_some(
    space: Space, rng: np.random.Generator, tries: int, least: int = 1
) -> Sequence[Point]:
    """Draw the valid points that ``tries`` combinations bring.

    However few are valid, that takes bounded time; ``least`` points are drawn one by one
    then, fewer where none can be found.
    """
    effort = Effort()
    drawn = (_draw_once(space, rng, effort) for _ in range(tries) if not effort.spent)
    found = [point for point in drawn if point is not None]
    while len(found) < least:
        point = draw(space, rng, effort)
        if point is None:
            break
        found.append(point)
    return found


def _draw_once(space: Space, rng: np.random.Generator, effort: Effort) -> Point | None:
    """Draw a combination; return it if it is valid."""
    if space.listed is not None:
        pool = space.pool
        return pool.point(int(rng.integers(len(pool)))) if pool else None
    scope = dict(space.variables)
    point: dict[str, Any] = {}
    for parameter, _, key, checks in space.steps:
        if parameter.is_active(scope):
            scope[key] = point[parameter.name] = parameter.draw(rng)
        if not effort.satisfied(checks, scope):
            return None
    return space.in_order(point)


def _backtrack(  # noqa: PLR0913, PLR0917 - the state of a recursion
    space: Space,
    depth: int,
    scope: dict[str, Any],
    point: dict[str, Any],
    rng: np.random.Generator,
    budget: list[int],
    effort: Effort,
) -> Point | None:
    if depth == len(space.steps):
        return space.in_order(point)
    parameter, _, key, checks = space.steps[depth]
    active = parameter.is_active(scope)
    if not active:
        values: Sequence[Any] = (None,)
    elif parameter.size is not None and parameter.size <= MAX_LISTED:
        values = [parameter.value(int(i)) for i in rng.permutation(parameter.size)[:1000]]
    else:
        values = [parameter.draw(rng) for _ in range(100)]
    for value in values:
        budget[0] -= 1
        if budget[0] < 0 or effort.spent:
            return None
        if active:
            scope[key] = point[parameter.name] = value
        if effort.satisfied(checks, scope):
            found = _backtrack(space, depth + 1, scope, point, rng, budget, effort)
            if found is not None:
                return found
    scope.pop(key, None)
    point.pop(parameter.name, None)
    return None
