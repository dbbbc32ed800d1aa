"""Recorded results of trials, as a space to search and as an answer for each of its points.

Pure: neither pytest nor a study is needed.

    recording = Recording.read(Path("recorded.csv.gz"), "system == 'h100_sxm'")
    space = recording.restrict(spec.space)
    measurement = recording.result(example(space))
    judgement = judge(measurement, Question(slo=spec.slo, objective=objective))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pytest_autotune.errors import RecordingError
from pytest_autotune.replay.cells import indices_of, read_cell, read_number, read_text
from pytest_autotune.replay.columns import SEPARATOR, Columns
from pytest_autotune.replay.content import Content, is_numeric, some
from pytest_autotune.replay.cuts import read_cut
from pytest_autotune.scoring.cases import Case
from pytest_autotune.scoring.judgement import Ending, Measurement
from pytest_autotune.scoring.levels import Level, sorted_levels
from pytest_autotune.scoring.metrics import flatten
from pytest_autotune.space.expressions import identifier
from pytest_autotune.space.listing import Listing
from pytest_autotune.space.parameters import OUTSIDE, Point
from pytest_autotune.space.pool import IntArray, Pool
from pytest_autotune.space.space import Space
from pytest_autotune.text.values import label


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The rows that a space takes: ``rows`` of the file by row of its ``pool``."""

    columns: Columns
    pool: Pool
    rows: Mapping[int, Sequence[int]]


