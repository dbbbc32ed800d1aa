"""How many GPUs trials need, by marker, by server, by layout; and what is left where few are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from builders import choice, integer, make_spec, points_of

from pytest_autotune.errors import SpecError
from pytest_autotune.gpu.allocation import NONE, Need
from pytest_autotune.gpu.needs import largest_need, marked_gpus, needed_gpus
from pytest_autotune.spec.model import Spec
from pytest_autotune.study import machine
from pytest_autotune.study.machine import fit_to_machine

MODEL = {"id_or_path": "acme/tiny"}
TP: Mapping[str, Any] = {"parallel_config": {"tp": [1, 2, 4], "pp": 2}}
WHERE = "test_it.py: autotune marker"


def spec(**keys: Any) -> Spec:
    keys.setdefault("parameters", {"a": [1, 2]})
    return make_spec(model=MODEL, **keys)


def need(
    fixtures: str, params: Mapping[str, Any] | None = None, marked: str | None = None, **keys: Any
) -> Need:
    return needed_gpus(spec(**keys), {"a": 1, **(params or {})}, marked, fixtures.split())


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)


def some(count: int | None, *, required: bool = False) -> Need:
    return Need(count=count, required=required)


# By fixtures and layout


@pytest.mark.parametrize("fixtures", ["", "trial", "trial load_test tmp_path"])
@pytest.mark.parametrize("marked", [None, "2"])
def test_tests_that_use_no_gpu_need_none(fixtures: str, marked: str | None) -> None:
    assert need(fixtures, {"tp": 4}, marked, **TP) == NONE
    assert need(fixtures, {"tp": 4}, marked, server={"preset": "vllm"}, **TP) == NONE


def test_a_fixture_needs_what_the_layout_takes() -> None:
    assert need("trial gpu") == some(1, required=True)
    assert need("trial gpu_benchmark") == some(1)
    assert need("gpu gpu_benchmark") == some(1, required=True)
    for tp in (1, 2, 4):
        assert need("gpu", {"tp": tp, "pp": 2}, **TP) == some(2 * tp, required=True)
        assert need("gpu_benchmark", {"tp": tp, "pp": 2}, **TP) == some(2 * tp)


# By server


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ({"preset": "vllm"}, some(4)),
        ({"preset": "vllm", "backend": "process"}, some(4)),
        ({"preset": "sglang"}, some(4)),
        ({"preset": "vllm", "gpus": "all"}, some(None)),
        ({"preset": "vllm", "gpus": 6}, some(6)),
        ({"preset": "vllm", "gpus": ["1", "GPU-x"]}, Need(named=("1", "GPU-x"))),
        ({"preset": "vllm", "gpus": "none"}, NONE),
        ({"preset": "vllm", "gpus": 0}, NONE),
        ({"preset": "vllm", "url": "http://x"}, NONE),
        ({"url": "http://x"}, NONE),
        # A program of one's own may use them; a container gets none unless it is asked for.
        ({"command": ["serve"]}, some(4)),
        ({"command": ["serve"], "gpus": "none"}, NONE),
        ({"command": ["serve"], "gpus": 1}, some(1)),
        ({"image": "x"}, NONE),
        ({"image": "x", "gpus": "all"}, some(None)),
        ({"image": "x", "gpus": 2}, some(2)),
    ],
)
def test_a_server_needs_what_it_says_or_its_layout_takes(
    server: dict[str, Any], expected: Need
) -> None:
    keys: dict[str, Any] = {"server": server, "parameters": {"a": [1], "tp": [1, 2, 4]}}
    found = need("trial inference_server load_test", {"tp": 4}, **keys)
    assert found == expected
    # Nobody starts it where no test asks for it.
    assert need("trial", {"tp": 4}, **keys) == NONE


@pytest.mark.parametrize(
    ("server", "expected"),
    [({}, NONE), ({"gpus": 2}, some(2)), ({"backend": "process"}, some(1))],
)
def test_an_engine_that_can_do_without_gets_what_it_is_given(
    server: dict[str, Any], expected: Need
) -> None:
    assert need("inference_server", server={"preset": "llama.cpp", **server}) == expected


@pytest.mark.parametrize(
    "server",
    [{"url": "http://x"}, {"image": "x"}, {"preset": "vllm", "gpus": "none"}, {"command": ["x"]}],
)
def test_tests_with_a_gpu_of_their_own_need_it_beside_any_server(server: dict[str, Any]) -> None:
    keys: dict[str, Any] = {"server": server, "parameters": {"a": [1], "tp": [1, 2]}}
    both = "trial inference_server "
    assert need(both + "gpu", {"tp": 2}, **keys) == some(2, required=True)
    assert need(both + "gpu_benchmark", {"tp": 2}, **keys) == some(2)


def test_a_fixture_that_cannot_do_without_makes_a_servers_need_required() -> None:
    for gpus, expected in (
        (3, some(3, required=True)),
        ("all", some(None, required=True)),
        (["2"], Need(named=("2",), required=True)),
    ):
        server = {"preset": "vllm", "gpus": gpus}
        assert need("inference_server gpu", server=server) == expected


def test_a_server_without_a_block_is_somebody_elses_error() -> None:
    assert need("inference_server") == NONE


def test_a_container_on_another_machine_needs_none_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://far:2375")
    assert need("inference_server", server={"preset": "vllm"}) == NONE
    assert need("inference_server", server={"preset": "vllm", "gpus": 2}) == NONE
    assert need("inference_server gpu", server={"preset": "vllm"}) == some(1, required=True)
    local = {"preset": "vllm", "backend": "process"}
    assert need("inference_server", server=local) == some(1)


# By marker


def test_the_marker_wins_over_all_else() -> None:
    server = {"preset": "vllm", "gpus": 6}
    for fixtures in ("gpu_benchmark", "inference_server", "gpu_benchmark inference_server"):
        assert need(fixtures, {"tp": 4}, "3", server=server, **TP) == some(3)
    assert need("gpu", {"tp": 4}, "2 * tp", **TP) == some(8, required=True)


def test_a_marker_may_say_that_none_is_needed() -> None:
    assert need("gpu", marked="0") == some(0)
    assert need("gpu_benchmark", marked="a - 1") == some(0)


def test_a_marker_reads_parameters_by_their_identifiers() -> None:
    keys: dict[str, Any] = {"parameters": {"world-size": [1, 2], "half": [0.5]}}
    text = marked_gpus("world_size * 2 if half < 1 else 1", spec(**keys), WHERE)
    assert need("gpu_benchmark", {"world-size": 2, "half": 0.5}, text, **keys) == some(4)
    text = marked_gpus("world_size / half", spec(**keys), WHERE)
    assert need("gpu_benchmark", {"world-size": 2, "half": 0.5}, text, **keys) == some(4)


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (3, "3"), ("a", "a"), (" a + 1 ", "a + 1")])
def test_a_marker_is_a_number_or_an_expression(value: object, text: str) -> None:
    assert marked_gpus(value, spec(), WHERE) == text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-1, "gpus=-1 is neither a whole number nor an expression"),
        (True, "gpus=True is neither a whole number nor an expression"),
        (2.0, "gpus=2.0 is neither a whole number nor an expression"),
        (None, "gpus=None is neither a whole number nor an expression"),
        (["0"], "gpus=['0'] is neither a whole number nor an expression"),
        ("b", "gpus: unknown name 'b' in 'b'"),
        ("tpp", "gpus: unknown name 'tpp' in 'tpp' (did you mean 'tp'?)"),
        ("a +", "gpus: cannot parse 'a +': invalid syntax"),
        ("", "gpus: cannot parse '': invalid syntax"),
        ("gpus", "gpus: unknown name 'gpus' in 'gpus'"),
    ],
)
def test_a_marker_that_says_nothing_is_an_error(value: object, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        marked_gpus(value, spec(parameters={"a": [1], "tp": [1]}), WHERE)
    assert str(caught.value).startswith(f"{WHERE}: {said}")


@pytest.mark.parametrize(
    ("marked", "value"),
    [
        ("a / 2", "0.5"),
        ("-a", "-1"),
        ("a > 0", "True"),
        ("kind", "'x'"),
        ("a if a > 1 else 'no'", "'no'"),
    ],
)
def test_what_is_no_number_of_gpus_for_a_trial_is_an_error(marked: str, value: str) -> None:
    keys: dict[str, Any] = {"parameters": {"a": [1], "kind": ["x", None]}}
    with pytest.raises(SpecError) as caught:
        need("gpu", {"kind": "x"}, marked, **keys)
    assert str(caught.value).endswith(
        f"gpus={marked!r} gives {value} for this trial, which is no number of GPUs"
    )


@pytest.mark.parametrize("marked", ["kind", "b", "a // 0"])
def test_a_marker_that_cannot_be_evaluated_is_an_error(marked: str) -> None:
    # A null, a parameter that this trial does not have, no number at all.
    keys: dict[str, Any] = {
        "parameters": {
            "a": [1],
            "kind": [None],
            "b": choice([1], when="a > 1"),
        }
    }
    with pytest.raises(SpecError, match=r"a // 0|kind|b"):
        need("gpu", {"kind": None}, marked, **keys)


# The largest layout


@pytest.mark.parametrize(
    ("keys", "most", "largest"),
    [
        ({}, 8, 1),
        ({"parallel_config": {"tp": [1, 2, 4]}}, 8, 4),
        ({"parallel_config": {"tp": [1, 2, 4]}}, 3, 2),
        ({"parallel_config": {"tp": [4, 8]}}, 3, 1),
        ({"parallel_config": {"tp": [1, 2], "pp": [1, 2]}}, 8, 4),
        ({"parallel_config": {"tp": [1, 2], "pp": [1, 2]}}, 3, 2),
        ({"parallel_config": {"tp": 2, "pp": 2}}, 8, 4),
        ({"parameters": {"tp": [1, 2]}}, 8, 1),
        ({"parameters": {"tp": [1, 2]}, "server": {"preset": "vllm"}}, 8, 2),
        ({"parameters": {"tensor-parallel-size": [1, 4]}, "server": {"preset": "vllm"}}, 8, 4),
        (
            {"server": {"preset": "vllm", "arguments": {"tensor-parallel-size": 2}}},
            8,
            2,
        ),
        ({"parameters": {"tp": integer(1, 2)}}, 8, 1),
    ],
)
def test_the_largest_need_is_that_of_the_largest_layout_that_fits(
    keys: dict[str, Any], most: int, largest: int
) -> None:
    assert largest_need(spec(**keys), most) == largest


@pytest.mark.parametrize(
    ("server", "largest"),
    [({"preset": "vllm", "gpus": 4}, 4), ({"preset": "vllm", "gpus": "all"}, 8)],
)
def test_the_largest_need_is_what_the_server_asks_for(server: dict[str, Any], largest: int) -> None:
    assert largest_need(spec(server=server), 8) == largest


# What is left on a machine


def fitted(monkeypatch: pytest.MonkeyPatch, visible: int, gpus: str | None, **keys: Any) -> Spec:
    monkeypatch.setattr(machine, "visible_gpus", lambda: visible)
    return fit_to_machine(spec(**keys), gpus)


def sizes(found: Spec) -> list[int]:
    return sorted({point["tp"] for point in points_of(found.space)})


@pytest.mark.parametrize(
    ("visible", "left"), [(0, [1, 2, 4]), (1, [1]), (2, [1, 2]), (3, [1, 2]), (4, [1, 2, 4])]
)
def test_what_the_tests_cannot_have_is_left_out(
    monkeypatch: pytest.MonkeyPatch, visible: int, left: list[int]
) -> None:
    keys: dict[str, Any] = {"parallel_config": {"tp": [1, 2, 4]}}
    layout = spec(**keys).layout.expression()
    for gpus in (layout, "tp"):
        found = fitted(monkeypatch, visible, gpus, **keys)
        assert sizes(found) == left
        said = [notice for notice in found.notices if "the tests need" in notice]
        if len(left) == 3:
            assert not said
        else:
            reason = f"the tests need {gpus} GPUs, and there are {visible} to use"
            assert said == [f"combinations are left out, as {reason}"]


def test_a_need_that_no_parameter_changes_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = spec()
    for visible in (0, 3, 4):
        assert fitted(monkeypatch, visible, "3").space == whole.space
    with pytest.raises(SpecError) as caught:
        fitted(monkeypatch, 2, "3")
    assert str(caught.value) == (
        f"{whole.origin.at()}: the tests need 3 GPUs, and there are 2 to use"
    )


def test_it_is_an_error_where_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError) as caught:
        fitted(monkeypatch, 2, "tp + 2", parallel_config={"tp": [1, 2]})
    assert str(caught.value).endswith(
        "no combination of the parameters is left: the tests need tp + 2 GPUs, and there are 2 "
        "to use"
    )


def test_tests_without_a_need_leave_the_space_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def visible_gpus() -> int:
        pytest.fail("asked")

    monkeypatch.setattr(machine, "visible_gpus", visible_gpus)
    found = spec(parallel_config={"tp": [1, 2, 4]})
    assert fit_to_machine(found) is found


def test_tests_and_server_must_both_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: dict[str, Any] = {"parallel_config": {"tp": [1, 2, 4]}, "server": {"preset": "vllm"}}
    assert sizes(fitted(monkeypatch, 4, None, **keys)) == [1, 2, 4]
    assert sizes(fitted(monkeypatch, 4, "2 * tp", **keys)) == [1, 2]
    keys["server"]["gpus"] = 1
    assert sizes(fitted(monkeypatch, 4, "2 * tp", **keys)) == [1]


def test_a_need_by_a_conditional_parameter_leaves_out_what_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters = {
        "multi": [True, False],
        "tp": choice([1, 2, 4], when="multi"),
    }
    found = fitted(monkeypatch, 2, "tp if multi else 1", parameters=parameters)
    left = points_of(found.space)
    assert sorted(point["tp"] for point in left if point["multi"]) == [1, 2]
    assert [point for point in left if not point["multi"]] == [{"multi": False}]


def test_a_need_that_cannot_be_compared_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus in ("kind", "'x'", "1 // 0"):
        with pytest.raises(SpecError):
            fitted(monkeypatch, 2, gpus, parameters={"kind": ["x", "y"]})
