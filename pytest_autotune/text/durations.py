"""Lengths of time, as people write and read them."""

from __future__ import annotations

import math
import re
from typing import Final

from pytest_autotune.errors import OptionError

_MAX_SECONDS: Final = 1e12
_DURATION: Final = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_duration(text: str | float) -> float:
    """Return seconds for ``90``, ``"90s"``, ``"30m"``, ``"2h"`` or ``"1h30m"``.

    Raises :class:`OptionError` unless it is a positive, finite duration.
    """
    if isinstance(text, int | float):
        seconds = float(text) if abs(text) < _MAX_SECONDS else math.inf
    else:
        match = _DURATION.fullmatch(text.replace(" ", ""))
        if not text.strip() or match is None:
            raise OptionError(
                f"{text!r} is not a duration; write for example 90s, 30m, 2h or 1h30m"
            )
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = hours * 3600 + minutes * 60 + rest
    if not math.isfinite(seconds) or seconds <= 0:
        raise OptionError(f"{text!r} is not a positive duration")
    return seconds


def duration(seconds: float) -> str:
    """Return a length of time as people write it."""
    if round(seconds, 1) < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
