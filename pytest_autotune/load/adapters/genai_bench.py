"""Results of genai-bench (0.0.5), whose statistics task files assume. Reading only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_autotune.load.adapters.reading import PER_SECOND, document, put, reader, statistics


@reader
def read(file: Path) -> dict[str, float]:
    """Read one level of genai-bench, ``D…_text-to-text_num_concurrency_N_time_Ns.json``.

    Its ``error_rate`` is 0 whatever happened (it divides before it counted the requests), and
    its ``stats.*_throughput`` are speeds of single requests, not of the server.
    """
    found = document(file)
    level = found["aggregated_metrics"]
    per_second = PER_SECOND[found.get("_time_unit", "s")]
    stats = level["stats"]
    metrics: dict[str, float] = {}
    for name in ("ttft", "tpot", "e2e_latency"):
        metrics |= statistics(name, stats.get(name) or {}, per_second, std="stddev")
    requests, failed = level.get("num_requests"), level.get("num_error_requests")
    rate = failed / requests if requests and failed is not None else None
    put(
        metrics,
        output_throughput=level.get("mean_output_throughput_tokens_per_s"),
        total_throughput=level.get("mean_total_tokens_throughput_tokens_per_s"),
        input_throughput=level.get("mean_input_throughput_tokens_per_s"),
        request_throughput=level.get("requests_per_second"),
        num_requests=requests,
        num_completed=level.get("num_completed_requests"),
        duration=level.get("run_duration"),  # seconds, whatever the time unit
        mean_input_tokens=(stats.get("num_input_tokens") or {}).get("mean"),
        mean_output_tokens=(stats.get("num_output_tokens") or {}).get("mean"),
        error_rate=rate,
        success_rate=None if rate is None else 1 - rate,
    )
    return metrics


@reader
def read_genai_bench(folder: Path) -> dict[str, Any]:
    """Read all levels of an experiment's folder, in the form that ``trial.report`` takes.

    Raises ValueError where there is none. A scenario is named only where there are several.
    """
    levels = []
    for file in sorted(folder.glob("*_concurrency_*_time_*.json")):
        found = document(file)
        level = found["aggregated_metrics"]
        levels.append(
            {"concurrency": level["num_concurrency"], "scenario": level["scenario"], **read(file)}
        )
    if not levels:
        raise ValueError(f"there are no results of genai-bench in {folder}")
    if len({level["scenario"] for level in levels}) == 1:
        for level in levels:
            del level["scenario"]
    return {"levels": levels}
