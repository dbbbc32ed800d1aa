"""Suggestions for a misspelt name: the known names that are close to it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Final

from pytest_autotune.text.printable import printable

_SHOWN: Final = 60
#: The number of names that a message lists.
_FEW: Final = 6


def shown(value: object) -> str:
    """Return a short JSON form of ``value`` for a message."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = _python(value)
    text = printable(text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _python(value: object) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):
        # Python writes no number of more than 4300 digits.
        return "too large to be shown"


def nearest(word: str, known: Sequence[str]) -> str:
    """Return the known names for an unknown ``word``, the closest one first."""
    listed = f"; known: {', '.join(map(printable, sorted(known)))}" if known else ""
    return f"{did_you_mean(word, known)}{listed}"


def few(names: Iterable[str], word: str) -> str:
    """Return the names that are nearest to ``word``, and how many there are besides."""
    likeness = difflib.SequenceMatcher(b=word)

    def distance(name: str) -> float:
        likeness.set_seq1(name)
        return -likeness.ratio()

    ordered = sorted(sorted(names), key=distance)
    more = f" and {len(ordered) - _FEW} more" if len(ordered) > _FEW else ""
    return f"{', '.join(map(printable, ordered[:_FEW]))}{more}"


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return `` (did you mean …?)`` where one of ``known`` is close to ``word``, else nothing."""
    known = list(known)
    close = difflib.get_close_matches(str(word), known, n=1)
    # The first word of a name is far from it by its letters.
    close = close or [name for name in known if name.startswith(f"{word}_")]
    return f" (did you mean {close[0]!r}?)" if close else ""
