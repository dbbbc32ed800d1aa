"""``vllm bench serve`` (0.32)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pytest_autotune.load.adapters.reading import document, put, reader, statistics
from pytest_autotune.load.job import PATHS, Job, seed_number
from pytest_autotune.load.statistics import PERCENTILES
from pytest_autotune.spec.scenario import Scenario

PROGRAM: Final = "vllm"
INSTALL: Final = "pip install vllm[bench]"


def command(job: Job, scenario: Scenario, folder: Path) -> list[str]:
    """Return the command. Results: ``vllm-bench.json``.

    Lengths are uniform there, not normal: the range is chosen for the same standard deviation,
    as far as it goes. There is no limit of time.
    """
    if job.max_requests is None:
        raise ValueError("vllm bench serve runs a number of requests, no duration")
    ratios = {
        "input": _uniform_ratio(scenario.input.mean, scenario.input.stddev),
        "output": _uniform_ratio(scenario.output.mean, scenario.output.stddev),
    }
    assert job.tokenizer is not None
    command = ["vllm", "bench", "serve", "--base-url", job.url, "--endpoint", PATHS[job.endpoint]]
    command += ["--backend", "openai-chat" if job.endpoint == "chat" else "openai"]
    command += ["--model", job.model, "--tokenizer", job.tokenizer]
    command += ["--dataset-name", "random", "--random-range-ratio", json.dumps(ratios)]
    command += ["--random-input-len", str(round(scenario.input.mean))]
    command += ["--random-output-len", str(round(scenario.output.mean))]
    command += ["--num-prompts", str(job.max_requests), "--seed", str(seed_number(job))]
    if job.concurrency is not None:
        command += ["--max-concurrency", str(job.concurrency)]
    if job.request_rate is not None:
        command += ["--request-rate", str(job.request_rate)]
    if job.extra_body:
        command += ["--extra-body", json.dumps(dict(job.extra_body))]
    command += ["--percentile-metrics", "ttft,tpot,itl,e2el"]
    command += ["--metric-percentiles", ",".join(map(str, PERCENTILES))]
    command += ["--disable-tqdm", "--save-result", "--result-dir", str(folder)]
    return [*command, "--result-filename", "vllm-bench.json"]


def environment(api_key: str | None) -> Mapping[str, str | None]:
    """Return the environment's changes."""
    return {} if api_key is None else {"OPENAI_API_KEY": api_key}


@reader
def read(folder: Path) -> dict[str, float]:
    """Read vLLM's result. It reports neither the least nor the largest latency."""
    found = document(folder / "vllm-bench.json")
    done, failed = found["completed"], found.get("failed")
    metrics: dict[str, float] = {}
    if done:
        # It writes 0 where answers of one token have no time per token.
        single = found["total_output_tokens"] <= done
        for name, theirs in (
            ("ttft", "ttft"),
            ("tpot", "tpot"),
            ("itl", "itl"),
            ("e2e_latency", "e2el"),
        ):
            if single and name in {"tpot", "itl"}:
                continue
            flat = {
                statistic: found.get(f"{statistic}_{theirs}_ms")
                for statistic in ("mean", "std", *(f"p{p}" for p in PERCENTILES))
            }
            if flat["p50"] is None:
                flat["p50"] = found.get(f"median_{theirs}_ms")
            metrics |= statistics(name, flat, 1e3, std="std")
        put(
            metrics,
            mean_input_tokens=found["total_input_tokens"] / done,
            mean_output_tokens=found["total_output_tokens"] / done,
        )
    output, total = found.get("output_throughput"), found.get("total_token_throughput")
    counted = done + (failed or 0)
    put(
        metrics,
        output_throughput=output,
        total_throughput=total,
        input_throughput=None if output is None or total is None else total - output,
        request_throughput=found.get("request_throughput"),
        num_requests=found.get("num_prompts"),
        num_completed=done,
        duration=found.get("duration"),
        # Old versions did not count what failed.
        error_rate=None if failed is None or not counted else failed / counted,
        success_rate=None if failed is None or not counted else done / counted,
    )
    return metrics


def _uniform_ratio(mean: float, stddev: float) -> float:
    return round(min(0.99, math.sqrt(3) * stddev / mean), 4)
