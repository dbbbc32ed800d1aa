"""A spec's server block and a trial's parameters become exactly one command line."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from builders import TASK_FILE, document, make_spec, points_of

from pytest_autotune.engines import presets
from pytest_autotune.engines.presets import PARALLEL, QUANTIZED, Preset, PresetError, canonical_name
from pytest_autotune.errors import LaunchError, SpecError
from pytest_autotune.serving.launch import Launch, make_launch
from pytest_autotune.space.expressions import Expression
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.spec.model import Spec
from pytest_autotune.study import machine
from pytest_autotune.study.machine import fit_to_machine, on_this_machine

MODEL: Mapping[str, Any] = {"id_or_path": "org/model"}
ENGINES = ["llama.cpp", "sglang", "tensorrt-llm", "vllm"]
#: An engine of our own, with one of everything.
OWN: Mapping[str, Any] = {
    "name": "own",
    "title": "Our engine",
    "command": {"process": ["own", "--model", "{model}", "--port", "{port}"]},
    "port": 9000,
    "health": "/ready",
    "flags": "underscores",
    "false": "no-",
    "lists": "json",
    "gpus": "required",
    "environment": {"OWN_MODE": "fast"},
    "world_size": "tp * dp",
    "constraints": [{"require": "tp >= dp", "message": "tp is never less than dp"}],
    "parallel_config": {
        "tp": {"arguments": ["-t", "{value}"]},
        "dp": {"arguments": ["--replicas={value}"], "when": "dp > 2"},
        "pp": {"unsupported": "it has no pipeline"},
    },
    "quant_presets": {"default": {}, "small": {"gemm_dtype": "int8"}},
    "quant_config": {
        "gemm_dtype": {"auto": [], "int8": ["--int8"]},
        "kvcache_dtype": {"unsupported": "its cache has one type"},
    },
    "aliases": {"tp": ["t", "tensor-size"]},
}


def load(folder: Path | None = None, preset: str | None = None, **keys: Any) -> Spec:
    """Load the spec of ``keys``, which is about a server of ``preset`` where that is given."""
    engine = {} if preset is None else {"server": {"preset": preset}, "model": MODEL}
    return on_this_machine(load_inline("study", engine | keys, "task.json", folder))


def refusal(folder: Path | None = None, **keys: Any) -> str:
    with pytest.raises(SpecError) as caught:
        load(folder, **keys)
    return str(caught.value)


def launch_of(
    server: Mapping[str, Any],
    params: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    **keys: Any,
) -> Launch:
    """Return the launch for ``params``, which are the spec's parameters unless it has others."""
    given = dict(params or {})
    if not {"parameters", "parallel_config", "quant_config"} & set(keys):
        keys["parameters"] = {name: [value] for name, value in given.items()}
    keys.setdefault("model", MODEL)
    spec = load(folder, server=server, **keys)
    assert spec.server is not None
    return make_launch(spec.server, given, spec.layout)


def process(*command: str, **keys: Any) -> dict[str, Any]:
    return {"command": ["serve", *command], **keys}


# Where it runs


@pytest.mark.parametrize(
    ("keys", "backend"),
    [
        ({"server": {"image": "x:1"}}, "docker"),
        ({"server": {"image": "x:1", "command": ["serve"]}}, "docker"),
        ({"server": {"command": ["serve"]}}, "process"),
        ({"server": {"url": "http://host:1"}}, "url"),
        ({"server": {"preset": "vllm"}}, "docker"),
        ({"server": {"preset": "vllm", "backend": "process"}}, "process"),
        ({"server": {"preset": "vllm", "url": "https://host"}}, "url"),
        ({"server": {"preset": "vllm"}, "deployment_mode": "local"}, "process"),
        ({"server": {"preset": "vllm"}, "deployment_mode": "docker"}, "docker"),
        ({"server": {"command": ["serve"]}, "deployment_mode": "local"}, "process"),
        ({"server": {"preset": "vllm", "image": "x"}, "deployment_mode": "local"}, "docker"),
    ],
)
def test_where_a_server_runs_follows_from_what_is_said(keys: dict[str, Any], backend: str) -> None:
    server = load(model=MODEL, **keys).server
    assert server is not None
    assert (server.backend, server.explicit) == (backend, True)


def test_a_spec_without_a_server_has_none() -> None:
    assert load(parameters={"a": [1]}).server is None
    assert load(base_runtime="somebody-elses", quant_config="fast").server is None


def test_a_task_file_without_a_server_block_names_its_engine_all_the_same() -> None:
    server = load(**document(TASK_FILE)).server
    assert server is not None
    assert not server.explicit
    assert server.backend == "docker"
    assert server.preset is not None
    assert server.preset.name == "sglang"
    assert server.image == "lmsysorg/sglang:v0.5.2-cu126"
    assert server.model == "meta-llama/Llama-3.2-1B-Instruct"


def test_a_task_file_is_launched_with_its_parameters_as_flags() -> None:
    spec = load(**document(TASK_FILE))
    assert spec.server is not None
    params = {
        "tp-size": 2, "mem-fraction-static": 0.8, "pp": 1, "dp": 2, "quant_config": "kv-cache-fp8",
    }  # fmt: skip
    launch = make_launch(spec.server, params, spec.layout)
    assert " ".join(launch.argv) == (
        "python3 -m sglang.launch_server --model-path meta-llama/Llama-3.2-1B-Instruct "
        "--host {host} --port {port} --tp-size 2 --mem-fraction-static 0.8 --pp-size 1 "
        "--dp-size 2 --enable-dp-attention --kv-cache-dtype fp8_e4m3"
    )
    assert launch.gpus == 2


