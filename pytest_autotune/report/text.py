"""Numbers, parameters and tables as short plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pytest_autotune.scoring.metrics import split_name
from pytest_autotune.scoring.slo import Compliance, Severity
from pytest_autotune.text.numbers import quantity
from pytest_autotune.text.tables import table

#: So many statistics of one thing are read in a row with everything else.
_FEW: Final = 3
_VERDICTS: Final[Mapping[str, str]] = {
    Severity.MET.value: "met",
    Severity.MINOR.value: "missed, minor",
    Severity.SEVERE.value: "missed, severe",
    Severity.HARD.value: "BROKEN",
    Severity.MISSING.value: "BROKEN: not reported",
}


def metric_lines(metrics: Mapping[str, float | None]) -> Iterator[str]:
    """Yield metrics with their values, many statistics of one thing on a line of their own."""
    things: dict[str, dict[str, str]] = {}
    for name in metrics:
        statistic, thing = split_name(name)
        if statistic:
            things.setdefault(thing, {})[name] = statistic
    many = {thing: names for thing, names in things.items() if len(names) > _FEW}
    for thing, names in many.items():
        shown = (f"{statistic} {quantity(n, metrics[n])}" for n, statistic in names.items())
        yield f"{thing}: {', '.join(shown)}"
    rest = [
        f"{name} {quantity(name, value)}"
        for name, value in metrics.items()
        if split_name(name)[1] not in many or not split_name(name)[0]
    ]
    if rest:
        yield ", ".join(rest)


def compliance_rows(compliance: Compliance) -> list[dict[str, Any]]:
    """Return one plain mapping per bound, as stored with a trial."""
    return [
        {
            "label": result.bound.label,
            "metric": result.bound.metrics[0],
            "threshold": result.bound.threshold,
            "upper": result.bound.upper,
            "actual": result.actual,
            "ratio": result.ratio,
            "severity": result.severity.value,
            "penalty": result.penalty,
            "level": result.level,
        }
        for result in compliance.results
    ]


def slo_rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out stored SLO results: limit, actual value, margin and verdict per bound."""
    return table(
        ("SLO", "limit", "actual", "margin", ""),
        [
            (
                row["label"] + (f" @ {row['level']}" if row["level"] is not None else ""),
                ("≤ " if row["upper"] else "≥ ") + quantity(row["metric"], row["threshold"]),
                quantity(row["metric"], row["actual"]),
                "-" if row["actual"] is None else f"{_percent(-row['ratio'])}",
                _VERDICTS[row["severity"]],
            )
            for row in rows
        ],
    )


def _percent(share: float) -> str:
    share += 0.0  # turns -0.0 into 0.0
    return f"{100 * share:+.1f} %" if abs(share) < 100 else f"{100 * share:+.1e} %"  # noqa: PLR2004


def slo_table(compliance: Compliance) -> str:
    """Lay out how every bound fared."""
    return slo_rows_table(compliance_rows(compliance))
