"""A mistake in a spec is named with its file, its place, its value and what is allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import GEMM, MIXED, TASK_FILE, choice, document, integer, make_spec, real
from jsonschema import Draft202012Validator

from pytest_autotune.errors import SpecError
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.spec.validation import schema_text, validate
from pytest_autotune.study.machine import on_this_machine
from pytest_autotune.text.places import Origin
from pytest_autotune.text.suggest import nearest, shown

ONE = {"parameters": {"a": [1, 2]}}


def refusal(candidate: Any) -> str:
    with pytest.raises(SpecError) as caught:
        on_this_machine(load_inline("study", candidate, "task.json"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("objective", "better"),
    [
        ("minimize:output_throughput", "more output_throughput is better; write 'maximize:output"),
        ("minimize:p50_goodput_per_gpu", "more p50_goodput_per_gpu is better; write 'maximize:"),
        ("maximize:latency", "less latency is better; write 'minimize:latency'"),
        ("maximize: p99_ttft", "less p99_ttft is better; write 'minimize:p99_ttft'"),
    ],
)
def test_an_objective_that_asks_for_the_worst_of_a_known_metric_is_refused(
    objective: str, better: str
) -> None:
    document = {"parameters": {"a": [1]}, "optimization": {"objective": objective}}
    start = f"task.json: /optimization/objective: {objective!r} asks for the worst: "
    assert refusal(document).startswith(f"{start}{better}")


@pytest.mark.parametrize(
    "objective", ["maximize:my_time", "minimize:throughput_loss", "maximize:x"]
)
def test_of_other_metrics_either_direction_may_be_asked_for(objective: str) -> None:
    load_inline("x", {"parameters": {"a": [1]}, "optimization": {"objective": objective}}, "t")


def refused_parameter(parameter: Any, *constraints: str) -> str:
    return refusal({"parameters": {"a": parameter}, "constraints": list(constraints)})


@pytest.mark.parametrize(
    ("message", "candidate"),
    {
        "/: 3 is not a mapping": 3,
        "/parameters: [] is not a mapping": {"parameters": []},
        "/optimization/max_iterations: 0 is below the minimum of 1": {
            "optimization": {"max_iterations": 0}
        },
        "/optimization/timeout_per_iteration: 0 must be greater than 0": {
            "optimization": {"timeout_per_iteration": 0}
        },
        "/optimization/max_iterations: 2.5 is not a whole number": {
            "optimization": {"max_iterations": 2.5}
        },
        "/optimization/max_iterations: true is not a whole number": {
            "optimization": {"max_iterations": True}
        },
        (
            '/optimization/seed: "0" is not a whole number or null but text; write 0.0 '
            "without quotes"
        ): {"optimization": {"seed": "0"}},
        (
            "/optimization/infeasible: \"xfial\" is not one of 'fail', 'xfail' (did you mean "
            "'xfail'?)"
        ): {"optimization": {"infeasible": "xfial"}},
        "/slo/levels: \"any\" is not one of 'all', 'filter', 'max'": {"slo": {"levels": "any"}},
        '/task_name: "" is empty': {"task_name": ""},
        "/patience: unknown key 'patience'; did you mean the 'patience' of 'optimization'?": {
            "patience": 3
        },
        "/cases: 'optimization' says \"worst\"; write it once": {
            "cases": "mean",
            "optimization": {"cases": "worst"},
        },
        (
            "/optimization/cases: \"median\" is not one of 'geomean', 'mean', 'worst' (did you "
            "mean 'mean'?)"
        ): {"optimization": {"cases": "median"}},
        "/slo/ttft: {} lacks 'threshold'": {"slo": {"ttft": {}}},
        "/slo/latency/p99: {\"weight\": 1} lacks 'threshold'": {
            "slo": {"latency": {"p99": {"weight": 1}}}
        },
        "/slo/ttft/threshold: 0 must be greater than 0": {"slo": {"ttft": {"threshold": 0}}},
        "/slo/steepness: 0 must be greater than 0": {"slo": {"steepness": 0}},
        '/slo/0: {"metric": "x"} needs exactly one of max or min': {"slo": [{"metric": "x"}]},
        '/slo/0: {"metric": "x", "max": 1, "min": 0} needs exactly one of max or min': {
            "slo": [{"metric": "x", "max": 1, "min": 0}]
        },
        (
            "/slo/ttft/hardfail: unknown key 'hardfail' (did you mean 'hard_fail'?); known: "
            "fail_ratio, hard_fail, threshold, weight"
        ): {"slo": {"ttft": {"threshold": 1, "hardfail": True}}},
        "/parallel_config/tp/0: 0 is below the minimum of 1": {"parallel_config": {"tp": [0]}},
        (
            "/parallel_config/tpp: unknown key 'tpp' (did you mean 'tp'?); known: cp, dcp, "
            "dp, moe_ep, moe_tp, pp, tp"
        ): {"parallel_config": {"tpp": 1}},
        (
            "/quant_config/gem_dtype: unknown key 'gem_dtype' (did you mean 'gemm_dtype'?); "
            "known: attention_dtype, gemm_dtype, kvcache_dtype, moe_dtype, preset, presets"
        ): {"quant_config": {"gem_dtype": "fp8"}},
        "/benchmark/num_concurrency: 4 is not a list or a mapping": {
            "benchmark": {"num_concurrency": 4}
        },
        '/constraints: "a > 1" is not a list': {"constraints": "a > 1"},
    }.items(),
)
def test_a_mistake_is_named_with_place_value_and_what_is_allowed(
    candidate: Any, message: str
) -> None:
    assert refusal(candidate) == f"task.json: {message}"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("parametres", "parameters"),
        ("optimisation", "optimization"),
        ("constraint", "constraints"),
        ("SLO", None),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_and_all_known(
    key: str, meant: str | None
) -> None:
    message = refusal({key: {}})
    hint = f" (did you mean {meant!r}?)" if meant else ""
    assert message.startswith(
        f"task.json: /{key}: unknown key {key!r}{hint}; known: base_runtime, "
    )
    assert message.endswith("slo, sources, storage, task_name")


@pytest.mark.parametrize(
    ("message", "parameter"),
    {
        "/parameters/a: 3 is not a list or a mapping": 3,
        "/parameters/a: {} lacks 'type'": {},
        (
            "/parameters/a/type: \"integr\" is not one of 'choice', 'categorical', "
            "'continuous', 'integer' (did you mean 'integer'?)"
        ): {"type": "integr", "low": 1, "high": 2},
        '/parameters/a: {"type": "choice"} needs exactly one of values or choices': {
            "type": "choice"
        },
        (
            '/parameters/a: {"type": "choice", "values": [1], "choices": [2]} needs exactly '
            "one of values or choices"
        ): choice([1], choices=[2]),
        '/parameters/a: {"type": "integer", "low": 1} lacks \'high\'': {
            "type": "integer",
            "low": 1,
        },
        "/parameters/a/low: 0.5 is not a whole number": integer(0.5, 2),
        "/parameters/a/low: false is not a whole number": {
            "type": "integer",
            "low": False,
            "high": 2,
        },
        "/parameters/a/step: 0 is below the minimum of 1": integer(1, 2, step=0),
        "/parameters/a/step: 0 must be greater than 0": real(0, 1, step=0),
        "/parameters/a/min: unknown key 'min'; known: high, log, low, n, step, type, when": integer(
            1, 9, min=0
        ),
        "/parameters/a: low 3 is above high 2": integer(3, 2),
        "/parameters/a: low 0.5 is above high 0.1": real(0.5, 0.1),
        "/parameters/a/low: 0 must be greater than 0 where log is true": real(0, 1, log=True),
        "/parameters/a/low: -1 must be greater than 0 where log is true": integer(-1, 1, log=True),
        "/parameters/a/when: cannot parse 'b >': ": choice([1], when="b >"),
        "/parameters/a/when: 'b.c' is not allowed in an expression": choice([1], when="b.c"),
        (
            "/parameters/a/when: unknown name 'aa' in 'aa > 1' (did you mean 'a'?); known: "
            "a, cpus, gpus"
        ): choice([1], when="aa > 1"),
        "/parameters: parameters depend on each other in a circle: a -> a": choice(
            [1], when="a > 1"
        ),
    }.items(),
)
def test_a_mistake_in_a_parameter_is_named(parameter: Any, message: str) -> None:
    assert refused_parameter(parameter).startswith(f"task.json: {message}")


@pytest.mark.parametrize("kind", ["integer", "continuous"])
def test_step_and_log_exclude_each_other(kind: str) -> None:
    parameter = {"type": kind, "low": 1, "high": 9, "log": True, "step": 2}
    assert refused_parameter(parameter).endswith("has both 'step' and 'log'; use one of them")
    assert make_spec(parameters={"a": {**parameter, "log": False}}).space.names == ("a",)


@pytest.mark.parametrize("name", ["", "1a", "a b", "é", "-a", "a=b"])
def test_a_parameter_has_a_name_that_can_be_a_flag(name: str) -> None:
    message = refusal({"parameters": {name: [1]}})
    assert message.startswith(f"task.json: /parameters: {shown(name)} does not match ")


@pytest.mark.parametrize("pair", [("tp-size", "tp_size"), ("a.b", "a-b")])
def test_two_parameters_that_expressions_could_not_tell_apart_are_refused(
    pair: tuple[str, str],
) -> None:
    first, second = pair
    assert refusal({"parameters": {first: [1], second: [2]}}) == (
        f"task.json: /parameters/{second}: {second!r} is already a parameter, "
        f"declared at task.json: /parameters/{first}"
    )
    assert "already a parameter" in refusal(
        {"parameters": {"tp": [1]}, "parallel_config": {"tp": [2]}}
    )


@pytest.mark.parametrize("name", ["gpus", "cpus", "min", "log2"])
def test_a_parameter_may_not_shadow_what_expressions_know(name: str) -> None:
    assert refusal({"parameters": {name: [1]}}) == (
        f"task.json: /parameters/{name}: {name!r} has a meaning in constraints; rename it"
    )


@pytest.mark.parametrize(
    ("message", "constraint"),
    {
        "/constraints/1: cannot parse 'a >': ": "a >",
        "/constraints/1: cannot parse 'a = 1': ": "a = 1",
        "/constraints/1: \"open('x')\" is not allowed in an expression": "open('x')",
        (
            "/constraints/1: unknown name 'aa' in 'aa % 2 == 0' (did you mean 'a'?); known: "
            "a, cpus, gpus"
        ): "aa % 2 == 0",
        "/constraints/1: cannot evaluate '1 / (a - 1) > 0' for a=1: ": "1 / (a - 1) > 0",
        "/constraints/1: cannot evaluate 'a % (a - a) == 0' for a=1: ": "a % (a - a) == 0",
        "/constraints: no combination of the parameters satisfies 'a > 0' and 'a > 2'": "a > 2",
    }.items(),
)
def test_a_mistake_in_a_constraint_is_named(constraint: str, message: str) -> None:
    found = refused_parameter([1, 2], "a > 0", constraint)
    assert found.startswith(f"task.json: {message}")


def test_a_condition_that_cannot_be_evaluated_is_pointed_at() -> None:
    parameters = {"a": [0, 1], "b": choice([1], when="1 / a > 0")}
    message = refusal({"parameters": parameters})
    assert message.startswith("task.json: /parameters/b/when: cannot evaluate '1 / a > 0' for a=0")


def test_conditions_in_a_circle_are_refused_with_the_circle() -> None:
    parameters = {
        "a": choice([1], when="c > 0"),
        "b": choice([1], when="a > 0"),
        "c": choice([1], when="b > 0"),
        "d": [1],
    }
    assert refusal({"parameters": parameters}) == (
        "task.json: /parameters: parameters depend on each other in a circle: a -> c -> b -> a"
    )


@pytest.mark.parametrize(
    ("visible", "count"),
    [("0,1,2,3", 4), ("", 0), ("GPU-1234", 1), ("0,-1,2", 1), ("-1", 0), (" 0 , 1 ", 2)],
)
def test_gpus_are_those_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, visible: str, count: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    spec = make_spec(parameters={"tp": [1, 2, 4]}, constraints=["tp <= max(gpus, 1)"])
    assert spec.space.variables["gpus"] == count
    assert spec.space.pool is not None
    assert len(spec.space.pool) == {4: 3, 2: 2}.get(count, 1)


def test_too_few_gpus_are_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert refusal({"parameters": {"tp": [2, 4]}, "constraints": ["tp <= gpus"]}) == (
        "task.json: /constraints: no combination of the parameters satisfies 'tp <= gpus' "
        "(with gpus = 1)"
    )


def test_nobody_is_asked_for_gpus_that_no_expression_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def visible_gpus() -> int:
        pytest.fail("asked")

    monkeypatch.setattr("pytest_autotune.study.machine.visible_gpus", visible_gpus)
    make_spec(parameters={"a": [1]}, constraints=["a <= cpus"])


def test_a_large_space_without_a_valid_point_is_refused_too() -> None:
    wide = integer(1, 10**9)
    message = refusal({"parameters": {"a": wide, "b": wide}, "constraints": ["a + b < 2"]})
    assert message.startswith("task.json: /constraints: no combination of the parameters ")
    assert message.endswith("'a + b < 2'")


def test_a_search_that_found_nothing_does_not_claim_that_there_is_nothing() -> None:
    wide = integer(1, 10**6)
    message = refusal({"parameters": {"a": wide, "b": wide}, "constraints": ["a == b"]})
    assert "was found" in message


@pytest.mark.parametrize(
    "optimization", [{"objective": "minimise_latency"}, {"objective": "minimize:"}]
)
def test_a_misspelt_objective_is_pointed_at(optimization: dict[str, str]) -> None:
    message = refusal({**ONE, "optimization": optimization})
    assert message.startswith("task.json: /optimization/objective: unknown objective ")


@pytest.mark.parametrize("timeout", ["soon", "", "-3s", "0", 0, -1, "1d"])
def test_a_time_limit_is_a_positive_duration(timeout: Any) -> None:
    message = refusal({**ONE, "optimization": {"timeout": timeout}})
    assert message.startswith("task.json: /optimization/timeout: ")
    assert "duration" in message


def test_a_time_limit_becomes_seconds() -> None:
    assert make_spec(ONE, optimization={"timeout": "1h30m"}).optimization.timeout == 5400.0
    assert make_spec(ONE, optimization={"timeout": 90}).optimization.timeout == 90.0


@pytest.mark.parametrize("key", ["max_iterations", "patience", "n_initial_random", "seed"])
def test_a_whole_number_may_be_written_with_a_decimal_point(key: str) -> None:
    value = getattr(make_spec(ONE, optimization={key: 3.0}).optimization, key)
    assert (value, type(value)) == (3, int)


def test_a_null_seed_or_storage_means_the_default() -> None:
    search = make_spec(ONE, optimization={"seed": None, "storage": None}).optimization
    assert (search.seed, search.storage) == (0, None)


@pytest.mark.parametrize("statistic", ["mean", "p50", "p75", "p90", "p95", "p99", "p99.9", "max"])
@pytest.mark.parametrize("block", ["latency", "ttft", "tpot"])
def test_every_block_takes_every_statistic(block: str, statistic: str) -> None:
    slo = make_spec(ONE, slo={block: {statistic: {"threshold": 2, "hard_fail": True}}}).slo
    (bound,) = slo.bounds
    metric = "e2e_latency" if block == "latency" else block
    assert bound.metrics == (f"{statistic}_{metric}",)
    assert bound.hard


def test_a_block_may_bound_several_statistics_at_once() -> None:
    slo = make_spec(ONE, slo={"ttft": {"mean": {"threshold": 1}, "p99": {"threshold": 2}}}).slo
    assert [bound.label for bound in slo.bounds] == ["ttft mean", "ttft p99"]


def test_a_bound_on_any_metric_is_hard_unless_it_says_otherwise() -> None:
    slo = make_spec(
        ONE,
        slo={
            "metrics": [
                {"metric": "ttft", "statistic": "p99", "max": 0.5},
                {"metric": "output_throughput", "min": 1000, "hard_fail": False, "weight": 3},
            ]
        },
    ).slo
    upper, lower = slo.bounds
    assert (upper.label, upper.metrics, upper.upper) == ("ttft p99", ("p99_ttft",), True)
    assert (upper.hard, upper.fail_ratio) == (True, 0.0)
    assert (lower.label, lower.upper, lower.threshold) == ("output_throughput min", False, 1000)
    assert lower.metrics == ("output_throughput", "mean_output_throughput")
    assert (lower.hard, lower.weight) == (False, 3)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("200ms", 0.2), ("200 ms", 0.2), (" 1.5s ", 1.5), ("500us", 0.0005), ("500µs", 0.0005),
        ("500μs", 0.0005), ("2m", 120.0), ("1h", 3600.0), ("1m30s", 90.0), (0.2, 0.2), (3, 3),
        (".5s", 0.5), ("2e-1s", 0.2), ("500ns", 5e-7), ("1.5E2 ms", 0.15),
    ],
)  # fmt: skip
def test_a_time_of_an_slo_may_have_a_unit(written: Any, seconds: float) -> None:
    slo = {
        "latency": {"p99": {"threshold": written}},
        "tpot": {"threshold": written},
        "metrics": [
            {"metric": "ttft", "statistic": "p99", "max": written},
            {"metric": "compile_time", "min": written},
            {"metric": "latency", "max": written},
        ],
    }
    assert [bound.threshold for bound in make_spec(ONE, slo=slo).slo.bounds] == [seconds] * 5
    assert make_spec(ONE, slo=slo["metrics"]).slo.bounds[0].threshold == seconds


@pytest.mark.parametrize(
    ("message", "slo"),
    {
        "/slo/ttft/threshold: '200msec' is not a time: unknown unit 'msec' (did you mean 'ms'?); "
        "known: h, m, s, ms, us, µs, ns": {"ttft": {"threshold": "200msec"}},
        "/slo/latency/p99/threshold: '2 Seconds' is not a time: unknown unit 'Seconds' (did you "
        "mean 's'?)": {"latency": {"p99": {"threshold": "2 Seconds"}}},
        "/slo/0/max: '200MS' is not a time: unknown unit 'MS' (did you mean 'ms'?)": [
            {"metric": "ttft", "max": "200MS"}
        ],
        "/slo/0/max: '3 parsecs' is not a time: unknown unit 'parsecs'; known: h, m, s": [
            {"metric": "ttft", "max": "3 parsecs"}
        ],
        "/slo/ttft/threshold: '0.2' is text without a unit; write 0.2s, or the number without ": {
            "ttft": {"threshold": "0.2"}
        },
        "/slo/ttft/threshold: 'soon' is not a time; write for example 0.2, 200ms or 1.5s; "
        "units: h, m, s, ms, us, µs, ns": {"ttft": {"threshold": "soon"}},
        "/slo/ttft/threshold: '-5ms' is not a time; write for example": {
            "ttft": {"threshold": "-5ms"}
        },
        "/slo/ttft/threshold: '2e-1' is text without a unit; write 2e-1s": {
            "ttft": {"threshold": "2e-1"}
        },
        "/slo/ttft/threshold: '3 nanos' is not a time: unknown unit 'nanos' (did you mean 'ns'?)": {
            "ttft": {"threshold": "3 nanos"}
        },
        "/slo/ttft/threshold: '1e999s' is too long a time": {"ttft": {"threshold": "1e999s"}},
        "/slo/ttft/threshold: '1s1h' is not a time; write": {"ttft": {"threshold": "1s1h"}},
        "/slo/ttft/threshold: true is not a number, nor a time such as 200ms": {
            "ttft": {"threshold": True}
        },
        '/slo/tpot/threshold: "0ms" must be greater than 0': {"tpot": {"threshold": "0ms"}},
        "/slo/ttft/threshold: '" + "9" * 30 + "h' is too long a time": {
            "ttft": {"threshold": "9" * 30 + "h"}
        },
        '/slo/metrics/0/max: "200ms" is a time, and error_rate is none by its name; write a plain '
        "number": {"metrics": [{"metric": "error_rate", "max": "200ms"}]},
        '/slo/metrics/0/min: "1s" is a time, and output_throughput is none by its name': {
            "metrics": [{"metric": "output_throughput", "min": "1s"}]
        },
        "/slo/0/max: '1%' is not a time; write a share as a number, such as 0.01": [
            {"metric": "error_rate", "max": "1%"}
        ],
    }.items(),
)
def test_what_is_no_time_says_so(message: str, slo: Any) -> None:
    assert refusal({**ONE, "slo": slo}).startswith(f"task.json: {message}")


def test_the_published_schema_knows_times_with_units() -> None:
    schema = json.loads(schema_text())
    time = Draft202012Validator(schema["$defs"]["time"])
    for good in (0.2, 3, "200ms", "200 ms", "1m30s", "500µs", "1.5 s", ".5s", "2e-1s", "5ns"):
        assert time.is_valid(good)
    for bad in ("0.2", "ms", "200msec", "", True, None, "1,5s"):
        assert not time.is_valid(bad)


TWICE = [{"metric": "x", "max": 1}, {"metric": "x", "max": 2}]


@pytest.mark.parametrize(
    "slo",
    [
        {"metrics": TWICE},
        TWICE,
        {
            "latency": {"p99": {"threshold": 1}},
            "metrics": [{"metric": "latency", "statistic": "p99", "max": 2}],
        },
    ],
)
def test_two_bounds_in_the_same_direction_are_refused(slo: Any) -> None:
    message = refusal({**ONE, "slo": slo})
    assert message.startswith("task.json: /slo: ")
    assert message.endswith("is bounded twice in the same direction")


def test_a_range_is_two_bounds() -> None:
    slo = make_spec(ONE, slo=[{"metric": "x", "max": 2}, {"metric": "x", "min": 1}]).slo
    assert [bound.label for bound in slo.bounds] == ["x", "x min"]


def test_sources_are_globs_below_the_rootdir() -> None:
    assert make_spec(ONE).sources == ()
    globs = ["csrc/**/*.cu", "kernels/*.h", "**/*.ptx", "csrc/**/*.cu", "CMakeLists.txt", "x..y"]
    found = make_spec(ONE, sources=globs).sources
    assert found == ("csrc/**/*.cu", "kernels/*.h", "**/*.ptx", "CMakeLists.txt", "x..y")


@pytest.mark.parametrize(
    ("glob", "said"),
    [
        ("/usr/include/*.h", "'/usr/include/*.h' is not relative: write it from the rootdir"),
        ("~/x.cu", "'~/x.cu' is not relative"),
        ("../lib/*.cu", "'../lib/*.cu' leaves its folder by '..': name files below the rootdir"),
        ("a/../../b", "'a/../../b' leaves its folder by '..'"),
        (".", "'.' names no file"),
        ("csrc/**.cu", "'csrc/**.cu' has '**' within a name: '**' stands alone"),
        ("", '"" is empty'),
        (3, "3 is not a string"),
    ],
)
def test_a_source_that_is_no_such_glob_is_pointed_at(glob: Any, said: str) -> None:
    message = refusal({**ONE, "sources": ["csrc/*.cu", glob]})
    assert message.startswith(f"task.json: /sources/1: {said}")


HUGE = 10**400


@pytest.mark.parametrize(
    "candidate",
    [
        {"parameters": {"a": integer(0, 2**64)}},
        {"parameters": {"a": integer(0, 10**30)}},
        {"parameters": {"a": integer(0, 1e300)}},
        {"parameters": {"a": real(-1.7e308, 1.7e308)}},
        {"parameters": {"a": real(0, HUGE)}},
        {"parameters": {"a": real(0, 1e300, step=1e-300)}},
        {"parameters": {"a": real(0, 1, step=1e-59)}},
        {"parameters": {"a": real(0, 1, step=1e-320)}},
        {"parameters": {"a": [1]}, "optimization": {"timeout": HUGE}},
        {"parameters": {"a": [1]}, "optimization": {"timeout_per_iteration": HUGE}},
        {"parameters": {"a": [1]}, "slo": [{"metric": "x", "max": HUGE}]},
        {"parameters": {"a": [1]}, "slo": {"ttft": {"threshold": HUGE}}},
        {"parameters": {"a": [16**5000]}},
        {"task_name": 16**5000},
    ],
)
def test_numbers_beyond_what_a_machine_computes_with_are_refused(candidate: Any) -> None:
    assert refusal(candidate).startswith("task.json: /")


def test_a_grid_of_absurdly_many_points_is_refused() -> None:
    message = refused_parameter(real(0, 1, n=10**9))
    assert message.startswith("task.json: /parameters/a/n: ")


def test_all_mistakes_are_named_at_once_up_to_a_limit() -> None:
    message = refusal({"parameters": {f"p{at}": at for at in range(8)}})
    lines = message.splitlines()
    assert lines[:5] == [
        f"task.json: /parameters/p{at}: {at} is not a list or a mapping" for at in range(5)
    ]
    assert lines[5:] == ["… and 3 more"]


def test_every_unknown_key_is_named() -> None:
    message = refusal({"optimization": {"stratgy": "x", "sed": 1}})
    assert "'stratgy' (did you mean 'strategy'?)" in message
    assert "'sed' (did you mean 'seed'?)" in message


def test_a_place_is_a_json_pointer() -> None:
    origin = Origin(file="f.yaml", pointer="/x")
    assert origin.at() == "f.yaml: /x"
    assert origin.at("a/b", 3, "c~d") == "f.yaml: /x/a~1b/3/c~0d"
    assert Origin(file="f.yaml").at() == "f.yaml: /"


def test_deep_nesting_is_an_error_of_the_spec() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    assert "nested more than 50 levels deep" in refusal({"parameters": {"a": deep}})


def test_a_long_value_is_cut_in_the_message() -> None:
    assert shown("x" * 100) == f'"{"x" * 58}…'
    assert shown({1, 2}) == "{1, 2}"
    assert len(refusal({"constraints": "x" * 10_000})) < 200


def test_the_nearest_name_is_only_offered_if_it_is_near() -> None:
    assert nearest("tp_siz", ["tp_size", "a"]) == " (did you mean 'tp_size'?); known: a, tp_size"
    assert nearest("xyzzy", ["tp_size"]) == "; known: tp_size"
    assert nearest("x", []) == ""


def test_the_published_schema_is_a_schema_and_accepts_what_we_accept() -> None:
    schema = json.loads(schema_text())
    Draft202012Validator.check_schema(schema)
    published = Draft202012Validator(schema)
    assert published.is_valid({"a": document(TASK_FILE), "b": document(MIXED), "c": document(GEMM)})
    assert not published.is_valid({"a": {"parametres": {}}})
    task = Draft202012Validator({"$ref": "#/$defs/spec", "$defs": schema["$defs"]})
    assert task.is_valid(document(TASK_FILE))


@pytest.mark.parametrize("task", [TASK_FILE, GEMM, MIXED, {}], ids=["task", "gemm", "mixed", "{}"])
def test_a_sound_document_comes_back_untouched(task: Any) -> None:
    ours = document(task)
    assert validate(ours, Origin(file="f")) is ours
    assert ours == task
