"""A recording as it stands in its file: a header, and rows of texts."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from pytest_autotune.errors import ExpressionError, RecordingError
from pytest_autotune.replay.cells import read_cell
from pytest_autotune.space.expressions import Expression, identifier
from pytest_autotune.system.files import read_regular
from pytest_autotune.text.suggest import nearest

#: The number of values or columns that a message lists.
_MAX_SHOWN: Final = 6
#: As a table in memory it takes ten times as much.
_MAX_BYTES: Final = 32_000_000
_MAX_COLUMNS: Final = 10_000
#: A column with a longer name is no table's.
_MAX_NAME: Final = 1_000
_NAME: Final = re.compile(r"[^\W\d][\w .%/()\[\]-]{0,63}")


@dataclass(frozen=True, slots=True)
class Content:
    """A table of texts; ``lines`` tells for each row where in the file it ends."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]

    @classmethod
    def read(cls, path: Path) -> tuple[Content, str]:
        """Return the table in a file and a digest of it; raise :class:`RecordingError`."""
        text = _text(path)
        return _parse(text), hashlib.sha256(text.encode()).hexdigest()

    def problems(self) -> Iterator[str]:
        """Yield its mistakes."""
        if not self.header:
            yield "is empty: a header with the names of the columns is expected"
        if len(self.header) > _MAX_COLUMNS:
            yield f"has {len(self.header)} columns, which is more than {_MAX_COLUMNS}"
        names: set[str] = set()
        for at, name in enumerate(self.header):
            if not name:
                yield f"column {at + 1} has no name"
            elif len(name) > _MAX_NAME:
                yield f"column {at + 1} has a name of {len(name)} characters: is it a table?"
            elif name in names:
                yield f"two columns are called {name!r}"
            names.add(name)
        for row, line in zip(self.rows, self.lines, strict=True):
            if len(row) != len(self.header):
                yield f"line {line} has {len(row)} cells, the header {len(self.header)}"
        if not self.rows:
            yield "has no rows"

    def selected(self, where: str) -> Content:
        """Return the rows that ``where`` holds for; raise :class:`RecordingError`."""
        try:
            kept = list(self._meeting(Expression.parse(where)))
        except ExpressionError as error:
            raise RecordingError(f"where: {error}") from None
        rows = [self.rows[at] for at in kept]
        return Content(self.header, rows, [self.lines[at] for at in kept])

    def _meeting(self, expression: Expression) -> Iterator[int]:
        names = [identifier(name) for name in self.header]
        for name in sorted(expression.names):
            if name not in names:
                raise RecordingError(f"where: {no_column(name, names)}")
        read = {name: names.index(name) for name in sorted(expression.names)}
        verdicts: dict[tuple[str, ...], bool] = {}
        for position, row in enumerate(self.rows):
            key = tuple(row[at] for at in read.values())
            if key not in verdicts:
                scope = {name: read_cell(cell) for name, cell in zip(read, key, strict=True)}
                verdicts[key] = expression(scope)
            if verdicts[key]:
                yield position
        if not any(verdicts.values()):
            values = "; ".join(
                f"{name} is {some([row[at] for row in self.rows])}" for name, at in read.items()
            )
            raise RecordingError(
                f"none of its {len(self.rows)} rows meets where: {expression.source} ({values})"
            )


def _text(path: Path) -> str:
    """Return the content of a file; raise :class:`RecordingError`."""
    try:
        content = read_regular(path, _MAX_BYTES)
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise RecordingError(f"is larger than {_MAX_BYTES / 1e6:g} MB, decompressed")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        problem = "no such file"
    except UnicodeDecodeError as error:
        problem = f"is not a text in UTF-8: {error}"
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"cannot be decompressed: {error}"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
    raise RecordingError(problem)


def _parse(text: str) -> Content:
    """Read CSV with a header; raise :class:`RecordingError`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        header = tuple(next(reader, ()))
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise RecordingError(f"line {reader.line_num}: not valid CSV: {error}") from None
    content = Content(header, rows, lines)
    problem = next(content.problems(), None)
    if problem is not None:
        raise RecordingError(problem)
    return content


def no_column(name: str, columns: Sequence[str], what: str = "") -> str:
    """Return a message about a column ``name`` that is not there, of ``what``.

    The columns are listed only where they look like some. Else the first line may be anything, such
    as a secret, and the message is printed in public.
    """
    text = f"no column {what}{name!r}"
    if len(columns) > 1 and all(map(_NAME.fullmatch, columns)):
        return f"{text}{nearest(name, columns)}"
    return f"{text}; its first line does not look like a header with the names of several columns"


def is_numeric(cells: Sequence[str]) -> bool:
    """Return whether a column holds numbers and empty cells only, and some number."""
    filled = list(filter(None, set(cells)))
    if any("\0" in cell for cell in filled):
        return False  # NumPy would not see it.
    try:
        # Many times faster than one by one.
        np.array(filled, dtype=np.str_).astype(np.float64)
    except ValueError:
        return False
    return bool(filled)


def some(cells: Sequence[str]) -> str:
    """Return the first distinct cells in a few words."""
    found = list(dict.fromkeys(cell or "empty" for cell in cells))
    return ", ".join(found[:_MAX_SHOWN]) + (", …" if len(found) > _MAX_SHOWN else "")
