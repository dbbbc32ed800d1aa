"""The same spec in every notation, and what happens where there is none."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import TASK_FILE, document
from ruamel import yaml

from pytest_autotune.errors import SpecError
from pytest_autotune.scoring.slo import SLO, Bound
from pytest_autotune.space.categorical import Categorical
from pytest_autotune.spec.loading import (
    find_spec_file,
    load_all,
    load_file,
    load_inline,
    load_named,
)
from pytest_autotune.spec.model import Optimization
from pytest_autotune.study.machine import on_this_machine

#: Python 3.13 points at the comma that is one too many, older ones at what follows it.
COMMA = 8 if sys.version_info >= (3, 13) else 9
SPEC = {"parameters": {"tile": [8, 16], "ratio": {"type": "continuous", "low": 0.1, "high": 0.9}}}
YAML = """\
decode:
  parameters:
    tile: [8, 16]
    ratio: {type: continuous, low: 0.1, high: 0.9}
"""
TOML = """\
[decode.parameters]
tile = [8, 16]
ratio = {type = "continuous", low = 0.1, high = 0.9}
"""
NOTATIONS = {
    "autotune.yaml": YAML,
    "autotune.yml": YAML,
    "autotune.toml": TOML,
    "autotune.json": json.dumps({"decode": SPEC}),
    "pyproject.toml": '[project]\nname = "x"\n' + TOML.replace("[decode", "[tool.autotune.decode"),
}


def write_task(folder: Path, task: Any) -> Path:
    path = folder / "task.json"
    path.write_text(json.dumps(task), "utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_file(path, path.name)
    return str(caught.value)


@pytest.mark.parametrize("name", NOTATIONS)
def test_every_notation_says_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(NOTATIONS[name], "utf-8")
    spec = load_named(tmp_path, "decode")
    assert spec.raw == SPEC
    assert spec.space == load_inline("decode", SPEC, "marker").space
    assert spec.name == "decode"
    assert spec.origin.file == name
    assert spec.origin.at("parameters").endswith("/decode/parameters")
    list(load_all(tmp_path))


def test_a_task_file_is_a_spec_as_it_stands(tmp_path: Path) -> None:
    spec = load_file(write_task(tmp_path, TASK_FILE), "task.json")
    assert spec.raw == TASK_FILE
    assert spec.name == "llama-3-2-1b-docker"
    assert spec.description == TASK_FILE["description"]
    assert spec.space.parameters == (
        Categorical(name="tp-size", choices=(1, 2)),
        Categorical(name="mem-fraction-static", choices=(0.7, 0.8)),
        Categorical(name="pp", choices=(1,)),
        Categorical(name="dp", choices=(1, 2)),
        Categorical(name="quant_config", choices=("default", "kv-cache-fp8")),
    )
    assert spec.optimization == Optimization(
        strategy="grid_search",
        objective="maximize_throughput",
        max_iterations=10,
        timeout_per_iteration=600,
        n_initial_random=5,
        study_name="llama",
    )
    assert spec.slo == SLO(
        bounds=(
            Bound(label="latency p50", metrics=("p50_e2e_latency",), threshold=2.0),
            Bound(
                label="latency p90", metrics=("p90_e2e_latency",), threshold=5.0,
                weight=2.0, hard=True, fail_ratio=0.2,
            ),
            Bound(label="latency p99", metrics=("p99_e2e_latency",), threshold=10.0, hard=True),
            Bound(label="ttft mean", metrics=("mean_ttft",), threshold=1.0, weight=2.0),
            Bound(label="tpot mean", metrics=("mean_tpot",), threshold=0.05),
        ),
        steepness=0.1,
        levels="all",
    )  # fmt: skip


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_task_file_may_be_yaml(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"task{suffix}"
    yaml.YAML(typ="safe").dump(dict(TASK_FILE), path)
    assert load_file(path, path.name).raw == TASK_FILE


def test_a_task_file_without_a_name_is_called_as_its_file(tmp_path: Path) -> None:
    assert load_file(write_task(tmp_path, SPEC), "tasks/task.json").name == "task"


@pytest.mark.parametrize(
    ("changes", "notices"),
    [
        ({}, ["model.namespace: applies to Kubernetes deployments only and has no effect here"]),
        ({"model": {"id_or_path": "m"}}, []),
        (
            {
                "model": {},
                "clusterbasemodel_config": {"a": 1},
                "clusterservingruntime_config": {"b": 2},
            },
            [
                f"{key}: applies to Kubernetes deployments only and has no effect here"
                for key in ("clusterbasemodel_config", "clusterservingruntime_config")
            ],
        ),
        ({"model": {}, "clusterbasemodel_config": None}, []),
        (
            {"model": {}, "deployment_mode": "ome"},
            ["deployment_mode: 'ome' is not supported; known: docker, local, process, url"],
        ),
    ],
)
def test_what_only_kubernetes_can_do_is_named(changes: Any, notices: list[str]) -> None:
    # An engine of its own, as those that are known here have rules of theirs.
    spec = load_inline("study", document(TASK_FILE, base_runtime="own", **changes), "marker")
    assert list(spec.notices) == notices


def test_an_empty_parameter_is_dropped_and_named() -> None:
    parameters = {"a": [], "b": [1], "c": {"type": "choice", "values": []}}
    spec = load_inline("study", {"parameters": parameters, "quant_config": []}, "marker")
    assert spec.space.names == ("b",)
    assert list(spec.notices) == [
        "parameters.a: has no values, so the parameter is dropped",
        "parameters.c: has no values, so the parameter is dropped",
        "quant_config: has no values, so the parameter is dropped",
    ]


@pytest.mark.parametrize(
    ("quantization", "names", "choices"),
    [
        ("kv-cache-fp8", ("quant_config",), [("kv-cache-fp8",)]),
        (["default", "bf16-stable"], ("quant_config",), [("default", "bf16-stable")]),
        (
            {"gemm_dtype": ["auto", "fp8"], "kvcache_dtype": "fp8_e5m2"},
            ("gemm_dtype", "kvcache_dtype"),
            [("auto", "fp8"), ("fp8_e5m2",)],
        ),
        (
            {"attention_dtype": "auto", "moe_dtype": ["w4afp8", "mxfp4"]},
            ("attention_dtype", "moe_dtype"),
            [("auto",), ("w4afp8", "mxfp4")],
        ),
        ({}, (), []),
    ],
)
def test_every_form_of_quantization_becomes_parameters(
    quantization: Any, names: tuple[str, ...], choices: list[tuple[str, ...]]
) -> None:
    space = load_inline("study", {"quant_config": quantization}, "marker").space
    assert space.names == names
    assert [p.choices for p in space.parameters if isinstance(p, Categorical)] == choices


def test_the_world_layout_may_be_searched() -> None:
    layout = {"tp": [1, 2, 4], "pp": 1, "dp": 2, "dcp": 1, "cp": 1, "moe_tp": [1], "moe_ep": 2}
    spec = load_inline("study", {"parallel_config": layout, "constraints": ["tp * pp <= 2"]}, "m")
    assert spec.space.names == tuple(layout)
    assert spec.space.pool is not None
    assert [point["tp"] for point in map(spec.space.pool.point, range(2))] == [1, 2]
    assert len(spec.space.pool) == 2


def test_inline_keys_may_be_written_as_python_writes_them() -> None:
    inline = load_inline(
        "study", {"parameters": {"a": (1, 2), "b": range(3), "c": [(1, 2), (3,)]}}, "marker"
    )
    assert inline.raw == {"parameters": {"a": [1, 2], "b": [0, 1, 2], "c": [[1, 2], [3]]}}
    pool = inline.space.pool
    assert pool is not None
    assert len(pool) == 12


def test_loading_asks_nothing_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    layout = {"tp": [2], "dp": [1]}
    spec = load_inline("s", {"parallel_config": layout, "constraints": ["tp <= gpus"]}, "marker")
    assert spec.space.variables == {"cpus": None, "gpus": None}
    with pytest.raises(SpecError, match=r"with gpus = 0"):
        on_this_machine(spec)


def test_loading_changes_nothing_in_the_callers_document() -> None:
    ours = document(TASK_FILE)
    before = copy.deepcopy(ours)
    load_inline("study", ours, "marker")
    assert ours == before


def test_a_repository_without_specs_has_none(tmp_path: Path) -> None:
    assert find_spec_file(tmp_path) is None
    list(load_all(tmp_path))
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
    assert find_spec_file(tmp_path) is None
    with pytest.raises(SpecError) as caught:
        load_named(tmp_path, "decode")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: no autotune.yaml, ")
    assert "the spec 'decode'" in message


@pytest.mark.parametrize("tool", ["tool = 3", "x = 1"])
def test_a_pyproject_of_any_kind_is_no_obstacle(tmp_path: Path, tool: str) -> None:
    (tmp_path / "pyproject.toml").write_text(tool)
    assert find_spec_file(tmp_path) is None


@pytest.mark.parametrize("second", ["autotune.json", "autotune.toml", "pyproject.toml"])
def test_two_spec_files_are_one_too_many(tmp_path: Path, second: str) -> None:
    for name in ("autotune.yaml", second):
        (tmp_path / name).write_text(NOTATIONS[name], "utf-8")
    with pytest.raises(SpecError, match=f"found autotune.yaml and {second}; keep the specs"):
        load_named(tmp_path, "decode")


def test_the_only_spec_needs_no_name(tmp_path: Path) -> None:
    (tmp_path / "autotune.yaml").write_text(YAML)
    assert load_named(tmp_path, None).name == "decode"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "holds 0 specs ()"),
        (YAML + YAML.replace("decode", "encode"), "holds 2 specs (decode, encode)"),
    ],
)
def test_one_of_several_specs_must_be_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "autotune.yaml").write_text(content)
    with pytest.raises(SpecError) as caught:
        load_named(tmp_path, None)
    assert str(caught.value).startswith(f"autotune.yaml: {said}; name one in the marker")


def test_a_misspelt_spec_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "autotune.yaml").write_text(YAML)
    with pytest.raises(SpecError) as caught:
        load_named(tmp_path, "decoed")
    assert str(caught.value) == (
        "autotune.yaml: no spec named 'decoed' (did you mean 'decode'?); known: decode"
    )


def test_a_mistake_in_one_named_spec_does_not_keep_another_from_loading(tmp_path: Path) -> None:
    (tmp_path / "autotune.yaml").write_text(YAML + "broken: {parameters: 3}\n")
    assert load_named(tmp_path, "decode").name == "decode"
    with pytest.raises(
        SpecError, match=r"^autotune\.yaml:5:10: /broken/parameters: 3 is not a mapping"
    ):
        list(load_all(tmp_path))


def test_an_error_in_pyproject_points_into_its_table(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.autotune.decode]\nparametres = {}\n")
    with pytest.raises(SpecError) as caught:
        load_named(tmp_path, "decode")
    assert str(caught.value).startswith(
        "pyproject.toml:2: /tool/autotune/decode/parametres: unknown key 'parametres' "
        "(did you mean 'parameters'?); known: "
    )


def test_a_pointer_to_a_spec_with_a_slash_in_its_name_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "autotune.yaml").write_text("a/b: {parameters: 3}\n")
    with pytest.raises(SpecError, match=r"^autotune\.yaml:1:7: /a~1b/parameters: "):
        load_named(tmp_path, "a/b")


@pytest.mark.parametrize("content", ["[1, 2]", "null", "text", "1: {}", ""])
def test_a_spec_file_is_a_mapping_of_names(tmp_path: Path, content: str) -> None:
    (tmp_path / "autotune.yaml").write_text(content)
    with pytest.raises(SpecError, match="is not a mapping of names to specs"):
        load_named(tmp_path, "decode")


def test_one_spec_where_named_ones_are_expected_is_explained(tmp_path: Path) -> None:
    (tmp_path / "autotune.json").write_text(json.dumps(TASK_FILE))
    with pytest.raises(
        SpecError, match=r"this is one spec, .* put it under a name, or point at it"
    ):
        load_named(tmp_path, "decode")


def test_a_missing_file_is_named_as_the_user_wrote_it(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^tasks/llama\.json: no such file$"):
        load_file(tmp_path / "llama.json", "tasks/llama.json")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("task.ini", "cannot read a .ini file; use .yaml, .toml or .json"),
        ("task", "cannot read a suffixless file; use .yaml, .toml or .json"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_text("{}")
    assert refusal(tmp_path / name) == f"{name}: {said}"


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").mkdir()
    assert "task.yaml: cannot be read: " in refusal(tmp_path / "task.yaml")
    (tmp_path / "task.json").write_bytes(b'{"a": "\xff"}')
    assert "task.json: cannot be read: " in refusal(tmp_path / "task.json")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("task.json", '{"a": }', ":1:7: not valid JSON: Expecting value"),
        ("task.json", '{"a": 1,}', f":1:{COMMA}: not valid JSON: "),
        ("task.json", "", ":1:1: not valid JSON: "),
        ("task.json", "[" * 100_000, ": not valid JSON: nested too deep"),
        ("task.json", '{"a":' + "9" * 5000 + "}", ": not valid JSON: a number has too many digits"),
        ("task.toml", "a = ", ":1: not valid TOML: Invalid value"),
        ("task.toml", "a = 1\n\nb = x", ":3:5: not valid TOML: Invalid value"),
        ("task.yaml", "a: [1", ":1:6: not valid YAML: expected ',' or ']', but got "),
        ("task.yaml", "a: b: c", ":1:5: not valid YAML: mapping values are not allowed here"),
        ("task.yaml", "? [a]\n: b", ":1:3: not valid YAML: a list cannot be a key"),
        (
            "task.yaml",
            "a: !!python/object/apply:os.getpid []",
            ":1:4: not valid YAML: a list cannot have the tag !!python/object/apply:os.getpid",
        ),
        ("task.yaml", "a: !!bool perhaps", ":1:4: not valid YAML: 'perhaps' is no bool"),
        ("task.yaml", "a: !!int ''", ":1:4: not valid YAML: '' is no int"),
        (
            "task.yaml",
            "a: !!timestamp soon",
            ":1:4: not valid YAML: the tag !!timestamp is not known",
        ),
        ("task.yaml", "!!map [a]", ":1:1: not valid YAML: a list cannot have the tag !!map"),
        (
            "task.yaml",
            "parameters: {a: [!!binary aGk=]}",
            ":1:18: not valid YAML: the tag !!binary",
        ),
        (
            "task.json",
            '{"a": {"b": 1,\n  "b": 2}}',
            ":2:3: not valid JSON: key 'b' appears twice, first in line 1",
        ),
        ("task.toml", "a = 1\na = 2", ":2: not valid TOML: "),
        (
            "task.yaml",
            "a:\n  b: 1\n  b: 2",
            ":3:3: not valid YAML: key 'b' appears twice, first in line 2",
        ),
        (
            "task.yaml",
            "1: a\n1: b",
            ":2:1: not valid YAML: key 1 appears twice, first in line 1",
        ),
        ("task.yaml", "&a [*a]", ":1:1: not valid YAML: a list contains itself by an alias"),
        (
            "task.yaml",
            "parameters: &a {x: *a}",
            ":1:13: not valid YAML: a mapping contains itself by an alias",
        ),
        (
            "task.yaml",
            "a: 1\n---\nb: 2\n",
            ":2:1: not valid YAML: a second document begins here; keep one document in a file",
        ),
        (
            "task.yaml",
            "a:\n\tb: 1\n",
            ":2:1: not valid YAML: a tab indents this line; indent with spaces",
        ),
        ("task.yaml", "a: *b", ":1:4: not valid YAML: no anchor &b comes before this alias"),
        ("task.yaml", "a: {<<: 3}", ":1:9: not valid YAML: '<<' takes over mappings only"),
        ("task.yaml", "a: 1\nb: \x07", ":2:4: not valid YAML: unacceptable character #x0007"),
        ("task.yaml", "", ": the file is empty"),
        ("task.yaml", "# only a comment\n", ": the file is empty"),
    ],
)
def test_what_does_not_parse_is_an_error_on_one_line(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    message = refusal(tmp_path / name)
    assert message.startswith(f"{name}{said}")
    assert "\n" not in message


def test_yaml_may_merge_mappings(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(
        "model: &base {port: 1, host: a}\n"
        "benchmark: {additional_params: {<<: *base, port: 2}}\n"
        "parameters: {a: [1], b: {type: choice, values: [1, 2]}}\n"
    )
    merged = load_file(path, path.name).raw["benchmark"]["additional_params"]
    assert merged == {"port": 2, "host": "a"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("task.toml", "description = 2024-01-02", ":1: /description: .*is a date; put it in quot"),
        ("task.toml", "description = 07:32:00", ":1: /description: .*is a time; put it in quotes"),
        ("task.yaml", "slo: {steepness: .nan}", ":1:7: /slo/steepness: nan is not a finite number"),
        ("task.toml", "slo = {steepness = inf}", ":1: /slo/steepness: inf is not a finite number"),
        ("task.json", '{"slo": {"steepness": NaN}}', ":1:10: /slo/steepness: nan is not a finite"),
        ("task.json", '{"slo":\n{"steepness": -Infinity}}', ":2:2: /slo/steepness: -inf is not a "),
        ("task.json", '{"slo": {"steepness": 1e999}}', ":1:10: /slo/steepness: inf is not a fin"),
        ("task.yaml", "parameters: {1: [1]}", ":1:1: /parameters: key 1 is not a string; put it "),
        ("task.yaml", "true: {}", ":1:1: /: key True is not a string; put it in quotes"),
        (
            "task.yaml",
            "slo: {steepness: '1e-3'}",
            ':1:7: /slo/steepness: "1e-3" is not a number but text; write 0.001 without quotes',
        ),
        (
            "task.yaml",
            "slo: {steepness: 1_000}",
            ':1:7: /slo/steepness: "1_000" is not a number but text; write 1000.0 without undersco',
        ),
        (
            "task.yaml",
            "slo:\n  ttft: {threshold: 1, hard_fail: yes}",
            ':2:24: /slo/ttft/hard_fail: "yes" is not true or false but text; write true',
        ),
        (
            "task.yaml",
            "optimization: {max_iterations: '20'}",
            ':1:16: /optimization/max_iterations: "20" is not a whole number but text; write 20',
        ),
        ("task.yaml", "[" * 60 + "]" * 60, ":1:52: /0/.*/0: nested more than 50 levels deep"),
        ("task.yaml", f"parameters: {{a: [0x{'f' * 5000}]}}", ":1:18: /parameters/a/0: "),
        ("task.yaml", f"task_name: 0x{'f' * 5000}", ":1:1: /task_name: "),
    ],
)
def test_what_json_cannot_hold_is_pointed_at(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    assert re.match(re.escape(name) + said, refusal(tmp_path / name))
