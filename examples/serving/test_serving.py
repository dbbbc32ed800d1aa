"""Tune an inference server under load.

Any OpenAI-compatible server will do: the spec's ``server`` block says which. By default it is the
small one in this folder; ``SERVING_SPEC=vllm.yaml`` tunes vLLM with the same tests.
"""

import json
import os
import urllib.request

import pytest

pytestmark = pytest.mark.autotune(spec=os.environ.get("SERVING_SPEC", "serving.yaml"))


def ask(server, prompt):
    """Return the greedy answer to a prompt, of 16 tokens."""
    headers = {"Content-Type": "application/json", **server.headers}
    with urllib.request.urlopen(f"{server.api_url}/models") as answer:
        model = json.load(answer)["data"][0]["id"]
    body = {"model": model, "prompt": prompt, "max_tokens": 16, "temperature": 0}
    data = json.dumps({**body, "ignore_eos": True}).encode()
    request = urllib.request.Request(f"{server.api_url}/completions", data, headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_answers(trial, inference_server):
    """A cheap check first: a server that answers wrongly is no candidate, however fast."""
    first = ask(inference_server, "the same question gets the same answer")
    again = ask(inference_server, "the same question gets the same answer")
    assert first["usage"]["completion_tokens"] == 16
    assert first["choices"][0]["text"] == again["choices"][0]["text"]


def test_holds_its_slo_under_load(trial, inference_server, load_test):
    """Each concurrency is held against the SLO; what holds is ranked by its throughput."""
    trial.report(load_test(inference_server))
