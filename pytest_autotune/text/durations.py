"""Lengths of time, as people write and read them."""

from __future__ import annotations

import math
import re
import sys
from typing import Final

from pytest_autotune.errors import OptionError

#: Thirty years: what the clocks and timers of every system can count.
_MAX_SECONDS: Final = 1e9


def _pattern(number: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?:({number})h)?(?:({number})m)?"
        # A number without a unit is seconds, and ends a duration.
        rf"(?:({number})|(?:({number})s)?(?:({number})ms)?(?:({number})[uµμ]s)?(?:({number})ns)?)"
    )


_DURATION: Final = _pattern(r"\d+(?:\.\d+)?")
#: Bounds are often computed, and printed by some language.
_TIME: Final = _pattern(r"(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?")
#: Seconds of a unit, and units of a second where they are shorter: 200ms is 0.2 exactly.
_LONG: Final = (3600, 60, 1, 1, 1, 1, 1)
_SHORT: Final = (1, 1, 1, 1, 1_000, 1_000_000, 1_000_000_000)
#: Units as a spec may write them, and the beginnings of their longer names.
_UNITS: Final = ("h", "m", "s", "ms", "us", "µs", "ns")
_LONGER: Final = {
    "h": "h", "min": "m", "sec": "s", "mil": "ms", "mse": "ms", "mic": "us", "use": "us",
    "nan": "ns", "nse": "ns",
}  # fmt: skip
_KNOWN: Final = ", ".join(_UNITS)
_ONE: Final = re.compile(r"[\d.]+([^\d.]*)")


def parse_duration(text: str | float) -> float:
    """Return seconds for ``90``, ``"90s"``, ``"30m"``, ``"2h"``, ``"1h30m"`` or ``"200ms"``.

    Raises :class:`OptionError` unless it is a positive, finite duration.
    """
    if isinstance(text, int | float):
        seconds = float(text) if abs(text) <= sys.float_info.max else math.inf
    else:
        found = _seconds(text, _DURATION)
        if found is None:
            raise OptionError(
                f"{text!r} is not a duration; write for example 90s, 30m, 2h or 1h30m"
            )
        seconds = found
    if not math.isfinite(seconds) or seconds <= 0:
        raise OptionError(f"{text!r} is not a positive duration")
    if seconds >= _MAX_SECONDS:
        raise OptionError(f"{text!r} is too long a time; the longest is {_MAX_SECONDS:.0f} s")
    return seconds


def _seconds(text: str, pattern: re.Pattern[str]) -> float | None:
    match = pattern.fullmatch(text.replace(" ", ""))
    if not text.strip() or match is None:
        return None
    parts = zip(match.groups(), _LONG, _SHORT, strict=True)
    return sum(float(part) * long / short for part, long, short in parts if part)


def parse_time(text: str) -> float:
    """Return the seconds of a time with a unit, such as ``200ms``, ``1.5 s`` or ``500us``.

    Raises ValueError with what is wrong and what to write.
    """
    compact = text.replace(" ", "")
    seconds = _seconds(text, _TIME)
    if seconds is not None and compact[-1].isalpha():
        if seconds >= _MAX_SECONDS:
            raise ValueError(f"{text!r} is too long a time")
        return seconds
    if seconds is not None:
        raise ValueError(
            f"{text!r} is text without a unit; write {compact}s, or the number without quotes"
        )
    one = _ONE.fullmatch(compact)
    unit = "" if one is None else one[1]
    if unit == "%":
        raise ValueError(f"{text!r} is not a time; write a share as a number, such as 0.01")
    if not unit or unit in _UNITS:
        raise ValueError(
            f"{text!r} is not a time; write for example 0.2, 200ms or 1.5s; units: {_KNOWN}"
        )
    meant = next((short for begin, short in _LONGER.items() if unit.lower().startswith(begin)), "")
    meant = meant or (unit.lower() if unit.lower() in _UNITS else "")
    hint = f" (did you mean {meant!r}?)" if meant else ""
    raise ValueError(f"{text!r} is not a time: unknown unit {unit!r}{hint}; known: {_KNOWN}")


def duration(seconds: float) -> str:
    """Return a length of time as people write it."""
    if round(seconds, 1) < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
