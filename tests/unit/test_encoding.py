"""Points as coordinates: places along an order, names that are equal or not, and absent ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from builders import integer, make_record, make_space, real

from pytest_autotune.space.space import Space
from pytest_autotune.strategies.encoding import Encoding


def squared(space: Space, a: dict[str, Any], b: dict[str, Any]) -> list[float]:
    """Return the squared distance of two points along each coordinate."""
    encoding = Encoding(space)
    x = encoding.points([a, b])
    return [
        float(((x[0] - x[1])[encoding.groups == group] ** 2).sum())
        for group in range(encoding.size)
    ]


def test_listed_numbers_stand_by_place() -> None:
    space = make_space({"tile": [16, 32, 64, 128, 256]})
    assert squared(space, {"tile": 16}, {"tile": 256}) == pytest.approx([1.0])
    assert squared(space, {"tile": 32}, {"tile": 64}) == pytest.approx([1 / 16])


def test_names_are_equal_or_not() -> None:
    space = make_space({"layout": ["rows", "columns", "tiles", "blocks", "none"]})
    assert squared(space, {"layout": "rows"}, {"layout": "none"}) == pytest.approx([1.0])
    assert squared(space, {"layout": "rows"}, {"layout": "columns"}) == pytest.approx([1.0])
    assert squared(space, {"layout": "rows"}, {"layout": "rows"}) == [0.0]


def test_few_numbers_are_measured_both_ways() -> None:
    space = make_space({"method": [0, 1, 2, 3]})
    assert squared(space, {"method": 0}, {"method": 3}) == pytest.approx([1.0, 1.0])
    assert squared(space, {"method": 0}, {"method": 1}) == pytest.approx([1 / 9, 1.0])


def test_a_switch_needs_one_coordinate() -> None:
    assert Encoding(make_space({"pad": [0, 1]})).size == 1
    assert Encoding(make_space({"pad": [False, True]})).size == 1


def test_a_parameter_with_one_value_has_none() -> None:
    encoding = Encoding(make_space({"fixed": [3], "low": integer(2, 2)}))
    assert encoding.size == 0
    assert encoding.points([{"fixed": 3, "low": 2}]).shape == (1, 0)


@pytest.mark.parametrize(
    ("entry", "low", "middle", "high"),
    [
        (integer(2, 10, step=2), 2, 6, 10),
        (integer(1, 10**12, log=True), 1, 10**6, 10**12),
        (real(-1.0, 1.0), -1.0, 0.0, 1.0),
        (real(1e-4, 1.0, log=True), 1e-4, 1e-2, 1.0),
    ],
)
def test_ranges_go_from_zero_to_one(entry: Any, low: float, middle: float, high: float) -> None:
    encoding = Encoding(make_space({"x": entry}))
    x = encoding.points([{"x": low}, {"x": middle}, {"x": high}])
    assert x[:, 0] == pytest.approx([0.0, 0.5, 1.0])


def test_an_absent_parameter_is_told_from_every_value_of_it() -> None:
    space = make_space(
        {
            "engine": ["eager", "graph"],
            "size": integer(1, 9, when="engine == 'graph'"),
        }
    )
    absent = {"engine": "eager"}
    assert squared(space, absent, absent) == [0.0] * 3
    at_middle = squared(space, absent, {"engine": "graph", "size": 5})
    assert at_middle == pytest.approx([1.0, 0.0, 1.0])


def test_a_list_of_very_many_names_takes_limited_space() -> None:
    encoding = Encoding(make_space({"flags": [f"-O{i}x" for i in range(1000)]}))
    assert encoding.points([{"flags": "-O999x"}]).shape[1] <= 256


def test_rows_of_a_pool_are_encoded_like_its_points() -> None:
    space = make_space(
        {
            "a": [1, 2, 4],
            "b": ["x", "y", "z"],
            "c": integer(1, 64, log=True, when="a > 1"),
        },
        "b != 'z' or a == 4",
    )
    pool, encoding = space.pool, Encoding(space)
    assert pool is not None
    rows = np.arange(len(pool))
    points = [pool.point(int(row)) for row in rows]
    assert encoding.rows(pool, rows) == pytest.approx(encoding.points(points))


def test_records_are_encoded_like_their_points_every_time() -> None:
    space = make_space({"a": [1, 2, 4, 8], "b": ["x", "y", "z"]})
    encoding = Encoding(space)
    points = [{"a": 4, "b": "x"}, {"a": 1, "b": "z"}, {"a": 4, "b": "x"}]
    records = [make_record(number, params=point) for number, point in enumerate(points)]
    for _ in range(2):
        assert encoding.records(records) == pytest.approx(encoding.points(points))
    assert encoding.records([]).shape == (0, len(encoding.groups))
    assert math.isclose(float(encoding.records(records[:1])[0, 0]), 2 / 3)