class Recording:
    """A file of recorded results, one row per trial, or per case or load level of one.

    ``digest`` stands for its content. ``shown`` is the file as the user would write it.
    """

    def __init__(
        self, content: Content, *, shown: str, digest: str, where: str | None = None
    ) -> None:
        self.header = content.header
        self.shown = shown
        self.digest = digest
        self.where = where
        self._rows = content.rows
        self._lines = content.lines
        self._table: _Table | None = None

    @classmethod
    def read(cls, path: Path, where: str | None = None, shown: str | None = None) -> Recording:
        """Read a CSV file, compressed where it is named ``.gz``.

        ``where`` selects rows: an expression over the columns, whose names are written as those
        of parameters are. Raises :class:`RecordingError`.
        """
        shown = shown or path.name
        try:
            content, digest = Content.read(path)
            if where is not None:
                content = content.selected(where)
        except RecordingError as error:
            raise RecordingError(f"{shown}: {error}") from None
        return cls(content, shown=shown, digest=digest, where=where)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    @property
    def fitting(self) -> int:
        """The number of rows that belong to points of the space it was restricted to."""
        assert self._table is not None, "restrict() comes first"
        return sum(map(len, self._table.rows.values()))

    def restrict(self, space: Space) -> Space:
        """Return ``space`` with no other points than the recorded ones.

        Rows outside of it are left out. Raises :class:`RecordingError` where a parameter has no
        column, nothing is left, or a point was recorded twice.
        """
        try:
            columns = Columns.of(self.header, self._numeric, space.names)
        except RecordingError as error:
            self._fail(str(error))
        cells = [self._cells[at] for at in columns.parameters]
        parameters = tuple(
            parameter.recorded(n for n in map(read_number, set(column)) if n is not None)
            for parameter, column in zip(space.parameters, cells, strict=True)
        )
        indices = [
            indices_of(parameter, column)
            for parameter, column in zip(parameters, cells, strict=True)
        ]
        digits = np.array(indices, dtype=np.int64).reshape(len(parameters), len(self)).T
        fits = np.flatnonzero((digits != OUTSIDE).all(axis=1))
        if not len(fits):
            self._fail(self._why_none_fits(space, digits, cells))
        listing = Listing(parameters, np.ascontiguousarray(digits[fits]))
        restricted = replace(space, parameters=parameters, listed=listing)
        pool = restricted.pool
        assert pool is not None, "what is listed can be enumerated"
        if not len(pool):
            self._fail(_why_all_break(restricted, len(fits)))
        self._table = _Table(columns=columns, pool=pool, rows=_grouped(digits, fits, pool))
        self._check()
        return restricted

    def result(self, point: Point) -> Measurement:
        """Return the recorded result of a ``point`` of the restricted space.

        Raises :class:`RecordingError` where it is none.
        """
        found, columns = self._found(point)
        failed = [cells for cells in found if not _valid(_cell(cells, columns.endings, "valid"))]
        durations = [read_number(_cell(cells, columns.endings, "duration")) for cells in found]
        finite = (seconds for seconds in durations if seconds is not None and seconds < math.inf)
        duration = max(finite, default=None)
        if failed:
            error = read_text(_cell(failed[0], columns.endings, "error"))
            reason = f"recorded as failed: {error or 'no reason given'}"
            return Measurement(ending=Ending.FAILED, reason=reason, duration=duration)
        cases: dict[str, list[Sequence[str]]] = {"": []}
        disturbances: dict[str, None] = {}
        for cells in found:
            cases.setdefault(_case(cells, columns), []).append(cells)
            said = read_text(_cell(cells, columns.endings, "disturbed"))
            disturbances |= dict.fromkeys(filter(None, said.split(SEPARATOR)))
        outside, *others = (_reported(name, rows, columns) for name, rows in cases.items())
        return Measurement(
            metrics=outside.metrics,
            levels=outside.levels,
            cases=tuple(others),
            disturbances=tuple(disturbances),
            duration=duration,
            **read_cut(self.cut(point)),
        )

    def cut(self, point: Point) -> str:
        """Return the cell on what an SLO cut off a ``point``, empty where it was measured whole."""
        found, columns = self._found(point)
        cells = (read_text(_cell(cells, columns.endings, "cut_short")) for cells in found)
        return next(filter(None, cells), "")

    def _found(self, point: Point) -> tuple[list[Sequence[str]], Columns]:
        """Return the rows of a point, and the columns of the file."""
        assert self._table is not None, "restrict() comes first"
        row = self._table.pool.row(point)
        if row is None:
            self._fail(f"nothing was recorded for {label(dict(point))}")
        return [self._rows[at] for at in self._table.rows[row]], self._table.columns

    @cached_property
    def _cells(self) -> Sequence[Sequence[str]]:
        """The cells by column."""
        return list(zip(*self._rows, strict=True))

    @cached_property
    def _numeric(self) -> frozenset[str]:
        """Names of the columns that hold numbers and empty cells only, and some number."""
        return frozenset(
            name for name, cells in zip(self.header, self._cells, strict=True) if is_numeric(cells)
        )

    def _fail(self, problem: str) -> NoReturn:
        raise RecordingError(f"{self.shown}: {problem}")

    def _line(self, row: int) -> str:
        return f"line {self._lines[row]}"

    def _why_none_fits(self, space: Space, digits: IntArray, cells: Sequence[Sequence[str]]) -> str:
        reasons = [
            f"{parameter.name} is {some(column)} there, but {parameter.summary()} in the spec"
            for parameter, row, column in zip(space.parameters, digits.T, cells, strict=True)
            if (row == OUTSIDE).all()
        ]
        selected = "" if self.where is None else f" where {self.where}"
        return f"none of its {len(self)} rows{selected} fits the spec's parameters: " + (
            "; ".join(reasons) or "each has some value that is not in the spec"
        )

    def _check(self) -> None:
        """Refuse mistakes in the rows of each point."""
        assert self._table is not None
        columns = self._table.columns
        places = [*columns.levels.values()]
        if "valid" in columns.endings:
            places.append(columns.endings["valid"])
        checked = set()
        for rows in self._table.rows.values():
            for row in rows:
                cells = self._rows[row]
                said = tuple(cells[at] for at in places)
                if said not in checked:
                    self._check_row(row, columns)
                    checked.add(said)
            if len(rows) > 1:
                self._check_point(rows, columns)

    def _check_row(self, row: int, columns: Columns) -> None:
        cells = self._rows[row]
        valid = _cell(cells, columns.endings, "valid")
        if _valid(valid) is None:
            at = self.header[columns.endings["valid"]]
            self._fail(f"{self._line(row)}: {at} is {valid!r}, neither 1 nor 0")
        try:
            _level(cells, columns)
        except ValueError as error:
            self._fail(f"{self._line(row)}: {error}")

    def _check_point(self, rows: Sequence[int], columns: Columns) -> None:
        seen: dict[Any, int] = {}
        for row in rows:
            level = _level(self._rows[row], columns)
            place = None if level is None else level.identity
            first = seen.setdefault((_case(self._rows[row], columns), place), row)
            if first != row:
                self._fail(self._twice(first, row, columns))

    def _twice(self, first: int, second: int, columns: Columns) -> str:
        differ = [
            name
            for name, one, other in zip(
                self.header, self._rows[first], self._rows[second], strict=True
            )
            if one != other
        ]
        # What tells them apart has few values; what was measured has many.
        kinds = {name: len(set(self._cells[self.header.index(name)])) for name in differ}
        differ.sort(key=lambda name: (name in self._numeric, kinds[name]))
        place = self.header.index(differ[0]) if differ else 0
        point = ", ".join(
            f"{self.header[at]}={self._rows[first][at]}"
            for at in columns.parameters
            if self._rows[first][at]
        )
        text = f"{self._line(first)} and {self._line(second)} are of the same point ({point})"
        if not differ:
            return f"{text}, and equal: keep one of them"
        condition = f"{identifier(differ[0])} == {read_cell(self._rows[first][place])!r}"
        return (
            f"{text} and differ in {some(differ)}: select by the spec's replay.where, such as "
            f'"{condition}", make a parameter of it, or keep one row for each point'
        )


