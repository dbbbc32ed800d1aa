"""Reading of result files, shared by the adapters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_autotune.load.statistics import PERCENTILES

#: How many of a unit of time make a second.
PER_SECOND: Final = {"s": 1.0, "sec": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


def document(file: Path) -> Any:
    """Read a result; raise ValueError where it was not written."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"{file.name} was not written: every request failed, or the tool did"
        ) from None


def number(value: object) -> float | None:
    """Return a finite number as it is, anything else as None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def put(metrics: dict[str, float], **values: object) -> None:
    """Add those of ``values`` that are numbers."""
    for name, value in values.items():
        found = number(value)
        if found is not None:
            metrics[name] = found


def statistics(
    name: str, entry: Mapping[str, Any], per_second: float, *, mean: str = "mean", std: str
) -> dict[str, float]:
    """Return the statistics of one metric in seconds; ``mean`` and ``std`` are their names."""
    members = {"mean": mean, "min": "min", "max": "max", "std": std}
    members |= {f"p{p}": f"p{p}" for p in PERCENTILES}
    result: dict[str, float] = {}
    for statistic, member in members.items():
        found = number(entry.get(member))
        if found is not None:
            result[f"{statistic}_{name}"] = found / per_second
    return result
