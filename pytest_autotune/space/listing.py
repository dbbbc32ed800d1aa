"""Points to which a space is restricted, such as those that were recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pytest_autotune.space.expressions import Expression, identifier, satisfied
from pytest_autotune.space.parameters import INACTIVE, OUTSIDE, Parameter
from pytest_autotune.space.pool import BoolArray, IntArray, Pool
from pytest_autotune.text.values import canonical


@dataclass(frozen=True)
class Listing:
    """Points to which a space is restricted: rows of indices into the values of ``parameters``.

    It carries its parameters, so that it means the same points in a space that spells its
    values otherwise. ``digest`` stands for the rows in comparisons and keys.
    """

    parameters: tuple[Parameter, ...]
    rows: IntArray = field(repr=False, compare=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Digest the values that are listed, and how they are combined."""
        digest = hashlib.sha256()
        for parameter, column in zip(self.parameters, self.rows.T, strict=True):
            present, inverse = np.unique(column, return_inverse=True)
            values = [parameter.value(int(at)) for at in present if at != INACTIVE]
            inactive = len(values) < len(present)
            digest.update(canonical([parameter.name, inactive, values]).encode())
            digest.update(inverse.reshape(-1).astype("<i8").tobytes())
        object.__setattr__(self, "digest", digest.hexdigest())

    def pool(
        self,
        parameters: Sequence[Parameter],
        constraints: Sequence[Expression],
        unknown: Collection[str],
    ) -> Pool:
        """Return the points that meet the constraints and the conditions of ``parameters``.

        Expressions that read an ``unknown`` name do not count.
        """
        rows = self._rows_for(parameters)
        for at, parameter in enumerate(parameters):
            active = rows[:, at] != INACTIVE
            if parameter.when is None:
                rows = rows[active]
            elif parameter.when.names.isdisjoint(unknown):
                exists = _decided(rows, parameters, parameter.when, parameter.is_active)
                rows = rows[exists == active]
        for constraint in constraints:
            if constraint.names.isdisjoint(unknown):
                holds = partial(satisfied, (constraint,))
                rows = rows[_decided(rows, parameters, constraint, holds)]
        return Pool(parameters, rows)

    def _rows_for(self, parameters: Sequence[Parameter]) -> IntArray:
        """Return the distinct rows as indices into the values of ``parameters``, in order.

        Points with a value that those do not have are left out.
        """
        columns = []
        for parameter, own, column in zip(parameters, self.parameters, self.rows.T, strict=True):
            assert parameter.name == own.name, "a listing is for the same parameters"
            if parameter == own:
                columns.append(column)
                continue
            present, inverse = np.unique(column, return_inverse=True)
            moved = [
                INACTIVE if at == INACTIVE else parameter.find(own.value(int(at))) for at in present
            ]
            columns.append(np.array(moved, dtype=np.int64)[inverse.reshape(-1)])
        rows: IntArray = np.stack(columns, axis=1) if columns else self.rows
        known: IntArray = rows[(rows != OUTSIDE).all(axis=1)]
        return np.unique(known, axis=0) if len(known) else known


def _decided(
    rows: IntArray,
    parameters: Sequence[Parameter],
    expression: Expression,
    decide: Callable[[Mapping[str, Any]], bool],
) -> BoolArray:
    """Return for each row what ``decide`` says of the values that ``expression`` reads.

    It is asked once for each combination of them, of which there are few.
    """
    read = [
        (at, parameter)
        for at, parameter in enumerate(parameters)
        if identifier(parameter.name) in expression.names
    ]
    if not read or not len(rows):
        return np.full(len(rows), decide({}))
    # Combinations as numbers, which are sorted faster than rows are.
    code: IntArray = np.zeros(len(rows), dtype=np.int64)
    for at, _ in read:
        present, inverse = np.unique(rows[:, at], return_inverse=True)
        combined = code * len(present) + inverse.reshape(-1)
        code = np.unique(combined, return_inverse=True)[1].reshape(-1)
    first = np.unique(code, return_index=True)[1]
    verdicts = [
        decide(
            {
                identifier(parameter.name): parameter.value(int(rows[row, at]))
                for at, parameter in read
                if rows[row, at] != INACTIVE
            }
        )
        for row in first
    ]
    return np.array(verdicts, dtype=np.bool_)[code]