def _grouped(digits: IntArray, fits: IntArray, pool: Pool) -> Mapping[int, Sequence[int]]:
    """Return the rows of each point of ``pool``, of those that fit its parameters."""
    places = {indices.tobytes(): row for row, indices in enumerate(pool.indices)}
    grouped: dict[int, list[int]] = {}
    for row in fits.tolist():
        place = places.get(digits[row].tobytes())
        if place is not None:
            grouped.setdefault(place, []).append(row)
    return grouped


def _why_all_break(space: Space, rows: int) -> str:
    """Return a message about the constraints or conditions that no row meets."""
    assert space.listed is not None
    alone = [
        constraint.source
        for constraint in space.constraints
        if not len(replace(space, constraints=(constraint,)).pool or ())
    ]
    conditions = replace(space, constraints=())
    if not len(conditions.pool or ()):
        return (
            f"none of the {rows} rows that fit the spec's parameters has exactly those that "
            "exist in it: cells are empty for others, and for no others"
        )
    reason = " and ".join(map(repr, alone or [c.source for c in space.constraints]))
    return f"none of the {rows} rows that fit the spec's parameters satisfies {reason}"


def _cell(cells: Sequence[str], places: Mapping[str, int], name: str) -> str:
    return cells[places[name]] if name in places else ""


def _valid(cell: str) -> bool | None:
    """Return whether a trial succeeded, None where the cell does not say so plainly."""
    value = read_cell(cell)
    if value is None:
        return True
    return bool(value) if value in (0, 1) else None


def _level(cells: Sequence[str], columns: Columns) -> Level | None:
    """Return the load level of a row, None where it is of a whole trial; raise ValueError."""
    concurrency = _cell(cells, columns.levels, "concurrency")
    rate = _cell(cells, columns.levels, "request_rate")
    scenario = read_text(_cell(cells, columns.levels, "scenario"))
    if not (concurrency or rate or scenario):
        return None
    if bool(concurrency) == bool(rate):
        both = "both" if rate else "neither"
        raise ValueError(f"a load level has a concurrency or a request_rate, not {both}")
    number = read_number(concurrency or rate)
    if number is None or not 0 < number < math.inf or (concurrency and number != int(number)):
        kind = "concurrency" if concurrency else "request_rate"
        what = "a positive whole number" if concurrency else "a positive number"
        raise ValueError(f"{kind} is {concurrency or rate!r}, not {what}")
    return Level(
        concurrency=int(number) if concurrency else None,
        request_rate=None if concurrency else float(number),
        scenario=scenario or None,
        metrics={},
    )


def _case(cells: Sequence[str], columns: Columns) -> str:
    """Return the case of a row, empty where it is of a whole trial."""
    return "" if columns.case is None else read_text(cells[columns.case])


def _reported(name: str, rows: Sequence[Sequence[str]], columns: Columns) -> Case:
    """Return the results in the rows of one case, or of a whole trial."""
    levels, metrics = [], {}
    for cells in rows:
        level = _level(cells, columns)
        measured = _metrics(cells, columns)
        if level is None:
            metrics = measured
        else:
            failure = read_text(_cell(cells, columns.endings, "request_failure"))
            levels.append(replace(level, metrics=measured, failure=failure))
    return Case(name=name, metrics=metrics, levels=sorted_levels(levels))


def _metrics(cells: Sequence[str], columns: Columns) -> dict[str, float]:
    return flatten({name: float(cells[at]) for name, at in columns.metrics.items() if cells[at]})
