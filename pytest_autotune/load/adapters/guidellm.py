"""guidellm (0.8), of the vLLM project."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_autotune.load.adapters.reading import document, number, put, reader, statistics
from pytest_autotune.load.job import PATHS, Job, seed_number
from pytest_autotune.load.statistics import PERCENTILES, distribution
from pytest_autotune.spec.scenario import Scenario

PROGRAM: Final = "guidellm"
INSTALL: Final = "pip install guidellm"


def command(job: Job, scenario: Scenario, folder: Path) -> list[str]:
    """Write ``guidellm.json`` and return the command. Results: ``benchmarks.json``."""
    profile: dict[str, Any]
    if job.request_rate is None:
        profile = {"kind": "concurrent", "streams": [job.concurrency]}
    else:
        profile = {"kind": "poisson", "rate": [job.request_rate]}
        if job.concurrency is not None:
            profile["max_concurrency"] = job.concurrency
    data: dict[str, Any] = {
        "kind": "synthetic_text",
        "prompt_tokens": round(scenario.input.mean),
        "output_tokens": round(scenario.output.mean),
    }
    # Their standard deviations are whole numbers above 0, or absent.
    for name, spread in (
        ("prompt_tokens_stdev", scenario.input.stddev),
        ("output_tokens_stdev", scenario.output.stddev),
    ):
        if round(spread) > 0:
            data[name] = round(spread)
    constraint: dict[str, Any] = (
        {"kind": "max_duration", "seconds": job.max_time}
        if job.max_requests is None
        else {"kind": "max_requests", "count": job.max_requests}
    )
    spec = {
        "backend": {
            "kind": "openai_http",
            "target": job.url,
            "model": job.model,
            "request_format": PATHS[job.endpoint],
            "extras": {"body": dict(job.extra_body)},
        },
        "profile": profile,
        "constraints": [constraint],
        "tokenizer": {"kind": "huggingface_auto", "model": job.tokenizer},
        "data": [data],
        "seed": {"kind": "static", "value": seed_number(job)},
        "outputs": [{"kind": "json", "path": str(folder / "benchmarks.json")}],
        "metrics": {"kind": "generative", "sample_size": 0},
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "guidellm.json"
    file.write_text(json.dumps({"spec": spec}, indent=1))
    return ["guidellm", "run", "--config", str(file), "--disable-console"]


def environment(api_key: str | None) -> Mapping[str, str | None]:
    """Return the environment's changes; the key comes back masked in its report."""
    return {"GUIDELLM__SPEC__BACKEND__API_KEY": api_key}


@reader
def read(folder: Path) -> dict[str, float]:
    """Read guidellm's report.

    Its ``time_per_output_token_ms`` counts the first token in and its
    ``inter_token_latency_ms`` is our TPOT weighted by tokens, so TPOT is taken from the single
    requests. It does not report gaps between tokens. Its percentiles are not interpolated.
    """
    (benchmark,) = document(folder / "benchmarks.json")["benchmarks"]
    theirs = benchmark["metrics"]
    totals = theirs["request_totals"]
    done, failed = totals["successful"], totals["errored"]
    metrics: dict[str, float] = {}
    for name, member, per_second in (
        ("ttft", "time_to_first_token_ms", 1e3),
        ("e2e_latency", "request_latency", 1.0),
    ):
        entry = (theirs.get(member) or {}).get("successful") or {}
        if entry.get("count"):
            flat = entry | {f"p{p}": entry["percentiles"].get(f"p{p}") for p in PERCENTILES}
            metrics |= statistics(name, flat, per_second, std="std_dev")
    single = (benchmark.get("requests") or {}).get("successful") or []
    if len(single) == done:
        gaps = (request.get("inter_token_latency_ms") for request in single)
        metrics |= distribution("tpot", (gap / 1e3 for gap in gaps if gap is not None))

    def mean(name: str) -> float | None:
        entry = (theirs.get(name) or {}).get("successful") or {}
        return number(entry.get("mean")) if entry.get("count") else None

    # The other statistics of a throughput are of moments, not of the run.
    put(
        metrics,
        output_throughput=mean("output_tokens_per_second"),
        total_throughput=mean("tokens_per_second"),
        input_throughput=mean("prompt_tokens_per_second"),
        request_throughput=mean("requests_per_second"),
        num_requests=totals["total"],
        num_completed=done,
        duration=benchmark.get("duration"),
        mean_input_tokens=mean("prompt_token_count"),
        mean_output_tokens=mean("output_token_count"),
        # What was cancelled at the end is neither a success nor an error.
        error_rate=failed / (done + failed) if done + failed else None,
        success_rate=done / (done + failed) if done + failed else None,
    )
    return metrics
