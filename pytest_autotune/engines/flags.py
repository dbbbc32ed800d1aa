"""Parameters as the command line arguments that inference engines take. Never a shell."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pytest_autotune.engines.presets import FalseStyle, FlagStyle, ListStyle

#: ``{name}``; other braces are text, as in JSON, and ``${NAME}`` is the environment's.
PLACEHOLDER: Final = re.compile(r"(?<!\$)\{([A-Za-z_][A-Za-z0-9_.-]*)\}")


def text_of(value: Any) -> str:
    """Return a value as an argument's text: strings as they are, others as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def flag_name(name: str, style: FlagStyle) -> str:
    """Return ``--name``, or ``-n`` of a single letter."""
    if style == "dashes":
        name = name.replace("_", "-")
    elif style == "underscores":
        name = name.replace("-", "_")
    return f"-{name}" if len(name) == 1 else f"--{name}"


def arguments(  # noqa: PLR0913 - a value, and how the engine wants it written
    name: str,
    value: Any,
    *,
    style: FlagStyle = "as_given",
    false: FalseStyle = "omit",
    lists: ListStyle = "spaces",
    flag: str | None = None,
) -> list[str]:
    """Return the arguments that set ``name`` to ``value``; ``flag`` is its spelling if known.

    ``true`` is a bare flag; ``false`` is left out (or ``--no-name``); ``null`` and an empty
    list are left out; a mapping is JSON.
    """
    spelled = flag or flag_name(name, style)
    if value is None or (isinstance(value, list | tuple) and not value):
        return []
    if value is True:
        return [spelled]
    if value is False:
        return [] if false == "omit" else [f"--no-{spelled.lstrip('-')}"]
    if not isinstance(value, list | tuple):
        return [spelled, text_of(value)]
    items = [text_of(item) for item in value]
    if lists == "spaces":
        return [spelled, *items]
    if lists == "repeat":
        return [token for item in items for token in (spelled, item)]
    return [spelled, ",".join(items) if lists == "commas" else json.dumps(list(value))]


def placeholders(texts: Iterator[str] | Sequence[str]) -> frozenset[str]:
    """Return the names of all placeholders in ``texts``."""
    return frozenset(name for text in texts for name in PLACEHOLDER.findall(text))


def fill(text: str, values: Mapping[str, Any]) -> str:
    """Replace every placeholder; raise KeyError with the name of one that has no value."""
    return PLACEHOLDER.sub(lambda match: text_of(values[match[1]]), text)
