"""Load levels of a server, and the metrics measured at each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_autotune.scoring.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One load level of a trial and its flat metrics.

    The level is a ``concurrency`` (closed loop) or a ``request_rate`` in requests/s (open
    loop), with a traffic ``scenario`` where there is more than one.
    """

    concurrency: int | None = None
    request_rate: float | None = None
    scenario: str | None = None
    metrics: Metrics

    @property
    def load(self) -> float:
        """The load in its own unit."""
        return float(self.concurrency or self.request_rate or 0.0)

    @property
    def label(self) -> str:
        """The level as people write it: ``8``, ``2.5/s``, ``8 D(100,100)``."""
        load = str(self.concurrency) if self.request_rate is None else f"{self.request_rate:g}/s"
        return load if self.scenario is None else f"{load} {self.scenario}"

    @property
    def identity(self) -> tuple[str | int | float | None, ...]:
        """The identity of the level among those of a trial."""
        return (self.concurrency, self.request_rate, self.scenario)

    def document(self) -> dict[str, Any]:
        """Return its identity as plain JSON types."""
        found = {
            "concurrency": self.concurrency,
            "request_rate": self.request_rate,
            "scenario": self.scenario,
        }
        return {name: value for name, value in found.items() if value is not None}


def max_compliant(levels: Sequence[Level], compliant: Sequence[Level]) -> dict[str, float]:
    """Return the highest load that was met in every scenario it was measured in, 0 if none."""
    passed = {level.identity for level in compliant}
    failed = {level.load for level in levels if level.identity not in passed}
    highest = max((lv.load for lv in compliant if lv.load not in failed), default=0.0)
    closed = all(level.concurrency is not None for level in levels)
    return {"max_compliant_concurrency" if closed else "max_compliant_request_rate": highest}
