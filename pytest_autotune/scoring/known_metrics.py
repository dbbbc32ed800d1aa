"""The metrics that this package defines: which way each is better. None is ever negative."""

from __future__ import annotations

import math
from typing import Final

from pytest_autotune.scoring.metrics import Metrics, split_name
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.text.numbers import is_time, quantity

#: Metrics of load tests and benchmarks of which less is better.
_LESS: Final = frozenset(
    {
        "compile_time", "e2e_latency", "energy_per_call", "energy_per_token", "error_rate",
        "host_time", "itl", "peak_memory_mib", "tpot", "ttft",
    }
)  # fmt: skip
#: Those of which more is better.
_MORE: Final = frozenset(
    {
        "gb_per_s", "goodput", "goodput_ratio", "input_throughput", "output_throughput",
        "request_throughput", "success_rate", "tflop_per_s", "total_throughput",
    }
)  # fmt: skip


def _meaning(name: str) -> str:
    """Return the metric that ``name`` is a statistic of, or its share of one GPU."""
    return split_name(name)[1].removesuffix("_per_gpu")


def wrong_way(objective: Objective) -> str:
    """Return why an objective asks for the worst of a known metric, empty where it does not."""
    name = objective.metrics[0]
    opposite = _LESS if objective.maximize else _MORE
    if _meaning(name) not in opposite:
        return ""
    better, word = ("less", "minimize") if objective.maximize else ("more", "maximize")
    metric = objective.name.partition(":")[2].strip()
    return (
        f"{objective.name!r} asks for the worst: {better} {metric} is better; write "
        f"'{word}:{metric}'"
    )


def impossible(metrics: Metrics) -> str:
    """Return which known metric is negative, empty where none is."""
    for name, value in metrics.items():
        if value < 0 and _meaning(name) in _LESS | _MORE:
            shown = quantity(name, value) if math.isfinite(value) else f"{value}"
            hint = ": is the end subtracted from the start?" if is_time(name) else ""
            return f"{name} is {shown}, and it cannot be negative{hint}"
    return ""
