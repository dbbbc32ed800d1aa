"""Bounds on times that are off by orders of magnitude: most likely a mistaken unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.scoring.slo import Bound
from pytest_autotune.scoring.wording import limit
from pytest_autotune.text.numbers import is_time, quantity

#: A bound and what was measured differ by this factor in every trial.
_FACTOR: Final = 100.0
_STEP: Final = 1000.0
_UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def magnitude_notes(records: Sequence[TrialRecord]) -> list[str]:
    """Return a note for each bound on a time that no trial came near by a factor of 100.

    A bound that some trial came nearer to is no mistake, however hopeless others were.
    """
    found: dict[tuple[str, bool], tuple[Bound, list[float]]] = {}
    for record in records:
        for result in record.bounds:
            bound = result.bound
            if result.actual is not None and is_time(bound.metrics[0]) and bound.threshold > 0:
                found.setdefault((bound.label, bound.upper), (bound, []))[1].append(result.actual)
    return [_note(bound, actual) for bound, actual in found.values() if _is_far(bound, actual)]


def _is_far(bound: Bound, actual: Iterable[float]) -> bool:
    shares = [value / bound.threshold for value in actual]
    return all(share >= _FACTOR for share in shares) or all(
        0 < share <= 1 / _FACTOR for share in shares
    )


def _note(bound: Bound, actual: Sequence[float]) -> str:
    metric, low, high = bound.metrics[0], min(actual), max(actual)
    shown = dict.fromkeys((quantity(metric, low), quantity(metric, high)))
    measured = " to ".join(shown)
    # The threshold with another unit, such as seconds for milliseconds: the nearest one.
    middle = math.sqrt(low) * math.sqrt(high)
    steps = round(math.log(middle / bound.threshold, _STEP)) or (1 if low > bound.threshold else -1)
    meant = _with_unit(bound.threshold * _STEP**steps)
    return f"SLO {bound.label} {limit(bound)}, measured {measured}: did you mean {meant}?"


def _with_unit(seconds: float) -> str:
    """Return a time as a spec writes it, such as ``200ms``."""
    scale, unit = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    return f"{seconds / scale:.4g}{unit}"
