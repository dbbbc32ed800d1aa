"""Text of others made harmless to print: names, values, notes, what servers say.

A terminal obeys control characters. A line break in a name forges a line of its own, and an
override of the writing direction shows one text and holds another.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

#: Joiners shape letters and emoji. They neither move the cursor nor change a direction.
_JOINERS: Final = "\u200c\u200d"
#: A command of the terminal for colours only, which servers write into their logs.
_COLOUR: Final = re.compile(r"\x1b\[[0-9;:]*m")


def printable(text: str) -> str:
    r"""Return ``text`` on one line, all that is no visible character as an escape such as ``\n``.

    Among these are control characters, other breaks of lines, overrides of the writing direction,
    and halves of characters, which cannot be encoded.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_lines(text: str) -> str:
    """Return ``text`` with its line breaks, each line printable, tabs as spaces, without colours.

    A carriage return also begins a line, as of a progress bar.
    """
    lines = _COLOUR.sub("", text).splitlines()
    return "\n".join(printable(line.expandtabs()) for line in lines)


def _shown(char: str) -> str:
    if char.isprintable() or char in _JOINERS or unicodedata.category(char) == "Zs":
        return char
    return char.encode("unicode_escape").decode("ascii")
