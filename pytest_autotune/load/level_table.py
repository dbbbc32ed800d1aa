"""The table of load levels that reports and terminals show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pytest_autotune.load.limits import LATENCIES
from pytest_autotune.scoring.metrics import Metrics
from pytest_autotune.text.numbers import number, quantity
from pytest_autotune.text.tables import table

#: Columns of a table of load levels, and the metrics in them.
LEVEL_HEADER: Final = (
    "level", "requests", "errors", "TTFT p50", "p99", "TPOT p50", "p99", "e2e p50", "p99",
    "req/s", "tokens/s",
)  # fmt: skip


#: More of a reason than this is in the notes.
_MAX_REASON: Final = 60


def level_table(rows: Sequence[tuple[str, Metrics, str, str]]) -> str:
    """Return the table of levels, each a label, metrics, a reason for failures, and a verdict.

    The column of reasons is there only where requests failed.
    """
    failures = any(failure for _, _, failure, _ in rows)
    return table(
        (*LEVEL_HEADER, "", *(["most frequent error"] if failures else [])),
        [
            (*level_row(label, metrics), verdict, *([_cut(failure)] if failures else []))
            for label, metrics, failure, verdict in rows
        ],
    )


def _cut(reason: str) -> str:
    return reason if len(reason) <= _MAX_REASON else f"{reason[: _MAX_REASON - 1]}…"


def level_row(label: str, metrics: Metrics) -> tuple[str, ...]:
    """Return a load level's cells under :data:`LEVEL_HEADER`."""
    requests = metrics.get("num_requests", math.nan)
    failed = requests * metrics.get("error_rate", math.nan)
    return (
        label,
        number(requests),
        number(round(failed)) if math.isfinite(failed) else "-",
        *(
            quantity(name, metrics.get(f"{statistic}_{name}"))
            for name in LATENCIES
            for statistic in ("p50", "p99")
        ),
        number(metrics.get("request_throughput")),
        number(metrics.get("output_throughput")),
    )
