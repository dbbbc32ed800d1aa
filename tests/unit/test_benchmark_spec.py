"""The benchmark block says what load a server is put under; what is left out has a sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import TASK_FILE

from pytest_autotune.errors import SpecError
from pytest_autotune.spec.benchmark import BenchmarkSpec, LevelSearch
from pytest_autotune.spec.loading import load_inline

SLO = [{"metric": "ttft", "max": 1.0}]


def read(
    block: dict[str, Any] | None = None, folder: Path | None = None, **keys: Any
) -> BenchmarkSpec:
    document = keys if block is None else {"benchmark": block, **keys}
    return load_inline("study", document, "task.json", folder).benchmark


def refusal(block: dict[str, Any], **keys: Any) -> str:
    with pytest.raises(SpecError) as caught:
        read(block, **keys)
    return str(caught.value)


def test_without_a_block_there_is_a_small_load() -> None:
    spec = read()
    assert spec.concurrency == (1,)
    assert spec.request_rate == ()
    assert [scenario.text for scenario in spec.scenarios] == ["D(128,128)"]
    assert (spec.max_time, spec.max_requests, spec.warmup) == (30.0, None, None)
    assert (spec.endpoint, spec.task, spec.model, spec.tokenizer) == ("chat", None, None, None)
    assert (spec.seed, spec.generator, spec.api_key, spec.extra_body) == (0, "builtin", None, {})
    assert spec == read({})


def test_a_task_file_is_read_as_its_users_mean_it() -> None:
    spec = read(TASK_FILE["benchmark"])
    assert spec.endpoint == "chat"
    assert spec.task is None
    assert spec.model == "Llama-3.2-1B-Instruct"
    assert spec.tokenizer == "meta-llama/Llama-3.2-1B-Instruct"
    assert [scenario.text for scenario in spec.scenarios] == ["D(100,100)"]
    assert spec.concurrency == (1, 4, 8)
    assert (spec.max_time, spec.max_requests) == (10, 50)
    assert spec.extra_body == {"temperature": 0.0, "ignore_eos": True}


@pytest.mark.parametrize(
    ("block", "endpoint", "unknown"),
    [
        ({"task": "text-to-text"}, "chat", None),
        ({"task": "Chat"}, "chat", None),
        ({"task": "completions"}, "completions", None),
        ({"task": "text-generation"}, "completions", None),
        ({"task": "text-to-text", "endpoint": "completions"}, "completions", None),
        ({"endpoint": "completions"}, "completions", None),
        ({"task": "image-text-to-text"}, "chat", "image-text-to-text"),
        ({"task": "text-to-embeddings", "endpoint": "chat"}, "chat", "text-to-embeddings"),
    ],
)
def test_a_task_says_which_endpoint(
    block: dict[str, Any], endpoint: str, unknown: str | None
) -> None:
    spec = read(block)
    assert (spec.endpoint, spec.task) == (endpoint, unknown)


@pytest.mark.parametrize(
    ("block", "concurrency", "rate"),
    [
        ({"num_concurrency": [8, 1, 4, 1]}, (1, 4, 8), ()),
        ({"num_concurrency": [2.0, 1]}, (1, 2), ()),
        ({"request_rate": [2, 0.5, 2.0]}, (), (0.5, 2)),
        ({"num_concurrency": {"search": "max", "high": 64}}, LevelSearch(low=1, high=64), ()),
        (
            {"num_concurrency": {"search": "max", "low": 4, "high": 4}},
            LevelSearch(low=4, high=4),
            (),
        ),
        (
            {"request_rate": {"search": "max", "low": 0.5, "high": 9.5}},
            (),
            LevelSearch(low=0.5, high=9.5),
        ),
        ({"request_rate": {"search": "max", "high": 9}}, (), LevelSearch(low=1, high=9)),
    ],
)
def test_levels_are_lists_or_searches(block: dict[str, Any], concurrency: Any, rate: Any) -> None:
    spec = read(block, slo=SLO)
    assert (spec.concurrency, spec.request_rate) == (concurrency, rate)
    if isinstance(spec.concurrency, tuple):
        assert all(type(level) is int for level in spec.concurrency)


@pytest.mark.parametrize(
    ("block", "time", "requests"),
    [
        ({}, 30.0, None),
        ({"max_time_per_iteration": 5}, 5, None),
        ({"max_requests_per_iteration": 7}, None, 7),
        ({"max_requests_per_iteration": 7.0}, None, 7),
        ({"max_time_per_iteration": 5, "max_requests_per_iteration": 7}, 5, 7),
    ],
)
def test_a_level_always_has_an_end(
    block: dict[str, Any], time: float | None, requests: int | None
) -> None:
    spec = read(block)
    assert (spec.max_time, spec.max_requests) == (time, requests)
    assert spec.max_requests is None or type(spec.max_requests) is int


@pytest.mark.parametrize(
    ("keys", "seed"),
    [
        ({"benchmark": {}}, 0),
        ({"benchmark": {"seed": 3}}, 3),
        ({"benchmark": {}, "optimization": {"seed": 5}}, 5),
        ({"benchmark": {"seed": 0}, "optimization": {"seed": 5}}, 0),
        ({"benchmark": {}, "optimization": {"seed": None}}, 0),
        ({"benchmark": {"seed": 4.0}}, 4),
    ],
)
def test_the_seed_is_that_of_the_search_unless_it_has_its_own(
    keys: dict[str, Any], seed: int
) -> None:
    assert str(read(**keys).seed) == str(seed)


@pytest.mark.parametrize(("given", "warmup"), [(0, 0), (5, 5), (2.0, 2)])
def test_warm_up_may_be_said(given: float, warmup: int) -> None:
    assert str(read({"warmup_requests": given}).warmup) == str(warmup)


def test_a_tokenizer_beside_the_spec_is_found_there(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert read({"model_tokenizer": "model"}, tmp_path).tokenizer == str(tmp_path / "model")
    assert read({"model_tokenizer": "./model"}, tmp_path).tokenizer == str(tmp_path / "model")
    assert read({"model_tokenizer": "org/model"}, tmp_path).tokenizer == "org/model"
    assert read({"model_tokenizer": str(tmp_path)}).tokenizer == str(tmp_path)


@pytest.mark.parametrize("text", ["D(8, 4)", " N(4,1)/(3,2)", "U(3,9)"])
def test_scenarios_are_parsed_at_loading(text: str) -> None:
    (scenario,) = read({"traffic_scenarios": [text]}).scenarios
    assert scenario.text == "".join(text.split())


def test_an_empty_list_of_scenarios_is_the_usual_one() -> None:
    assert [s.text for s in read({"traffic_scenarios": []}).scenarios] == ["D(128,128)"]


def test_the_same_scenario_twice_is_one() -> None:
    texts = ["D(8,4)", "D(8, 4)", "D(9,4)", "D(8,4)"]
    scenarios = read({"traffic_scenarios": texts}).scenarios
    assert [scenario.text for scenario in scenarios] == ["D(8,4)", "D(9,4)"]


@pytest.mark.parametrize(
    ("message", "block"),
    {
        "request_rate: give num_concurrency (closed loop) or": {
            "num_concurrency": [1],
            "request_rate": [1],
        },
        "traffic_scenarios/1: 'E(4)' is no traffic scenario; known: D(": {
            "traffic_scenarios": ["D(1,1)", "E(4)"]
        },
        "num_concurrency: low 9 is above high 8": {
            "num_concurrency": {"search": "max", "low": 9, "high": 8}
        },
        "request_rate: low 1 is above high 0.5": {"request_rate": {"search": "max", "high": 0.5}},
        "num_concurrency/search: \"min\" is not one of 'max'": {
            "num_concurrency": {"search": "min", "high": 8}
        },
        'num_concurrency: {"search": "max"} lacks \'high\'': {"num_concurrency": {"search": "max"}},
        "num_concurrency: {\"high\": 4} lacks 'search'": {"num_concurrency": {"high": 4}},
        "num_concurrency/step: unknown key 'step'": {
            "num_concurrency": {"search": "max", "high": 8, "step": 2}
        },
        "num_concurrency/0: 0 is below the minimum of 1": {"num_concurrency": [0]},
        "num_concurrency/0: 1.5 is not a whole number": {"num_concurrency": [1.5]},
        "num_concurrency/low: 1.5 is not a whole number": {
            "num_concurrency": {"search": "max", "low": 1.5, "high": 3}
        },
        "num_concurrency: [] ": {"num_concurrency": []},
        "num_concurrency: 4 is not a list": {"num_concurrency": 4},
        "request_rate/0: 0 must be greater than 0": {"request_rate": [0]},
        "max_time_per_iteration: 0 must be greater than 0": {"max_time_per_iteration": 0},
        "max_requests_per_iteration: 0 is below the minimum of 1": {
            "max_requests_per_iteration": 0
        },
        "warmup_requests: -1 is below the minimum of 0": {"warmup_requests": -1},
        "request_timeout: 0 must be greater than 0": {"request_timeout": 0},
        "endpoint: \"completion\" is not one of 'chat', 'completions'": {"endpoint": "completion"},
        "seed: -1 is below the minimum of 0": {"seed": -1},
        "additional_params: [] is not a": {"additional_params": []},
        "trafic_scenarios: unknown key": {"trafic_scenarios": []},
        'generator: "nope" is not one of ': {"generator": "nope"},
    }.items(),
)
def test_a_mistake_is_named_with_its_place(block: dict[str, Any], message: str) -> None:
    assert refusal(block, slo=SLO).startswith(f"task.json: /benchmark/{message}")


def test_a_search_needs_an_slo_to_meet() -> None:
    assert refusal({"num_concurrency": {"search": "max", "high": 8}}).startswith(
        "task.json: /benchmark/num_concurrency: a search for the highest level that meets the"
    )
