"""Whatever a spec says, the answer is a spec or an error that names the mistake."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from builders import GEMM, MIXED, STRATEGIES, TASK_FILE, document, in_space, integer, make_record
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pytest_autotune.errors import ExpressionError, SpecError
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.space.expressions import Expression
from pytest_autotune.space.parameters import point_key
from pytest_autotune.space.ranges import Continuous, Integer
from pytest_autotune.spec.loading import load_file, load_inline
from pytest_autotune.spec.model import Spec
from pytest_autotune.strategies import History, StrategyContext, make_strategy
from pytest_autotune.study.machine import on_this_machine

Path_: TypeAlias = tuple[str | int, ...]

STEPS = 6
#: What follows the name of a file in a message: a line and a column, as far as they are known.
AT = re.compile(r"(:[1-9]\d*){0,2}: ")
BASES = (
    TASK_FILE,
    document(GEMM, parameters={name: [8, 16, 32] for name in GEMM["parameters"]}),
    document(
        MIXED,
        slo=[{"metric": "ttft", "statistic": "p99", "max": 0.5}, {"metric": "rate", "min": 1}],
        optimization={"objective": "minimize:cost", "timeout": "1h30m", "patience": 3},
    ),
    {
        "parameters": {
            "use_shared": [0, 1],
            "bytes": integer(0, 10**6, when="use_shared == 1"),
            "width": integer(1, 10**9, log=True),
        },
        "constraints": ["bytes % 4 == 0", "width >= 2"],
    },
)
KEYS = sorted(
    {
        *TASK_FILE, *TASK_FILE["optimization"], *TASK_FILE["slo"], "constraints", "server", "gate",
        "type", "values", "choices", "low", "high", "log", "step", "n", "when", "threshold",
        "metric", "max", "min", "statistic", "a", "b",
    }
)  # fmt: skip

whole_numbers = st.integers(-3, 40) | st.integers() | st.sampled_from([10**25, -(10**25), 10**400])
numbers = (
    whole_numbers
    | st.sampled_from([2.0, 1e-320, 1e-9, 1e18, 1.7e308, -1.7e308])
    | st.floats(width=16, allow_nan=False, allow_infinity=False)
    | st.floats()
)
words = st.sampled_from(KEYS) | st.text(max_size=12)
scalars = st.none() | st.booleans() | numbers | words | st.dates()
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(words, inner, max_size=4)
        | st.dictionaries(st.none() | st.booleans() | st.integers(), inner, max_size=2)
    ),
    max_leaves=12,
)
plain = (
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.floats(width=16, allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
    | st.lists(st.integers(0, 3), max_size=2)
)
names = ("a", "b", "c-d")
VARIABLES = ("a", "tp_size", "dp", "tile", "share", "use_shared", "width", "MWG", "VWM", "gpus")


def predicates(variables: Sequence[str]) -> st.SearchStrategy[str]:
    """Conditions that look like ones that people write, true, false and senseless ones."""
    operand = st.sampled_from(variables) | st.integers(-2, 64).map(str)
    term = st.tuples(operand, st.sampled_from(["*", "+", "-", "%", "//", "/", "**"]), operand)
    side = operand | term.map(" ".join)
    comparison = st.tuples(side, st.sampled_from(["<", "<=", "==", "!=", ">"]), side)
    return comparison.map(" ".join) | st.tuples(
        comparison.map(" ".join), st.sampled_from([" and ", " or "]), comparison.map(" ".join)
    ).map("".join)


def isnan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)


def nodes(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from nodes(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from nodes(item, (*path, index))


def at(value: Any, path: Path_) -> Any:
    for part in path:
        value = value[part]
    return value


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid spec with up to three of its nodes replaced, removed, renamed or repeated."""
    whole: Any = {"spec": copy.deepcopy(draw(st.sampled_from(BASES)))}
    for _ in range(draw(st.integers(1, 3))):
        paths = [path for path in nodes(whole) if path]
        path = draw(st.sampled_from(paths))
        parent, last = at(whole, path[:-1]), path[-1]
        match draw(st.sampled_from(["nudge", "nudge", "nudge", "replace", "remove", "rename"])):
            case "nudge":
                parent[last] = draw(similar(parent[last], whole))
            case "replace":
                parent[last] = draw(anything)
            case "remove" if len(path) > 1:
                del parent[last]
            case "rename" if len(path) > 1 and isinstance(parent, dict):
                parent[draw(words)] = parent.pop(last)
    return whole["spec"]


def similar(value: Any, whole: Any) -> st.SearchStrategy[Any]:
    """Values of the same kind as ``value``, or copies from elsewhere in the spec."""
    match value:
        case bool():
            return st.booleans()
        case int():
            return whole_numbers
        case float():
            return numbers
        case str() if any(operator in value for operator in "=<>"):
            return predicates(VARIABLES)
        case str():
            return words
    return st.sampled_from([at(whole, path) for path in nodes(whole)]).map(copy.deepcopy)


@st.composite
def parameters(draw: st.DrawFn, others: list[str]) -> Any:
    """A parameter of any form, mostly a sound one."""
    kind = draw(st.sampled_from(["list", "choice", "integer", "integer", "continuous"]))
    if kind == "list":
        return draw(st.lists(plain, max_size=5))
    parameter: dict[str, Any] = {"type": kind}
    if kind == "choice":
        parameter["values"] = draw(st.lists(plain, min_size=1, max_size=5))
    else:
        number = (
            whole_numbers if kind == "integer" else numbers.filter(lambda value: not isnan(value))
        )
        low, high = sorted(draw(st.tuples(number, number)))
        parameter |= {"low": low, "high": high}
        parameter |= draw(
            st.just({})
            | st.fixed_dictionaries({"step": number})
            | st.fixed_dictionaries({"log": st.booleans(), "n": st.integers(1, 9)})
            | st.fixed_dictionaries({"n": st.sampled_from([1, 2, 3, 5.0, 50])})
        )
    conditional = draw(st.booleans())
    if others and conditional:
        parameter["when"] = draw(predicates(others))
    return parameter


