"""Values that a file takes from the environment."""

from __future__ import annotations

import os
import re
from typing import Final

from pytest_autotune.errors import SpecError

_HOST_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def host_variables(text: str) -> list[str]:
    """Return the names of the variables that ``text`` takes from the environment."""
    return _HOST_VARIABLE.findall(text)


def expand_host_variables(text: str, where: str) -> str:
    """Replace ``${NAME}`` by the environment's; raise :class:`SpecError` if it is not set."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise SpecError(
                f"{where}: the environment has no variable {match[1]}; set it, or drop it here"
            )
        return found

    return _HOST_VARIABLE.sub(value, text)


def expand_api_key(text: str, where: str) -> str:
    """Return the API key that ``text`` says; raise :class:`SpecError` if it fits in no header."""
    key = expand_host_variables(text, where)
    if not (key.strip() and key.isascii() and key.isprintable()):
        raise SpecError(
            f"{where}: an API key is one line of ASCII characters, and this one is not; check the "
            "variable for a line break at its end"
        )
    return key
