"""Places in a file of the user, for error messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar

from pytest_autotune.errors import SpecError, UserError
from pytest_autotune.text.printable import printable

Written = TypeVar("Written")
Parsed = TypeVar("Parsed")


class Place(NamedTuple):
    """A line of a file and, where it is known, a column; both count from 1."""

    line: int
    column: int | None = None

    def __str__(self) -> str:
        """Return the place as compilers write it."""
        return f"{self.line}" if self.column is None else f"{self.line}:{self.column}"


#: Where the values of a file stand, by JSON pointer.
Places: TypeAlias = Mapping[str, Place]


class SyntaxProblem(ValueError):
    """A file is not what its suffix says; ``place`` is where, if that is known."""

    def __init__(self, problem: str, place: Place | None = None) -> None:
        super().__init__(problem)
        self.place = place


def json_pointer(*parts: str | int) -> str:
    """Return the JSON pointer (RFC 6901) of ``parts``, empty for none."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def parsed(parse: Callable[[Written], Parsed], value: Written, where: str) -> Parsed:
    """Parse ``value``; raise :class:`SpecError` with its place where it cannot be parsed."""
    try:
        return parse(value)
    except (UserError, ValueError) as error:
        raise SpecError(f"{where}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a spec was read, for error messages.

    ``file`` is a path as the user would write it, ``pointer`` the JSON pointer of the spec;
    relative paths in the spec start from ``folder``. ``places`` are those of the whole file.
    """

    file: str
    pointer: str = ""
    folder: str = "."
    places: Places = field(default_factory=dict, compare=False, repr=False)

    def at(self, *parts: str | int) -> str:
        """Return ``file:line:column: /json/pointer`` of a value inside the spec.

        Without the line where that is not known. An absent value is in the block that lacks it.
        """
        pointer = self.pointer + json_pointer(*parts)
        nearest = pointer
        while nearest and nearest not in self.places:
            nearest = nearest.rpartition("/")[0]
        place = self.places.get(nearest)
        at = "" if place is None else f":{place}"
        return f"{printable(self.file)}{at}: {printable(pointer) or '/'}"
