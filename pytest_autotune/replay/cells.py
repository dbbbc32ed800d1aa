"""The cells of a recording: values as text, and text as the values that a parameter takes.

Numbers and texts stand as they are, everything else is JSON: ``true``, ``null``, ``[1, 2]``. A
text that reads like one of these, or has control characters, is a JSON string, in double quotes.
An empty cell is no value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pytest_autotune.space.parameters import INACTIVE, Parameter

#: A longer number is beyond what a spec may have, and is read as a real one.
_DIGITS: Final = 20
_BOOLEANS: Final[Mapping[str, bool]] = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


def write_cell(value: Any) -> str:
    """Return ``value``, of JSON's types, as a cell."""
    if isinstance(value, str):
        # A carriage return would end the line for some readers.
        plain = all(char >= " " or char == "\n" for char in value) and read_cell(value) == value
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan"
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def read_cell(cell: str) -> Any:
    """Return the JSON value of a cell, None for an empty one."""
    number = read_number(cell)
    if number is not None:
        return number
    if cell in _BOOLEANS:
        return _BOOLEANS[cell]
    if not cell:
        return None
    if cell[0] in '"[{n':
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def read_text(cell: str) -> str:
    """Return the text that a cell stands for."""
    value = read_cell(cell)
    return value if isinstance(value, str) else cell


def read_number(cell: str) -> float | None:
    """Return the number in a cell, whole ones as an int, None where it is none."""
    if not cell or "_" in cell:
        return None
    try:
        if len(cell) <= _DIGITS:
            return int(cell)
    except ValueError:
        pass
    try:
        number = float(cell)
    except ValueError:
        return None
    return int(number) if number.is_integer() else number


def indices_of(parameter: Parameter, cells: Sequence[str]) -> list[int]:
    """Return an index per cell: ``INACTIVE`` if empty, ``OUTSIDE`` for no value of it."""
    known = {cell: parameter.recognize(read_cell(cell), cell) for cell in set(cells) if cell}
    return [known.get(cell, INACTIVE) for cell in cells]
