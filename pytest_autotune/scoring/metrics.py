"""Reported numbers: one flat naming scheme, whatever shape they arrive in.

A metric with a statistic is called ``STATISTIC_METRIC`` (``p99_ttft``, ``mean_e2e_latency``);
times are in seconds and throughputs in tokens per second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, SupportsFloat, TypeAlias

Metrics: TypeAlias = Mapping[str, float]

_ALIASES: Final[Mapping[str, str]] = {"latency": "e2e_latency"}
_STATISTIC: Final = re.compile(r"^(mean|min|max|std|p\d{1,2}(\.\d+)?)$")
_PREFIXED: Final = re.compile(r"^(mean|min|max|std|p\d{1,2}(?:\.\d+)?)_(.+)$")


def flatten(reported: Mapping[str, Any]) -> dict[str, float]:
    """Return ``reported`` under flat names.

    ``{"ttft": {"mean": 0.1}}`` and ``{"stats": {"ttft": {"mean": 0.1}}}`` both become
    ``{"mean_ttft": 0.1}``; ``latency`` is short for ``e2e_latency``. Raises TypeError where a
    value is no number.
    """
    flat: dict[str, float] = {}
    for name, value in reported.items():
        if not isinstance(name, str):
            raise TypeError(f"metric names are strings, not {name!r}")
        if name == "stats" and isinstance(value, Mapping):
            flat |= flatten(value)
        elif isinstance(value, Mapping):
            for statistic, number in value.items():
                flat[_joined(name, str(statistic))] = _number(f"{name}.{statistic}", number)
        else:
            flat[_full_name(name)] = _number(name, value)
    return flat


def _joined(metric: str, statistic: str) -> str:
    metric = _ALIASES.get(metric, metric)
    return f"{statistic}_{metric}" if _STATISTIC.match(statistic) else f"{metric}_{statistic}"


def split_name(name: str) -> tuple[str, str]:
    """Return statistic and metric of a flat name, the former empty where there is none."""
    prefixed = _PREFIXED.match(name)
    return ("", name) if prefixed is None else (prefixed[1], prefixed[2])


def _full_name(name: str) -> str:
    """Return the name with its alias resolved: ``p99_latency`` is ``p99_e2e_latency``."""
    statistic, metric = split_name(name)
    if statistic:
        return f"{statistic}_{_ALIASES.get(metric, metric)}"
    # A bare latency is one measurement, and so its own mean.
    return "mean_e2e_latency" if name == "latency" else name


def _number(name: str, value: object) -> float:
    if isinstance(value, SupportsFloat) and not isinstance(value, str | bytes):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise TypeError(f"metric {name!r} is {_shown(value)}, which is not a number")


def _shown(value: object) -> str:
    # An integer too large for a float may be too large to print, too.
    return "too large" if isinstance(value, int) else repr(value)


def aggregate(levels: Sequence[Metrics]) -> dict[str, float]:
    """Aggregate the flat metrics of several load levels, unweighted, level by level.

    ``mean_…`` and percentiles become the mean over levels, ``min_…`` and ``max_…`` the extreme.
    A metric without a statistic gives its mean under its own name and as ``mean_…``. Its
    largest value is ``max_…``. A metric that some level lacks is NaN, so that no SLO passes on
    part of the data.
    """
    result: dict[str, float] = {}
    for name in dict.fromkeys(name for level in levels for name in level):
        values = [level.get(name, math.nan) for level in levels]
        statistic, _ = split_name(name)
        if not statistic:
            mean = _mean(values)
            result[name] = mean
            result.setdefault(f"mean_{name}", mean)
            result.setdefault(f"max_{name}", _extreme(max, values))
        elif statistic in {"min", "max"}:
            result[name] = _extreme(min if statistic == "min" else max, values)
        else:
            result[name] = _mean(values)
    return result


def _mean(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        # The sum of finite numbers need not be one; their mean is.
        return math.fsum(value / len(values) for value in values)


def _extreme(pick: Any, values: Sequence[float]) -> float:
    return float(pick(values)) if all(map(math.isfinite, values)) else math.nan


#: The parts of a request's time that only a stream of tokens shows.
_STREAMED: Final = frozenset({"ttft", "tpot", "itl"})
#: Tokens that follow each other faster than this came together (seconds): no server makes 20,000
#: a second for one client.
_TOGETHER: Final = 50e-6
_TYPICAL: Final = ("mean", "p50", "p75")
ONE_PIECE: Final = "the stream arrived in one piece"
#: Where to look for the reason of that.
ONE_PIECE_CAUSE: Final = "a proxy that buffers, or a server without TCP_NODELAY?"
#: What a trial reported whose tests never call ``trial.report``.
NOTHING: Final = "nothing; no test called trial.report with a metric"


def in_one_piece(metrics: Metrics) -> bool:
    """Return whether answers of several tokens arrived at once, by their time per token.

    A proxy that buffers, or a server that leaves Nagle's algorithm on, makes TTFT the time of the
    whole answer. It takes nine in ten answers, as a client that is held up reads some short ones
    at once, too. Answers of one token have no time per token, and so do not count.
    """
    tokens = metrics.get("mean_output_tokens")
    if tokens is not None and tokens <= 1:
        return False
    if "p90_tpot" in metrics:
        return metrics["p90_tpot"] <= _TOGETHER
    # Not of our load test: only zero is certain, and only of what is known to be several tokens.
    zero = 0.0 in {metrics.get(name) for name in ("mean_tpot", "p50_tpot", "tpot")}
    return tokens is not None and zero


def is_streamed(name: str) -> bool:
    """Return whether a metric is one that only a stream of tokens shows."""
    return split_name(name)[1] in _STREAMED


def problem(metrics: Metrics, names: Sequence[str]) -> str:
    """Return why none of ``names`` can be judged, empty where :func:`lookup` finds one."""
    name = next((name for name in names if name in metrics), None)
    if name is None:
        return "not reported"
    if not math.isfinite(metrics[name]):
        return "NaN" if math.isnan(metrics[name]) else "infinite"
    if is_streamed(name) and in_one_piece(metrics):
        return ONE_PIECE
    # Of fewer answers it is still no time that a token takes.
    timed = "p90_tpot" in metrics and split_name(name) in {(s, "tpot") for s in _TYPICAL}
    return ONE_PIECE if timed and metrics[name] <= _TOGETHER else ""


def lookup(metrics: Metrics, names: Sequence[str]) -> tuple[str, float] | None:
    """Return the first of ``names`` that was reported, or None if it cannot be judged.

    A NaN is not passed over for the next name: something went wrong in what comes first.
    """
    if problem(metrics, names):
        return None
    return next((name, metrics[name]) for name in names if name in metrics)
