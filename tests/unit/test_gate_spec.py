"""The gate block of a spec says what a regression is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import make_bound, make_slo, make_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.errors import SpecError
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.spec.gate import GateSpec, read_gate
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.spec.validation import schema_text
from pytest_autotune.text.places import Origin


def read(block: dict[str, Any], **keys: Any) -> GateSpec:
    return load_inline("study", {"gate": block, **keys}, "task.json").gate


def refusal(block: dict[str, Any], **keys: Any) -> str:
    with pytest.raises(SpecError) as caught:
        read(block, **keys)
    return str(caught.value)


def test_without_a_block_there_is_a_gate_all_the_same() -> None:
    spec = make_spec(parameters={"a": [1]}).gate
    assert spec == read({}) == GateSpec()
    assert (spec.tolerance, spec.alpha, spec.power, spec.max_launches) == (0.03, 0.01, 0.95, 27)
    assert (spec.metrics, spec.prepare) == ((), ())


def test_the_schema_tells_the_same_defaults() -> None:
    assert "reported as having no effect yet" not in schema_text()
    gate = json.loads(schema_text())["$defs"]["spec"]["properties"]["gate"]["properties"]
    defaults = {name: entry["default"] for name, entry in gate.items() if "default" in entry}
    assert read(defaults) == GateSpec()
    assert set(gate) == {"tolerance", "alpha", "power", "metrics", "max_launches", "prepare"}


def test_every_key_is_read() -> None:
    found = read({
        "tolerance": "1.5%", "alpha": 0.05, "power": 0.9, "max_launches": 40,
        "metrics": ["p99_ttft", "maximize:output_throughput"], "prepare": ["make", "-j2"],
    })  # fmt: skip
    assert found == GateSpec(
        tolerance=0.015, alpha=0.05, power=0.9, max_launches=40,
        metrics=(Objective.parse("minimize:p99_ttft"),
                 Objective.parse("maximize:output_throughput")),
        prepare=("make", "-j2"),
    )  # fmt: skip


def test_a_block_has_no_notice_any_more() -> None:
    assert make_spec(parameters={"a": [1]}, gate={"alpha": 0.05}).notices == ()


@pytest.mark.parametrize(
    ("value", "share"),
    [("3%", 0.03), ("3 %", 0.03), (" 2.5% ", 0.025), ("10%\n", 0.1), (0.03, 0.03), ("99%", 0.99)],
)
def test_a_tolerance_is_a_share_or_per_cent(value: str | float, share: float) -> None:
    assert read({"tolerance": value}).tolerance == pytest.approx(share)


@pytest.mark.parametrize("value", ["0%", "0.0 %", "100%", "250%", f"{'9' * 400}%"])
def test_a_tolerance_in_per_cent_lies_between_none_and_all(value: str) -> None:
    assert refusal({"tolerance": value}) == (
        f"task.json: /gate/tolerance: {value!r} is not between 0 and 1: write a share such as "
        "0.03, or '3%'"
    )


@pytest.mark.parametrize("value", [0, 1, 3, -0.03, "3", "0.03", "three %", "-3%", "%", True, None])
def test_a_tolerance_of_another_kind_is_refused(value: object) -> None:
    assert refusal({"tolerance": value}).startswith("task.json: /gate/tolerance: ")


def test_a_whole_number_may_be_written_with_a_point() -> None:
    found = read({"max_launches": 20.0}).max_launches
    assert (found, type(found)) == (20, int)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alpha", 0), ("alpha", 0.6), ("alpha", 0.0001), ("alpha", "1%"),
        ("power", 0.4), ("power", 1), ("power", 95),
        ("max_launches", 0), ("max_launches", 2.5), ("max_launches", 10_000),
        ("metrics", []), ("metrics", ["x", "x"]), ("metrics", "x"), ("metrics", [""]),
        ("prepare", ""), ("prepare", []), ("prepare", [""]), ("prepare", ["make", 2]),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_named(key: str, value: object) -> None:
    assert refusal({key: value}).startswith(f"task.json: /gate/{key}")


@pytest.mark.parametrize(
    ("written", "listed"),
    [
        ("make -j2 'a b'", '["make", "-j2", "a b"]'),
        ("cmake . && make", '["sh", "-c", "cmake . && make"]'),
        ("curl x | sh", '["sh", "-c", "curl x | sh"]'),
        ("echo 'unclosed", '["sh", "-c", "echo \'unclosed"]'),
    ],
)
def test_a_shell_line_is_refused_and_shown_as_arguments(written: str, listed: str) -> None:
    assert refusal({"prepare": written}) == (
        f"task.json: /gate/prepare: {json.dumps(written)} is one text, and no shell reads it; "
        f"write arguments: {listed}"
    )


def test_a_key_that_is_not_known_is_named_with_its_neighbour() -> None:
    said = refusal({"tolerence": "3%"})
    assert said.startswith("task.json: /gate/tolerence: ")
    assert "tolerance" in said


# --- which way a metric is better ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "maximize"),
    [
        ("p99_ttft", False),
        ("latency", False),
        ("p50_e2e_latency", False),
        ("tpot", False),
        ("itl", False),
        ("kernel_time", False),
        ("request_duration", False),
        ("output_throughput", True),
        ("mean_total_throughput_per_gpu", True),
        ("tflop_per_s", True),
        ("gb_per_s", True),
        ("goodput", True),
        ("success_rate", True),
        ("minimize:output_throughput", False),
        ("maximize:latency", True),
        ("minimize_ttft", False),
        ("maximize_throughput", True),
    ],
)
def test_names_that_are_usual_tell_which_way_they_are_better(
    name: str,
    maximize: bool,  # noqa: FBT001
) -> None:
    (metric,) = read({"metrics": [name]}).metrics
    assert metric.maximize is maximize


@pytest.mark.parametrize(
    ("bound", "maximize"),
    [
        ({"metric": "hits", "min": 10}, True),
        ({"metric": "hits", "max": 10}, False),
        # Whatever the name alone would mean.
        ({"metric": "idle_time", "min": 1}, True),
    ],
)
def test_the_slo_tells_which_way_a_metric_is_better(
    bound: dict[str, Any],
    maximize: bool,  # noqa: FBT001
) -> None:
    (metric,) = read({"metrics": [bound["metric"]]}, slo=[bound]).metrics
    assert metric.maximize is maximize


def test_a_bound_on_the_same_metric_by_another_name_counts() -> None:
    slo = [{"metric": "hits", "statistic": "mean", "min": 1.0}]
    (metric,) = read({"metrics": ["hits"]}, slo=slo).metrics
    assert metric.maximize


def test_where_nobody_knows_the_direction_has_to_be_written() -> None:
    assert refusal({"metrics": ["p99_ttft", "hits"]}) == (
        "task.json: /gate/metrics/1: whether more or less of 'hits' is better is not known: "
        "write 'minimize:hits' or 'maximize:hits'"
    )


@pytest.mark.parametrize("name", ["minimise:x", "minimize:", ":x", " ", "\t"])
def test_what_is_no_objective_is_refused_with_where_it_stands(name: str) -> None:
    assert refusal({"metrics": [name]}).startswith(
        f"task.json: /gate/metrics/0: unknown objective {name!r}"
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(name=st.text(min_size=1, max_size=12))
def test_any_text_is_a_metric_or_an_error_of_the_spec(name: str) -> None:
    origin, slo = Origin(file="f"), make_slo(make_bound("x", 1.0))
    said = "f: /gate/metrics/0: "
    try:
        found = read_gate({"gate": {"metrics": [name]}}, origin, slo)
    except SpecError as error:
        said = str(error)
    else:
        assert len(found.metrics) == 1
    assert said.startswith("f: /gate/metrics/0: ")
