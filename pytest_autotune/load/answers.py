"""The parts of an OpenAI-compatible server's answer, each held against its form.

Functions raise ValueError or TypeError for nonsense.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

#: The line of a chunk's size, or of a trailer.
_MAX_LINE: Final = 4096
_MAX_TOKENS: Final = 10**9
_SHOWN: Final = 60
_TITLE: Final = re.compile(r"<title>([^<]+)</title>", re.IGNORECASE)


def length(text: bytes, base: int) -> int:
    """Return a number of bytes, which is not negative."""
    found = int(text, base)
    if found < 0:
        raise ValueError(f"a length of {found}")
    return found


def line_end(data: bytes, at: int) -> int:
    """Return where the line at ``at`` ends, -1 where it does not yet."""
    end = data.find(b"\r\n", at)
    if (end if end >= 0 else len(data)) - at > _MAX_LINE:
        raise ValueError(f"a line of more than {_MAX_LINE} bytes between chunks")
    return end


def event_document(text: bytes) -> dict[str, Any]:
    """Return an event's JSON object."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        start = text[:_SHOWN].decode("utf-8", "replace")
        raise ValueError(f"an event that is no JSON object: {start}")  # noqa: TRY004 - of the server
    return document


def token_count(value: Any) -> int | None:
    """Return a number of tokens, None for anything else."""
    return value if isinstance(value, int) and 0 <= value <= _MAX_TOKENS else None


def is_text(value: Any) -> bool:
    """Return whether there is any text, in one piece or as a list of parts."""
    if value and not isinstance(value, str | list):
        raise TypeError(f"text of type {type(value).__name__}")
    return bool(value)


def has_output(delta: Any) -> bool:
    """Return whether a chat chunk carries output: text, reasoning or a tool call."""
    return bool(delta) and (
        is_text(delta.get("content"))
        or is_text(delta.get("reasoning_content"))
        or is_text(delta.get("reasoning"))
        or bool(delta.get("tool_calls"))
    )


def said(document: Mapping[str, Any]) -> str:
    """Return the message of an error."""
    error = document.get("error") or document
    message = error.get("message", error) if isinstance(error, Mapping) else error
    return message if isinstance(message, str) else json.dumps(message)


def said_in(body: bytes) -> str:
    """Return the message of a body that is no stream."""
    try:
        document = json.loads(body)
        return said(document) if isinstance(document, Mapping) else str(document)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace").strip()
        # Of a proxy's page the title says it.
        title = _TITLE.search(text) if text.startswith("<") else None
        return text if title is None else title[1].strip()