def test_an_image_of_ones_own_wins_over_the_presets_and_its_tag() -> None:
    launch = launch_of({"preset": "vllm", "image": "mine:1"}, runtime_image_tag="v9")
    assert launch.image == "mine:1"
    assert launch_of({"preset": "vllm"}, runtime_image_tag="v9").image == "vllm/vllm-openai:v9"


# What is refused, with file and place


@pytest.mark.parametrize(
    ("message", "keys"),
    {
        "/server: says neither what to run nor where it runs": {"server": {}},
        "/server: the docker backend needs an 'image'": {"server": {"backend": "docker"}},
        "/server: the process backend needs a 'command'": {"server": {"backend": "process"}},
        "/server: the process backend needs a 'command', as a list": {"server": {"command": []}},
        "/server/url: null is not an http://": {"server": {"backend": "url"}},
        '/server/url: "host:1" is not an http://': {"server": {"url": "host:1"}},
        '/server/url: "http://h:99999" is not an http://': {"server": {"url": "http://h:99999"}},
        '/server/url: "http://[::1" is not an http://': {"server": {"url": "http://[::1"}},
        '/server/url: "http://:80/v1" is not an http://': {"server": {"url": "http://:80/v1"}},
        r'/server/url: "http://h/\r\nX: y" is not an http://': {
            "server": {"url": "http://h/\r\nX: y"}
        },
        '/server/url: "http://h/a b" is not an http://': {"server": {"url": "http://h/a b"}},
        r'/server/url: "http://h\\@g/" is not an http://': {"server": {"url": r"http://h\@g/"}},
        '/server/shm_size: "big" is not a size such as 512m or 8g': {
            "server": {"image": "x", "shm_size": "big"}
        },
        '/server/memory: "-1g" is not a size': {"server": {"image": "x", "memory": "-1g"}},
        '/server/environment: "A=B" is not the name of a variable': {
            "server": {"image": "x", "environment": {"A=B": ""}}
        },
        '/server/environment: "" is not the name of a variable': {
            "server": {"command": ["x", "{port}"], "environment": {"": "x"}}
        },
        "/server/volumes: applies to the backend 'docker' only, and this one is 'process'": {
            "server": {"command": ["a"], "volumes": ["/x:/x"]}
        },
        "/server/working_directory: applies to the backend 'process' only": {
            "server": {"image": "x", "working_directory": "."}
        },
        "/server/image: applies to the backend 'docker' only": {
            "server": {"image": "x", "backend": "process", "command": ["a"]}
        },
        "/server/url: applies to the backend 'url' only": {
            "server": {"url": "http://x", "backend": "docker", "image": "y"}
        },
        "/server/command: uses {model}, but model.id_or_path is not given": {
            "server": {"command": ["run", "{model}"]}
        },
        "/server/flags/max-seq: there is no parameter 'max-seq' (did you mean 'max_seqs'?)": {
            "server": process(flags={"max-seq": "-s"}),
            "parameters": {"max_seqs": [1]},
        },
        (
            "/server/preset: unknown preset 'vlm'; known: llama.cpp, sglang, tensorrt-llm, "
            "vllm, or the path of a .json file (did you mean 'vllm'?)"
        ): {"server": {"preset": "vlm"}},
        "/server/comand: unknown key 'comand' (did you": {"server": {"comand": []}},
        '/server/image: "" is empty': {"server": {"image": ""}},
        "/server/command: ": {"server": {"command": "vllm serve"}},
        "/server/gpus: -1 is ": {"server": {"image": "x", "gpus": -1}},
        (
            "/quant_config: what it means depends on the engine; name it by server.preset "
            "(llama.cpp, sglang, tensorrt-llm, vllm)"
        ): {"server": process(), "quant_config": "default"},
    }.items(),
)
def test_a_mistake_is_named_with_its_place(keys: dict[str, Any], message: str) -> None:
    assert refusal(**keys).startswith(f"task.json: {message}")


def test_a_preset_may_need_a_model() -> None:
    assert ": /server/command: uses {model}, but model" in refusal(server={"preset": "vllm"})


@pytest.mark.parametrize("size", ["512m", "8g", "1.5G", "64MB", "100", "2 gb", "1T", "7k", "9B"])
def test_sizes_are_those_that_docker_knows(size: str) -> None:
    assert load(server={"image": "x", "memory": size, "shm_size": size}).server is not None


@pytest.mark.parametrize(
    ("message", "keys"),
    {
        "/parallel_config/dp: llama.cpp cannot do dp = 2: llama.cpp serves one copy": {
            "parallel_config": {"dp": [1, 2]},
            "server": {"preset": "llama.cpp"},
        },
        '/quant_config/gemm_dtype: vLLM cannot do gemm_dtype = "int8": ': {
            "quant_config": {"gemm_dtype": ["auto", "int8"]},
            "server": {"preset": "vllm"},
        },
        '/quant_config/gemm_dtype: vLLM cannot do gemm_dtype = "fp9": known: auto': {
            "quant_config": {"gemm_dtype": "fp9"},
            "server": {"preset": "vllm"},
        },
        (
            "/quant_config: unknown quantization 'dynamic-fb8' (did you mean "
            "'dynamic-fp8'?); known for vLLM: default, "
        ): {"quant_config": ["default", "dynamic-fb8"], "server": {"preset": "vllm"}},
        "/quant_config: TensorRT-LLM cannot do 'bf16-stable': gemm_dtype bfloat16: ": {
            "quant_config": "bf16-stable",
            "server": {"preset": "tensorrt-llm"},
        },
    }.items(),
)
def test_what_an_engine_cannot_do_is_refused_with_the_reason(
    keys: dict[str, Any], message: str
) -> None:
    assert refusal(model=MODEL, **keys).startswith(f"task.json: {message}")


