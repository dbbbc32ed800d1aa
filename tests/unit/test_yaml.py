"""YAML is read by the core schema of YAML 1.2, and every value of a file has its line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import TASK_FILE
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.spec.lines import json_places, toml_places
from pytest_autotune.spec.loading import load_file
from pytest_autotune.spec.yaml12 import parse_yaml
from pytest_autotune.text.places import SyntaxProblem


def read(text: str) -> Any:
    return parse_yaml(text)[0]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *((word, word) for word in ("on", "off", "yes", "no", "Yes", "NO", "y", "n", "tRue")),
        ("true", True), ("True", True), ("FALSE", False),
        ("null", None), ("~", None), ("", None), ("nUll", "nUll"),
        ("1e-3", 0.001), ("1e3", 1000.0), ("1.", 1.0), (".5", 0.5), ("-2.5E+1", -25.0),
        ("0o17", 15), ("010", 10), ("08", 8), ("0x1F", 31), ("+1", 1), ("-0", 0),
        ("1_000", "1_000"), ("0b101", "0b101"), ("1:30", "1:30"), ("1:30.5", "1:30.5"),
        ("2024-01-02", "2024-01-02"), ("2001-99-99", "2001-99-99"),
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
        ("-.INF", -float("inf")), ("+.inf", float("inf")),
        ("=", "="), ("'1'", "1"), ('"on"', "on"), ("'<<'", "<<"),
        ("!!str 1", "1"), ("!!int '12'", 12), ("!!float 1", 1.0), ("!!bool 'true'", True),
        ("!!null ''", None), ("! 1", "1"), ("200ms", "200ms"),
    ],
)  # fmt: skip
def test_a_scalar_is_what_the_core_schema_says(written: str, value: Any) -> None:
    for text in (f"a: {written}\n", f"- {written}\n"):
        (found,) = read(text).values() if text[0] == "a" else read(text)
        assert (found, type(found)) == (value, type(value))


def test_a_number_that_is_none_is_one() -> None:
    assert str(read("a: .nan")["a"]) == "nan"


def test_switches_stay_what_the_server_calls_them(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("parameters: {prefix-caching: [on, off, auto], rate: [1e-3, 2024-01-02]}\n")
    raw = load_file(path, path.name).raw["parameters"]
    assert raw == {"prefix-caching": ["on", "off", "auto"], "rate": [0.001, "2024-01-02"]}


def test_values_are_of_jsons_own_types() -> None:
    def types(value: Any) -> set[type]:
        inner = value.values() if isinstance(value, dict) else value
        found = {type(value)}
        if isinstance(value, dict | list):
            found |= {t for item in [*value, *inner] for t in types(item)}
        return found

    text = "a: &x\n  b: 'q'\n  c: |\n    d\ng: [1, 1.5, true, ~, *x]\nh: {<<: *x, i: 0x1}\n"
    assert types(read(text)) == {dict, list, str, int, float, bool, type(None)}
    assert read(json.dumps(TASK_FILE, indent=2)) == TASK_FILE


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3, r: 4}", {"p": 1, "q": 3, "r": 4}),
        ("a: &x {p: 1}\nb: {r: 4, <<: *x}", {"p": 1, "r": 4}),
        ("a: &x {p: 1}\nc: &y {p: 2, q: 2}\nb: {<<: [*x, *y]}", {"p": 1, "q": 2}),
        ("a: &x {p: 1}\nc: &y {<<: *x, q: 2}\nb: {<<: *y}", {"p": 1, "q": 2}),
        ("a: &x 1\nb: [*x, *x]", [1, 1]),
        ("a: &x 1\nc: &x 2\nb: *x", 2),
        ("a: {q: &x [1, 2]}\nb: *x", [1, 2]),
    ],
)
def test_an_anchor_is_copied_and_merged(text: str, value: Any) -> None:
    assert read(text)["b"] == value


def test_merged_keys_come_first_as_their_mapping_has_them() -> None:
    assert list(read("a: &x {p: 1, q: 2}\nb: {r: 4, q: 3, <<: *x}")["b"]) == ["p", "q", "r"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x {p: 1}\nb: {<<: *x, <<: *x}", "2:13 key '<<' appears twice; write '<<: [*one, "),
        ("a: &x {<<: *x}", "1:4 a mapping contains itself by an alias"),
        ("a: &x {p: [*x]}", "1:4 a mapping contains itself by an alias"),
        ("a: {<<: [1]}", "1:10 '<<' takes over mappings only"),
        ("a: 9" + "9" * 5000, "1:4 this number has too many digits"),
        ("a: [1,\n  2\nb: 3", "3:2 expected ',' or ']', but got ':' (while parsing a flow "),
        ('a: "\\U00110000"', "None "),
    ],
)  # fmt: skip
def test_what_cannot_be_read_has_a_place(text: str, said: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        parse_yaml(text)
    assert f"{caught.value.place} {caught.value}".startswith(said)


def test_aliases_of_aliases_are_no_way_to_fill_the_memory() -> None:
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    with pytest.raises(SyntaxProblem, match="aliases make more than 100000 values"):
        parse_yaml("\n".join(lines))
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 20)]
    with pytest.raises(SyntaxProblem, match="aliases make more than 100000 values"):
        parse_yaml("\n".join(lines))


def test_every_value_of_a_yaml_file_has_its_line_and_column() -> None:
    text = (
        "# a comment\na: &x\n  b/c: 1\n  d:\n    - 2\n    - {e: 3}\nf:\n  <<: *x\n  g: |\n    h\n"
    )
    _, places = parse_yaml(text)
    assert {pointer: str(place) for pointer, place in places.items()} == {
        "": "2:1", "/a": "2:1", "/a/b~1c": "3:3", "/a/d": "4:3", "/a/d/0": "5:7", "/a/d/1": "6:7",
        "/a/d/1/e": "6:8", "/f": "7:1", "/f/b~1c": "3:3", "/f/d": "4:3", "/f/d/0": "5:7",
        "/f/d/1": "6:7", "/f/d/1/e": "6:8", "/f/g": "9:3",
    }  # fmt: skip


def test_every_value_of_a_json_file_has_its_line_and_column() -> None:
    text = '{"a":\n [1, {"b/c": [true, "x\\"]"], "d": {}}],\n\t"e": -1.5e3 ,"f":[]\n}\n'
    assert {pointer: str(place) for pointer, place in json_places(text).items()} == {
        "": "1:1", "/a": "1:2", "/a/0": "2:3", "/a/1": "2:6", "/a/1/b~1c": "2:7",
        "/a/1/b~1c/0": "2:15", "/a/1/b~1c/1": "2:21", "/a/1/d": "2:30", "/e": "3:2", "/f": "3:15",
    }  # fmt: skip


texts = st.text('ab /~"\\é:#-', max_size=4)
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-1, 1).map(float) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(document=documents, indent=st.sampled_from([None, 2]))
def test_json_is_yaml_with_the_same_values_in_the_same_places(
    document: Any, indent: int | None
) -> None:
    text = json.dumps(document, indent=indent)
    assert parse_yaml(text) == (document, json_places(text))


def test_every_value_of_a_toml_file_has_the_line_of_its_statement() -> None:
    text = (
        "# a comment\n[x]\na = [\n  1,\n  2]\nb.c = {d = 1}\n[[y]]\nq = 1\n[[y]]\nq = 2\n[y.z]\n"
        "k = '''\n[no]\nq = 3\n'''\n[[y.w]]\nv = 1\n[x.'a b'.c]\n"
    )
    assert {pointer: str(place) for pointer, place in toml_places(text).items()} == {
        "/x": "2", "/x/a": "3", "/x/a/0": "3", "/x/a/1": "3", "/x/b": "6", "/x/b/c": "6",
        "/x/b/c/d": "6", "/y": "7", "/y/0": "7", "/y/0/q": "8", "/y/1": "9", "/y/1/q": "10",
        "/y/1/z": "11", "/y/1/z/k": "12", "/y/1/w": "16", "/y/1/w/0": "16", "/y/1/w/0/v": "17",
        "/x/a b": "18", "/x/a b/c": "18",
    }  # fmt: skip


def test_only_a_yaml_file_loads_its_library(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text('{"parameters": {"a": [1]}}')
    (tmp_path / "task.toml").write_text("parameters = {a = [1]}")
    (tmp_path / "task.yaml").write_text("parameters: {a: [1]}")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pytest_autotune.spec.loading import load_file\n"
        "for name in ('task.json', 'task.toml', 'task.yaml'):\n"
        "    load_file(Path(name), name)\n"
        "    print(name, 'ruamel.yaml' in sys.modules, 'yaml' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout == "task.json False False\ntask.toml False False\ntask.yaml True False\n"
