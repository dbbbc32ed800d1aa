"""Tune an inference server of Llama 70B, on recorded results.

These are tests as they run where there are GPUs. While ``llama70b.yaml`` says ``replay``, none of
them does: what they would report is taken from the recording.
"""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_autotune import InferenceServer, LoadTest, Trial

pytestmark = pytest.mark.autotune(spec="llama70b.yaml")


def test_answers(inference_server: InferenceServer) -> None:
    """A cheap check first: a server that answers wrongly is no candidate, however fast."""
    model = ask(inference_server, "/models")["data"][0]["id"]
    question = {"model": model, "prompt": "1, 2, 3, 4,", "max_tokens": 8, "temperature": 0}
    assert "5" in ask(inference_server, "/completions", question)["choices"][0]["text"]


def test_holds_its_slo_under_load(
    trial: Trial, inference_server: InferenceServer, load_test: LoadTest
) -> None:
    """As many requests at a time as the trial says; ranked by what a GPU puts out."""
    result = load_test(inference_server, num_concurrency=[trial.params["concurrency"]])
    trial.report(
        {
            "ttft_ms": 1000 * result.metrics["mean_ttft"],
            "tpot_ms": 1000 * result.metrics["mean_tpot"],
            "out_tok_s_per_gpu": result.metrics["output_throughput_per_gpu"],
        }
    )


def ask(server: InferenceServer, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the answer of a plain request."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **server.headers}
    request = urllib.request.Request(server.api_url + path, data, headers)  # noqa: S310 - http
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
        return json.load(answer)
