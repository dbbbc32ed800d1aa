"""Tune an inference server under load.

Any OpenAI-compatible server will do: the spec's ``server`` block says which. By default it is the
small one in this folder; ``SERVING_SPEC=vllm.yaml`` tunes vLLM with the same tests.
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_autotune import InferenceServer, LoadTest, Trial

pytestmark = pytest.mark.autotune(spec=os.environ.get("SERVING_SPEC", "serving.yaml"))

TOKENS = 16


def test_answers(inference_server: InferenceServer) -> None:
    """A cheap check first: a server that answers wrongly is no candidate, however fast."""
    model = ask(inference_server, "/models")["data"][0]["id"]
    question = {"model": model, "prompt": "the same question", "max_tokens": TOKENS}
    greedy = {**question, "temperature": 0, "ignore_eos": True}
    first, again = (ask(inference_server, "/completions", greedy) for _ in range(2))
    assert first["usage"]["completion_tokens"] == TOKENS
    assert first["choices"][0]["text"] == again["choices"][0]["text"]


def test_holds_its_slo_under_load(
    trial: Trial, inference_server: InferenceServer, load_test: LoadTest
) -> None:
    """Each concurrency is held against the SLO; what holds is ranked by its throughput."""
    trial.report(load_test(inference_server))


def ask(server: InferenceServer, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the answer of a plain request."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **server.headers}
    request = urllib.request.Request(server.api_url + path, data, headers)  # noqa: S310 - http
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
        return json.load(answer)
