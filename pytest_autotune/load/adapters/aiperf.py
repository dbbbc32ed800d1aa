"""NVIDIA's aiperf (0.13), the successor of genai-perf."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_autotune.load.adapters.reading import (
    PER_SECOND,
    document,
    number,
    put,
    reader,
    statistics,
)
from pytest_autotune.load.job import Job, seed_number
from pytest_autotune.spec.scenario import Scenario

PROGRAM: Final = "aiperf"
INSTALL: Final = "pip install aiperf"
#: The variable that carries the API key; the configuration refers to it.
_KEY: Final = "AUTOTUNE_API_KEY"


def command(job: Job, scenario: Scenario, folder: Path) -> list[str]:
    """Write ``aiperf.yaml`` and return the command. Results: ``profile_export_aiperf.json``."""
    endpoint: dict[str, Any] = {
        "urls": [job.url],
        "type": job.endpoint,
        "streaming": True,
        "use_server_token_count": True,
        "extra": dict(job.extra_body),
    }
    if "Authorization" in job.headers:
        endpoint["api_key"] = "${" + _KEY + "}"
    phase: dict[str, Any] = {"name": "profiling", "kind": "profiling", "type": "concurrency"}
    if job.request_rate is not None:
        phase |= {"type": "poisson", "rate": job.request_rate}
    if job.concurrency is not None:
        phase["concurrency"] = job.concurrency
    if job.max_requests is not None:
        phase["requests"] = job.max_requests
    else:
        phase |= {"duration": job.max_time, "grace_period": 30}
    dataset = {
        "name": "main",
        "type": "synthetic",
        # Prompts are used again when they run out, which a prefix cache rewards.
        "entries": job.max_requests or 1000,
        "random_seed": seed_number(job),
        "prompts": {
            "isl": {"mean": scenario.input.mean, "stddev": scenario.input.stddev},
            "osl": {"mean": scenario.output.mean, "stddev": scenario.output.stddev},
        },
    }
    document = {
        "schemaVersion": "2.0",
        "benchmark": {
            "models": [job.model],
            "endpoint": endpoint,
            "datasets": [dataset],
            "phases": [phase],
            "artifacts": {"dir": str(folder)},
            "tokenizer": {"name": job.tokenizer},
            "gpu_telemetry": {"enabled": False},
            "server_metrics": {"enabled": False},
            "runtime": {"ui": "none"},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "aiperf.yaml"
    file.write_text(json.dumps(document, indent=1))  # JSON is YAML
    return ["aiperf", "profile", "-f", str(file)]


def environment(api_key: str | None) -> Mapping[str, str | None]:
    """Return the environment's changes: offline mode makes it reject a tokenizer's folder."""
    return {"HF_HUB_OFFLINE": None, "TRANSFORMERS_OFFLINE": None, _KEY: api_key}


_NAMES: Final = {
    "ttft": "time_to_first_token",
    "tpot": "inter_token_latency",  # (latency - ttft) / (tokens - 1), of each request
    "itl": "inter_chunk_latency",  # all gaps of all requests
    "e2e_latency": "request_latency",
}


@reader
def read(folder: Path) -> dict[str, float]:
    """Read aiperf's summary. Where every request failed, aiperf fails and writes none."""
    found = document(folder / "profile_export_aiperf.json")

    def value(name: str) -> float | None:
        entry = found.get(name)
        return number(entry.get("avg")) if isinstance(entry, Mapping) else None

    metrics: dict[str, float] = {}
    for name, theirs in _NAMES.items():
        entry = found.get(theirs)
        if isinstance(entry, Mapping) and entry.get("count"):
            metrics |= statistics(name, entry, PER_SECOND[entry["unit"]], mean="avg", std="std")
    rate = value("request_error_rate")
    put(
        metrics,
        output_throughput=value("output_token_throughput"),
        total_throughput=value("total_token_throughput"),
        input_throughput=value("input_token_throughput"),
        request_throughput=value("request_throughput"),
        num_requests=value("completed_request_count"),  # with those that failed
        num_completed=value("request_count"),  # without
        duration=value("benchmark_duration"),
        mean_input_tokens=value("input_sequence_length"),
        mean_output_tokens=value("output_sequence_length"),
        error_rate=None if rate is None else rate / 100,
        success_rate=None if rate is None else 1 - rate / 100,
    )
    return metrics
