"""The metrics of a load level, computed from its single requests.

Names and formulas are those of the field's load generators (genai-bench, vLLM's ``bench serve``).
TTFT is the time from sending a request (in open loop: from when it was due) to the first text.
TPOT is (end-to-end - TTFT) / (output tokens - 1). Inter-token latency (``itl``) is the gap between
two arrivals of text. Throughputs are totals over the time from the first request to the last
answer. Times are in seconds. Percentiles are interpolated linearly, as NumPy does by default.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from pytest_autotune.bench.statistics import quantile

PERCENTILES: Final = (25, 50, 75, 90, 95, 99)
#: Digits that are kept of a metric: more than any clock delivers.
_DIGITS: Final = 7
_PERCENTILE: Final = re.compile(r"^p(\d{1,2}(?:\.\d+)?)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request. Times in seconds on one clock; ``scheduled`` is when it was due.

    ``error`` is empty for a success. ``first`` and ``last`` are the arrivals of the first and
    last text. A request that was ``cut`` was still running when its level was ended early:
    its times are lower bounds.
    """

    scheduled: float
    sent: float
    first: float | None = None
    last: float | None = None
    ended: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    error: str = ""
    detail: str = ""
    cut: bool = False

    @property
    def ok(self) -> bool:
        """Return whether it was answered in full."""
        return not self.error and not self.cut

    @property
    def ttft(self) -> float | None:
        """Time to first token; of a cut request at least that."""
        if self.first is not None:
            return self.first - self.scheduled
        return self.ended - self.scheduled if self.cut else None

    @property
    def e2e_latency(self) -> float | None:
        """Time to the last token; of a cut request at least that."""
        if self.cut:
            return self.ended - self.scheduled
        return None if self.last is None or self.error else self.last - self.scheduled

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first; None of fewer than two tokens."""
        if not self.ok or self.first is None or self.last is None or self.output_tokens < 2:  # noqa: PLR2004
            return None
        return (self.last - self.first) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodputLimits:
    """The limits of a good request, in seconds; None where there is no limit."""

    ttft: float | None = None
    tpot: float | None = None
    e2e_latency: float | None = None

    def good(self, request: RequestRecord) -> bool:
        """Return whether the request succeeded within every limit."""
        kept = (
            (actual := getattr(request, name)) is None or actual <= limit
            for name, limit in asdict(self).items()
            if limit is not None
        )
        return request.ok and all(kept)

    @property
    def any(self) -> bool:
        """Return whether there is any limit."""
        return any(limit is not None for limit in asdict(self).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHealth:
    """The state of the client itself, to tell a slow server from a slow client.

    ``cpu`` is the share of one core that the client used. ``lag`` is the lateness of its event
    loop; ``late`` is the time from when requests were due to when they were sent. Both are in
    seconds.
    """

    cpu: float = 0.0
    lag_p99: float = 0.0
    late_p99: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRun:
    """The result of running one level.

    ``ended_early`` is the reason if it did; ``lost`` is true if that was a lost race.
    """

    requests: Sequence[RequestRecord]
    gaps: Sequence[float] = ()
    ended_early: str = ""
    client: ClientHealth = field(default_factory=ClientHealth)
    lost: bool = False


def percentile_of(statistic: str) -> float | None:
    """Return 0.99 for ``p99``, None for a statistic that is no percentile."""
    match = _PERCENTILE.match(statistic)
    return float(match[1]) / 100 if match else None


def distribution(name: str, values: Iterable[float], more: Iterable[str] = ()) -> dict[str, float]:
    """Return mean, min, max, standard deviation and percentiles under flat names; {} of none.

    ``more`` are further percentiles, such as ``p99.9``.
    """
    ordered = sorted(values)
    if not ordered:
        return {}
    mean = math.fsum(ordered) / len(ordered)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / len(ordered))
    result = {
        f"mean_{name}": mean,
        f"min_{name}": ordered[0],
        f"max_{name}": ordered[-1],
        f"std_{name}": spread,
    }
    for statistic in (*(f"p{whole}" for whole in PERCENTILES), *more):
        share = percentile_of(statistic)
        assert share is not None
        result[f"{statistic}_{name}"] = quantile(ordered, share)
    return result


def level_metrics(
    run: LevelRun, *, goodput: GoodputLimits, gpus: int, percentiles: Iterable[str] = ()
) -> dict[str, float]:
    """Return the flat metrics of one level; of latencies also the further ``percentiles``.

    Latencies are of requests that succeeded (and, in a level that was ended early, of those
    that were cut, as lower bounds); rates are per second; ``…_per_gpu`` is divided by
    ``gpus``, the world size of the server. A latency that no request gave is left out, so
    that an SLO on it fails.
    """
    requests = run.requests
    done = [request for request in requests if request.ok]
    timed = [request for request in requests if request.ok or request.cut]
    failed = [request for request in requests if request.error and not request.cut]
    metrics: dict[str, float] = {}
    latencies = {
        "ttft": (r.ttft for r in timed if r.ttft is not None),
        "tpot": (r.tpot for r in done if r.tpot is not None),
        "itl": iter(run.gaps),
        "e2e_latency": (r.e2e_latency for r in timed if r.e2e_latency is not None),
    }
    more = sorted(set(percentiles))
    for name, values in latencies.items():
        metrics |= distribution(name, values, more)
    counted = len(requests) - sum(request.cut for request in requests)
    duration = _duration(requests)
    rates = {
        "request_throughput": float(len(done)),
        "input_throughput": float(sum(r.input_tokens for r in done)),
        "output_throughput": float(sum(r.output_tokens for r in done)),
    }
    rates["total_throughput"] = rates["input_throughput"] + rates["output_throughput"]
    if goodput.any:
        good = sum(goodput.good(request) for request in requests)
        rates["goodput"] = float(good)
        metrics["goodput_ratio"] = good / len(requests) if requests else 0.0
    for name, total in rates.items():
        metrics[name] = total / duration if duration > 0 else 0.0
        metrics[f"{name}_per_gpu"] = metrics[name] / gpus
    metrics["error_rate"] = len(failed) / counted if counted else 0.0
    metrics["success_rate"] = 1.0 - metrics["error_rate"]
    metrics["num_requests"] = float(len(requests))
    metrics["num_completed"] = float(len(done))
    metrics["duration"] = duration
    if done:
        metrics["mean_input_tokens"] = sum(r.input_tokens for r in done) / len(done)
        metrics["mean_output_tokens"] = sum(r.output_tokens for r in done) / len(done)
    metrics["client_cpu"] = run.client.cpu
    metrics["p99_client_lag"] = run.client.lag_p99
    metrics["p99_send_delay"] = run.client.late_p99
    return {name: rounded(value) for name, value in metrics.items()}


def _duration(requests: Sequence[RequestRecord]) -> float:
    if not requests:
        return 0.0
    return max(r.ended for r in requests) - min(r.scheduled for r in requests)


def rounded(value: float) -> float:
    """Return the value without digits that mean nothing."""
    return float(f"{value:.{_DIGITS}g}")


def error_classes(requests: Iterable[RequestRecord]) -> dict[str, tuple[int, str]]:
    """Return the count and one example of every class of error, most frequent first."""
    failed = [request for request in requests if request.error and not request.cut]
    counts = Counter(request.error for request in failed)
    examples: Mapping[str, str] = {r.error: r.detail for r in reversed(failed)}
    return {error: (count, examples[error]) for error, count in counts.most_common()}