@st.composite
def plausible(draw: st.DrawFn) -> Any:
    """A small spec that is mostly in order."""
    chosen = names[: draw(st.integers(1, 3))]
    variables = [name.replace("-", "_") for name in chosen]
    return {
        "parameters": {
            name: draw(parameters(variables[:index])) for index, name in enumerate(chosen)
        },
        "constraints": draw(st.lists(predicates(variables), max_size=2)),
        "optimization": {"n_initial_random": draw(st.sampled_from([1, 2, 2.0]))},
    }


def small_grids(spec: Spec) -> bool:
    return all(
        (parameter.n or 0) <= 1000
        for parameter in spec.space.parameters
        if isinstance(parameter, Integer | Continuous)
    )


def exercise(loaded: Spec, name: str) -> None:
    """Take a few points of a study, with every outcome among them."""
    initial = loaded.optimization.n_initial_random or 2
    search = replace(loaded.optimization, n_initial_random=min(initial, 2))
    context = StrategyContext(
        space=loaded.space,
        optimization=search,
        limit=min(search.max_iterations, STEPS),
        seed=search.seed,
    )
    outcomes = [Outcome.FEASIBLE, Outcome.INFEASIBLE, Outcome.RUNNING, Outcome.FAILED]
    records: list[TrialRecord] = []
    try:
        strategy = make_strategy(name, context)
        for number in range(STEPS):
            point = strategy.propose(History(records=records), [search.seed, number])
            if point is None:
                break
            assert in_space(loaded.space, point), point
            assert point_key(json.loads(json.dumps(point))) == point_key(point)
            outcome = outcomes[number % len(outcomes)]
            records.append(make_record(number, point, outcome, float(number), violation=0.5))
    except SpecError:
        return
    assert len({record.key for record in records}) == len(records)


def attempt(load: Callable[[], Spec]) -> Spec | str:
    """Return the spec, or the message that says why it is none."""
    try:
        return load()
    except SpecError as error:
        return str(error)


def check(candidate: Any) -> None:
    loaded = attempt(lambda: on_this_machine(load_inline("study", candidate, "marker")))
    if isinstance(loaded, str):
        assert loaded.startswith("marker: /")
        return
    assume(small_grids(loaded))
    for name in STRATEGIES:
        exercise(loaded, name)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(candidate=anything)
def test_any_document_is_a_spec_or_an_error(candidate: Any) -> None:
    check(candidate)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(candidate=st.dictionaries(st.sampled_from(KEYS), anything, max_size=5))
def test_any_values_under_known_keys_are_a_spec_or_an_error(candidate: Any) -> None:
    check(candidate)


FUZZ = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=80
)


@FUZZ
@given(candidate=mutated())
def test_a_spec_with_mistakes_is_an_error_or_can_be_searched(candidate: Any) -> None:
    check(candidate)


@FUZZ
@given(candidate=plausible())
def test_a_plausible_spec_can_be_searched_or_says_why_not(candidate: Any) -> None:
    check(candidate)


@pytest.mark.slow
@settings(FUZZ, max_examples=600)
@given(candidate=mutated() | plausible())
def test_many_specs_can_be_searched_or_say_why_not(candidate: Any) -> None:
    check(candidate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("specs")


@pytest.mark.parametrize("suffix", [".json", ".toml", ".yaml"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    text=st.text(st.characters(codec="utf-8")) | st.text("{}[]:,-'\"#&*!|>=\n 0123.a", max_size=40)
)
def test_any_text_is_a_spec_or_an_error(folder: Path, suffix: str, text: str) -> None:
    path = folder / f"task{suffix}"
    path.write_text(text, "utf-8")
    loaded = attempt(lambda: on_this_machine(load_file(path, path.name)))
    assert isinstance(loaded, Spec) or AT.match(loaded.removeprefix(f"task{suffix}"))


@pytest.mark.parametrize("suffix", [".json", ".toml", ".yaml"])
@settings(max_examples=50, deadline=None, derandomize=True)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_a_spec_or_an_error(folder: Path, suffix: str, content: bytes) -> None:
    path = folder / f"task{suffix}"
    path.write_bytes(content)
    loaded = attempt(lambda: on_this_machine(load_file(path, path.name)))
    assert isinstance(loaded, Spec) or AT.match(loaded.removeprefix(f"task{suffix}"))


tokens = st.sampled_from(
    [
        "a", "b", "1", "0", "2.5", "'x'", "None", "True", "+", "-", "*", "/", "//", "%", "**", "<",
        "==", "!=", "in", "not", "and", "or", "if", "else", "is", "(", ")", "[", "]", ",", ".",
        "min", "max", "log2", "int", "lambda", ":", ":=", "{", "}", "9e999", "@", "~", "<<", "f''",
    ]
)  # fmt: skip
values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    source=st.text(max_size=30) | st.lists(tokens, max_size=12).map(" ".join),
    a=values,
    b=values,
)
def test_any_text_is_an_expression_or_an_error(source: str, a: Any, b: Any) -> None:
    try:
        expression = Expression.parse(source)
        assume(expression.names <= {"a", "b"})
        assert expression({"a": a, "b": b}) in (True, False)
    except ExpressionError:
        pass
