"""Bounds, and how they fared, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_autotune.scoring.metrics import NOTHING, ONE_PIECE, ONE_PIECE_CAUSE, Metrics
from pytest_autotune.scoring.slo import Bound, BoundResult, Severity
from pytest_autotune.text.numbers import number, quantity
from pytest_autotune.text.printable import printable
from pytest_autotune.text.suggest import did_you_mean, few
from pytest_autotune.text.tables import table

_VERDICTS: Final[Mapping[Severity, str]] = {
    Severity.MET: "met",
    Severity.MINOR: "missed, minor",
    Severity.SEVERE: "missed, severe",
    Severity.HARD: "BROKEN",
}


def limit(bound: Bound) -> str:
    """Return the limit of a bound, such as ``≤ 200 ms``."""
    return f"{'≤' if bound.upper else '≥'} {quantity(bound.metrics[0], bound.threshold)}"


def failing_point(bound: Bound) -> str:
    """Return where a hard bound fails, such as ``fails above 300 ms``, if that is not its limit."""
    if not bound.hard or bound.fail_ratio <= 0:
        return ""
    metric, slack = bound.metrics[0], bound.fail_ratio * abs(bound.threshold)
    if bound.upper:
        return f"fails above {quantity(metric, bound.threshold + slack)}"
    return f"fails below {quantity(metric, bound.threshold - slack)}"


def limits(bound: Bound) -> str:
    """Return the limit of a bound and where it fails: ``≤ 200 ms, fails above 300 ms``."""
    return ", ".join(filter(None, (limit(bound), failing_point(bound))))


def tolerated(results: Sequence[BoundResult]) -> list[str]:
    """Return in words every hard bound that was missed without failing.

    Such as ``ttft p99 250 ms, limit ≤ 200 ms, fails above 300 ms``.
    """
    return [f"{_missed(result)}, limit {limits(result.bound)}" for result in _tolerated(results)]


def penalized_by(penalty: float, results: Sequence[BoundResult]) -> str:
    """Return the factor of a penalty, and the hard bounds that were missed without failing."""
    missed = [
        f"{_missed(result)} {'>' if result.bound.upper else '<'} "
        f"{quantity(result.bound.metrics[0], result.bound.threshold)}"
        for result in _tolerated(results)
    ]
    return f"penalized ×{number(1 + penalty)}" + (f": {', '.join(missed)}" if missed else "")


def _tolerated(results: Sequence[BoundResult]) -> list[BoundResult]:
    missed = {Severity.MINOR, Severity.SEVERE}
    return [r for r in results if failing_point(r.bound) and r.severity in missed]


def _missed(result: BoundResult) -> str:
    return f"{_label(result)} {quantity(result.bound.metrics[0], result.actual)}"


def slo_table(results: Sequence[BoundResult]) -> str:
    """Return a table with limits, actual value, margin and verdict of each bound."""
    points = [failing_point(result.bound) for result in results]
    # The limits stand below each other, whether or not the point where it fails follows.
    width = max((len(point) + 2 for point in points if point), default=0)
    return table(
        ("SLO", "limit", "actual", "margin", ""),
        [
            (
                _label(result),
                limit(result.bound) + (f", {point}" if point else "").ljust(width),
                quantity(result.bound.metrics[0], result.actual),
                "-" if result.actual is None else _percent(-result.ratio),
                _verdict(result),
            )
            for result, point in zip(results, points, strict=True)
        ],
    )


def _label(result: BoundResult) -> str:
    return result.bound.label + (f" @ {result.place}" if result.place else "")


def _verdict(result: BoundResult) -> str:
    if result.severity is Severity.MISSING:
        return f"BROKEN: {result.problem or 'not reported'}"
    said = _VERDICTS[result.severity]
    tolerates = failing_point(result.bound) and result.penalty > 0
    return f"{said}: penalized, not failed" if tolerates else said


def unjudged(result: BoundResult, metrics: Metrics | None = None) -> str:
    """Return why a bound's metric cannot be judged, and with ``metrics`` what was reported."""
    label, problem = printable(result.bound.label), result.problem or "not reported"
    where = "" if result.case is None else f" in case {result.case}"
    if problem == ONE_PIECE:
        return f"{problem}{where} ({ONE_PIECE_CAUSE}), so {label} is not known"
    if problem != "not reported":
        return f"{label} was {problem}{where}"
    if metrics is None or where:
        return f"{label} was not reported{where}"
    if not metrics:
        return f"{label} was not reported; reported: {NOTHING}"
    # The label is as the user wrote it: a latency is looked up under a longer name.
    words = (*result.bound.metrics, result.bound.label)
    hint = next(filter(None, (did_you_mean(word, metrics) for word in words)), "")
    reported = few(metrics, result.bound.metrics[0])
    return f"{label} was not reported{hint}; reported: {reported}"


def _percent(share: float) -> str:
    share += 0.0  # turns -0.0 into 0.0
    return f"{100 * share:+.1f} %" if abs(share) < 100 else f"{100 * share:+.1e} %"  # noqa: PLR2004
