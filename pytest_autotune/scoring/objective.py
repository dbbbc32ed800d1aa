"""The objective of a study: one metric, one direction, one canonical score.

Inside, lower is always better; the user's sign is restored wherever a value is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pytest_autotune.errors import OptionError
from pytest_autotune.scoring.metrics import Metrics, flatten, lookup
from pytest_autotune.text.suggest import did_you_mean

#: A candidate is given up once it is this much worse than the best so far. The margin allows for
#: a machine that has changed by some per cent since the best was measured.
RACE_MARGIN: Final = 0.05
_NAMED: Final[Mapping[str, tuple[bool, tuple[str, ...]]]] = {
    "minimize_latency": (False, ("mean_e2e_latency", "p50_e2e_latency")),
    "minimize_ttft": (False, ("mean_ttft",)),
    "minimize_tpot": (False, ("mean_tpot",)),
    "maximize_throughput": (
        True,
        (
            "mean_total_throughput_per_gpu",
            "mean_total_throughput",
            "mean_output_throughput",
            "max_total_throughput",
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """An objective: the first of ``metrics`` that a trial reported counts."""

    name: str
    metrics: tuple[str, ...]
    maximize: bool = False

    @classmethod
    def parse(cls, name: str) -> Objective:
        """Parse a named objective or ``minimize:METRIC`` / ``maximize:METRIC``.

        Raises :class:`OptionError` with the known names: a typo must not silently score.
        """
        if name in _NAMED:
            maximize, metrics = _NAMED[name]
            return cls(name=name, metrics=metrics, maximize=maximize)
        direction, colon, metric = name.partition(":")
        metric = metric.strip()
        if colon and metric and direction in {"minimize", "maximize"}:
            # The same names as in trial.report(), so that an alias means the same there.
            (full,) = flatten({metric: 0.0})
            metrics = (full,) if full.startswith("mean_") else (full, f"mean_{full}")
            return cls(name=name, metrics=metrics, maximize=direction == "maximize")
        raise OptionError(
            f"unknown objective {name!r}{did_you_mean(name, _NAMED)}; known: {', '.join(_NAMED)}, "
            "minimize:METRIC and maximize:METRIC"
        )

    def measure(self, metrics: Metrics) -> tuple[str, float] | None:
        """Return the metric that counts and its value, or None where none was reported."""
        return lookup(metrics, self.metrics)

    def score(self, value: float) -> float:
        """Return the canonical score of ``value``, lower is better; its own inverse."""
        return -value if self.maximize else value