def test_somebody_elses_server_is_not_asked_what_it_can_do() -> None:
    spec = load(
        server={"preset": "llama.cpp", "url": "http://x"},
        parallel_config={"tp": [1, 2]},
        quant_config="aggressive-moe",
    )
    assert spec.server is not None


# Placeholders and flags


def test_placeholders_are_filled_and_what_none_uses_becomes_a_flag() -> None:
    server = process("{model}", "--mix={a}-{b}", "{flags}", "--end", "{host}:{port}")
    launch = launch_of(server, {"a": 1, "c": 2.5, "b": "x y", "d": True, "long-name": [1, "z"]})
    assert launch.argv == (
        "serve", "org/model", "--mix=1-x y",
        "-c", "2.5", "-d", "--long-name", "1", "z",
        "--end", "{host}:{port}",
    )  # fmt: skip
    assert launch.command("127.0.0.1", 81)[-1] == "127.0.0.1:81"


def test_flags_go_to_the_end_where_no_place_is_named() -> None:
    assert launch_of(process("--fixed"), {"x": 1}).argv == ("serve", "--fixed", "-x", "1")


def test_flags_are_in_the_order_of_the_parameters() -> None:
    names = ["zeta", "alpha", "mid"]
    argv = launch_of(process(), dict.fromkeys(names, 1)).argv
    assert [part for part in argv if part.startswith("--")] == [f"--{name}" for name in names]


@pytest.mark.parametrize(
    ("name", "placeholder"),
    [
        ("tp-size", "{tp-size}"),
        ("tp-size", "{tp_size}"),
        ("tp_size", "{tp_size}"),
        ("tp.size", "{tp.size}"),
        ("tp.size", "{tp_size}"),
    ],
)
def test_a_placeholder_may_be_spelled_like_the_parameter_or_its_identifier(
    name: str, placeholder: str
) -> None:
    assert launch_of(process(placeholder), {name: 4}).argv == ("serve", "4")


def test_a_process_may_be_run_by_the_python_of_the_tests() -> None:
    assert launch_of({"command": ["{python}", "-V"]}).argv == (sys.executable, "-V")
    with pytest.raises(LaunchError, match=r"\{python\} is no parameter"):
        launch_of({"image": "x", "command": ["{python}"]})


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ({"environment": {"A": "{x}"}}, ()),
        ({"environment": {"A": None}}, ("--xx", "7")),
        ({"environment": {"A": "${xx}"}}, ("--xx", "7")),
    ],
)
def test_a_parameter_that_the_environment_uses_is_no_flag(
    monkeypatch: pytest.MonkeyPatch, server: dict[str, Any], expected: tuple[str, ...]
) -> None:
    monkeypatch.setenv("xx", "1")
    name = "xx" if expected else "x"
    assert launch_of(process(**server), {name: 7}).argv == ("serve", *expected)


def test_a_parameter_that_the_image_or_a_volume_uses_is_no_flag(tmp_path: Path) -> None:
    (tmp_path / "cache7").mkdir()
    server = {"image": "engine:{tag}", "volumes": ["./cache{n}:/cache"]}
    launch = launch_of(server, {"tag": "v1", "n": 7, "other": 1}, tmp_path)
    assert launch.image == "engine:v1"
    assert launch.volumes == (f"{tmp_path}/cache7:/cache:ro",)
    assert launch.argv == ("--other", "1")


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (
            process("-x", "{a_b}"),
            "task.json: /server/command/2: {a_b} is no parameter of this trial",
        ),
        ({"image": "x:{tag}"}, "task.json: /server/image: {tag} is no parameter"),
        (
            process(environment={"A": "{b}"}),
            "task.json: /server/environment/A: {b} is no parameter",
        ),
        (
            {"image": "x", "volumes": ["/{v}:/v"]},
            "task.json: /server/volumes/0: {v} is no parameter",
        ),
    ],
)
def test_a_placeholder_of_nothing_is_named_with_its_place(
    server: dict[str, Any], message: str
) -> None:
    with pytest.raises(LaunchError) as caught:
        launch_of(server, {"a-c": 1})
    assert str(caught.value).startswith(message)
    assert "a-c" in str(caught.value)


def test_a_placeholder_is_looked_for_among_similar_names() -> None:
    with pytest.raises(LaunchError, match="did you mean 'max_len'"):
        launch_of(process("{maxlen}"), {"max_len": 1})


def test_flags_in_the_middle_of_an_argument_are_told_to_stand_alone() -> None:
    with pytest.raises(LaunchError) as caught:
        launch_of(process("--all={flags}"))
    # Not "{flags} is unknown; known: flags".
    assert "known: flags" not in str(caught.value)


def test_braces_that_are_no_placeholder_are_text() -> None:
    text = '{"a": {"b": 1}, "c": [{}]}'
    launch = launch_of(process("--json", text, "${HOME}", "{}", "{ x }"), {"xx": 1})
    assert launch.argv[1:6] == ("--json", text, "${HOME}", "{}", "{ x }")


def test_a_parameter_may_stand_for_the_model() -> None:
    spec = load(server=process("{model}"), parameters={"model": ["a", "b"]})
    assert spec.server is not None
    assert make_launch(spec.server, {"model": "b"}, spec.layout).argv == ("serve", "b")


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("as_given", ["--max_num-seqs", "1", "-x", "2"]),
        ("dashes", ["--max-num-seqs", "1", "-x", "2"]),
        ("underscores", ["--max_num_seqs", "1", "-x", "2"]),
    ],
)
def test_flags_are_spelled_in_the_style_of_the_engine(style: str, expected: list[str]) -> None:
    launch = launch_of(process(flag_style=style), {"max_num-seqs": 1, "x": 2})
    assert list(launch.argv[1:]) == expected


