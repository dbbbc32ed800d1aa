"""The measurements of a study that something disturbed, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from pytest_autotune.scoring.records import TrialRecord

_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")
#: So many kinds of disturbance are named.
_FEW: Final = 3


def disturbed_line(record: TrialRecord) -> str:
    """Return ``disturbed: other processes used 1.5 of 2 CPUs``, empty where nothing did."""
    kinds = _kinds([record])
    return f"disturbed: {'; '.join(kinds)}" if kinds else ""


def disturbed_count(records: Iterable[TrialRecord]) -> str:
    """Return ``12 of 15 measurements were disturbed: …``, empty where none was."""
    measured = [record for record in records if _is_measured(record)]
    disturbed = [record for record in measured if record.measurement.disturbances]
    if not disturbed:
        return ""
    many = f"measurement{'s' * (len(measured) > 1)} {'was' if len(disturbed) == 1 else 'were'}"
    kinds = _kinds(disturbed)
    more = f"; and {len(kinds) - _FEW} other reasons" if len(kinds) > _FEW else ""
    return f"{len(disturbed)} of {len(measured)} {many} disturbed: {'; '.join(kinds[:_FEW])}{more}"


def _is_measured(record: TrialRecord) -> bool:
    found = record.measurement
    return record.finished and bool(found.metrics or found.levels or found.disturbances)


def _kinds(records: Sequence[TrialRecord]) -> list[str]:
    """Return disturbances that differ in more than figures, each where its figure is largest.

    The most frequent come first.
    """
    found: dict[str, list[str]] = {}
    for record in records:
        for text in record.measurement.disturbances:
            found.setdefault(_NUMBER.sub("#", text), []).append(text)
    return [max(texts, key=_figure) for texts in sorted(found.values(), key=len, reverse=True)]


def _figure(text: str) -> float:
    number = _NUMBER.search(text)
    return float(number[0]) if number else 0.0
