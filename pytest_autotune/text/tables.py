"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_autotune.text.printable import printable


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out columns: the first to the left, the others to the right."""
    cells_of = [list(map(printable, row)) for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells_of) for column in range(len(header))]
    lines = []
    for row in cells_of:
        cells = [
            cell.ljust(width) if column in (0, len(header) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