def test_flags_may_be_renamed_or_kept_from_the_server() -> None:
    server = process(flags={"ctx_size": "-c", "clients": None, "verbose": "--chatty"})
    launch = launch_of(server, {"ctx-size": 9, "clients": 4, "verbose": True, "other": 1})
    assert launch.argv == ("serve", "-c", "9", "--chatty", "--other", "1")


def test_a_part_of_the_layout_may_be_renamed_or_kept_from_the_server() -> None:
    layout: dict[str, Any] = {"parallel_config": {"tp": [2], "pp": [2]}}
    server = {"preset": "vllm", "flags": {"tp": "--mine", "pp": None}}
    launch = launch_of(server, {"tp": 2, "pp": 2}, **layout)
    assert launch.argv[-2:] == ("--mine", "2")
    assert not [part for part in launch.argv if "parallel" in part]
    assert launch.gpus == 4


def test_false_and_lists_are_written_as_the_engine_reads_them() -> None:
    server = process(false_flags="no-", list_style="commas")
    launch = launch_of(server, {"log": False, "cache": True, "sizes": [1, 2], "none": None})
    assert launch.argv == ("serve", "--no-log", "--cache", "--sizes", "1,2")


def test_fixed_arguments_come_first_in_the_same_style() -> None:
    server = process(flag_style="dashes", arguments={"max_len": 5, "eager": True, "off": False})
    assert launch_of(server, {"n_seqs": 2}).argv == (
        "serve", "--max-len", "5", "--eager", "--n-seqs", "2",
    )  # fmt: skip


def test_arguments_that_look_like_flags_are_kept_each_with_its_own() -> None:
    launch = launch_of(process(), {"aa": "-1,0", "bb": "-1,0", "cc": "--x", "dd": "--x"})
    assert launch.argv == (
        "serve", "--aa", "-1,0", "--bb", "-1,0", "--cc", "--x", "--dd", "--x",
    )  # fmt: skip


def test_a_list_may_have_the_same_value_twice() -> None:
    launch = launch_of(process(list_style="repeat"), {"split": [1, 1, 2]})
    assert launch.argv == ("serve", "--split", "1", "--split", "1", "--split", "2")


# Environment, volumes, key


def test_an_environment_has_texts_of_parameters_and_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOST_TOKEN", "t0{k}en")
    environment = {
        "A": "{n}/{flag}", "B": "x${HOST_TOKEN}", "C": 3, "D": True, "E": None, "F": "$HOME ${}",
        "G": 0.5, "H": "{model}@{n}",
    }  # fmt: skip
    launch = launch_of(process(environment=environment), {"n": 1, "flag": False})
    assert launch.environment == {
        "A": "1/false", "B": "xt0{k}en", "C": "3", "D": "true", "E": None, "F": "$HOME ${}",
        "G": "0.5", "H": "org/model@1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("server", "place"),
    [
        (process(environment={"A": "${NOT_SET}"}), "/server/environment/A"),
        (process(api_key="${NOT_SET}"), "/server/api_key"),
    ],
)
def test_a_host_variable_that_is_not_set_is_named_with_its_place(
    monkeypatch: pytest.MonkeyPatch, server: dict[str, Any], place: str
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(SpecError, match=re.escape(f"task.json: {place}: the environment has no")):
        launch_of(server)


def test_a_key_is_sent_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "abc")
    assert launch_of(process(api_key="${KEY}")).headers == {"Authorization": "Bearer abc"}
    assert launch_of(process(api_key="plain")).headers == {"Authorization": "Bearer plain"}
    assert launch_of(process()).headers == {}


def test_volumes_start_from_the_folder_of_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    volumes = [
        "./models:/m:ro",
        f"{tmp_path}:/all",
        "~/models:/home",
        "named:/n",
        "./x/../models:/y",
    ]
    launch = launch_of({"image": "x", "volumes": volumes}, folder=tmp_path)
    assert launch.volumes == (
        f"{tmp_path}/models:/m:ro",
        f"{tmp_path}:/all:ro",
        f"{tmp_path}/models:/home:ro",
        "named:/n:ro",
        f"{tmp_path}/models:/y:ro",
    )


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ("/data", "'/data' is not HOST:/CONTAINER or HOST:/CONTAINER:rw"),
        ("/data:data", "'/data:data' is not HOST:/CONTAINER"),
        (":/data", "':/data' is not HOST:/CONTAINER"),
        ("./absent:/data", "/absent does not exist"),
    ],
)
def test_a_volume_that_cannot_be_mounted_is_named(
    tmp_path: Path, volume: str, message: str
) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(LaunchError) as caught:
        launch_of({"image": "x", "volumes": ["./here:/h", volume]}, folder=tmp_path)
    assert str(caught.value).startswith("task.json: /server/volumes/1: ")
    assert message in str(caught.value)


def test_equal_parameters_make_equal_launches_and_others_do_not() -> None:
    server = process(environment={"A": "{a}"}, flags={"load": None})
    parameters: dict[str, Any] = {"parameters": {"a": [1, 2], "b": [1, 2], "load": [1, 2]}}
    base = launch_of(server, {"a": 1, "b": 1, "load": 1}, **parameters)
    assert launch_of(server, {"a": 1, "b": 1, "load": 2}, **parameters) == base
    assert launch_of(server, {"a": 2, "b": 1, "load": 1}, **parameters) != base
    assert launch_of(server, {"a": 1, "b": 2, "load": 1}, **parameters) != base


# The built-in engines


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Preset:
    return presets.load(request.param)


