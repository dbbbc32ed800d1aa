"""A spec that is too large is refused in seconds, with the bound that it breaks."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_space, make_spec

from pytest_autotune.errors import ExpressionError, RecordingError, SpecError
from pytest_autotune.replay.table import Recording
from pytest_autotune.space.effort import Effort
from pytest_autotune.space.expressions import Expression
from pytest_autotune.space.sampling import draw, is_empty
from pytest_autotune.spec.loading import load_file, load_inline

#: Seconds of this process. Without the bounds all below takes minutes, or for ever.
LIMIT = 30.0
LONG = ",".join(["1"] * 200_000)
NUMBERS = ",\n".join(["[1]"] * 120_000)


@contextmanager
def soon() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < LIMIT


def refusal(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    with soon(), pytest.raises(SpecError) as caught:
        load_file(folder / name, name)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("s.yaml", f"parameters: {{a: [{LONG}]}}", ": not valid YAML: more than 50000 keys"),
        (
            "s.json",
            f'{{"parameters": {{"a": [{LONG}]}}}}',
            ": not valid JSON: there are more than ",
        ),
        ("s.toml", f"parameters.a = [{LONG}]", ": not valid TOML: there are more than 100000 keys"),
        ("s.toml", f"a = [\n{NUMBERS}]", ": not valid TOML: there are more than 100000 keys"),
        ("s.toml", ".".join("a" * 200_000) + " = 1", ":1: not valid TOML: nested too deep"),
        ("s.yaml", "[" * 200_000, ": not valid YAML: nested too deep"),
        ("s.yaml", "# x\n" * 300_000, ": cannot be read: it is larger than 1 MB"),
        (
            "s.json",
            f'{{"description": "{"x" * 200_000}"}}',
            ": not valid JSON: a text has more tha",
        ),
    ],
    ids=["yaml", "json", "toml", "lines", "dotted", "deep", "file", "text"],
)
def test_a_file_beyond_the_bounds_is_refused(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    message = refusal(tmp_path, name, text)
    assert message.startswith(name)
    assert said in message


def test_a_long_list_of_lists_in_toml_is_read_and_its_end_has_no_place(tmp_path: Path) -> None:
    lines = "".join(f"[{number}],\n" for number in range(20_000))
    text = f"[parameters]\na = [\n{lines}]\n[nonsense]\nb = 1\n"
    assert refusal(tmp_path, "s.toml", text).startswith("s.toml: /nonsense: unknown key")


def test_objects_that_repeat_in_a_marker_count_each_time() -> None:
    value: list[Any] = [1]
    for _ in range(10):
        value = [value] * 10
    with soon(), pytest.raises(SpecError, match="marker: there are more than 100000 keys and"):
        load_inline("s", {"parameters": {"a": value}}, "marker")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"parameters": {f"p{n}": [1] for n in range(201)}}, "/parameters: .* more than 200 keys"),
        ({"constraints": ["a > 0"] * 1001}, "/constraints: .* has more than 1000 items"),
        ({"parameters": {"a\n": [1]}}, r"/parameters: .* does not match"),
        ({"slo": [{"metric": "x", "statistic": "p99\n", "max": 1}]}, "/statistic: .* not match"),
    ],
)
def test_many_parameters_and_names_with_a_line_break_are_refused(
    keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        make_spec(**{"parameters": {"a": [1]}, **keys})


def test_rounding_makes_no_number_of_a_billion_digits() -> None:
    for source in ("round(a, -999999999) == 0", "round(a, 10 ** 9) == a"):
        with soon(), pytest.raises(ExpressionError, match="digits are more than 400"):
            Expression.parse(source)({"a": 7})
    sound = "round(a, -1) == 20 and round(a) == 17 and round(a, 400) == a"
    assert Expression.parse(sound)({"a": 17})


def test_constraints_on_a_huge_space_are_tried_on_some_of_it() -> None:
    parameters = {f"p{n}": list(range(10)) for n in range(10)}
    total = "+".join(parameters)
    constraints = [*(f"{total} + {n} > 3" for n in range(299)), f"{total} == 3"]
    spec = load_inline("s", {"parameters": parameters, "constraints": constraints}, "marker")
    with soon():
        assert is_empty(spec.space)
        assert spec.space.pool is None
    spec = load_inline("s", {"parameters": parameters, "constraints": constraints[9:299]}, "marker")
    assert draw(spec.space, np.random.default_rng(0)) is not None


def test_a_spent_effort_finds_nothing() -> None:
    space = make_space({"a": list(range(9)), "x": {"type": "continuous", "low": 0, "high": 1}})
    rng = np.random.default_rng(0)
    effort = Effort(3)
    for spent in (False, True):
        assert draw(space, rng, effort) is not None
        assert effort.spent == spent
    assert draw(space, rng, effort) is None


@pytest.mark.parametrize("file", ["/dev/zero", "pipe", "large.csv"])
def test_no_device_no_pipe_and_no_huge_file_is_read(tmp_path: Path, file: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.csv").touch()
    os.truncate(tmp_path / "large.csv", 33_000_000)
    (tmp_path / "link.yaml").symlink_to(tmp_path / file)
    said = "it is a device or a pipe, and no regular file"
    large = file == "large.csv"
    with soon(), pytest.raises(RecordingError, match="larger than 32 MB" if large else said):
        Recording.read(tmp_path / file)
    with soon(), pytest.raises(SpecError, match="larger than 1 MB" if large else said):
        load_file(tmp_path / "link.yaml", "link.yaml")


def test_a_compressed_recording_is_bounded_as_it_is_in_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "r.csv.gz", "wb") as file:
        for _ in range(64):
            file.write(bytes(1_000_000))
    with soon(), pytest.raises(RecordingError, match=r"is larger than 32 MB, decompressed"):
        Recording.read(tmp_path / "r.csv.gz")


@pytest.mark.parametrize(
    "content",
    [
        "root:$6$secret$hash:20228:0:99999:7:::\nuser:!:1::::\n",
        "secret\nother\n",
        "KEY=secret,B=2\n1,2\n",
        f"{'secret' * 200},b\n1,2\n",
    ],
)
@pytest.mark.parametrize("where", [None, "b == 1"])
def test_a_file_that_is_no_table_is_not_quoted(
    tmp_path: Path, content: str, where: str | None
) -> None:
    (tmp_path / "shadow").write_text(content)
    with pytest.raises(RecordingError) as caught:
        Recording.read(tmp_path / "shadow", where).restrict(make_space({"p": [1, 2]}))
    assert "secret" not in str(caught.value)
