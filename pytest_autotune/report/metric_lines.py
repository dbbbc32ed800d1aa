"""Metrics as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pytest_autotune.scoring.metrics import Metrics, split_name
from pytest_autotune.text.numbers import quantity

#: So many statistics of one thing are read in a row with everything else.
_FEW: Final = 3


def metric_lines(metrics: Metrics) -> Iterator[str]:
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
