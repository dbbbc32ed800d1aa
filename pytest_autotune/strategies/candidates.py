"""The points that a model is asked about: valid, unseen ones from anywhere and near the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from pytest_autotune.space.parameters import Point, point_key
from pytest_autotune.space.pool import FloatArray, IntArray, Pool
from pytest_autotune.space.sampling import draw_some
from pytest_autotune.space.space import Space
from pytest_autotune.strategies.encoding import Encoding
from pytest_autotune.strategies.protocol import History
from pytest_autotune.strategies.unseen import random_unseen, unseen_rows

#: Points anywhere in the space.
ANYWHERE: Final = 2_000
#: Points near each of the best that differ in more than one parameter.
NEARBY: Final = 100
#: And those that differ in one, at most.
_ALIKE: Final = 500
#: In a space that is sampled: tries to draw points at each proposal, how many of them count, and
#: for how many proposals.
_TRIES: Final = 100
_DRAWN: Final = 32
_KEPT: Final = 32
#: Points made near each of the best there, and shares of a range by which they differ.
_MUTANTS: Final = 30
_SCALES: Final = (0.3, 0.1, 0.03, 0.01, 0.001)


#: Encoded candidates, and what gives the point of one by its index.
Offer: TypeAlias = tuple[FloatArray, Callable[[int], Point]]
#: A point and its coordinates.
_Encoded: TypeAlias = tuple[Point, FloatArray]


class PoolCandidates:
    """Candidates from a space whose valid points are listed."""

    def __init__(self, pool: Pool, encoding: Encoding) -> None:
        self._pool = pool
        self._encoding = encoding
        self._near: dict[int, tuple[IntArray, IntArray]] = {}

    def offer(self, history: History, best: Sequence[Point], rng: np.random.Generator) -> Offer:
        """Return the candidates; none where all were seen."""
        unseen = unseen_rows(self._pool, history)
        rows = unseen
        if len(rows) > ANYWHERE + NEARBY:
            parts = [rng.choice(rows, ANYWHERE, replace=False)]
            for point in best:
                one, more = self._around(point)
                parts += [one, rng.choice(more, min(NEARBY, len(more)), replace=False)]
            kept = {self._pool.row(point) for point in best}
            self._near = {row: near for row, near in self._near.items() if row in kept}
            rows = np.intersect1d(np.concatenate(parts), unseen)
        return self._encoding.rows(self._pool, rows), lambda at: self._pool.point(int(rows[at]))

    def _around(self, point: Point) -> tuple[IntArray, IntArray]:
        """Return the rows that differ from ``point`` in one parameter, the nearest, and in two."""
        row = self._pool.row(point)
        if row is None:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        if row not in self._near:
            # Column by column, as the first two already rule out most.
            different = np.zeros(len(self._pool), dtype=np.int8)
            for column in self._pool.indices.T:
                different += column != column[row]
            one, two = (np.flatnonzero(different == count) for count in (1, 2))
            if len(one) > _ALIKE:
                steps = np.abs(self._pool.indices[one] - self._pool.indices[row]).sum(axis=1)
                one = one[np.argsort(steps, kind="stable")[:_ALIKE]]
            self._near[row] = one, two
        return self._near[row]


class SampledCandidates:
    """Candidates from a space too large to list, or with real numbers in it."""

    def __init__(self, space: Space, encoding: Encoding, seed: int) -> None:
        self._space = space
        self._encoding = encoding
        self._seed = seed
        self._blocks: dict[int, Mapping[str, _Encoded]] = {}

    def offer(self, history: History, best: Sequence[Point], rng: np.random.Generator) -> Offer:
        """Return the candidates; none where none can be found."""
        now = len(history.records)
        self._blocks = {n: block for n, block in self._blocks.items() if n > now - _KEPT}
        found: dict[str, _Encoded] = {}
        for number in range(max(now - _KEPT + 1, 0), now + 1):
            found.update(self._block(number))
        mutants = (self._mutant(point, rng) for point in best for _ in range(_MUTANTS))
        found.update(self._encoded(mutants))
        unseen = [both for key, both in found.items() if key not in history.seen]
        if not unseen:
            unseen = list(self._encoded([random_unseen(self._space, history, rng)]).values())
        rows = [row for _, row in unseen]
        x = np.array(rows).reshape(len(rows), len(self._encoding.groups))
        return x, lambda at: unseen[at][0]

    def _block(self, number: int) -> Mapping[str, _Encoded]:
        """Return the points drawn at the ``number``-th proposal, the same every time."""
        if number not in self._blocks:
            rng = np.random.default_rng([self._seed, number, 0xB10C])
            self._blocks[number] = self._encoded(draw_some(self._space, rng, _TRIES)[:_DRAWN])
        return self._blocks[number]

    def _encoded(self, points: Iterable[Point | None]) -> Mapping[str, _Encoded]:
        distinct = {point_key(point): point for point in points if point is not None}
        rows = self._encoding.points(list(distinct.values()))
        return {key: (point, row) for (key, point), row in zip(distinct.items(), rows, strict=True)}

    def _mutant(self, point: Point, rng: np.random.Generator) -> Point | None:
        """Return a valid point that differs from ``point`` in a parameter or a few, or None."""
        parameters = self._space.parameters
        changes = min(int(rng.geometric(0.6)), len(parameters))
        moved = {
            # What becomes active needs a value, whichever.
            p.name: point[p.name] if p.name in point else p.draw(rng)
            for p in parameters
        }

        def share() -> float:
            return float(rng.choice(_SCALES)) * float(rng.normal())

        for at in rng.permutation(len(parameters))[:changes]:
            parameter = parameters[int(at)]
            moved[parameter.name] = parameter.mutated(moved[parameter.name], rng, share)
        mutant = self._space.activate(moved)
        return mutant if self._space.is_valid(mutant) else None
