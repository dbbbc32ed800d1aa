"""Cells of a recording are found again as the values that they were written for."""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path
from typing import Any

import pytest
from builders import make_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_autotune.errors import UserError
from pytest_autotune.replay.cells import indices_of, read_cell, read_text, write_cell
from pytest_autotune.replay.columns import Columns, metric_column
from pytest_autotune.replay.table import Recording
from pytest_autotune.space.categorical import Categorical
from pytest_autotune.space.parameters import INACTIVE, OUTSIDE
from pytest_autotune.space.ranges import Continuous, Integer
from pytest_autotune.text.values import canonical

plain = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False)
texts = st.text(max_size=8) | st.sampled_from(
    ["1", "1.0", "true", "null", "", "nan", "[1]", '"', "{"]
)
values = st.recursive(
    plain.filter(lambda value: abs(value or 0) != float("inf")) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(choices=st.lists(values, min_size=1, max_size=6, unique_by=canonical))
def test_every_choice_is_found_by_its_cell(choices: list[Any]) -> None:
    matcher = Categorical(name="a", choices=tuple(choices))
    found = indices_of(matcher, [write_cell(choice) for choice in choices])
    # 1 and 1.0 are two choices, and one value.
    assert [choices[at] == choice for at, choice in zip(found, choices, strict=True)]
    assert all(at >= 0 for at in found)
    assert [choices[at] for at in found] == choices


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=texts)
def test_a_text_survives_a_file(text: str) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerow([write_cell(text), "end"])
    (row,) = csv.reader(io.StringIO(file.getvalue(), newline=""), strict=True)
    assert (read_cell(row[0]), read_text(row[0])) == (text, text)


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (1, "1"), (1.0, "1.0"), (0.1, "0.1"), (True, "true"), (None, "null"), ("fp8", "fp8"),
        ("1", '"1"'), ("a,b", "a,b"), ("", '""'), ([1, "x"], '[1, "x"]'), (float("nan"), "nan"),
        (float("-inf"), "nan"), ("Grüße", "Grüße"), ("[1]", '"[1]"'), ("[x", "[x"),
    ],
)  # fmt: skip
def test_a_value_is_written_as_plainly_as_it_can_be(value: Any, cell: str) -> None:
    assert write_cell(value) == cell


def test_numbers_of_a_range_are_held_to_its_steps() -> None:
    real = Continuous(name="x", low=0.0, high=1.0, step=0.1)
    assert indices_of(real, ["0.3", "0.30000000000000004", "0.31", "1", "1.05", "1.2", ""]) == [
        3, 3, OUTSIDE, 10, OUTSIDE, OUTSIDE, INACTIVE,
    ]  # fmt: skip
    # A spec may give a real range a whole step.
    whole = Continuous(name="x", low=0, high=9, step=1)
    assert indices_of(whole, ["3.0", "3.4", "x"]) == [3, OUTSIDE, OUTSIDE]
    assert indices_of(Continuous(name="x", low=2.0, high=2.0), ["2", "3"]) == [0, OUTSIDE]
    steps = Integer(name="x", low=2, high=9, step=3)
    assert indices_of(steps, ["2", "5.0", "6", "8", "11"]) == [0, 1, OUTSIDE, 2, OUTSIDE]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    names=st.lists(
        st.sampled_from(["concurrency", "valid", "error", "cost", "trial_valid", "duration"]),
        unique=True,
    ),
    metric=st.sampled_from(
        ["cost", "valid", "concurrency", "metric_cost", "metric_valid", "error"]
    ),
)
def test_a_metric_is_read_back_under_its_name(names: list[str], metric: str) -> None:
    column = metric_column(metric, names)
    assert column not in names
    columns = Columns.of([*names, column], {*names, column}, names)
    assert columns.metrics == {metric: len(names)}


@settings(
    max_examples=300, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    text=st.text(max_size=40)
    | st.lists(
        st.lists(
            st.sampled_from(["", "1", "2", "x", "0", "1.5", '"', "-1", "nan"]), max_size=6
        ).map(",".join),
        max_size=6,
    ).map(lambda rows: "\n".join(["a,b,concurrency,valid,cost,system", *rows])),
    where=st.none() | st.sampled_from(["a == 1", "cost > 0", "system", "valid", "a < b"]),
)
def test_any_file_is_a_recording_or_an_error(tmp_path: Path, text: str, where: str | None) -> None:
    path = tmp_path / "r.csv"
    path.write_text(text, "utf-8", errors="replace", newline="")
    parameters = {"a": [1, 2], "b": {"type": "choice", "values": [1, "x", 1.5], "when": "a == 2"}}
    space = make_spec(parameters=parameters).space
    with contextlib.suppress(UserError):
        recording = Recording.read(path, where)
        pool = recording.restrict(space).pool
        assert pool is not None
        for row in range(len(pool)):
            assert space.is_valid(pool.point(row))
            recording.result(pool.point(row))
