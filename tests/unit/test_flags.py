"""Parameters become arguments as engines read them, and never a shell line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.engines.flags import arguments, fill, flag_name, placeholders, text_of
from pytest_autotune.engines.presets import FlagStyle, ListStyle


@pytest.mark.parametrize(
    ("name", "style", "flag"),
    [
        ("tp-size", "as_given", "--tp-size"),
        ("tp_size", "as_given", "--tp_size"),
        ("a_b-c", "dashes", "--a-b-c"),
        ("a_b-c", "underscores", "--a_b_c"),
        ("c", "dashes", "-c"),
        ("n", "as_given", "-n"),
        ("ab", "as_given", "--ab"),
        ("quant.linear_x", "dashes", "--quant.linear-x"),
    ],
)
def test_a_flag_is_spelled_in_the_style_of_its_engine(
    name: str, style: FlagStyle, flag: str
) -> None:
    assert flag_name(name, style) == flag


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, ["--x-y", "1"]),
        (0, ["--x-y", "0"]),
        (-1, ["--x-y", "-1"]),
        (0.5, ["--x-y", "0.5"]),
        (1e-07, ["--x-y", "1e-07"]),
        ("text", ["--x-y", "text"]),
        ("", ["--x-y", ""]),
        ("two words; $(rm) `x`", ["--x-y", "two words; $(rm) `x`"]),
        ("é", ["--x-y", "é"]),
        ("true", ["--x-y", "true"]),
        (True, ["--x-y"]),
        (False, []),
        (None, []),
        ([], []),
        ((), []),
        ([1, "a b", 2.5, True, None], ["--x-y", "1", "a b", "2.5", "true", "null"]),
        (("a",), ["--x-y", "a"]),
        ({"a": [1, {"b": None}]}, ["--x-y", '{"a": [1, {"b": null}]}']),
        ({}, ["--x-y", "{}"]),
        ([{"a": 1}], ["--x-y", '{"a": 1}']),
    ],
)
def test_a_value_is_written_as_it_is(value: Any, expected: list[str]) -> None:
    assert arguments("x-y", value) == expected


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("spaces", ["--x", "1", "a b"]),
        ("commas", ["--x", "1,a b"]),
        ("repeat", ["--x", "1", "--x", "a b"]),
        ("json", ["--x", '[1, "a b"]']),
    ],
)
def test_a_list_is_written_in_the_style_of_its_engine(
    style: ListStyle, expected: list[str]
) -> None:
    assert arguments("x", [1, "a b"], lists=style, flag="--x") == expected
    assert arguments("x", (1, "a b"), lists=style, flag="--x") == expected
    assert arguments("x", [], lists=style, flag="--x") == []
    assert arguments("x", (), lists=style, flag="--x") == []


@pytest.mark.parametrize("style", ["spaces", "commas", "repeat", "json"])
def test_a_list_of_one_is_a_list_as_well(style: ListStyle) -> None:
    expected = ["--xx", "[7]"] if style == "json" else ["--xx", "7"]
    assert arguments("xx", [7], lists=style) == expected


@pytest.mark.parametrize(
    ("name", "flag", "expected"),
    [
        ("cache", None, ["--no-cache"]),
        ("c", None, ["--no-c"]),
        ("cache", "-c", ["--no-c"]),
        ("cache", "--keep-it", ["--no-keep-it"]),
    ],
)
def test_false_may_be_said_by_a_no(name: str, flag: str | None, expected: list[str]) -> None:
    assert arguments(name, value=False, false="no-", flag=flag) == expected
    assert arguments(name, value=False, flag=flag) == []
    assert arguments(name, value=True, false="no-", flag=flag)[0].startswith("-")


def test_a_known_spelling_wins_over_the_style() -> None:
    assert arguments("ctx_size", 5, style="dashes", flag="-c") == ["-c", "5"]
    assert arguments("ctx_size", value=True, style="dashes", flag="--Ctx_Size") == ["--Ctx_Size"]


@given(
    st.text(alphabet="ab_-", min_size=2, max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=6,
    ),
    st.sampled_from(["spaces", "commas", "repeat", "json"]),
)
@settings(derandomize=True, max_examples=200, deadline=None)
def test_whatever_the_value_arguments_are_texts_behind_a_flag(
    name: str, value: Any, lists: ListStyle
) -> None:
    found = arguments(name, value, lists=lists)
    assert all(isinstance(part, str) for part in found)
    assert found[:1] in ([], [f"--{name}"])
    assert bool(found) == (value is not None and value is not False and value != [])
    if isinstance(value, dict):
        assert json.loads(found[1]) == value


# Placeholders


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{a}", {"a"}),
        ("{a}-{b_c}{a}", {"a", "b_c"}),
        ("{tp-size}", {"tp-size"}),
        ("{quant.linear}", {"quant.linear"}),
        ("{{a}}", {"a"}),
        ("${a}", set()),
        ("$${a}", set()),
        ("{}", set()),
        ("{ a }", set()),
        ("{1a}", set()),
        ('{"a": 1}', set()),
        ("{a:x}", set()),
        ("{a", set()),
        ("a}", set()),
        ("", set()),
    ],
)
def test_a_placeholder_is_a_name_in_braces(text: str, names: set[str]) -> None:
    assert placeholders([text]) == names
    assert (fill(text, dict.fromkeys(names, "v")) == text) == (not names)


def test_names_are_collected_from_all_texts() -> None:
    assert placeholders(iter(["{a}", "b", "{c}{d}"])) == {"a", "c", "d"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{a}", "1"),
        ("x{a}y{b}z", "x1ytruez"),
        ("{{a}}", "{1}"),
        ("{c}", '{"k": [1]}'),
        ("{d}", "plain {a}"),
        ("{e}", "null"),
        ("${a}{a}", "${a}1"),
    ],
)
def test_placeholders_are_filled_once_with_texts(text: str, filled: str) -> None:
    values = {"a": 1, "b": True, "c": {"k": [1]}, "d": "plain {a}", "e": None}
    assert fill(text, values) == filled


def test_a_placeholder_without_a_value_is_named() -> None:
    with pytest.raises(KeyError) as caught:
        fill("{a}{nope}", {"a": 1})
    assert caught.value.args == ("nope",)


@pytest.mark.parametrize(
    ("value", "text"),
    [("a b", "a b"), (1, "1"), (1.0, "1.0"), (True, "true"), (None, "null"), (["é"], '["é"]')],
)
def test_texts_are_themselves_and_others_json(value: Any, text: str) -> None:
    assert text_of(value) == text
