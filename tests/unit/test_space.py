"""Spaces hold exactly the points that constraints and conditions allow."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import GEMM, MIXED, choice, in_space, integer, make_space, make_spec, points_of, real
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.space.categorical import Categorical
from pytest_autotune.space.expressions import Expression
from pytest_autotune.space.listing import Listing
from pytest_autotune.space.parameters import INACTIVE, Parameter, Point, point_key
from pytest_autotune.space.ranges import Continuous, Integer, Listed
from pytest_autotune.space.sampling import draw, example
from pytest_autotune.space.space import MAX_POOL, Space
from pytest_autotune.text.values import canonical, label


def brute_force(
    values: Mapping[str, Sequence[Any]],
    constraints: Sequence[str] = (),
    when: Mapping[str, str] | None = None,
) -> list[Point]:
    """All points by Python's own evaluation, conditions before constraints, without repeats."""
    found: dict[str, Point] = {}
    for combination in itertools.product(*values.values()):
        point = dict(zip(values, combination, strict=True))
        for name, condition in (when or {}).items():
            if not _holds(condition, point, inactive=False):
                del point[name]
        if all(_holds(constraint, point, inactive=True) for constraint in constraints):
            found.setdefault(point_key(point), point)
    return list(found.values())


def _holds(source: str, point: Point, *, inactive: bool) -> bool:
    try:
        return bool(eval(source, {"__builtins__": {}}, dict(point)))  # noqa: S307 - of our own making
    except NameError:
        return inactive


