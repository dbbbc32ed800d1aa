"""Points as numbers that a surrogate model can measure distances between.

Every parameter becomes one or two *coordinates*. Along an ordered one the distance of two values
is from 0 to 1 over the whole range. It goes by place for listed values, which people space as
they matter (16, 32, 64), and by logarithm for a range that says so. A nominal one knows only
equal, 0, and different, 1. Few numbers in a row, such as methods 0 to 3, may be either: they get
a coordinate of each kind, and the model finds out which one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.space.parameters import INACTIVE, Parameter, Point
from pytest_autotune.space.pool import FloatArray, IntArray, Pool
from pytest_autotune.space.space import Space

#: Up to so many listed numbers may be names in disguise.
_MAYBE_NOMINAL: Final = 4
#: Names beyond so many share a column with another: taken for equal now and then.
_MAX_COLUMNS: Final = 256
#: Of a range it is known only that it has many values.
_MANY: Final = 16
#: Where a parameter that does not exist in a point stands along its order.
_NOWHERE: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coordinate:
    """One measure of a parameter, in ``width`` columns.

    A nominal one has a column per value, so that the square of the distance between different
    values is 1. ``activity`` marks a coordinate for the existence of a conditional parameter.
    """

    parameter: Parameter
    at: int
    nominal: bool = False
    activity: bool = False

    @property
    def width(self) -> int:
        # One more for a parameter that is inactive.
        return min((self.parameter.size or 0) + 1, _MAX_COLUMNS) if self.nominal else 1

    @property
    def values(self) -> int:
        return 2 if self.activity else min(self.parameter.size or _MANY, _MANY)

    def of(self, value: Any, *, active: bool) -> float:
        """Return the place along the order, or the column of a nominal value."""
        if self.activity:
            return float(active)
        if self.nominal:
            return float((self.parameter.index(value) + 1) % self.width) if active else 0.0
        return self.parameter.position(value) if active else _NOWHERE


class Encoding:
    """The encoding of the points of a space.

    ``groups`` holds, for each column, which coordinate it belongs to, shape (columns,);
    ``size`` is the number of coordinates, and ``sizes`` how many values each has, or "many".
    """

    def __init__(self, space: Space) -> None:
        self._coordinates = tuple(
            coordinate
            for at, parameter in enumerate(space.parameters)
            for coordinate in _coordinates(at, parameter)
        )
        self._known: dict[str, FloatArray] = {}
        self.size = len(self._coordinates)
        self.sizes = tuple(c.values for c in self._coordinates)
        self.groups: npt.NDArray[np.intp] = np.repeat(
            np.arange(self.size), [c.width for c in self._coordinates]
        )

    def points(self, points: Sequence[Point]) -> FloatArray:
        """Encode ``points``; shape (points, columns)."""
        plain = [
            [c.of(p.get(c.parameter.name), active=c.parameter.name in p) for p in points]
            for c in self._coordinates
        ]
        return self._expand(np.array(plain, dtype=np.float64).reshape(self.size, len(points)))

    def records(self, records: Sequence[TrialRecord]) -> FloatArray:
        """Encode the points of ``records``, which are remembered; shape (records, columns)."""
        new = [record for record in records if record.key not in self._known]
        for record, row in zip(new, self.points([r.params for r in new]), strict=True):
            self._known[record.key] = row
        rows = [self._known[record.key] for record in records]
        return np.array(rows).reshape(len(rows), len(self.groups))

    def rows(self, pool: Pool, rows: IntArray) -> FloatArray:
        """Encode some rows of a pool; shape (rows, columns)."""
        digits = pool.indices[rows]
        plain = [_looked_up(c, digits[:, c.at]) for c in self._coordinates]
        return self._expand(np.array(plain).reshape(self.size, len(rows)))

    def _expand(self, plain: FloatArray) -> FloatArray:
        columns = [
            np.sqrt(0.5) * (row[:, None] == np.arange(c.width)) if c.nominal else row[:, None]
            for c, row in zip(self._coordinates, plain, strict=True)
        ]
        return np.hstack(columns) if columns else np.empty((plain.shape[1], 0))


def _coordinates(at: int, parameter: Parameter) -> Sequence[_Coordinate]:
    found: list[_Coordinate] = []
    size = parameter.size
    if size is None or size > 1:
        # Numbers listed in no order are names.
        if parameter.ordered:
            found.append(_Coordinate(parameter=parameter, at=at))
        few = 2 < len(parameter.listed) <= _MAYBE_NOMINAL  # noqa: PLR2004
        if few or not parameter.ordered:
            found.append(_Coordinate(parameter=parameter, at=at, nominal=True))
    if parameter.when is not None:
        found.append(_Coordinate(parameter=parameter, at=at, activity=True))
    return found


def _looked_up(coordinate: _Coordinate, digits: IntArray) -> FloatArray:
    present, inverse = np.unique(digits, return_inverse=True)
    values = [
        coordinate.of(None, active=False)
        if digit == INACTIVE
        else coordinate.of(coordinate.parameter.value(int(digit)), active=True)
        for digit in present
    ]
    return np.asarray(values)[inverse.reshape(-1)]
