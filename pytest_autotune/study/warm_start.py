"""Points to try first, as they did well before: on other hardware, or in another space.

Measurements of elsewhere do not count here, but what was best there is often good here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pytest_autotune.scoring.records import TrialRecord, effective
from pytest_autotune.space.parameters import Point, point_key
from pytest_autotune.space.space import Space
from pytest_autotune.strategies.protocol import History
from pytest_autotune.strategies.unseen import nearest_unseen

#: No more than this, so that a search does not begin in one corner only.
MAX_HINTS: Final = 4
#: Of one earlier study.
_OF_EACH: Final = 2


def hints(
    space: Space, pinned: Sequence[Point], earlier: Iterable[Sequence[TrialRecord]]
) -> list[Point]:
    """Return points of ``space`` that are worth an early trial, the most trusted first.

    ``pinned`` are configurations of the lock file; ``earlier`` the trials of other studies of
    the same tests, latest first. What is no longer valid is moved to what is nearest to it.
    """
    found: dict[str, Point] = {}
    for point in _candidates(pinned, earlier):
        fitting = fit(space, point)
        if fitting is not None:
            found.setdefault(point_key(fitting), fitting)
        if len(found) == MAX_HINTS:
            break
    return list(found.values())


def _candidates(
    pinned: Sequence[Point], earlier: Iterable[Sequence[TrialRecord]]
) -> Iterator[Point]:
    yield from pinned
    for records in earlier:
        good = [record for record in effective(records) if record.rank[0] == 0]
        good.sort(key=lambda record: (record.rank, record.number))
        yield from (record.params for record in good[:_OF_EACH])


def fit(space: Space, point: Point) -> Point | None:
    """Return the valid point of ``space`` that is nearest to ``point``, None where none is near.

    A parameter that ``point`` does not have starts from its first value.
    """
    import numpy as np

    wanted = {p.name: p.nearest(point.get(p.name)) for p in space.parameters}
    found = nearest_unseen(space, wanted, History(), np.random.default_rng(0))
    if found is None:
        return None
    changed = sum(value != wanted[name] for name, value in found.items())
    # In a space that cannot be listed the nearest may not be found, but some other.
    return found if changed <= max(len(found) // 2, 1) else None