@pytest.mark.parametrize(
    ("values", "constraints", "when"),
    [
        ({"a": [1, 2], "b": ["x", "y", "z"]}, [], {}),
        ({"a": [1, 2, 4, 8], "b": [1, 2, 4, 8]}, ["a * b == 8"], {}),
        ({"a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2, 3]}, ["a < b", "b < c or c == 1"], {}),
        ({"a": [0, 1], "b": [1, 2, 3]}, [], {"b": "a == 1"}),
        ({"b": [1, 2, 3], "a": [0, 1]}, ["b < 3"], {"b": "a == 1"}),
        ({"a": [0, 1], "b": [0, 1], "c": [0, 1]}, [], {"b": "a == 1", "c": "b == 1"}),
        ({"a": [0, 1], "b": [1, 2], "c": [1, 2]}, ["b == c"], {"b": "a == 0", "c": "b == 2"}),
        ({"a": [0, 1], "b": [1, 2], "c": [1, 2]}, ["b == c"], {"b": "a == 0"}),
        ({"a": [0, 1], "b": [1, 2], "c": [1, 2]}, ["b != c", "a + c > 1"], {"b": "a == 1"}),
        (
            {"mode": ["p", "q"], "p": [1, 2], "q": [3, 4]},
            [],
            {"p": "mode == 'p'", "q": "mode == 'q'"},
        ),
        ({"a": [1]}, ["1 == 1"], {}),
        ({"a": [1, True, 1.0, None, "1", [1], {"k": 1}]}, [], {}),
    ],
)
def test_a_pool_is_what_trying_every_combination_gives(
    values: dict[str, list[Any]], constraints: list[str], when: dict[str, str]
) -> None:
    parameters = {
        name: choice(choices) | ({"when": when[name]} if name in when else {})
        for name, choices in values.items()
    }
    space = make_space(parameters, *constraints)
    expected = brute_force(values, constraints, when)
    found = points_of(space)
    assert sorted(map(point_key, found)) == sorted(map(point_key, expected))
    assert all(in_space(space, point) for point in found)
    assert space.early() == next(iter(found), None)


def test_points_come_in_declaration_order_with_the_last_parameter_fastest() -> None:
    space = make_space({"b": [2, 1], "a": ["x", "y"]})
    assert [tuple(point.items()) for point in points_of(space)] == [
        (("b", 2), ("a", "x")),
        (("b", 2), ("a", "y")),
        (("b", 1), ("a", "x")),
        (("b", 1), ("a", "y")),
    ]


def test_the_order_is_that_of_declaration_even_where_a_condition_looks_ahead() -> None:
    space = make_space({"b": choice([1, 2], when="a == 1"), "a": [0, 1]})
    assert points_of(space) == [{"a": 0}, {"b": 1, "a": 1}, {"b": 2, "a": 1}]
    assert list(points_of(space)[1]) == ["b", "a"]


def test_duplicates_in_a_list_are_one_value() -> None:
    space = make_space({"a": [1, 2, 1, 2, 2], "b": choice(["x", "x"])})
    assert points_of(space) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


def test_values_that_json_tells_apart_are_different_values() -> None:
    (parameter,) = make_space({"a": [1, 1.0, True, "1", None, [1], [1.0]]}).parameters
    assert parameter.size == 7
    assert isinstance(parameter, Categorical)
    assert [parameter.index(parameter.value(at)) for at in range(7)] == list(range(7))


@pytest.mark.parametrize("most", [1, 5, 6, 100])
def test_points_are_counted_as_far_as_it_matters(most: int) -> None:
    space = make_space({"a": integer(0, 3), "b": choice([1, 2], when="a > 0")}, "a * b != 6")
    assert space.pool is not None
    assert len(space.pool) == 6
    assert space.count(most) == min(most, 6)
    # A space that nobody can list has as many points as one asks for.
    assert make_space({"x": real(0, 1)}).count(most) == most


def test_a_pool_finds_the_row_of_every_point() -> None:
    pool = make_spec(GEMM).space.pool
    assert pool is not None
    for row in range(0, len(pool), 97):
        assert pool.row(pool.point(row)) == row


@pytest.mark.parametrize(
    "point",
    [{}, {"a": 3, "b": 1}, {"a": 1}, {"a": 0, "b": 1}, {"a": "1", "b": 1}, {"a": [], "b": 1}],
)
def test_a_pool_knows_what_is_not_in_it(point: Point) -> None:
    pool = make_space({"a": integer(0, 1), "b": choice([1, 2], when="a == 1")}, "b != 1").pool
    assert pool is not None
    assert pool.row(point) is None


def test_the_columns_of_a_pool_mark_what_is_inactive() -> None:
    pool = make_space({"a": [0, 1], "b": choice([5], when="a == 1")}).pool
    assert pool is not None
    assert pool.indices.tolist() == [[0, INACTIVE], [1, 0]]


@pytest.mark.parametrize(
    ("point", "valid"),
    [
        ({"a": 0}, True),
        ({"a": 1, "b": 2}, True),
        ({"b": 2, "a": 1}, True),
        ({"a": 1, "b": 1}, False),
        ({"a": 0, "b": 2}, False),
        ({"a": 1}, False),
        ({"b": 2}, False),
        ({"a": 0, "unheard-of": 1}, False),
    ],
)
def test_a_valid_point_has_exactly_the_active_parameters(point: Point, *, valid: bool) -> None:
    space = make_space({"a": [0, 1], "b": choice([1, 2], when="a == 1")}, "b > 1")
    assert space.is_valid(point) is valid


def test_a_constraint_on_an_inactive_parameter_has_nothing_to_say() -> None:
    space = make_space({"a": [0, 1], "b": choice([1, 2], when="a == 1")}, "b == 2")
    assert points_of(space) == [{"a": 0}, {"a": 1, "b": 2}]


def test_a_condition_on_an_inactive_parameter_does_not_hold() -> None:
    space = make_space(
        {
            "a": [0, 1],
            "b": choice([1], when="a == 1"),
            "c": choice([1], when="b != 5"),
        }
    )
    assert points_of(space) == [{"a": 0}, {"a": 1, "b": 1, "c": 1}]


def test_inactive_parameters_are_dropped_from_a_full_assignment() -> None:
    space = make_space({"a-x": [0, 1], "b": choice([1, 2], when="a_x == 1")})
    assert space.activate({"a-x": 0, "b": 1}) == {"a-x": 0}
    assert space.activate({"b": 1, "a-x": 1}) == {"a-x": 1, "b": 1}
    assert list(space.activate({"b": 1, "a-x": 1})) == ["a-x", "b"]


def test_constraints_may_use_names_with_dashes_and_variables() -> None:
    parameters = (Categorical(name="tp-size", choices=(1, 2, 4)),)
    constraints = (Expression.parse("tp_size <= gpus"),)
    space = Space(parameters=parameters, constraints=constraints, variables={"gpus": 2})
    assert points_of(space) == [{"tp-size": 1}, {"tp-size": 2}]


def test_a_space_without_parameters_has_one_point() -> None:
    space = make_space({})
    assert points_of(space) == [{}]
    assert space.is_valid({})


@pytest.mark.parametrize(
    "parameters",
    [
        {"a": real(0, 1)},
        {"a": integer(1, 10**12)},
        {name: integer(1, 1000) for name in "abcd"},
        {f"p{at}": [0, 1] for at in range(70)},
    ],
    ids=["continuous", "wide", "many", "long"],
)
def test_a_continuous_or_huge_space_is_sampled_and_never_listed(parameters: dict[str, Any]) -> None:
    started = time.monotonic()
    space = make_space(parameters)
    assert space.pool is None
    rng = np.random.default_rng(0)
    drawn = [draw(space, rng) for _ in range(50)]
    assert time.monotonic() - started < 5
    assert all(point is not None and in_space(space, point) for point in drawn)
    assert len({point_key(point) for point in drawn if point is not None}) >= 49


def test_a_large_space_that_its_constraints_make_small_is_listed() -> None:
    space = make_space(
        {name: integer(1, 100) for name in "abcdef"},
        *("a == b", "b == c", "c == d", "d == e", "e == f"),
    )
    assert points_of(space) == [dict.fromkeys("abcdef", value) for value in range(1, 101)]


@pytest.mark.parametrize("base", [GEMM, MIXED], ids=["gemm", "mixed"])
def test_every_draw_is_valid_and_the_same_for_the_same_seed(base: Mapping[str, Any]) -> None:
    space = make_spec(base).space
    first, second = ([draw(space, np.random.default_rng(3)) for _ in range(5)] for _ in range(2))
    assert first == second
    rng = np.random.default_rng(4)
    for _ in range(40):
        point = draw(space, rng)
        assert point is not None
        assert in_space(space, point)
        assert list(point) == [name for name in space.names if name in point]


def test_draws_are_spread_evenly_over_the_valid_points() -> None:
    space = make_space({"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}, "a <= b")
    rng = np.random.default_rng(0)
    counts = Counter(point_key(draw(space, rng) or {}) for _ in range(5000))
    assert len(counts) == 10
    assert max(counts.values()) < 1.25 * min(counts.values())


def test_a_point_among_millions_is_found() -> None:
    wide = integer(1, 5000)
    space = make_space({"a": wide, "b": wide, "c": wide}, "a == b", "b == c", "a > 10")
    point = draw(space, np.random.default_rng(0))
    assert point is not None
    assert point["a"] == point["b"] == point["c"] > 10


def test_a_space_without_valid_points_gives_none() -> None:
    parameters = (Integer(name="a", low=1, high=10**9), Continuous(name="b", low=0.0, high=1.0))
    space = Space(parameters=parameters, constraints=(Expression.parse("a < b"),))
    assert space.pool is None
    assert draw(space, np.random.default_rng(0)) is None


integers = st.builds(
    lambda low, span, step: Integer(name="p", low=low, high=low + span, step=step),
    st.integers(-1000, 1000), st.integers(0, 300), st.integers(1, 50),
)  # fmt: skip
logarithmic = st.builds(
    lambda low, span: Integer(name="p", low=low, high=low + span, log=True),
    st.integers(1, 1000), st.integers(0, 10**6),
)  # fmt: skip
stepped = st.builds(
    lambda low, step, count, rest: Continuous(
        name="p", low=low, high=low + step * (count + rest), step=step
    ),
    st.sampled_from([0.0, 0.1, -3.0, 1e-13, 1e-6, 123456.789, 1e9]),
    st.sampled_from([0.1, 0.25, 1 / 3, 1e-14, 1e-7, 10.0]),
    st.integers(0, 200),
    st.sampled_from([0.0, 0.5]),
).filter(lambda parameter: (parameter.step or 0.0) > 1e-9 * abs(parameter.low))
smooth = st.builds(
    lambda low, span, log: Continuous(name="p", low=low, high=low + span, log=log),
    st.sampled_from([1e-13, 0.1, 5.0, 1e12]), st.floats(0, 1e3), st.booleans(),
)  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(parameter=integers | logarithmic | stepped)
def test_values_and_their_indices_agree_and_stay_in_range(parameter: Integer | Continuous) -> None:
    size = parameter.size
    assert size is not None
    indices = sorted({0, 1, size // 2, size - 2, size - 1} & set(range(size)))
    values = [parameter.value(index) for index in indices]
    assert [parameter.index(value) for value in values] == indices
    assert values == sorted(set(values))
    assert values[0] == parameter.low
    assert values[-1] <= parameter.high


@settings(max_examples=200, deadline=None, derandomize=True)
@given(parameter=integers | logarithmic | stepped | smooth, seed=st.integers(0, 100))
def test_drawn_values_are_values_of_the_parameter(
    parameter: Integer | Continuous, seed: int
) -> None:
    space = Space(parameters=(parameter,))
    point = draw(space, np.random.default_rng(seed))
    assert point is not None
    assert in_space(space, point)
    assert json.loads(json.dumps(point)) == point


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Integer(name="p", low=0, high=10, step=5), 3),
        (Integer(name="p", low=0, high=10, step=5), 15),
        (Integer(name="p", low=0, high=10, step=5), -5),
        (Continuous(name="p", low=0.0, high=1.0, step=0.5), 1.5),
        (Continuous(name="p", low=0.0, high=1.0), 0.5),
        (Categorical(name="p", choices=(1, 2)), 3),
        (Categorical(name="p", choices=(1, 2)), True),
    ],
)
def test_what_a_parameter_cannot_take_has_no_index(parameter: Parameter, value: Any) -> None:
    with pytest.raises(ValueError, match="is not a value of p"):
        parameter.index(value)


def test_a_logarithmic_range_is_drawn_evenly_in_the_logarithm() -> None:
    rng = np.random.default_rng(0)
    for parameter in (
        Continuous(name="p", low=1.0, high=10_000.0, log=True),
        Integer(name="p", low=1, high=10_000, log=True),
    ):
        drawn = [parameter.draw(rng) for _ in range(2000)]
        below = sum(value < 100 for value in drawn)
        assert 900 < below < 1100
        assert all(1 <= value <= 10_000 for value in drawn)
    plain = Continuous(name="p", low=1.0, high=10_000.0)
    assert sum(plain.draw(rng) < 100 for _ in range(2000)) < 60


def test_both_ends_of_a_logarithmic_range_are_drawn() -> None:
    rng = np.random.default_rng(0)
    parameter = Integer(name="p", low=1, high=3, log=True)
    drawn = Counter(parameter.draw(rng) for _ in range(1000))
    shares = {value: math.log((value + 0.5) / (value - 0.5)) / math.log(7) for value in (1, 2, 3)}
    assert {value: drawn[value] / 1000 for value in drawn} == pytest.approx(shares, abs=0.05)


@pytest.mark.parametrize(
    ("choices", "ordered"),
    [
        ((1, 2, 4), True),
        ((4, 2.5, 1), True),
        ((1, 4, 2), False),
        (("a", "b"), False),
        ((1, "a"), False),
        ((True, False), False),
        ((None,), False),
    ],
)
def test_numbers_in_order_are_neighbours(choices: tuple[Any, ...], *, ordered: bool) -> None:
    assert Categorical(name="p", choices=choices).ordered is ordered


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(value=json_values)
def test_the_identity_of_a_value_survives_json(value: Any) -> None:
    assert canonical(json.loads(json.dumps(value))) == canonical(value)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(first=json_values, second=json_values)
def test_only_equal_values_have_the_same_identity(first: Any, second: Any) -> None:
    if canonical(first) == canonical(second):
        assert first == second
        assert type(first) is type(second)


def test_a_points_identity_does_not_depend_on_the_order_of_its_keys() -> None:
    assert point_key({"a": 1, "b": {"x": 1, "y": 2}}) == point_key({"b": {"y": 2, "x": 1}, "a": 1})


@pytest.mark.parametrize(
    ("value", "text"),
    [("fp8", "fp8"), (1, "1"), (0.5, "0.5"), (True, "true"), (None, "null"), ([1, "é"], '[1,"é"]')],
)
def test_a_label_is_short(value: Any, text: str) -> None:
    assert label(value) == text


def test_a_document_tells_spaces_apart() -> None:
    base = make_spec(MIXED).space.document()
    assert json.loads(json.dumps(base)) == base
    assert make_spec(MIXED).space.document() == base
    reordered = {**MIXED, "constraints": MIXED["constraints"][::-1]}
    assert make_spec(reordered).space.document() == base
    changes: list[dict[str, Any]] = [
        {"kernel": ["a", "b"]},
        {"tile": integer(8, 64, step=4)},
        {"rate": real(1e-4, 1.0)},
        {"share": real(0.0, 1.0, step=0.5)},
        {"depth": choice([1, 2], when="kernel == 'a'")},
    ]
    documents = [
        make_spec(MIXED, parameters={**MIXED["parameters"], **change}).space.document()
        for change in changes
    ]
    documents.append(make_spec(MIXED, constraints=[]).space.document())
    keys = {canonical(document) for document in [base, *documents]}
    assert len(keys) == len(documents) + 1


def test_a_document_names_the_variables_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert make_space({"a": [1]}).document()["variables"] == {}
    assert make_space({"a": [1]}, "a <= gpus").document()["variables"] == {"gpus": 2}


def test_rounding_does_not_show_in_stepped_values() -> None:
    (parameter,) = make_space({"a": real(0, 1, step=0.1)}).parameters
    values = [parameter.value(index) for index in range(11)]
    assert values == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def listed_space(space: Space, points: Sequence[Point]) -> Space:
    """Restrict ``space`` to some points of it, valid or not."""
    rows = [
        [p.index(point[p.name]) if p.name in point else INACTIVE for p in space.parameters]
        for point in points
    ]
    listing = Listing(space.parameters, np.array(rows, dtype=np.int64))
    return replace(space, listed=listing)


def test_of_listed_points_those_remain_that_are_valid() -> None:
    conditional = choice(["x", "y"], when="a > 1")
    full = make_space({"a": [1, 2, 3], "b": [4, 5], "c": conditional}, "a + b != 7", "c != 'y'")
    points: list[Point] = [
        {"a": 3, "b": 5, "c": "x"},
        {"a": 1, "b": 5},
        {"a": 1, "b": 5},  # twice
        {"a": 1, "b": 4, "c": "x"},  # c does not exist here
        {"a": 2, "b": 4},  # and does here
        {"a": 2, "b": 5, "c": "x"},  # broken
        {"a": 2, "b": 4, "c": "y"},  # broken
    ]
    space = listed_space(full, points)
    assert points_of(space) == [{"a": 1, "b": 5}, {"a": 3, "b": 5, "c": "x"}]
    assert [space.is_valid(point) for point in points] == [True, True, True, *[False] * 4]
    assert [full.is_valid(point) for point in points] == [True, True, True, *[False] * 4]
    assert full.is_valid({"a": 2, "b": 4, "c": "x"})
    assert not space.is_valid({"a": 2, "b": 4, "c": "x"})
    assert not space.is_valid({"a": 1, "b": 5, "d": 1})
    assert example(space) == {"a": 1, "b": 5}
    rng = np.random.default_rng(0)
    drawn = Counter(point_key(draw(space, rng) or {}) for _ in range(200))
    assert set(drawn) == {point_key(point) for point in points_of(space)}
    assert min(drawn.values()) > 60
    assert draw(listed_space(full, points[3:]), rng) is None


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_a_listed_space_is_the_full_one_without_what_is_not_listed(data: st.DataObject) -> None:
    full = make_space(
        {
            "a": integer(1, 4),
            "b": [True, "1", 1, None],
            "c": real(0, 1, step=0.25, when="a % 2 == 0"),
        },
        "a != 3 or b == 1",
    )
    everything = points_of(full)
    some = data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=30))
    space = listed_space(full, some)
    wanted = {point_key(point) for point in some}
    assert points_of(space) == [p for p in everything if point_key(p) in wanted]
    assert all(space.is_valid(p) == (point_key(p) in wanted) for p in everything)


def test_a_listing_means_the_same_points_whatever_the_parameters_look_like() -> None:
    full = make_space({"a": integer(1, 9), "b": ["x", "y"]})
    space = listed_space(full, [{"a": 2, "b": "y"}, {"a": 4, "b": "x"}, {"a": 9, "b": "x"}])
    thinned = Categorical(name="a", choices=(9, 7, 4))
    changed = replace(space, parameters=(thinned, full.parameters[1]))
    assert points_of(changed) == [{"a": 9, "b": "x"}, {"a": 4, "b": "x"}]
    assert changed.is_valid({"a": 4, "b": "x"})
    assert not changed.is_valid({"a": 2, "b": "y"})
    none = replace(space, parameters=(Categorical(name="a", choices=(1,)), full.parameters[1]))
    assert points_of(none) == []


def test_keys_and_comparisons_know_what_is_listed() -> None:
    full = make_space({"a": [1, 2], "b": [3, 4]}, "a * b <= gpus + 99")
    one, other = [{"a": 1, "b": 3}], [{"a": 1, "b": 4}]
    assert listed_space(full, one) == listed_space(full, one)
    assert listed_space(full, one) != listed_space(full, other)
    assert listed_space(full, one) != full
    documents = [
        json.dumps(s.document()) for s in (full, *(listed_space(full, p) for p in (one, other)))
    ]
    assert len(set(documents)) == 3
    assert listed_space(full, one).document()["variables"] == {}
    swapped = make_space({"a": [2, 1], "b": [3, 4]})
    digests = {
        s.listed.digest for s in (listed_space(full, one), listed_space(swapped, one)) if s.listed
    }
    assert len(digests) == 1


def test_what_is_about_the_machine_was_decided_where_points_were_listed() -> None:
    many = choice([1, 2], when="gpus > 99")
    full = make_spec(parameters={"a": [1, 8], "b": many}).space
    strict = replace(full, constraints=(Expression.parse("a <= gpus"), Expression.parse("a > 1")))
    points: list[Point] = [{"a": 8, "b": 2}, {"a": 8}, {"a": 1, "b": 1}]
    assert points_of(listed_space(strict, points)) == [{"a": 8}, {"a": 8, "b": 2}]


def test_more_points_than_are_ever_enumerated_can_be_listed() -> None:
    names = "abcdefgh"
    full = Space(
        parameters=tuple(Integer(name=name, low=0, high=10**9) for name in names),
        constraints=(Expression.parse("a % 2 == 0"),),
    )
    assert full.pool is None
    count = 2 * MAX_POOL + 2
    rows = np.random.default_rng(0).integers(0, 10**9, (count, len(names)))
    rows[:, 0] = np.arange(count)
    space = replace(full, listed=Listing(full.parameters, rows))
    pool = space.pool
    assert pool is not None
    assert len(pool) == MAX_POOL + 1
    for at in (0, 2, count - 2):
        point = dict(zip(names, rows[at].tolist(), strict=True))
        assert space.is_valid(point)
        assert pool.point(pool.row(point) or 0) == point
        assert not space.is_valid({**point, "h": point["h"] + 1})


def test_a_listed_number_is_found_by_value() -> None:
    parameter = Listed(name="x", values=(0.1, 0.25, 3.0))
    assert (parameter.size, parameter.low, parameter.high) == (3, 0.1, 3.0)
    assert [parameter.index(parameter.value(at)) for at in range(3)] == [0, 1, 2]
    assert parameter.index(3) == 2
    for wrong in (0.0, 0.2, 4.0, math.nan):
        with pytest.raises(ValueError, match="is not a value of x"):
            parameter.index(wrong)
    assert parameter.draw(np.random.default_rng(0)) in parameter.values