def test_these_engines_are_built_in() -> None:
    assert list(presets.names()) == ENGINES


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("vLLM", "vllm"),
        ("SGLang", "sglang"),
        ("TRTLLM", "tensorrt-llm"),
        ("tensorrt_llm", "tensorrt-llm"),
        ("llama-cpp", "llama.cpp"),
        ("llama-server", "llama.cpp"),
    ],
)
def test_an_engine_has_other_names(alias: str, name: str) -> None:
    assert canonical_name(alias) == name
    assert presets.load(alias).name == name
    server = load(base_runtime=alias, model=MODEL).server
    assert server is not None
    assert server.preset is presets.load(name) or server.preset == presets.load(name)


def test_an_engine_is_described_completely(engine: Preset) -> None:
    assert set(engine.command) == {"docker", "process"}
    for command in engine.command.values():
        assert {"{model}", "{host}", "{port}"} <= set(command)
    assert engine.image
    assert engine.tag
    assert engine.health.startswith("/")
    assert engine.checked
    assert all(url.startswith("https://") for url in engine.documentation)
    assert set(engine.parallel_config) == set(PARALLEL)
    assert set(engine.quant_config) == set(QUANTIZED)
    assert set(engine.aliases) <= set(PARALLEL)
    spellings = [name for names in engine.aliases.values() for name in names]
    assert len(set(spellings)) == len(spellings)


def test_an_engine_has_every_named_quantization(engine: Preset) -> None:
    names = {"default", "kv-cache-fp8", "dynamic-fp8", "bf16-stable", "aggressive-moe"}
    assert set(engine.quant_presets) == names
    for parts in engine.quant_presets.values():
        assert set(parts) <= set(QUANTIZED)
    for mapping in engine.quant_config.values():
        assert isinstance(mapping, str) or "auto" in mapping


def test_expressions_of_an_engine_can_be_evaluated(engine: Preset) -> None:
    scope = dict.fromkeys(PARALLEL, 1)
    assert Expression.parse(engine.world_size).value(scope) == 1
    for rule in engine.constraints:
        assert Expression.parse(rule.require)(scope)
        assert rule.message
    for name, entry in engine.parallel_config.items():
        assert bool(entry.arguments) != bool(entry.unsupported)
        if entry.when is not None:
            assert not Expression.parse(entry.when)({name: 1})
            assert Expression.parse(entry.when)({name: 2})


def in_order(parts: list[str], argv: tuple[str, ...]) -> bool:
    """Tell whether ``parts`` are in ``argv``, one after the other."""
    return any(list(argv[at : at + len(parts)]) == parts for at in range(len(argv)))


@pytest.mark.parametrize("backend", ["docker", "process"])
def test_an_engine_is_started_with_nothing_but_its_model(engine: Preset, backend: str) -> None:
    launch = launch_of({"preset": engine.name, "backend": backend})
    assert list(launch.argv) == [
        {"{model}": "org/model", "{python}": sys.executable}.get(part, part)
        for part in engine.command[backend]
    ]
    assert (launch.image is None) == (backend == "process")
    assert launch.gpus == 1


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", PARALLEL)
def test_every_part_of_a_layout_shows_in_the_flags(engine: Preset, name: str, size: int) -> None:
    entry = engine.parallel_config[name]
    layout = {"tp": 2, name: size} if engine.name != "llama.cpp" else {name: size}
    server = {"preset": engine.name}
    if entry.unsupported and size > 1:
        refused = refusal(server=server, model=MODEL, parallel_config=layout)
        assert entry.unsupported in refused
        assert f"task.json: /parallel_config/{name}: " in refused
        return
    launch = launch_of(server, layout, parallel_config=layout)
    expected = [part.replace("{value}", str(size)) for part in entry.arguments]
    shown = entry.when is None or size > 1
    assert not expected or in_order(expected, launch.argv) == shown
    world = Expression.parse(engine.world_size).value({**dict.fromkeys(PARALLEL, 1), **layout})
    assert launch.gpus == world


def quantizations() -> Iterator[Any]:
    for name in ENGINES:
        for part, mapping in presets.load(name).quant_config.items():
            for value in mapping if not isinstance(mapping, str) else ("auto",):
                yield pytest.param(name, part, value, id=f"{name}-{part}-{value}")


@pytest.mark.parametrize(("name", "part", "value"), list(quantizations()))
def test_every_type_of_a_part_shows_in_the_flags_or_is_refused_with_a_reason(
    name: str, part: str, value: str
) -> None:
    mapping = presets.load(name).quant_config[part]
    assert not isinstance(mapping, str)
    entry = mapping[value]
    server = {"preset": name}
    if entry.unsupported:
        assert entry.unsupported in refusal(
            server=server, model=MODEL, quant_config={part: [value]}
        )
        return
    bare = launch_of(server).argv
    argv = launch_of(server, {part: value}, quant_config={part: [value]}).argv
    assert argv == (*bare, *entry.arguments)
    assert entry.arguments or value == "auto"


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    "quantization", ["default", "kv-cache-fp8", "dynamic-fp8", "bf16-stable", "aggressive-moe"]
)
def test_a_named_quantization_shows_in_the_flags_or_is_refused(
    name: str, quantization: str
) -> None:
    server = {"preset": name}
    try:
        load(server=server, model=MODEL, quant_config=quantization)
    except SpecError as error:
        refused = str(error)
        title = presets.load(name).title
        assert refused.startswith(f"task.json: /quant_config: {title} cannot do {quantization!r}: ")
        assert len(refused) > 100
        return
    launch = launch_of(server, {"quant_config": quantization}, quant_config=quantization)
    assert len(launch.argv) > len(launch_of(server).argv)
    assert not [part for part in launch.argv if quantization in part]


def conflicts(argv: tuple[str, ...]) -> set[str]:
    """Return flags that are given twice with different values."""
    seen: dict[str, str] = {}
    found = set()
    for flag, value in pairwise(argv):
        if flag.startswith("--") and seen.setdefault(flag, value) != value:
            found.add(flag)
    return found


