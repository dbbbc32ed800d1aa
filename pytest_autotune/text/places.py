"""Places in a file of the user, for error messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pytest_autotune.errors import SpecError, UserError

Written = TypeVar("Written")
Parsed = TypeVar("Parsed")


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
    relative paths in the spec start from ``folder``.
    """

    file: str
    pointer: str = ""
    folder: str = "."

    def at(self, *parts: str | int) -> str:
        """Return ``file: /json/pointer`` of a value inside the spec."""
        return f"{self.file}: {self.pointer + json_pointer(*parts) or '/'}"
