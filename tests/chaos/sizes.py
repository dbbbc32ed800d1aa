"""How much of the campaign runs: its short form, or a share of the long one.

``AUTOTUNE_CHAOS`` is that share: 1 is the long form, 0.1 a tenth of it, and 0, which is what holds
without it, the short form.
"""

from __future__ import annotations

import os
from typing import Final

_VARIABLE: Final = "AUTOTUNE_CHAOS"


def share() -> float:
    """Return the share of the long form that runs, 0 for the short form."""
    text = os.environ.get(_VARIABLE) or "0"
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise ValueError(f"{_VARIABLE} is {text!r}; it is a share of the long form, from 0 to 1")
    return found


def size(short: int, long: int) -> int:
    """Return how often to repeat what is repeated ``short`` times, or ``long`` in the long form."""
    return max(short, round(share() * long))


LONG: Final = share() > 0
