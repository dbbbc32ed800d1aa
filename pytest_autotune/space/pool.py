"""Every valid point of a space that can be listed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from pytest_autotune.space.parameters import INACTIVE, OUTSIDE, Parameter, Point, point_key

BoolArray: TypeAlias = npt.NDArray[np.bool_]
IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]

#: Rows of a pool are numbered by their digits up to here.
MAX_CODE: Final = 2**62


class Pool:
    """Every valid point of an enumerable space, as rows of value indices.

    ``indices`` has shape (points, parameters), in declaration order with the last parameter
    fastest; ``INACTIVE`` marks a parameter that does not exist in that point. Where there are
    ``MAX_CODE`` combinations or more, the rows must be given in that order.
    """

    def __init__(self, parameters: Sequence[Parameter], indices: IntArray) -> None:
        self.parameters = parameters
        self.indices = indices
        self._rows: dict[str, int | None] = {}
        self._codes: IntArray | None = None
        radices = [int(p.size or 0) + 1 for p in parameters]
        if math.prod(radices) >= MAX_CODE:
            return
        self._weights = np.ones(len(radices), dtype=np.int64)
        for position in range(len(radices) - 2, -1, -1):
            self._weights[position] = self._weights[position + 1] * radices[position + 1]
        codes = (indices + 1) @ self._weights
        order = np.argsort(codes, kind="stable")
        self.indices = indices[order]
        self._codes = codes[order]

    def __len__(self) -> int:
        """Return the number of valid points."""
        return len(self.indices)

    def point(self, row: int) -> Point:
        """Return the point in ``row``."""
        return {
            parameter.name: parameter.value(int(index))
            for parameter, index in zip(self.parameters, self.indices[row], strict=True)
            if index != INACTIVE
        }

    def row(self, point: Point, key: str | None = None) -> int | None:
        """Return the row of ``point`` (whose key may be given), or None if it is not here."""
        key = point_key(point) if key is None else key
        if key not in self._rows:
            self._rows[key] = self._find(point)
        return self._rows[key]

    @cached_property
    def _places(self) -> Mapping[bytes, int]:
        return {digits.tobytes(): row for row, digits in enumerate(self.indices)}

    def _find(self, point: Point) -> int | None:
        digits = [p.find(point[p.name]) if p.name in point else INACTIVE for p in self.parameters]
        if OUTSIDE in digits:
            return None
        if self._codes is None:
            return self._places.get(np.array(digits, dtype=np.int64).tobytes())
        code = int(sum((d + 1) * int(w) for d, w in zip(digits, self._weights, strict=True)))
        at = int(self._codes.searchsorted(code))
        return at if at < len(self._codes) and int(self._codes[at]) == code else None
