"""Bounds, and how they fared, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_autotune.scoring.slo import Bound, BoundResult, Severity
from pytest_autotune.text.numbers import quantity
from pytest_autotune.text.tables import table

_VERDICTS: Final[Mapping[Severity, str]] = {
    Severity.MET: "met",
    Severity.MINOR: "missed, minor",
    Severity.SEVERE: "missed, severe",
    Severity.HARD: "BROKEN",
    Severity.MISSING: "BROKEN: not reported",
}


def limit(bound: Bound) -> str:
    """Return the limit of a bound, such as ``≤ 200 ms``."""
    return f"{'≤' if bound.upper else '≥'} {quantity(bound.metrics[0], bound.threshold)}"


def slo_table(results: Sequence[BoundResult]) -> str:
    """Return a table with limit, actual value, margin and verdict of each bound."""
    return table(
        ("SLO", "limit", "actual", "margin", ""),
        [
            (
                result.bound.label + ("" if result.level is None else f" @ {result.level}"),
                limit(result.bound),
                quantity(result.bound.metrics[0], result.actual),
                "-" if result.actual is None else _percent(-result.ratio),
                _VERDICTS[result.severity],
            )
            for result in results
        ],
    )


def _percent(share: float) -> str:
    share += 0.0  # turns -0.0 into 0.0
    return f"{100 * share:+.1f} %" if abs(share) < 100 else f"{100 * share:+.1e} %"  # noqa: PLR2004
