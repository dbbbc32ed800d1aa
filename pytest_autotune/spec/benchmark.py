"""The ``benchmark`` block of a spec: the load on a server."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pytest_autotune.errors import SpecError
from pytest_autotune.scoring.slo import SLO
from pytest_autotune.spec.scenario import Endpoint, Scenario
from pytest_autotune.text.places import Origin, parsed
from pytest_autotune.text.suggest import shown
from pytest_autotune.text.values import whole

_ENDPOINT_OF_TASK: Final[Mapping[str, Endpoint]] = {
    "text-to-text": "chat",
    "chat": "chat",
    "text-generation": "completions",
    "completions": "completions",
    "completion": "completions",
}
_DEFAULT_SCENARIO: Final = "D(128,128)"
_DEFAULT_SECONDS: Final = 30.0
#: Metrics that a load test gives.
MEASURED: Final = re.compile(
    r"(^|_)(ttft|tpot|itl|e2e_latency|error_rate|success_rate|goodput(_ratio)?|\w*throughput)"
    r"(_per_gpu)?$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSearch:
    """Find the highest level from ``low`` to ``high`` that meets the SLO."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSpec:
    """The load of a trial's server. Times are in seconds, rates in requests/s.

    Levels are ``concurrency`` (closed loop) or ``request_rate`` (open loop): a list, or a
    search. ``task`` is kept where it is one that cannot be run.
    """

    origin: Origin
    endpoint: Endpoint = "chat"
    task: str | None = None
    model: str | None = None
    tokenizer: str | None = None
    scenarios: Sequence[Scenario] = ()
    concurrency: Sequence[int] | LevelSearch = ()
    request_rate: Sequence[float] | LevelSearch = ()
    max_time: float | None = None
    max_requests: int | None = None
    warmup: int | None = None
    request_timeout: float = 600.0
    seed: int = 0
    generator: str = "builtin"
    api_key: str | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)


def read_benchmark(document: Mapping[str, Any], origin: Origin, slo: SLO) -> BenchmarkSpec:
    """Read the load of a schema-valid ``document``; raise :class:`SpecError`."""
    block = document.get("benchmark", {})

    def at(*parts: str | int) -> str:
        return origin.at("benchmark", *parts)

    task = block.get("task")
    known = _ENDPOINT_OF_TASK.get(str(task).lower())
    if "num_concurrency" in block and "request_rate" in block:
        raise SpecError(
            f"{at('request_rate')}: give num_concurrency (closed loop) or request_rate (open)"
        )
    closed = _levels(block.get("num_concurrency", ()), slo, at("num_concurrency"))
    opened = _levels(block.get("request_rate", ()), slo, at("request_rate"))
    if not isinstance(closed, LevelSearch):
        closed = tuple(map(whole, closed))
        if not closed and opened == ():
            closed = (1,)
    max_time = block.get("max_time_per_iteration")
    max_requests = block.get("max_requests_per_iteration")
    if max_time is None and max_requests is None:
        max_time = _DEFAULT_SECONDS
    seed = block.get("seed", document.get("optimization", {}).get("seed"))
    return BenchmarkSpec(
        origin=origin,
        endpoint=block.get("endpoint") or known or "chat",
        task=None if known else task,
        model=block.get("model_name"),
        tokenizer=_tokenizer(block.get("model_tokenizer"), origin),
        scenarios=tuple(
            dict.fromkeys(
                parsed(Scenario.parse, text, at("traffic_scenarios", index))
                for index, text in enumerate(block.get("traffic_scenarios") or [_DEFAULT_SCENARIO])
            )
        ),
        concurrency=closed,
        request_rate=opened,
        max_time=max_time,
        max_requests=None if max_requests is None else whole(max_requests),
        warmup=None if "warmup_requests" not in block else whole(block["warmup_requests"]),
        request_timeout=block.get("request_timeout", 600.0),
        seed=whole(seed or 0),
        generator=block.get("generator", "builtin"),
        api_key=block.get("api_key"),
        extra_body=block.get("additional_params", {}),
    )


def _tokenizer(name: str | None, origin: Origin) -> str | None:
    """Return a path from the spec's folder where there is one, else the name for the hub."""
    if name is None:
        return None
    path = Path(origin.folder) / Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _levels(declared: Any, slo: SLO, where: str) -> tuple[float, ...] | LevelSearch:
    if not isinstance(declared, Mapping):
        return tuple(dict.fromkeys(sorted(declared)))
    low, high = declared.get("low", 1), declared["high"]
    if low > high:
        raise SpecError(f"{where}: low {shown(low)} is above high {shown(high)}")
    if not any(MEASURED.search(name) for bound in slo.bounds for name in bound.metrics):
        raise SpecError(
            f"{where}: a search for the highest level that meets the SLO needs an SLO on "
            "something that a load test measures, such as ttft or error_rate"
        )
    return LevelSearch(low=low, high=high)
