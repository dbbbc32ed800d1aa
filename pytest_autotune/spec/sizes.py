"""How large a spec may be, so that reading one takes seconds at most.

A spec of a hundred parameters has a thousand values. Far more is a mistake or an attack, and is
refused before time and memory go into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Bytes of a file.
MAX_BYTES: Final = 1_000_000
#: Keys and values of a document, those that aliases repeat included.
MAX_VALUES: Final = 100_000
#: Characters of a text.
MAX_TEXT: Final = 100_000


def too_large(document: object) -> str:
    """Return what of a document is too much, empty where nothing is.

    Objects that appear in several places count in each, as they are written out there.
    """
    count = 0
    stack = [iter((document,))]
    while stack:
        value = next(stack[-1], stack)
        if value is stack:
            stack.pop()
            continue
        count += 1
        if count > MAX_VALUES:
            return f"there are more than {MAX_VALUES} keys and values"
        if isinstance(value, str) and len(value) > MAX_TEXT:
            return f"a text has more than {MAX_TEXT} characters"
        if isinstance(value, Mapping):
            stack += [iter(value.values()), iter(value)]
        elif isinstance(value, list | tuple | range):
            stack.append(iter(value))
    return ""
