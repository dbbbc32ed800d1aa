"""The points that a study has seen, remembered from one proposal to the next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.space.parameters import Point

if TYPE_CHECKING:
    from pytest_autotune.space.pool import BoolArray, Pool


class SeenPoints:
    """Points that were run, are running or wait. They are added one by one, and stay seen."""

    def __init__(self, records: Iterable[TrialRecord] = ()) -> None:
        self.keys: set[str] = set()
        self._new: list[tuple[Point, str]] = []
        self._unseen: BoolArray | None = None
        for record in records:
            self.add(record)

    def add(self, record: TrialRecord) -> None:
        """Note the point of a trial."""
        if record.key not in self.keys:
            self.keys.add(record.key)
            self._new.append((record.params, record.key))

    def unseen(self, pool: Pool) -> BoolArray:
        """Return which rows of ``pool``, always the same one, were not seen: shape (points,)."""
        # Here, as studies that search nothing have points, too.
        import numpy as np

        if self._unseen is None:
            self._unseen = np.ones(len(pool), dtype=bool)
        for point, key in self._new:
            row = pool.row(point, key)
            if row is not None:
                self._unseen[row] = False
        self._new.clear()
        return self._unseen