@pytest.mark.parametrize("name", ENGINES)
def test_parts_of_a_quantization_never_contradict_each_other(name: str) -> None:
    engine = presets.load(name)
    options = []
    for part in QUANTIZED:
        mapping = engine.quant_config[part]
        assert not isinstance(mapping, str)
        options.append([value for value, entry in mapping.items() if not entry.unsupported])
    contradictions = []
    for values in product(*options):
        quantization = dict(zip(QUANTIZED, values, strict=True))
        try:
            launch = launch_of({"preset": name}, quantization, quant_config=quantization)
        except SpecError:
            continue
        if conflicts(launch.argv):
            contradictions.append((quantization, launch.argv[8:]))
    assert not contradictions[:3]


def test_parts_that_contradict_each_other_are_refused_or_not_searched() -> None:
    keys: dict[str, Any] = {"server": {"preset": "sglang"}, "model": MODEL}
    refused = refusal(quant_config={"gemm_dtype": "fp8", "moe_dtype": "mxfp4"}, **keys)
    assert refused.startswith("task.json: /quant_config: ")
    assert "SGLang has one --quantization for gemm_dtype fp8 and moe_dtype mxfp4" in refused
    searched = {"gemm_dtype": ["auto", "fp8"], "moe_dtype": ["auto", "fp8", "mxfp4"]}
    spec = load(quant_config=searched, **keys)
    left = {tuple(point.values()) for point in points_of(spec.space)}
    assert left == {
        ("auto", "auto"), ("auto", "fp8"), ("auto", "mxfp4"), ("fp8", "auto"), ("fp8", "fp8"),
    }  # fmt: skip
    assert any("SGLang has one --quantization" in notice for notice in spec.notices)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("sglang", {"tp": 2, "dp": 3}),
        ("sglang", {"tp": 1, "dp": 2}),
        ("sglang", {"dp": 2}),
        ("sglang", {"tp": 4, "moe_ep": 3}),
        ("sglang", {"tp": 2, "dcp": 2, "cp": 2}),
        ("vllm", {"tp": 2, "dcp": 3}),
        ("vllm", {"tp": 2, "moe_ep": 4}),
        ("tensorrt-llm", {"tp": 4, "dp": 2}),
        ("tensorrt-llm", {"tp": 4, "moe_ep": 3}),
    ],
)
def test_a_layout_that_an_engine_forbids_is_refused_at_loading(
    name: str, layout: dict[str, int]
) -> None:
    refused = refusal(preset=name, parallel_config=layout)
    assert refused.startswith("task.json: /parallel_config: no combination of the parameters is")
    messages = [rule.message for rule in presets.load(name).constraints]
    assert any(message in refused for message in messages)


@pytest.mark.parametrize(
    ("name", "layout", "left"),
    [
        ("sglang", {"tp": [1, 2, 4], "dp": [1, 2]}, {(1, 1), (2, 1), (2, 2), (4, 1), (4, 2)}),
        ("tensorrt-llm", {"tp": [1, 2, 4], "dp": [1, 2]}, {(1, 1), (2, 1), (2, 2), (4, 1)}),
        ("vllm", {"tp": [1, 2], "moe_ep": [1, 2]}, {(1, 1), (2, 1), (2, 2)}),
        ("vllm", {"tp": [1, 2], "dcp": [1, 2]}, {(1, 1), (2, 1), (2, 2)}),
    ],
)
def test_layouts_that_an_engine_forbids_are_not_searched(
    name: str, layout: dict[str, Any], left: set[tuple[int, int]]
) -> None:
    spec = load(preset=name, parallel_config=layout)
    assert {tuple(point.values()) for point in points_of(spec.space)} == left
    assert any("combinations are left out" in notice for notice in spec.notices)


def test_a_layout_named_by_the_engines_own_flags_obeys_its_rules() -> None:
    spec = load(preset="sglang", parameters={"tp-size": [1, 2]}, parallel_config={"dp": [1, 2]})
    assert {tuple(p.values()) for p in points_of(spec.space)} == {(1, 1), (2, 1), (2, 2)}
    assert [spec.layout.gpus(point) for point in points_of(spec.space)] == [1, 2, 2]


def test_an_empty_list_of_a_layout_is_dropped() -> None:
    spec = load(preset="sglang", parallel_config={"tp": [1, 2], "dp": []})
    assert len(points_of(spec.space)) == 2


@pytest.mark.parametrize(
    ("name", "parameter", "gpus"),
    [
        ("vllm", "tensor-parallel-size", 4),
        ("vllm", "tensor_parallel_size", 4),
        ("vllm", "data-parallel-size", 4),
        ("vllm", "tp", 4),
        ("sglang", "tp", 4),
        ("sglang", "tp_size", 4),
        ("sglang", "pp-size", 4),
        ("tensorrt-llm", "tp_size", 4),
    ],
)
def test_a_plain_parameter_may_be_a_part_of_the_layout(
    name: str, parameter: str, gpus: int
) -> None:
    launch = launch_of({"preset": name}, {parameter: 4})
    assert launch.argv[-1] == "4"
    assert launch.gpus == gpus


@pytest.mark.parametrize("fixed", [True, False])
def test_a_fixed_flag_of_the_layout_counts_as_well(*, fixed: bool) -> None:
    arguments = {"tensor-parallel-size": 4} if fixed else {}
    params = {} if fixed else {"tensor-parallel-size": 4}
    launch = launch_of({"preset": "vllm", "arguments": arguments}, params)
    assert launch.argv[-2:] == ("--tensor-parallel-size", "4")
    assert launch.gpus == 4


