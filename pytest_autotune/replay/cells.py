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

from pytest_autotune.space.space import (
    INACTIVE,
    OUTSIDE,
    Categorical,
    Continuous,
    Listed,
    Parameter,
    index_of,
)

_BOOLEANS: Final[Mapping[str, bool]] = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
#: How far a number may be off the step that it stands for, as a share of the step.
_STEP_TOLERANCE: Final = 1e-6


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
    """Return what a cell reads like, None for an empty one."""
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
        return int(cell)
    except ValueError:
        pass
    try:
        number = float(cell)
    except ValueError:
        return None
    return int(number) if number.is_integer() else number


class Matcher:
    """Finds the index of the value of a parameter that a cell stands for."""

    def __init__(self, parameter: Parameter) -> None:
        self._parameter = parameter
        self._known: dict[str, int] = {}
        self._choices: dict[Any, int] = {}
        if isinstance(parameter, Categorical):
            for index, choice in enumerate(parameter.choices):
                self._choices.setdefault(_identity(choice), index)

    def indices(self, cells: Sequence[str]) -> list[int]:
        """Return an index per cell: ``INACTIVE`` if empty, ``OUTSIDE`` for no value of it."""
        known = self._known
        for cell in set(cells).difference(known):
            known[cell] = self._index(cell) if cell else INACTIVE
        return [known[cell] for cell in cells]

    def _index(self, cell: str) -> int:
        if isinstance(self._parameter, Categorical):
            return self._choice(cell)
        number = read_number(cell)
        return OUTSIDE if number is None else _on_range(self._parameter, number)

    def _choice(self, cell: str) -> int:
        value = read_cell(cell)
        identities = [_identity(value), ("text", cell)]
        if isinstance(value, int | float) and value in (0, 1):
            # As who writes booleans as numbers means it, where there are no such numbers.
            identities.append(_identity(bool(value)))
        return next((self._choices[key] for key in identities if key in self._choices), OUTSIDE)


def _on_range(parameter: Parameter, number: float) -> int:
    if not math.isfinite(number):
        return OUTSIDE
    if isinstance(parameter, Listed):
        return index_of(parameter, number)
    index = index_of(parameter, number)
    if index == OUTSIDE or not isinstance(parameter, Continuous):
        return index
    # A real range takes the nearest step for any number.
    off = abs(parameter.value(index) - number)
    return index if off <= _STEP_TOLERANCE * (parameter.step or 0.0) else OUTSIDE


def _identity(value: Any) -> Any:
    """Return what equal values have in common, whatever they are written as: 1 is 1.0."""
    match value:
        case bool() | None:
            return ("constant", value)
        case int() | float():
            return ("number", value)
        case str():
            return ("text", value)
        case list() | tuple():
            return ("list", tuple(_identity(item) for item in value))
        case Mapping():
            return ("mapping", frozenset((key, _identity(item)) for key, item in value.items()))
    return ("other", repr(value))
