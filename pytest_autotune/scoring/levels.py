"""Load levels of a server, and the metrics measured at each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_autotune.scoring.metrics import Metrics

#: From this share of failed requests on, they are the reason for whatever else is wrong.
_MOSTLY: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One load level of a trial and its flat metrics.

    The level is a ``concurrency`` (closed loop) or a ``request_rate`` in requests/s (open
    loop), with a traffic ``scenario`` where there is more than one. ``failure`` is the most
    frequent reason why requests failed.
    """

    concurrency: int | None = None
    request_rate: float | None = None
    scenario: str | None = None
    failure: str = ""
    metrics: Metrics

    @property
    def requests(self) -> int:
        """The number of requests that ended, well or not; 0 where it is unknown."""
        return self._count("num_requests")

    @property
    def failed(self) -> int:
        """The number of requests that failed."""
        done, rate = self._count("num_completed"), self.metrics.get("error_rate", 0.0)
        if not 0 < rate < 1:
            return self.requests if rate == 1 else 0
        # The rate leaves out requests that were cut.
        failed = done * rate / (1 - rate)
        return round(failed) if math.isfinite(failed) else self.requests

    def _count(self, name: str) -> int:
        value = self.metrics.get(name, 0.0)
        return round(value) if math.isfinite(value) else 0

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


def sorted_levels(levels: Iterable[Level]) -> tuple[Level, ...]:
    """Return load levels, lightest first."""
    return tuple(sorted(levels, key=lambda level: (level.load, level.scenario or "")))


def failed_requests(levels: Sequence[Level], *, mostly: bool = False) -> str:
    """Return ``5 of 5 requests failed: HTTP 404: …``, empty where none failed.

    With ``mostly`` it is also empty where fewer than half of them failed. The reason is that of the
    level with the most failures.
    """
    total, failed = sum(level.requests for level in levels), sum(level.failed for level in levels)
    if not failed or (mostly and failed < _MOSTLY * total):
        return ""
    reason = max(levels, key=lambda level: level.failed).failure
    return f"{failed} of {total} requests failed" + (f": {reason}" if reason else "")


def max_compliant(levels: Sequence[Level], compliant: Sequence[Level]) -> dict[str, float]:
    """Return the highest load that was met in every scenario it was measured in, 0 if none."""
    passed = {level.identity for level in compliant}
    failed = {level.load for level in levels if level.identity not in passed}
    highest = max((lv.load for lv in compliant if lv.load not in failed), default=0.0)
    closed = all(level.concurrency is not None for level in levels)
    return {"max_compliant_concurrency" if closed else "max_compliant_request_rate": highest}
