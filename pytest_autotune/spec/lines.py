"""The lines of JSON and TOML documents, whose parsers of the standard library tell none."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from json import JSONDecoder
from typing import Any, Final

from pytest_autotune.system.toml import parse_toml
from pytest_autotune.text.places import Place, Places, SyntaxProblem, json_pointer

_SPACE: Final = re.compile(r"\s*")
#: So many characters are parsed again, at most, to find where statements end.
_MAX_PARSED: Final = 3_000_000
#: One of them is in the last line of a TOML statement of several lines.
_ENDS: Final = ("]", "}", '"""', "'''")
_DECODER: Final = JSONDecoder()


def json_places(text: str) -> Places:
    """Return the place of every value of a JSON document, of a key where it has one.

    Raises :class:`SyntaxProblem` for a key that appears twice. All else must be valid.
    """
    scanner = _Json(text)
    scanner.value(scanner.skip(0), "")
    return scanner.places


@dataclass(slots=True)
class _Json:
    """Walks through valid JSON, from one value to the next."""

    text: str
    places: dict[str, Place] = field(default_factory=dict)
    _starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Find the lines."""
        self._starts = [0, *(match.end() for match in re.finditer("\n", self.text))]

    def skip(self, index: int) -> int:
        """Return the index of what follows white space."""
        match = _SPACE.match(self.text, index)
        assert match is not None
        return match.end()

    def value(self, index: int, pointer: str) -> int:
        """Note the places of a value; return the index of what follows it."""
        self.places.setdefault(pointer, self._place(index))
        if self.text[index] == "{":
            return self._entries(index, pointer, "}")
        if self.text[index] == "[":
            return self._entries(index, pointer, "]")
        return _DECODER.raw_decode(self.text, index)[1]

    def _entries(self, index: int, pointer: str, end: str) -> int:
        index, number = self.skip(index + 1), 0
        while self.text[index] != end:
            key: str | int = number
            start = index
            if end == "}":
                key, index = _DECODER.raw_decode(self.text, index)
                index = self.skip(self.skip(index) + 1)  # over the colon
            inner = pointer + json_pointer(key)
            place = self._place(start)
            if inner in self.places:
                first = self.places[inner].line
                raise SyntaxProblem(f"key {key!r} appears twice, first in line {first}", place)
            self.places[inner] = place
            index, number = self.skip(self.value(index, inner)), number + 1
            if self.text[index] == ",":
                index = self.skip(index + 1)
        return index + 1

    def _place(self, index: int) -> Place:
        line = bisect_right(self._starts, index)
        return Place(line, index - self._starts[line - 1] + 1)


def toml_places(text: str) -> Places:
    """Return the line of every value of a valid TOML document: where its statement begins.

    A statement ends with a line, or with a later one if the line alone is not valid. Where there
    are too many lines to try, the values behind them have no place.
    """
    places: dict[str, Place] = {}
    tables: Counter[str] = Counter()
    current = ""
    for line, content, is_header in _statements(text):
        if is_header:
            current = _header(content, tables)
            parts = current.split("/")
            for end in range(2, len(parts) + 1):
                places.setdefault("/".join(parts[:end]), Place(line))
            continue
        for pointer in _pointers(content, current):
            places.setdefault(pointer, Place(line))
    return places


def _statements(text: str) -> Iterator[tuple[int, Mapping[str, Any], bool]]:
    """Yield line and content of every statement, and whether it is the header of a table."""
    begun, first, parsed = "", 1, 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not begun:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            first = number
        goes_on = bool(begun)
        begun += f"{line}\n"
        if goes_on and not any(end in line for end in _ENDS):
            continue
        parsed += len(begun)
        if parsed > _MAX_PARSED:
            return
        try:
            content = parse_toml(begun)
        except ValueError:
            continue
        yield first, content, begun.lstrip().startswith("[")
        begun = ""


def _header(content: Mapping[str, Any], tables: Counter[str]) -> str:
    """Return the pointer of the table that a header begins, after counting it."""
    pointer, value = "", content
    while value:
        ((name, inner),) = value.items()
        pointer += json_pointer(name)
        if isinstance(inner, list):
            pointer_of_list, inner = pointer, inner[0]
            pointer += json_pointer(tables[pointer_of_list])
            tables[pointer_of_list] += 1
        elif pointer in tables:
            # A table within the last one of a list.
            pointer += json_pointer(tables[pointer] - 1)
        value = inner
    return pointer


def _pointers(value: object, pointer: str) -> Iterator[str]:
    inner = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in inner:
        yield pointer + json_pointer(key)
        yield from _pointers(item, pointer + json_pointer(key))