def test_fixed_flags_obey_the_rules_of_an_engine() -> None:
    server = {"preset": "sglang", "arguments": {"tp-size": 3}}
    assert "dp must divide tp" in refusal(server=server, model=MODEL, parallel_config={"dp": 2})
    spec = load(server=server, model=MODEL, parallel_config={"dp": [1, 2, 3]})
    assert [point["dp"] for point in points_of(spec.space)] == [1, 3]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama.cpp", {"dp": [1, 2]}),
        ("vllm", {"gemm_dtype": ["auto", "nonsense"]}),
        ("vllm", {"gemm-dtype": ["auto", "nonsense"]}),
        ("llama.cpp", {"moe-ep": [1, 2]}),
        ("sglang", {"moe_tp": {"type": "integer", "low": 1, "high": 2}}),
        ("tensorrt-llm", {"quant-config": ["default", "nonsense"]}),
    ],
)
def test_a_plain_parameter_that_an_engine_cannot_do_is_no_crash(
    name: str, parameters: dict[str, Any]
) -> None:
    try:
        spec = load(preset=name, parameters=parameters)
    except SpecError:
        return
    assert spec.server is not None
    for point in points_of(spec.space):
        make_launch(spec.server, point, spec.layout)


def test_a_whole_number_stays_one_however_it_is_written() -> None:
    # JSON counts 2.0 as an integer, engines do not.
    spec = load(preset="vllm", parallel_config={"tp": [2.0]})
    assert spec.server is not None
    (point,) = points_of(spec.space)
    assert make_launch(spec.server, point, spec.layout).argv[-1] == "2"


def test_sizes_that_are_text_are_refused_with_their_place() -> None:
    refused = refusal(
        preset="sglang",
        parameters={"tp-size": ["1", "2"]},
        parallel_config={"dp": [1, 2]},
    )
    assert refused.startswith("task.json: /")


# Engines of one's own

Write: TypeAlias = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: Any = None, **changes: Any) -> Path:
        text = content if isinstance(content, str) else json.dumps(content or {**OWN, **changes})
        (tmp_path / "own.json").write_text(text)
        # Presets are read once, so every test has a folder of its own.
        return tmp_path

    return written


def test_a_preset_may_be_a_file_beside_the_spec(write: Write) -> None:
    folder = write()
    params: dict[str, Any] = {"tp": 4, "dp": 3, "gemm_dtype": "int8", "a-b": False, "c": [1, 2]}
    launch = launch_of(
        {"preset": "own.json"},
        params,
        folder,
        parallel_config={"tp": [4], "dp": [3]},
        quant_config={"gemm_dtype": ["int8"]},
        parameters={"a-b": [False], "c": [[1, 2]]},
    )
    assert " ".join(launch.argv) == (
        "own --model org/model --port {port} -t 4 --replicas=3 --int8 --no-a_b -c [1, 2]"
    )
    assert launch.gpus == 12
    assert launch.environment == {"OWN_MODE": "fast"}
    assert (launch.spec.health, launch.backend) == ("/ready", "process")


def test_the_environment_of_a_preset_may_be_replaced_or_taken_away(write: Write) -> None:
    folder = write()
    for value, expected in (("slow", "slow"), (None, None)):
        launch = launch_of(
            {"preset": "own.json", "environment": {"OWN_MODE": value}}, folder=folder
        )
        assert launch.environment == {"OWN_MODE": expected}


def test_a_rule_of_a_preset_restricts_the_search(write: Write) -> None:
    spec = load(write(), preset="own.json", parallel_config={"tp": [1, 2], "dp": [1, 2]})
    assert len(points_of(spec.space)) == 3


def test_a_small_condition_is_obeyed(write: Write) -> None:
    launch = launch_of(
        {"preset": "own.json"}, {"tp": 2, "dp": 2}, write(), parallel_config={"tp": 2, "dp": 2}
    )
    assert launch.argv[-2:] == ("-t", "2")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"parallel_config": {"pp": 2}},
            "/parallel_config/pp: Our engine cannot do pp = 2: it has no",
        ),
        (
            {"parallel_config": {"cp": 2}},
            "/parallel_config/cp: Our engine cannot do cp = 2: the preset",
        ),
        (
            {"quant_config": {"kvcache_dtype": "auto"}},
            '/quant_config/kvcache_dtype: Our engine cannot do kvcache_dtype = "auto": its cache',
        ),
        (
            {"quant_config": {"moe_dtype": "auto"}},
            '/quant_config/moe_dtype: Our engine cannot do moe_dtype = "auto": the preset has no',
        ),
        ({"quant_config": "tiny"}, "/quant_config: unknown quantization 'tiny'"),
    ],
)
def test_what_a_preset_does_not_know_is_refused(
    write: Write, keys: dict[str, Any], message: str
) -> None:
    refused = refusal(write(), preset="own.json", **keys)
    assert refused.startswith(f"task.json: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "the preset own.json is not JSON"),
        ("3", "own.json"),
        ("null", "own.json"),
        ('"text"', "own.json"),
        ("[]", "own.json: not a preset"),
        ("{}", "own.json: not a preset"),
        ("[" * 200_000, "own.json is not JSON"),
        (json.dumps({**OWN, "flag": 1}), "own.json: unknown key 'flag'; known: aliases, "),
        (json.dumps({k: v for k, v in OWN.items() if k != "health"}), "health"),
        (json.dumps({**OWN, "constraints": [{"require": "tp > 0"}]}), "message"),
        (json.dumps({**OWN, "constraints": 3}), "own.json: not a preset"),
        (json.dumps({**OWN, "parallel_config": {"tp": {"argument": []}}}), "argument"),
        (json.dumps({**OWN, "parallel_config": {"tp": "--tp"}}), "own.json: not a preset"),
        (json.dumps({**OWN, "quant_config": {"gemm_dtype": ["--x"]}}), "own.json: not a preset"),
    ],
)
def test_a_file_that_is_no_preset_is_refused_with_its_place(
    write: Write, content: str, message: str
) -> None:
    refused = refusal(write(content), preset="own.json")
    assert refused.startswith("task.json: /server/preset: ")
    assert message in refused


