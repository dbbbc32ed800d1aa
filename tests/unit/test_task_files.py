"""The task files of the first users load as they stand, and say what the server is started with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders import TASK_FILE, document, points_of

from pytest_autotune.errors import SpecError
from pytest_autotune.serving.launch import make_launch
from pytest_autotune.spec.loading import load_file, load_inline
from pytest_autotune.spec.model import Spec
from pytest_autotune.study.machine import on_this_machine

SMALL = {"tp-size": [1], "mem-fraction-static": [0.85]}
MODEL = {"id_or_path": "llama-3-2-1b-instruct", "namespace": "autotuner"}
NAMESPACE = "model.namespace: applies to Kubernetes deployments only and has no effect here"


def task(*absent: str, **changes: Any) -> dict[str, Any]:
    """Return a task file with other keys and without some."""
    absent = (*absent, "parallel_config", "quant_config", "slo")
    kept = {key: value for key, value in TASK_FILE.items() if key not in absent}
    return document(kept, **{"parameters": SMALL, "model": MODEL, **changes})


def typed(*values: Any) -> dict[str, Any]:
    return {"type": "choice", "values": list(values)}


#: The forms that task files of the first users take, by what is special about them.
TASKS: Mapping[str, Mapping[str, Any]] = {
    "docker": task(parameters={"tp_size": typed(1), "mem_frac": typed(0.7, 0.8)}),
    "docker with many parameters": task(
        "runtime_image_tag",
        parameters={
            **SMALL, "schedule-policy": ["lpm", "fcfs"], "chunked-prefill-size": [4096, 8192],
        },
    ),
    "a model by its name": task(model={"name": "llama-3-2-1b-instruct", "namespace": "autotuner"}),
    "an SLO": task(slo=TASK_FILE["slo"]),
    "an SLO of one bound": task(slo={"latency": {"p99": {"threshold": 10.0}}}),
    "bayesian": task(
        "deployment_mode",
        optimization={"strategy": "bayesian", "max_iterations": 30, "timeout_per_iteration": 600},
        slo={
            "latency": {"p90": {"threshold": 5.0, "hard_fail": True, "fail_ratio": 0.2}},
            "ttft": {"threshold": 1.0, "weight": 2.0, "hard_fail": False},
            "steepness": 0.1,
        },
    ),
    "local": task("runtime_image_tag", deployment_mode="local"),
    "a parallel layout": task(parallel_config={"tp": [2, 4], "dp": [1, 2]}, parameters={}),
    "a preset": task("deployment_mode", quant_config={"preset": "kv-cache-fp8"}),
    "several presets": task(
        "deployment_mode", quant_config={"presets": ["default", "kv-cache-fp8", "dynamic-fp8"]}
    ),
    "types of parts": task(
        "deployment_mode",
        quant_config={
            "gemm_dtype": "fp8", "kvcache_dtype": "fp8_e5m2", "attention_dtype": "fp8",
            "moe_dtype": "auto",
        },
    ),
    "a volume of Kubernetes": task(
        "deployment_mode",
        storage={"type": "pvc", "pvc_name": "models", "mount_path": "/raid/models"},
    ),
    "resources of Kubernetes": task(
        "runtime_image_tag",
        deployment_mode="ome",
        clusterbasemodel_config={"preset": "llama-3-2-1b-instruct"},
        clusterservingruntime_config={"preset": "sglang-llama-small"},
    ),
    "a runtime of Kubernetes": task(
        "deployment_mode", "runtime_image_tag",
        base_runtime="llama-3-2-1b-instruct-rt",
        parameters={"tp_size": typed(1), "device": typed("cpu")},
    ),
    "a data set": task(
        benchmark={
            **TASK_FILE["benchmark"],
            "dataset_url": "https://example.com/logs.csv.gz",
            "dataset_deduplicate": True,
        },
    ),
}  # fmt: skip


def load(**keys: Any) -> Spec:
    return on_this_machine(load_inline("task", keys, "task.json"))


def flags(spec: Spec) -> list[str]:
    """Return what is told to the server of each configuration, after its address."""
    assert spec.server is not None
    launches = [make_launch(spec.server, point, spec.layout) for point in points_of(spec.space)]
    return [" ".join(launch.argv).partition("--port {port} ")[2] for launch in launches]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_file_loads_as_it_stands(tmp_path: Path, name: str) -> None:
    path = tmp_path / "task.json"
    path.write_text(json.dumps(TASKS[name]), "utf-8")
    spec = on_this_machine(load_file(path, "task.json"))
    assert spec.raw == TASKS[name]
    assert points_of(spec.space)
    if spec.server is None:
        assert name == "a runtime of Kubernetes"
    else:
        assert spec.server.model == "llama-3-2-1b-instruct"
        assert all(flags(spec))
    assert NAMESPACE in spec.notices


SET = "--tp-size 1 --mem-fraction-static 0.85"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a preset", [f"{SET} --kv-cache-dtype fp8_e4m3"]),
        (
            "several presets",
            [
                f"{SET} --dtype auto --kv-cache-dtype auto",
                f"{SET} --kv-cache-dtype fp8_e4m3",
                f"{SET} --quantization fp8 --kv-cache-dtype fp8_e4m3",
            ],
        ),
        (
            "types of parts",
            [f"{SET} --quantization fp8 --kv-cache-dtype fp8_e5m2 --attention-backend flashinfer"],
        ),
        (
            "a parallel layout",
            [
                "--tp-size 2",
                "--tp-size 2 --dp-size 2 --enable-dp-attention",
                "--tp-size 4",
                "--tp-size 4 --dp-size 2 --enable-dp-attention",
            ],
        ),
        ("docker", [f"--tp-size 1 --mem-frac {share}" for share in (0.7, 0.8)]),
    ],
)
def test_a_task_file_says_what_the_server_is_started_with(name: str, expected: list[str]) -> None:
    assert flags(load(**TASKS[name])) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("kv-cache-fp8", {"preset": "kv-cache-fp8"}),
        (["default", "dynamic-fp8"], {"presets": ["default", "dynamic-fp8"]}),
        ("kv-cache-fp8", {"presets": "kv-cache-fp8"}),
    ],
)
def test_every_way_to_name_presets_is_the_same_search(one: Any, other: Any) -> None:
    assert load(**task(quant_config=one)).space == load(**task(quant_config=other)).space


def test_a_part_goes_before_that_of_a_preset() -> None:
    quantization = {"presets": ["kv-cache-fp8", "bf16-stable"], "kvcache_dtype": "fp8_e5m2"}
    assert flags(load(**task(quant_config=quantization, parameters={}))) == [
        "--kv-cache-dtype fp8_e5m2",
        "--dtype bfloat16 --kv-cache-dtype fp8_e5m2",
    ]


def test_a_part_may_replace_what_the_engine_cannot_do() -> None:
    keys = task(base_runtime="tensorrt-llm", runtime_image_tag="1.3.0", parameters={})
    with pytest.raises(SpecError, match="TensorRT-LLM cannot do 'bf16-stable': gemm_dtype "):
        load(**{**keys, "quant_config": {"preset": "bf16-stable", "kvcache_dtype": "auto"}})
    parts = {"gemm_dtype": "auto", "kvcache_dtype": "fp8"}
    spec = load(**{**keys, "quant_config": {"preset": "bf16-stable", **parts}})
    assert flags(spec) == ["--kv_cache_dtype fp8"]


def test_a_part_that_contradicts_the_rest_of_a_preset_is_left_out() -> None:
    quantization = {"presets": ["default", "aggressive-moe"], "gemm_dtype": ["fp8", "auto"]}
    spec = load(**task(quant_config=quantization, parameters={}))
    # The other parts of aggressive-moe set --quantization to another value.
    assert "aggressive-moe" in str([rule.reason for rule in spec.rules])
    assert [(p["quant_config"], p["gemm_dtype"]) for p in points_of(spec.space)] == [
        ("default", "fp8"),
        ("default", "auto"),
        ("aggressive-moe", "auto"),
    ]


def test_a_flag_that_is_a_parameter_itself_goes_before_a_quantization() -> None:
    spec = load(**task(parameters={"kv_cache_dtype": ["auto"]}, quant_config="dynamic-fp8"))
    assert flags(spec) == ["--kv-cache-dtype auto --quantization fp8"]
    notice = "parameters.kv_cache_dtype: goes before quant_config, which sets --kv-cache-dtype too"
    assert notice in spec.notices
    assert not [n for n in load(**TASKS["a preset"]).notices if "goes before" in n]


def test_a_preset_and_several_are_one_too_many() -> None:
    with pytest.raises(SpecError) as caught:
        load(**task(quant_config={"preset": "default", "presets": ["default"]}))
    said = "task.json: /quant_config/presets: give preset or presets, not both"
    assert str(caught.value) == said


def test_an_unknown_preset_is_pointed_at() -> None:
    with pytest.raises(SpecError, match=r"^task\.json: /quant_config/preset: unknown quantiz"):
        load(**task(quant_config={"preset": "kv-cache-fb8"}))


@pytest.mark.parametrize(
    ("name", "notices"),
    [
        ("a preset", []),
        (
            "a volume of Kubernetes",
            ["storage: applies to Kubernetes deployments only and has no effect here"],
        ),
        (
            "resources of Kubernetes",
            [
                "deployment_mode: 'ome' is not supported; known: docker, local, process, url",
                *(
                    f"{key}: applies to Kubernetes deployments only and has no effect here"
                    for key in ("clusterbasemodel_config", "clusterservingruntime_config")
                ),
            ],
        ),
        (
            "a data set",
            [
                f"benchmark.{key}: has no effect here; traffic_scenarios shapes the prompts"
                for key in ("dataset_url", "dataset_deduplicate")
            ],
        ),
    ],
)
def test_what_has_no_effect_is_named(name: str, notices: list[str]) -> None:
    assert list(load(**TASKS[name]).notices) == [*notices, NAMESPACE]
