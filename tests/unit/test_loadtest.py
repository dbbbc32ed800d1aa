"""Levels of load held against the SLO, and the highest that meets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
from builders import make_bound, make_plan, make_record, make_slo, make_spec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted import Scripted, refusing_port

from pytest_autotune.errors import InvalidMeasurementError, LoadTestError, SLOViolation, SpecError
from pytest_autotune.load import level_meter
from pytest_autotune.load.limits import goodput_limits, limits
from pytest_autotune.load.loadtest import LoadTest
from pytest_autotune.load.results import LevelResult, LoadResult, saturation
from pytest_autotune.load.search import highest
from pytest_autotune.load.target import Address, renames_model, served_name
from pytest_autotune.scoring.judgement import Ending, Judgement, Outcome, judge
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.scoring.slo import Bound, Compliance, check_bound
from pytest_autotune.study.trial import Trial

Start: TypeAlias = Callable[..., Scripted]
MakeTest: TypeAlias = Callable[..., LoadTest]

#: Few and small requests: what is measured matters little here.
LOAD: Mapping[str, Any] = {
    "traffic_scenarios": ["D(8,4)"],
    "num_concurrency": [1],
    "max_requests_per_iteration": 6,
    "warmup_requests": 0,
    # Tokens one by one, as what arrives in one piece meets no bound on TTFT.
    "additional_params": {"scripted": {"itl": 0.004}},
}
SLOW = {"scripted": {"ttft": 0.03, "itl": 0.004}}


@pytest.fixture
def make() -> Iterator[MakeTest]:
    """Make load tests of a benchmark block and further keys of a spec."""
    with ExitStack() as stack:

        def make_test(
            benchmark: Mapping[str, Any] | None = None,
            mask: Callable[[str], str] = str,
            **keys: Any,
        ) -> LoadTest:
            block = {**LOAD, **(benchmark or {})}
            if "request_rate" in block:
                del block["num_concurrency"]
            spec = make_spec(parameters={"a": [1]}, benchmark=block, **keys)
            test = LoadTest(spec.raw, spec.benchmark, spec.slo, mask=mask)
            stack.callback(test.close)
            return test

        yield make_test


def ttft(statistic: str, most: float, *, hard: bool = True, **fields: Any) -> dict[str, Any]:
    return {"metric": "ttft", "statistic": statistic, "max": most, "hard_fail": hard, **fields}


def loads_of(result: LoadResult) -> list[float]:
    return [level.level.load for level in result.levels]


# The search for the highest level


def searched(
    low: float, high: float, boundary: float, *, whole: bool
) -> tuple[float | None, list[float]]:
    asked: list[float] = []

    def passes(load: float) -> bool:
        asked.append(load)
        return load <= boundary

    return highest(passes, low, high, whole=whole), asked


@given(st.integers(1, 300), st.integers(0, 5000), st.integers(0, 6000))
@example(1, 0, 1)
@example(1, 0, 0)
@example(3, 7, 9)
@example(1, 255, 128)
@settings(derandomize=True, max_examples=500, deadline=None)
def test_the_highest_whole_level_is_that_of_trying_all(low: int, more: int, boundary: int) -> None:
    best, asked = searched(low, low + more, boundary, whole=True)
    oracle = max((n for n in range(low, low + more + 1) if n <= boundary), default=None)
    assert best == oracle
    assert all(low <= load <= low + more and load == int(load) for load in asked)
    assert len(set(asked)) == len(asked)
    assert len(asked) <= 2 * math.log2(more + 2) + 4


@given(st.floats(0.01, 1e4), st.floats(1, 1e4), st.floats(0, 1.5))
@example(0.001, 1.0, 1.0)
@example(1.0, 1.0001, 0.99995)
@settings(derandomize=True, max_examples=500, deadline=None)
def test_the_highest_rate_is_found_to_a_twentieth(low: float, factor: float, share: float) -> None:
    high = low * factor
    boundary = low + share * (high - low) - (0.001 * low if share == 0 else 0)
    best, asked = searched(low, high, boundary, whole=False)
    if boundary < low:
        assert best is None
        assert asked == [low]
        return
    assert best is not None
    assert best in asked
    assert best <= boundary
    assert best == high or min(a for a in asked if a > boundary) <= 1.06 * best
    assert all(low <= load <= high for load in asked)
    assert len(set(asked)) == len(asked)
    assert len(asked) <= math.log2(factor) + 10


@pytest.mark.parametrize("whole", [True, False])
@given(verdicts=st.lists(st.booleans(), min_size=40, max_size=40), high=st.integers(1, 40))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_what_is_found_was_measured_and_passed_even_where_levels_contradict_each_other(
    verdicts: list[bool], high: int, *, whole: bool
) -> None:
    asked: dict[float, bool] = {}

    def passes(load: float) -> bool:
        asked[load] = verdicts[int(load) - 1]
        return asked[load]

    best = highest(passes, 1, high, whole=whole)
    if best is None:
        assert asked == {1: False}
    else:
        assert asked[best]
        assert all(ok for load, ok in asked.items() if load <= best)


# Limits


HARD = {"hard": True, "fail_ratio": 0.0}


@pytest.mark.parametrize(
    ("bound", "hard", "strict"),
    [
        (make_bound("p99_ttft", 1.0, **HARD), ("ttft", "p99", 1.0), ("ttft", "p99", 1.0)),
        (
            make_bound("p90_e2e_latency", 2.0, hard=True, fail_ratio=0.5),
            ("e2e_latency", "p90", 3.0),
            ("e2e_latency", "p90", 2.0),
        ),
        (make_bound("mean_tpot", 0.05), None, ("tpot", "mean", 0.05)),
        (make_bound("max_ttft", 1.0, **HARD), ("ttft", "max", 1.0), ("ttft", "max", 1.0)),
        (make_bound("p99_ttft", 1.0, upper=False, **HARD), None, None),
        (make_bound("accuracy", 1.0, **HARD), None, None),
        (make_bound("p99_itl", 1.0, **HARD), None, None),
        (make_bound("error_rate", 0.1, **HARD), ("error_rate", "", 0.1), ("error_rate", "", 0.1)),
    ],
    ids=lambda value: value.label if isinstance(value, Bound) else "",
)
def test_hard_bounds_end_a_level_and_soft_ones_where_the_highest_is_wanted(
    bound: Bound, hard: tuple[str, str, float] | None, strict: tuple[str, str, float] | None
) -> None:
    for wanted, is_strict in ((hard, False), (strict, True)):
        found = limits(make_slo(bound), strict=is_strict)
        assert [(f.metric, f.statistic, f.most) for f in found] == (
            [] if wanted is None else [wanted]
        )
        assert all(f.label == bound.label for f in found)


@pytest.mark.parametrize(
    ("declared", "metric", "statistic"),
    [
        ({"ttft": {"threshold": 1.0, "hard_fail": True, "fail_ratio": 0}}, "ttft", "mean"),
        (
            {"latency": {"p99": {"threshold": 1.0, "hard_fail": True, "fail_ratio": 0}}},
            "e2e_latency",
            "p99",
        ),
        ([{"metric": "ttft", "max": 1.0}], "ttft", "mean"),
        ([{"metric": "latency", "statistic": "p50", "max": 1.0}], "e2e_latency", "p50"),
        ([{"metric": "mean_tpot", "max": 1.0}], "tpot", "mean"),
        ([{"metric": "p99_ttft", "max": 1.0}], "ttft", "p99"),
        ([{"metric": "p90_latency", "max": 1.0}], "e2e_latency", "p90"),
        ([{"metric": "max_e2e_latency", "max": 1.0}], "e2e_latency", "max"),
        ([{"metric": "error_rate", "max": 1.0}], "error_rate", ""),
    ],
)
def test_every_way_to_write_a_bound_ends_a_level(
    declared: Any, metric: str, statistic: str
) -> None:
    slo = make_spec(parameters={"a": [1]}, slo=declared).slo
    (found,) = limits(slo, strict=False)
    assert (found.metric, found.statistic, found.most) == (metric, statistic, 1.0)
    if metric != "error_rate":
        assert goodput_limits(slo).any


@pytest.mark.parametrize("hard", [True, False])
@given(
    threshold=st.sampled_from([0.0, 0.05, 1.0, 3.0]),
    fail_ratio=st.sampled_from([0.0, 0.2, 0.5, 2.0]),
    value=st.just(0.0) | st.floats(1e-6, 20),
)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_what_exceeds_a_limit_breaks_its_bound(
    threshold: float, fail_ratio: float, value: float, *, hard: bool
) -> None:
    bound = make_bound("p99_ttft", threshold, hard=hard, fail_ratio=fail_ratio)
    result = check_bound(bound, {"p99_ttft": value}, 0.1)
    for limit in limits(make_slo(bound), strict=False):
        assert result.infeasible or value <= limit.most * (1 + 1e-9)
    for limit in limits(make_slo(bound), strict=True):
        assert result.ratio > 0 or value <= limit.most * (1 + 1e-9)


def test_a_single_request_must_keep_the_loosest_bound() -> None:
    slo = make_slo(
        make_bound("p50_ttft", 1.0),
        make_bound("p99_ttft", 5.0),
        make_bound("mean_tpot", 0.05, **HARD),
        make_bound("p99_e2e_latency", 9.0, upper=False),
        make_bound("accuracy", 0.5),
    )
    found = goodput_limits(slo)
    assert (found.ttft, found.tpot, found.e2e_latency) == (5.0, 0.05, None)
    assert not goodput_limits(make_slo()).any


def test_a_standard_deviation_is_no_bound_of_a_single_request() -> None:
    found = goodput_limits(make_slo(make_bound("std_ttft", 0.1), make_bound("p99_ttft", 0.05)))
    assert found.ttft == 0.05


# Levels that are declared


def test_levels_are_run_lightest_first_each_once(
    server: Scripted, make: MakeTest, capsys: pytest.CaptureFixture[str]
) -> None:
    result = make({"num_concurrency": [4, 1, 2, 1]})(server.url)
    assert [level.concurrency for level in result.levels] == [1, 2, 4]
    assert all(level.metrics["num_requests"] == 6 for level in result.levels)
    assert all(level.met for level in result.levels)
    assert server.stats()["requests"] == 18
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["level 1", "level 2", "level 4"]


def test_rates_are_levels_too(server: Scripted, make: MakeTest) -> None:
    result = make({"request_rate": [100, 50.5]})(server.url)
    assert [(lv.concurrency, lv.request_rate) for lv in result.levels] == [
        (None, 50.5),
        (None, 100),
    ]
    assert [level["request_rate"] for level in result["levels"]] == [50.5, 100]
    assert "50.5/s" in str(result)


def test_every_scenario_is_run_at_every_level(server: Scripted, make: MakeTest) -> None:
    scenarios = ["D(8,4)", "D( 5, 2 )"]
    result = make({"traffic_scenarios": scenarios, "num_concurrency": [2, 1]})(server.url)
    assert [(lv.concurrency, lv.level.scenario) for lv in result.levels] == [
        (1, "D(8,4)"),
        (1, "D(5,2)"),
        (2, "D(8,4)"),
        (2, "D(5,2)"),
    ]
    assert [lv.metrics["mean_input_tokens"] for lv in result.levels] == [8, 5, 8, 5]
    assert result["levels"][1]["scenario"] == "D(5,2)"
    assert "1 D(5,2)" in str(result)


def test_a_server_may_be_given_with_or_without_its_version(
    server: Scripted, make: MakeTest
) -> None:
    test = make()
    for address in (server.url, f"{server.url}/", f"{server.url}/v1", f"{server.url}/v1/"):
        assert test(address).levels[0].metrics["error_rate"] == 0


def test_the_same_seed_sends_the_same_requests(server: Scripted, make: MakeTest) -> None:
    prompts = []
    for seed in (1, 1, 2):
        make({"seed": seed, "max_requests_per_iteration": 1})(server.url)
        prompts.append(server.last()["body"]["messages"])
    assert prompts[0] == prompts[1] != prompts[2]


def test_no_call_repeats_the_prompts_of_another(server: Scripted) -> None:
    spec = make_spec(parameters={"a": [1]}, benchmark={**LOAD, "max_requests_per_iteration": 1})
    seen = []
    for stream in ("", "trial-0", "trial-1", "trial-0"):
        test = LoadTest(spec.raw, spec.benchmark, spec.slo, stream=stream)
        try:
            for _ in range(2):
                test(server.url)
                seen.append(str(server.last()["body"]["messages"]))
        finally:
            test.close()
    # A server that is used again may remember them; only the same calls send the same.
    assert len(set(seen[:6])) == 6
    assert seen[6:] == seen[2:4]


def test_warm_up_is_as_many_requests_as_there_are_clients(server: Scripted, make: MakeTest) -> None:
    block = {key: value for key, value in LOAD.items() if key != "warmup_requests"}
    spec = make_spec(parameters={"a": [1]}, benchmark={**block, "num_concurrency": [3]})
    test = LoadTest(spec.raw, spec.benchmark, spec.slo)
    try:
        test(server.url)
    finally:
        test.close()
    assert server.stats()["requests"] == 6 + 3


def test_the_model_is_the_one_that_the_server_lists(start: Start, make: MakeTest) -> None:
    server = start("--lora", "mine")
    make()(server.url)
    assert server.last()["body"]["model"] == "scripted"
    make({"model_name": "mine"}, model={"id_or_path": "other"})(server.url)
    assert server.last()["body"]["model"] == "mine"


def test_a_model_that_the_server_does_not_list_is_refused_before_load(
    start: Start, make: MakeTest
) -> None:
    server = start("--model", "toy-8b", "--lora", "adapter")
    with pytest.raises(LoadTestError) as refused:
        make(model={"id_or_path": "org/toy-9b"})(server.url)
    assert str(refused.value) == (
        "inline: /model/id_or_path: the server does not serve 'org/toy-9b' (did you mean "
        "'toy-8b'?); it lists the models 'toy-8b', 'adapter' in /v1/models; if that is the same "
        "model, name it so in 'model_name' of 'benchmark'"
    )
    make(model={"id_or_path": "org/toy-8b"})(server.url)
    assert server.last()["body"]["model"] == "toy-8b"
    before = server.stats()["requests"]
    with pytest.raises(LoadTestError) as refused:
        make({"model_name": "toy-9b"})(server.url)
    assert str(refused.value) == (
        "inline: /benchmark/model_name: the server does not serve 'toy-9b' (did you mean "
        "'toy-8b'?); it lists the models 'toy-8b', 'adapter' in /v1/models"
    )
    assert server.stats()["requests"] == before


@pytest.mark.parametrize(
    ("command", "renames"),
    [
        (["vllm", "serve", "org/m", "--served-model-name", "m"], True),
        (["python", "-m", "sglang.launch_server", "--served_model_name=m"], True),
        (["/opt/llama-server", "-m", "m.gguf"], True),
        (["lmdeploy", "serve", "api_server", "org/m", "--model-name", "m"], True),
        (["python", "-m", "llama_cpp.server", "--model_alias", "m"], True),
        (["sh", "-c", "exec serve org/m --model-alias=m"], True),
        (["litellm", "--config", "models.yaml"], True),
        (["-m", "/models/m.gguf", "ghcr.io/ggml-org/llama.cpp:server"], True),
        (["trtllm-serve", "org/m"], False),
        (["serve", "alias", "--name=alias", "--config-format", "hf", "vllm/vllm-openai"], False),
        ([], False),
    ],
)
def test_a_server_may_give_its_model_another_name(command: list[str], *, renames: bool) -> None:
    assert renames_model(command) is renames


@pytest.mark.parametrize(
    ("wanted", "listed", "name"),
    [
        ("toy", ["toy", "adapter"], "toy"),
        ("adapter", ["toy", "adapter"], "adapter"),
        ("toy:adapter", ["toy"], "toy:adapter"),
        ("Toy-1B", ["org/Toy-1B"], "org/Toy-1B"),
        ("org/Toy-1B", ["/models/toy-1b/"], "/models/toy-1b/"),
        ("org/Toy-1B", ["Toy-1B"], "Toy-1B"),
        ("other/Toy-1B", ["org/Toy-1B"], None),
        ("Toy-1B", ["a/Toy-1B", "b/Toy-1B"], None),
        ("toy-2b", ["toy-1b"], None),
        ("toy", ["toy-2b:latest", "toy:latest"], "toy:latest"),
        ("toy", ["toy:8b"], None),
    ],
)
def test_a_model_has_the_name_that_is_listed(wanted: str, listed: list[str], name: str) -> None:
    assert served_name(wanted, listed) == name


def test_a_server_that_ignores_names_is_asked_for_any(start: Start, make: MakeTest) -> None:
    server = start("--model", "m.gguf")
    for extra in ({"command": ["serve", "--alias", "m"]}, {"image": "ghcr.io/ggml-org/llama.cpp"}):
        target = SimpleNamespace(**vars(Address(server.url)), check_alive=lambda: None, **extra)
        make({"model_name": "toy"}, model={"id_or_path": "org/toy"})(target)
        assert server.last()["body"]["model"] == "toy"
        make(model={"id_or_path": "org/toy"})(target)
        assert server.last()["body"]["model"] == "m.gguf"
    llama = start("--model", "m.gguf", "--owned-by", "llamacpp")
    make(model={"id_or_path": "org/toy"})(llama.url)
    assert llama.last()["body"]["model"] == "org/toy"


def test_a_server_without_a_list_of_models_is_taken_at_its_word(
    start: Start, make: MakeTest
) -> None:
    server = start("--no-models", "--only-listed")
    result = make({"model_name": "toy-9b"})(server.url)
    (level,) = result.levels
    assert level.failure == "HTTP 404: The model 'toy-9b' does not exist"
    table = str(result).splitlines()
    assert table[0].endswith("tokens/s    most frequent error")
    assert table[1].endswith("    HTTP 404: The model 'toy-9b' does not exist")
    trial = make_trial()
    trial.report(result)
    (stored,) = trial.levels
    assert (stored.failed, stored.requests) == (6, 6)
    assert judged(trial).reason.startswith(
        "6 of 6 requests failed: HTTP 404: The model 'toy-9b' does not exist; the objective "
    )


def test_an_api_key_may_come_from_the_environment(
    start: Start, make: MakeTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start("--api-key", "s3cr3t")
    monkeypatch.setenv("SOME_KEY", "s3cr3t")
    result = make({"api_key": "${SOME_KEY}"})(server.url)
    assert result.levels[0].metrics["error_rate"] == 0
    assert server.last()["body"]["model"] == "scripted"
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(SpecError, match=r"inline: /benchmark/api_key.*SOME_KEY"):
        make({"api_key": "${SOME_KEY}"})(server.url)


def test_a_task_that_cannot_be_run_says_so_only_when_it_is(make: MakeTest) -> None:
    test = make({"task": "image-text-to-text"})
    with pytest.raises(LoadTestError, match="inline: /benchmark/task: 'image-text-to-text'"):
        test("http://127.0.0.1:1")


def test_figures_per_gpu_are_divided_by_the_world_size(server: Scripted, make: MakeTest) -> None:
    metrics = make()(Address(server.url, gpus=4)).levels[0].metrics
    for name in ("output_throughput", "total_throughput", "request_throughput"):
        assert metrics[f"{name}_per_gpu"] == pytest.approx(metrics[name] / 4, rel=1e-5)


# Under an SLO


def test_heavier_levels_are_left_out_once_a_hard_bound_is_broken(
    start: Start, make: MakeTest
) -> None:
    server = start("--capacity", "1", "--ttft", "0.03")
    test = make({"num_concurrency": [1, 6, 12, 24]}, slo=[ttft("p90", 0.13)])
    result = test(server.url)
    assert loads_of(result) == [1, 6]
    assert result.levels[0].met
    assert not result.levels[1].met
    assert any("2 heavier levels were left out" in note for note in result.notes)
    assert "BROKEN" in str(result)


@pytest.mark.parametrize("policy", ["filter", "max"])
def test_other_policies_want_to_know_all_levels(start: Start, make: MakeTest, policy: str) -> None:
    server = start("--capacity", "1", "--ttft", "0.03")
    slo = {"metrics": [ttft("p90", 0.13)], "levels": policy}
    result = make({"num_concurrency": [1, 6, 8]}, slo=slo)(server.url)
    assert loads_of(result) == [1, 6, 8]
    assert [level.met for level in result.levels] == [True, False, False]


def test_a_soft_bound_does_not_end_anything(server: Scripted, make: MakeTest) -> None:
    test = make(
        {"num_concurrency": [1, 2], "additional_params": SLOW}, slo=[ttft("p90", 0.001, hard=False)]
    )
    result = test(server.url)
    assert loads_of(result) == [1, 2]
    assert [level.ended_early for level in result.levels] == ["", ""]
    assert [level.met for level in result.levels] == [False, False]


def test_a_level_that_is_lost_is_ended_early_and_says_so(server: Scripted, make: MakeTest) -> None:
    test = make(
        {"max_requests_per_iteration": 200, "additional_params": SLOW}, slo=[ttft("max", 0.01)]
    )
    (level,) = test(server.url).levels
    assert "ttft max is lost whatever follows" in level.ended_early
    assert level.metrics["num_requests"] < 100
    assert not level.met


def test_a_bound_that_a_load_test_does_not_measure_is_for_the_test_to_report(
    server: Scripted, make: MakeTest
) -> None:
    slo = [{"metric": "accuracy", "min": 0.9}, ttft("p90", 10.0)]
    result = make({"num_concurrency": [1, 2, 3]}, slo=slo)(server.url)
    assert loads_of(result) == [1, 2, 3]
    assert all(level.met for level in result.levels)


def test_a_bound_that_a_load_test_does_not_measure_does_not_spoil_a_search(
    server: Scripted, make: MakeTest
) -> None:
    slo = [{"metric": "accuracy", "min": 0.9}, ttft("p90", 10.0)]
    result = make({"num_concurrency": {"search": "max", "high": 2}}, slo=slo)(server.url)
    assert result["max_compliant_concurrency"] == 2


@pytest.mark.parametrize("statistic", ["p50", "p80", "p99.9", "p5", "mean", "max"])
def test_every_statistic_that_a_spec_may_bound_is_measured(
    server: Scripted, make: MakeTest, statistic: str
) -> None:
    result = make(slo=[ttft(statistic, 10.0)])(server.url)
    assert f"{statistic}_ttft" in result.levels[0].metrics
    assert result.levels[0].met


@pytest.mark.parametrize("metric", ["itl", "tpot", "ttft", "latency"])
def test_a_level_without_an_answer_meets_no_bound_on_latency(
    server: Scripted, make: MakeTest, metric: str
) -> None:
    block = {
        "num_concurrency": search(6, 8),
        "additional_params": {"scripted": {"status": 500}},
    }
    slo = [{"metric": metric, "statistic": "p90", "max": 10.0}]
    result = make(block, slo=slo)(server.url)
    assert result["max_compliant_concurrency"] == 0
    assert not result.levels[0].met


def test_a_percentile_of_the_objective_is_measured(server: Scripted) -> None:
    spec = make_spec(parameters={"a": [1]}, benchmark=LOAD)
    objective = Objective.parse("minimize:p99.9_ttft")
    test = LoadTest(spec.raw, spec.benchmark, spec.slo, objective=objective)
    try:
        assert "p99.9_ttft" in test(server.url).metrics
    finally:
        test.close()


def test_an_error_rate_is_a_bound_like_any_other(server: Scripted, make: MakeTest) -> None:
    test = make(
        {"additional_params": {"scripted": {"status": 500}}, "num_concurrency": [6, 7]},
        slo=[{"metric": "error_rate", "max": 0.1}],
    )
    result = test(server.url)
    assert loads_of(result) == [6]
    assert result.levels[0].metrics["error_rate"] == 1.0
    assert not result.levels[0].met


def test_a_latency_that_no_request_gave_breaks_its_bound(make: MakeTest) -> None:
    test = make({"num_concurrency": [6, 7]}, slo=[ttft("p90", 10.0)])
    result = test(f"http://127.0.0.1:{refusing_port()}")
    assert loads_of(result) == [6]
    assert not result.levels[0].compliance.feasible
    assert any("6 × connection refused" in note for note in result.notes)


def test_goodput_counts_requests_that_keep_the_slo(server: Scripted, make: MakeTest) -> None:
    bounds = [ttft("p99", 10.0)]
    good = make({"additional_params": SLOW}, slo=bounds)(server.url).levels[0].metrics
    assert good["goodput_ratio"] == 1.0
    assert good["goodput"] == good["request_throughput"]
    slo = [ttft("p99", 0.01, hard=False)]
    bad = make({"additional_params": SLOW}, slo=slo)(server.url).levels[0].metrics
    assert (bad["goodput_ratio"], bad["goodput"]) == (0.0, 0.0)


# What is said of it


def test_errors_are_counted_by_class_with_an_example(server: Scripted, make: MakeTest) -> None:
    script = {"scripted": {"status": 503}}
    result = make({"additional_params": script, "num_concurrency": [6]})(server.url)
    assert result.levels[0].errors == {"HTTP 503": (6, "scripted status")}
    assert "level 6: 6 × HTTP 503 (scripted status)" in result.notes


def test_secrets_are_masked_in_all_that_is_said(server: Scripted, make: MakeTest) -> None:
    def masked(text: str) -> str:
        return text.replace("scripted status", "***").replace("ttft max", "***")

    failing = {"additional_params": {"scripted": {"status": 503}}, "num_concurrency": [6]}
    early = {"additional_params": SLOW, "max_requests_per_iteration": 100}
    for block, slo in ((failing, []), (early, [ttft("max", 0.01)])):
        result = make(block, mask=masked, slo=slo)(server.url)
        said = " ".join(result.notes) + str(result) + str(result["notes"])
        assert "***" in said
        assert "scripted status" not in said
        assert "ttft max" not in said


@pytest.mark.parametrize(
    ("throughputs", "note"),
    [
        ((100.0, 101.0), "saturated from concurrency 1: 100 tokens/s, and 101 at 2"),
        ((100.0, 180.0, 150.0), "saturated from concurrency 2: 180 tokens/s, and 150 at 4"),
        ((100.0, 180.0, 300.0), None),
        ((0.0, 0.0), None),
        ((100.0,), None),
    ],
)
def test_saturation_is_noted(throughputs: Sequence[float], note: str | None) -> None:
    levels = [
        LevelResult(
            level=Level(concurrency=2**at, metrics={}),
            metrics={"total_throughput": throughput},
            compliance=Compliance(),
        )
        for at, throughput in enumerate(throughputs)
    ]
    assert saturation(levels) == ([] if note is None else [note])


def test_tokens_that_are_not_as_asked_for_are_noted(server: Scripted, make: MakeTest) -> None:
    params = {
        "scripted": {"tokens": 2},
        "messages": [{"role": "user", "content": "just three words"}],
    }
    notes = " | ".join(make({"additional_params": params})(server.url).notes)
    assert "prompts have 3 tokens by the server's count, not 8" in notes
    assert "answers have 2 tokens, not 4" in notes


def test_a_client_at_its_limit_makes_a_level_invalid(
    server: Scripted, make: MakeTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(level_meter, "INVALID_CPU", 0.0)
    result = make()(server.url)
    (level,) = result.levels
    assert "level 1 is invalid: the load generator used" in level.invalid
    assert not level.met
    assert level.invalid in result.notes
    assert "invalid" in str(result)
    with pytest.raises(InvalidMeasurementError, match="level 1 is invalid"):
        make_trial().report(result)


def test_a_client_near_its_limit_is_warned_of(
    server: Scripted, make: MakeTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(level_meter, "WARNING_CPU", 0.0)
    monkeypatch.setattr(level_meter, "INVALID_CPU", 10.0)
    monkeypatch.setattr(level_meter, "WARNING_LAG", -1.0)
    result = make()(server.url)
    assert any("close to its own limit" in warning for warning in result.levels[0].warnings)
    assert any("short of CPU" in warning for warning in result.levels[0].warnings)
    assert result.levels[0].met


# In a trial


def make_trial(**keys: Any) -> Trial:
    keys.setdefault("optimization", {"objective": "minimize_ttft"})
    spec = make_spec(parameters={"a": [1]}, **keys)
    return Trial(make_record(0, {"a": 1}, Outcome.RUNNING, None), make_plan(spec))


def judged(trial: Trial) -> Judgement:
    return judge(trial.measurement(Ending.COMPLETE), trial._plan.question)


def test_a_trial_takes_the_result_as_it_is(server: Scripted, make: MakeTest) -> None:
    slo = [ttft("p90", 10.0)]
    result = make({"num_concurrency": [1, 2]}, slo=slo)(server.url)
    trial = make_trial(slo=slo)
    trial.report(result)
    assert [level.concurrency for level in trial.levels] == [1, 2]
    assert trial.notes == result.notes
    evaluation = judged(trial)
    assert evaluation.compliance.met
    assert evaluation.value == pytest.approx(result.metrics["mean_ttft"])


def test_a_broken_level_breaks_the_trial(server: Scripted, make: MakeTest) -> None:
    slo = [ttft("p90", 0.001)]
    result = make({"additional_params": SLOW}, slo=slo)(server.url)
    with pytest.raises(SLOViolation):
        make_trial(slo=slo).report(result)


def test_a_result_is_a_mapping_of_what_is_reported(server: Scripted, make: MakeTest) -> None:
    result = make({"num_concurrency": [1, 2]})(server.url)
    assert set(result) == {"levels", "notes"}
    assert len(result) == 2
    assert result["levels"][1]["concurrency"] == 2
    per_level = [level.metrics["output_throughput"] for level in result.levels]
    assert result.metrics["max_output_throughput"] == max(per_level)
    assert result.metrics["mean_output_throughput"] == pytest.approx(sum(per_level) / 2)


# Changes for one call


def test_keys_of_the_benchmark_may_be_replaced_for_one_call(
    server: Scripted, make: MakeTest
) -> None:
    test = make()
    changed = test(server.url, num_concurrency=[2, 3], max_requests_per_iteration=3)
    assert loads_of(changed) == [2, 3]
    assert [level.metrics["num_requests"] for level in changed.levels] == [3, 3]
    assert loads_of(test(server.url)) == [1]


@pytest.mark.parametrize("levels", [range(1, 3), (1, 2), [2, 1]])
def test_levels_may_be_any_sequence(server: Scripted, make: MakeTest, levels: Any) -> None:
    result = make()(server.url, num_concurrency=levels, max_requests_per_iteration=2)
    assert loads_of(result) == [1, 2]


def test_a_rate_takes_the_place_of_a_concurrency_and_back(server: Scripted, make: MakeTest) -> None:
    opened = make()(server.url, request_rate=[200])
    assert [level.request_rate for level in opened.levels] == [200]
    closed = make({"request_rate": [200]})(server.url, num_concurrency=[2])
    assert [level.concurrency for level in closed.levels] == [2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_concurency": [1]},
            r"load_test\(\): /benchmark/num_concurency: unknown .*did you mean 'num_concurrency'",
        ),
        ({"num_concurrency": [0]}, r"load_test\(\): /benchmark/num_concurrency/0: 0 is below"),
        ({"num_concurrency": 4}, r"load_test\(\): /benchmark/num_concurrency: 4 is not a list"),
        ({"num_concurrency": []}, r"load_test\(\): /benchmark/num_concurrency: \[\] "),
        (
            {"num_concurrency": {"search": "max", "high": 4}},
            r"load_test\(\): /benchmark/num_concurrency: .*needs an SLO",
        ),
        (
            {"num_concurrency": [1], "request_rate": [1.0]},
            r"load_test\(\): /benchmark/request_rate: give num_concurrency .* or request_rate",
        ),
        (
            {"traffic_scenarios": ["D(1)"]},
            r"load_test\(\): /benchmark/traffic_scenarios/0: 'D\(1\)' is no traffic scenario",
        ),
        ({"max_time_per_iteration": "10"}, r"load_test\(\): /benchmark/max_time_per_iteration"),
        ({"generator": {1, 2}}, r"load_test\(\): /benchmark/generator"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_in_the_words_of_a_spec(
    make: MakeTest, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        make()("http://127.0.0.1:1", **changes)


# The highest level on a server


def search(low: float, high: float) -> dict[str, Any]:
    return {"search": "max", "low": low, "high": high}


def test_a_search_finds_what_a_server_has_room_for(start: Start, make: MakeTest) -> None:
    server = start("--capacity", "4", "--ttft", "0.1")
    block = {"num_concurrency": search(2, 32), "max_requests_per_iteration": 10}
    result = make(block, slo=[ttft("p90", 0.19)])(server.url)
    assert result["max_compliant_concurrency"] == 4
    assert loads_of(result) == [2, 4]
    assert all(level.met for level in result.levels)
    assert any(
        note.startswith("highest concurrency that meets the SLO: 4 (tried 2, 4, 5, 6, 8)")
        for note in result.notes
    )
    assert result.metrics["max_compliant_concurrency"] == 4


def test_a_search_may_look_for_a_rate(start: Start, make: MakeTest) -> None:
    # Answers 200 requests/s.
    server = start("--capacity", "1", "--ttft", "0.005")
    block = {
        "request_rate": search(240, 1920),
        "max_requests_per_iteration": 60,
        "traffic_scenarios": ["D(8,1)"],
    }
    result = make(block, slo=[ttft("p90", 0.15)])(server.url)
    assert 240 <= result["max_compliant_request_rate"] < 960
    assert result.levels[-1].request_rate == result["max_compliant_request_rate"]
    assert all(level.met for level in result.levels)
    assert any(note.startswith("highest request rate that meets") for note in result.notes)


@pytest.mark.parametrize("policy", ["all", "filter", "max"])
def test_a_search_in_which_even_the_lowest_fails_gives_none(
    server: Scripted, make: MakeTest, policy: str
) -> None:
    block = {"num_concurrency": search(2, 32), "additional_params": SLOW}
    slo = {"metrics": [ttft("p90", 0.001)], "levels": policy}
    result = make(block, slo=slo)(server.url)
    assert loads_of(result) == [2]
    assert result["max_compliant_concurrency"] == 0
    assert "even the lowest concurrency, 2, does not meet the SLO" in result.notes


def test_a_search_that_reaches_its_end_says_that_it_went_no_further(
    server: Scripted, make: MakeTest
) -> None:
    result = make({"num_concurrency": search(1, 5)}, slo=[ttft("p90", 10.0)])(server.url)
    assert result["max_compliant_concurrency"] == 5
    assert loads_of(result) == [1, 2, 4, 5]
    assert any("higher was not asked for (tried 1, 2, 4, 5)" in note for note in result.notes)


def test_a_search_of_one_level_tries_it(server: Scripted, make: MakeTest) -> None:
    result = make({"num_concurrency": search(3, 3)}, slo=[ttft("p90", 10.0)])(server.url)
    assert (loads_of(result), result["max_compliant_concurrency"]) == ([3], 3)


def test_a_soft_bound_is_enough_to_end_a_search(server: Scripted, make: MakeTest) -> None:
    block = {"num_concurrency": search(1, 4), "additional_params": SLOW}
    result = make(block, slo=[ttft("p90", 0.001, hard=False)])(server.url)
    assert result["max_compliant_concurrency"] == 0


def test_a_search_must_pass_in_every_scenario(server: Scripted, make: MakeTest) -> None:
    # Two tokens take 50 ms, one none at all.
    block = {
        "num_concurrency": search(1, 4),
        "traffic_scenarios": ["D(8,1)", "D(8,2)"],
        "additional_params": {"scripted": {"itl": 0.05}},
    }
    slo = [{"metric": "e2e_latency", "statistic": "p50", "max": 0.03}]
    result = make(block, slo=slo)(server.url)
    assert result["max_compliant_concurrency"] == 0
    assert [level.level.scenario for level in result.levels] == ["D(8,1)", "D(8,2)"]


def test_an_invalid_level_does_not_pass_and_says_so(
    server: Scripted, make: MakeTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(level_meter, "INVALID_CPU", 0.0)
    result = make({"num_concurrency": search(1, 4)}, slo=[ttft("p90", 10.0)])(server.url)
    assert result["max_compliant_concurrency"] == 0
    with pytest.raises(InvalidMeasurementError):
        make_trial().report(result)


def test_a_trial_is_scored_by_the_highest_level_of_a_search(
    server: Scripted, make: MakeTest
) -> None:
    slo = {"metrics": [ttft("p90", 10.0)], "levels": "max"}
    result = make({"num_concurrency": search(1, 3)}, slo=slo)(server.url)
    trial = make_trial(slo=slo)
    trial.report(result)
    assert judged(trial).value == 3


# A server that dies


@dataclass
class Mortal:
    """A server that is found dead after some looks."""

    base_url: str
    looks: int
    gpus: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)

    def check_alive(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise RuntimeError("the server died")


def test_the_death_of_a_server_ends_the_load_test(server: Scripted, make: MakeTest) -> None:
    block = {"additional_params": SLOW, "max_requests_per_iteration": 1000}
    with pytest.raises(RuntimeError, match="the server died"):
        make(block)(Mortal(server.url, looks=2))


def test_a_server_that_died_in_the_end_is_why_its_requests_failed(make: MakeTest) -> None:
    with pytest.raises(RuntimeError, match="the server died"):
        make()(Mortal(f"http://127.0.0.1:{refusing_port()}", looks=0))