@pytest.mark.parametrize(
    "changes",
    [
        {"world_size": "tp *"},
        {"world_size": 3},
        {"world_size": "tp * gpus"},
        {"constraints": [{"require": "tp >", "message": "x"}]},
        {"constraints": [{"require": "tp > nothing", "message": "x"}]},
        {"parallel_config": {"tp": {"arguments": ["-t"], "when": "tp >"}}},
        {"command": ["own"]},
        {"command": {"process": "own"}},
        {"quant_presets": ["default"]},
    ],
    ids=json.dumps,
)
def test_a_preset_with_a_broken_part_is_refused_with_its_place(
    write: Write, changes: dict[str, Any]
) -> None:
    refused = refusal(
        write(**changes),
        preset="own.json",
        parallel_config={"tp": [1, 2]},
        quant_config="default",
    )
    assert refused.startswith("task.json: /server/preset: ")


def test_a_preset_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused = refusal(tmp_path, preset="absent.json")
    assert refused == (
        "task.json: /server/preset: cannot read the preset absent.json: No such file or directory"
    )


def test_a_preset_that_is_a_pipe_or_has_no_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zero.json"):
        assert "is a device or a pipe" in refusal(tmp_path, preset=name)


def test_presets_are_read_by_name_or_not_at_all() -> None:
    with pytest.raises(PresetError, match="unknown preset 'nope'"):
        presets.load("nope")


# What fits on this machine


def fitted(visible: int, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> Spec:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(machine, "visible_gpus", lambda: visible)
    keys.setdefault("server", {"preset": "vllm"})
    return fit_to_machine(load(model=MODEL, **keys))


@pytest.mark.parametrize(("visible", "left"), [(1, [1]), (2, [1, 2]), (3, [1, 2]), (8, [1, 2, 4])])
def test_layouts_that_need_more_gpus_than_there_are_are_left_out(
    monkeypatch: pytest.MonkeyPatch, visible: int, left: list[int]
) -> None:
    spec = fitted(visible, monkeypatch, parallel_config={"tp": [1, 2, 4]})
    assert [point["tp"] for point in points_of(spec.space)] == left
    said = [notice for notice in spec.notices if f"there are {visible} to use" in notice]
    assert bool(said) == (len(left) < 3)


def test_all_parts_of_a_layout_count(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = {"tp": [1, 2, 4], "pp": [1, 2], "dp": [1, 2]}
    spec = fitted(4, monkeypatch, parallel_config=layout)
    assert all(p["tp"] * p["pp"] * p["dp"] <= 4 for p in points_of(spec.space))
    assert len(points_of(spec.space)) == 8


def test_a_layout_named_by_flags_must_fit_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = fitted(2, monkeypatch, parameters={"tensor-parallel-size": [1, 2, 4]})
    assert [point["tensor-parallel-size"] for point in points_of(spec.space)] == [1, 2]


@pytest.mark.parametrize(
    ("visible", "keys"),
    [
        (1, {"parallel_config": {"tp": 2}}),
        (3, {"parallel_config": {"tp": [4, 8]}}),
        (0, {"parallel_config": {"tp": [1, 2]}}),
        (0, {}),
        (0, {"parameters": {"max-num-seqs": [1, 2]}}),
        (8, {"parallel_config": {"tp": 4}, "server": {"preset": "vllm", "gpus": 2}}),
        (8, {"parallel_config": {"tp": 4}, "server": {"preset": "vllm", "gpus": ["0", "3"]}}),
    ],
)
def test_what_fits_nowhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, visible: int, keys: dict[str, Any]
) -> None:
    with pytest.raises(SpecError) as caught:
        fitted(visible, monkeypatch, **keys)
    said = str(caught.value)
    assert said.startswith("task.json: /server: ")
    assert "vLLM needs tp * pp * cp * dp GPUs" in said
    assert "set server.gpus" in said


@pytest.mark.parametrize(
    "server",
    [
        {"preset": "vllm", "gpus": "none"},
        {"preset": "vllm", "gpus": 0},
        {"preset": "vllm", "url": "http://x"},
        {"preset": "llama.cpp"},
        {"image": "x"},
        {"command": ["x"]},
    ],
)
def test_what_needs_no_gpus_of_ours_fits_anywhere(
    monkeypatch: pytest.MonkeyPatch, server: dict[str, Any]
) -> None:
    spec = fitted(0, monkeypatch, server=server, parameters={"x": [1, 2]})
    assert len(points_of(spec.space)) == 2
    assert not spec.notices


def test_an_engine_that_can_do_without_gpus_has_those_it_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SpecError, match="there are 0 to use"):
        fitted(0, monkeypatch, server={"preset": "llama.cpp", "gpus": "all"})


def test_a_task_file_that_does_not_ask_for_a_server_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "visible_gpus", lambda: 0)
    spec = make_spec(TASK_FILE)
    assert fit_to_machine(spec) is spec


def test_the_gpus_of_another_machine_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "visible_gpus", lambda: 0)
    spec = load(preset="vllm", parallel_config={"tp": [1, 8]})
    for host, left in (("tcp://far:2375", 2), ("ssh://far", 2)):
        monkeypatch.setenv("DOCKER_HOST", host)
        assert len(points_of(fit_to_machine(spec).space)) == left
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/docker.sock")
    with pytest.raises(SpecError):
        fit_to_machine(spec)
