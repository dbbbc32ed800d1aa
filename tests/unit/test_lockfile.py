"""The lock file is written the same way every time, and believed only where it fits."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeAlias, cast

import numpy as np
import pytest
from builders import GEMM, MIXED, in_space, make_plan, make_space, make_spec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_autotune.errors import UserError
from pytest_autotune.gate.lock.entry import (
    LockedBound,
    LockedMetric,
    LockEntry,
    LockError,
    digests_of,
    refusal,
    unchanged,
)
from pytest_autotune.gate.lock.fits import check_fits
from pytest_autotune.gate.lock.lockfile import LOCK_NAME, parse_lock, read_lock_file, write_lock
from pytest_autotune.gate.lock.pinned import PinnedConfiguration, read_lock
from pytest_autotune.space import sampling
from pytest_autotune.space.expressions import Expression
from pytest_autotune.space.parameters import Point
from pytest_autotune.space.space import Space
from pytest_autotune.spec.validation import MAX_DEPTH
from pytest_autotune.study.environment import HARDWARE, environment_changes, fingerprint
from pytest_autotune.study.plan import Plan

ADVICE: Final = "tune and lock again: pytest --autotune --autotune-lock"
KEY: Final[Mapping[str, Any]] = {
    "space": {"parameters": {"a": {"choices": [1, 2]}}, "constraints": []},
    "objective": "minimize:latency",
    "slo": {},
    "workload": {"model": "llama"},
    "environment": {"cpu": "A"},
}
FINGERPRINT: Final[Mapping[str, str]] = {
    "cpu": "EPYC",
    "cpus": "16",
    "cpu_limit": "8",
    "memory": "128 GiB",
    "gpus": "1 × H100",
    "gpu_driver": "570.86",
    "cuda": "12.8",
    "gpu_clocks": "clocks 1980 MHz",
    "libraries": "numpy 1.26, torch 2.4",
    "machine": "x86_64",
    "python": "cpython 3.11",
    "system": "Linux",
}
Rewrite: TypeAlias = Callable[[dict[str, Any]], object]


def metric(median: float, spread: float = 0.1, launches: int = 3) -> LockedMetric:
    return LockedMetric(median=median, low=median - spread, high=median + spread, launches=launches)


def entry(study: str = "test_it.py (study)", **changes: Any) -> LockEntry:
    fields: dict[str, Any] = {
        "study": study,
        "spec": "study",
        "objective": "minimize:latency",
        "metric": "latency",
        "maximize": False,
        "parameters": {"b": [1, {"x": None}], "a": 1, "rate": 0.123456789},
        "metrics": {"latency": metric(0.25), "rate": metric(100.0)},
        "slo": (
            LockedBound(
                label="p99 ttft", metric="p99_ttft", limit=0.5, upper=True, actual=0.4, margin=0.2
            ),
            LockedBound(label="x", metric="x", limit=1.0, upper=False, actual=None, margin=None),
        ),
        "fingerprint": FINGERPRINT,
        "digests": digests_of(KEY),
        "commit": "a3c65ae",
        "locked": "2026-01-31",
        "by": "pytest-autotune 0.1.0",
    }
    return LockEntry(**{**fields, **changes})


def locked(median: float, **changes: Any) -> LockEntry:
    """Return an entry whose objective's metric has this median."""
    return entry(metrics={changes.get("metric", "latency"): metric(median)}, **changes)


def text_of(*entries: LockEntry) -> str:
    """Return a lock file's content, without the code that writes one."""
    studies = {e.study: e.document() for e in entries}
    return json.dumps({"version": 1, "studies": studies})


def changed(change: Rewrite) -> str:
    """Return the content of a lock file of one entry, changed by ``change``."""
    document = entry("s").document()
    change(document)
    return json.dumps({"version": 1, "studies": {"s": document}})


def problem_of(text: str | bytes) -> str:
    with pytest.raises(LockError) as caught:
        parse_lock(text, "it.json")
    return str(caught.value)


def read_or_problem(text: str | bytes) -> Mapping[str, LockEntry] | str:
    try:
        return parse_lock(text, "it.json")
    except LockError as error:
        return str(error)


# --- what is written -------------------------------------------------------------------------


def test_a_file_is_as_documented(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    small = entry(
        "tests/test_é.py (study)",
        parameters={"b": 1, "a": "x"},
        metrics={"z": metric(2.0, 1.0), "latency": metric(1 / 3, 0.0)},
        slo=entry().slo[:1],
        fingerprint={"python": "cpython 3.11", "cpu": "EPYC"},
    )
    assert write_lock(path, {small.study: small})
    digests = digests_of(KEY)
    assert path.read_bytes().decode() == (
        f"""\
{{
  "version": 1,
  "studies": {{
    "tests/test_é.py (study)": {{
      "spec": "study",
      "objective": "minimize:latency",
      "metric": "latency",
      "maximize": false,
      "parameters": {{
        "b": 1,
        "a": "x"
      }},
      "metrics": {{
        "latency": {{
          "median": 0.333333,
          "low": 0.333333,
          "high": 0.333333,
          "launches": 3
        }},
        "z": {{
          "median": 2.0,
          "low": 1.0,
          "high": 3.0,
          "launches": 3
        }}
      }},
      "slo": [
        {{
          "label": "p99 ttft",
          "metric": "p99_ttft",
          "limit": 0.5,
          "upper": true,
          "actual": 0.4,
          "margin": 0.2
        }}
      ],
      "fingerprint": {{
        "cpu": "EPYC",
        "python": "cpython 3.11"
      }},
      "digests": {{
        "objective": "{digests["objective"]}",
        "server": "{digests["server"]}",
        "slo": "{digests["slo"]}",
        "space": "{digests["space"]}",
        "workload": "{digests["workload"]}"
      }},
      "commit": "a3c65ae",
      "locked": "2026-01-31",
      "by": "pytest-autotune 0.1.0"
    }}
  }}
}}
"""
    )


def test_parameters_and_limits_stay_exact(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    bound = replace(entry().slo[0], limit=1234567.891, actual=1234567.891, margin=1 / 3)
    before = entry(parameters={"z": 0.1234567890123, "a": 2**53 + 1, "m": True}, slo=(bound,))
    write_lock(path, {before.study: before})
    (after,) = read_lock_file(path).values()
    assert list(after.parameters.items()) == list(before.parameters.items())
    assert after.parameters["m"] is True
    assert after.slo == (replace(bound, actual=1234570.0, margin=0.333333),)


def test_studies_are_sorted_whatever_order_they_come_in(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    entries = {name: entry(name) for name in ("b", "a", "B", "é")}
    write_lock(one, entries)
    write_lock(two, dict(reversed(entries.items())))
    assert one.read_bytes() == two.read_bytes()
    assert list(read_lock_file(one)) == ["B", "a", "b", "é"]


def test_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    assert write_lock(path, {"s": entry("s")}) is True
    before = path.stat()
    assert write_lock(path, read_lock_file(path)) is False
    assert write_lock(path, {"s": locked(0.25 + 1e-9, study="s")}) is True  # a metric less
    path.write_bytes(path.read_bytes())
    assert write_lock(path, {"s": locked(0.25 + 1e-9, study="s")}) is False
    assert path.stat().st_ino != before.st_ino
    unchanged_inode = path.stat().st_ino
    assert write_lock(path, {"s": locked(0.25 + 2e-9, study="s")}) is False
    assert path.stat().st_ino == unchanged_inode


def test_whole_limits_do_not_make_a_change(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    bound = replace(entry().slo[0], limit=2, actual=1, margin=0)
    write_lock(path, {"s": entry("s", slo=(bound,))})
    assert write_lock(path, read_lock_file(path)) is False


def test_locking_a_study_again_touches_only_its_lines(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    entries = {name: entry(name) for name in ("a", "b", "c")}
    write_lock(path, entries)
    before = path.read_text("utf-8").splitlines()
    new = replace(
        entries["b"],
        parameters={**entries["b"].parameters, "a": 2},
        metrics={**entries["b"].metrics, "latency": metric(0.2)},
        commit="fffffff",
    )
    write_lock(path, {**entries, "b": new})
    after = path.read_text("utf-8").splitlines()
    begin, end = before.index('    "b": {'), before.index('    "c": {')
    touched = [
        (first, last)
        for kind, first, last, *_ in difflib.SequenceMatcher(
            None, before, after, autojunk=False
        ).get_opcodes()
        if kind != "equal"
    ]
    assert sum(last - first for first, last in touched) == 5
    assert all(begin < first and last < end for first, last in touched)


def test_adding_a_study_takes_nothing_from_the_others(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    write_lock(path, {"a": entry("a"), "c": entry("c")})
    before = path.read_text("utf-8").splitlines()
    write_lock(path, {"a": entry("a"), "b": entry("b"), "c": entry("c")})
    diff = list(difflib.ndiff(before, path.read_text("utf-8").splitlines()))
    assert not [line for line in diff if line.startswith("- ")]


def test_a_mode_is_kept(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    write_lock(path, {})
    for mode in (0o640, 0o664, 0o600):
        path.chmod(mode)
        assert write_lock(path, {"s": entry("s", commit=oct(mode))})
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    path = tmp_path / LOCK_NAME
    before = os.umask(umask)
    try:
        write_lock(path, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "lock.json", tmp_path / LOCK_NAME
    link.symlink_to(Path("real") / "lock.json")
    for commit in ("first", "second"):
        assert write_lock(link, {"s": entry("s", commit=commit)})
        assert link.is_symlink()
        assert read_lock_file(target)["s"].commit == commit
    assert [path.name for path in target.parent.iterdir()] == ["lock.json"]


def test_nothing_is_left_of_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / LOCK_NAME
    write_lock(path, {"s": entry("s")})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LockError, match=r"^autotune\.lock\.json: cannot be written: .*No space"):
        write_lock(path, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_replaced_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    write_lock(path, {"s": entry("s")})
    with path.open("rb") as reader:
        write_lock(path, {})
        assert b'"s"' in reader.read()


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_where_nothing_can_be_written_that_is_said(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LockError, match="cannot be written"):
        write_lock(tmp_path / folder / LOCK_NAME, {})


def test_a_pipe_or_a_device_is_no_lock_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(LockError, match=f"^{name}: cannot be read: it is a device or a pipe"):
            read_lock_file(tmp_path / name)


def test_one_key_of_many_that_appears_twice_is_found_soon() -> None:
    keys = ", ".join(f'"key-{number}": 0' for number in range(100_000))
    began = time.process_time()
    with pytest.raises(LockError, match="key 'key-99999' appears twice"):
        parse_lock(f'{{{keys}, "key-99999": 1}}', "it.json")
    assert time.process_time() - began < 10


def test_a_folder_or_a_circle_of_links_is_no_lock_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    for name in ("folder", "circle"):
        with pytest.raises(LockError, match=f"^{name}: cannot be read"):
            read_lock_file(tmp_path / name)
        with pytest.raises(LockError, match=f"^{name}: cannot be written"):
            write_lock(tmp_path / name, {})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_no_reader_takes_is_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_lock(tmp_path / LOCK_NAME, {"s": locked(value, study="s")})
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_unicode_survives(tmp_path: Path) -> None:
    study = os.fsdecode(b"test_\xff.py (study)")
    path = tmp_path / LOCK_NAME
    write_lock(path, {study: entry(study)})
    assert read_lock_file(path)[study].study == study
    assert "lacks" in problem_of('{"version": 1, "studies": {"\\udcff": {}}}')


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9)
words = st.text(max_size=6)
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
metrics = st.builds(
    LockedMetric, median=numbers, low=numbers, high=numbers, launches=st.integers(1, 99)
)
bounds = st.builds(
    LockedBound,
    label=words,
    metric=words,
    limit=numbers,
    upper=st.booleans(),
    actual=st.none() | numbers,
    margin=st.none() | numbers,
)
hexadecimal = st.text("0123456789abcdef", min_size=12, max_size=12)


@st.composite
def entries_(draw: st.DrawFn) -> LockEntry:
    measured = draw(
        st.dictionaries(st.text(min_size=1, max_size=6), metrics, min_size=1, max_size=3)
    )
    return LockEntry(
        study=draw(st.text(min_size=1, max_size=8)),
        spec=draw(st.text(min_size=1, max_size=4)),
        objective=draw(st.text(min_size=1, max_size=4)),
        metric=draw(st.sampled_from(sorted(measured))),
        maximize=draw(st.booleans()),
        parameters=draw(st.dictionaries(words, values, max_size=4)),
        metrics=measured,
        slo=tuple(draw(st.lists(bounds, max_size=3))),
        fingerprint=draw(st.dictionaries(words, words, max_size=3)),
        digests={
            part: draw(hexadecimal) for part in ("space", "objective", "slo", "workload", "server")
        },
        commit=draw(words),
        locked=draw(st.dates()).isoformat(),
        by=draw(words),
    )


def rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def after_rounding(before: LockEntry) -> LockEntry:
    def with_rounded(held: Any, *names: str) -> Any:
        return replace(held, **{name: rounded(getattr(held, name)) for name in names})

    figures = {n: with_rounded(m, "median", "low", "high") for n, m in before.metrics.items()}
    slo = tuple(with_rounded(bound, "actual", "margin") for bound in before.slo)
    return replace(before, metrics=figures, slo=slo)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(drawn=st.lists(entries_(), max_size=3))
def test_what_is_written_is_valid_and_read_back(tmp_path: Path, drawn: list[LockEntry]) -> None:
    path = tmp_path / LOCK_NAME
    entries = {e.study: e for e in drawn}
    write_lock(path, entries)
    document = json.loads(path.read_bytes())
    Draft202012Validator(schema()).validate(document)
    read = read_lock_file(path)
    assert read == {name: after_rounding(e) for name, e in entries.items()}
    for name, e in entries.items():
        assert json.dumps(read[name].parameters) == json.dumps(e.parameters)
    assert not write_lock(path, read)
    assert parse_lock(path.read_text("utf-8"), "x") == read


# --- what is read ----------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    folder = resources.files("pytest_autotune.gate.lock")
    text = folder.joinpath("lock-schema.json").read_text("utf-8")
    return dict(json.loads(text))


def test_the_schema_is_one_and_says_what_things_are() -> None:
    document = schema()
    Draft202012Validator.check_schema(document)

    def objects(node: Any) -> list[dict[str, Any]]:
        children = node.values() if isinstance(node, dict) else node
        inner = [o for c in children if isinstance(c, dict | list) for o in objects(c)]
        return [node, *inner] if isinstance(node, dict) and node.get("type") == "object" else inner

    # Open are only the parameters, whose values are anything.
    assert [o for o in objects(document) if "additionalProperties" not in o] == [
        document["$defs"]["entry"]["properties"]["parameters"]
    ]
    fields = document["$defs"]["entry"]
    # Lock files of earlier versions have no code.
    assert sorted([*fields["required"], "code"]) == sorted(fields["properties"])
    assert {*fields["properties"], "study"} == set(LockEntry.__dataclass_fields__)
    for name, cls in (("metric", LockedMetric), ("bound", LockedBound)):
        of = document["$defs"][name]
        assert list(of["properties"]) == of["required"] == list(cls.__dataclass_fields__)


def test_a_missing_file_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(LockError) as caught:
        read_lock_file(tmp_path / LOCK_NAME)
    assert str(caught.value) == (
        f"autotune.lock.json: no such file in {tmp_path}; "
        "pytest --autotune --autotune-lock writes it"
    )
    assert isinstance(caught.value, UserError)


def test_no_entries_are_fine() -> None:
    assert parse_lock('{"version": 1, "studies": {}}', "x") == {}


@pytest.mark.parametrize("content", [text_of(entry("s")), text_of(entry("s")).encode()])
def test_text_and_bytes_are_read_alike(content: str | bytes) -> None:
    assert parse_lock(content, "x") == {"s": entry("s")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n "version": \xff', "it.json: not UTF-8: byte 0xff in line 2"),
        ("", "it.json: not valid JSON: line 1 column 1: Expecting value"),
        (
            '{"version": 1,\n "studies": {},}',
            "it.json: not valid JSON: line 2 column 1[56]: (Illegal|Expecting property name).*",
        ),
        ('{"version": 1} x', "it.json: not valid JSON: line 1 column 16: Extra data"),
        ("[" * 100_000, "it.json: not valid JSON: .*"),
        ('{"version": ' + "9" * 5000 + "}", "it.json: (not valid JSON|/version): .*"),
        ("[]", r"it.json: /: \[\] is not a mapping"),
        ("{}", "it.json: /: {} lacks 'version', 'studies'"),
        ('{"version": "1", "studies": {}}', 'it.json: /version: "1" is not a whole number.*'),
        ('{"version": true, "studies": {}}', "it.json: /version: true is not a whole number"),
        ('{"version": 0, "studies": {}}', "it.json: /version: 0 is below the minimum of 1"),
        (
            '{"version": 2, "studies": [], "more": 1}',
            (
                r"it.json: written by a newer pytest-autotune \(version 2\); "
                "this one reads up to 1: upgrade"
            ),
        ),
        (
            '{"version": 1, "version": 1, "studies": {}}',
            "it.json: /: key 'version' appears twice",
        ),
        (
            '{"version": 1, "studies": {"a/b": {"slo": [{"x": 1, "y": 2, "y": 2}]}}}',
            "it.json: /studies/a~1b/slo/0: key 'y' appears twice",
        ),
        ('{"version": NaN, "studies": {}}', "it.json: /version: nan is not a finite number"),
        ('{"version": -Infinity}', "it.json: /version: -inf is not a finite number"),
        ('{"version": 1e999}', "it.json: /version: inf is not a finite number"),
        ('{"version": 1' + "0" * 400 + "}", r"it.json: /version: this number is beyond ±2e\+308"),
        (
            '{"version": 1, "studies": ' + "[" * 90 + "]" * 90 + "}",
            "it.json: /studies/0.*: nested more than 54 levels deep",
        ),
        ('{"version": 1, "studies": {"": {}}}', 'it.json: /studies: "" is empty\n(?s:.*)'),
    ],
)
def test_a_broken_file_says_where(content: str | bytes, message: str) -> None:
    assert re.fullmatch(message, problem_of(content))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["<<<<<<< HEAD", "||||||| a3c65ae", ">>>>>>> theirs", "<<<<<<<"])
def test_a_merge_conflict_is_called_so(mark: str, ending: str) -> None:
    lines = json.dumps(json.loads(text_of(entry("s"))), indent=2).splitlines()
    lines.insert(4, mark)
    assert problem_of(ending.join(lines)) == (
        "it.json: line 5: git left its marks of a merge conflict; resolve it, or take one side "
        "whole (git checkout --ours or --theirs)"
    )


def test_a_real_merge_conflict(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME

    def git(*arguments: str) -> int:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", *identity, "-c", "commit.gpgsign=false", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode

    def commit(latency: float) -> None:
        write_lock(path, {name: locked(latency, study=name) for name in "abc"})
        assert git("add", ".") == git("commit", "-m", "x") == 0

    assert git("init", "-b", "main") == 0
    commit(1.0)
    git("checkout", "-b", "other")
    commit(2.0)
    git("checkout", "main")
    commit(3.0)
    assert git("merge", "other") != 0
    with pytest.raises(LockError, match="merge conflict"):
        read_lock_file(path)


def test_marks_in_a_text_are_no_conflict() -> None:
    held = entry("s", commit="<<<<<<< HEAD", by="\n>>>>>>> x", parameters={"<<<<<<< a": 1})
    assert parse_lock(text_of(held), "x")["s"] == held


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("spec"), r"/studies/s: {.*… lacks 'spec'"),
        (lambda e: e.update(comit="x"), (r"/studies/s/comit: unknown key 'comit' \(did you mean "
         r"'commit'\?\); known: by, code, commit, .*")),
        (lambda e: e.update(maximize=1), r"/studies/s/maximize: 1 is not true or false"),
        (lambda e: e.update(parameters=[]), r"/studies/s/parameters: \[\] is not a mapping"),
        (lambda e: e.update(spec=""), r'/studies/s/spec: "" is empty'),
        (lambda e: e.update(metric="latenzy"), (r'/studies/s/metric: "latenzy" is not one of the '
         r"metrics \(did you mean 'latency'\?\); known: latency, rate")),
        (lambda e: e.update(metrics={}), r'/studies/s/metric: "latency" is not one of the metrics'),
        (lambda e: e["metrics"]["rate"].update(launches=0),
         r"/studies/s/metrics/rate/launches: 0 is below the minimum of 1"),
        (lambda e: e["metrics"]["rate"].update(launches=1.5),
         r"/studies/s/metrics/rate/launches: 1.5 is not a whole number"),
        (lambda e: e["metrics"]["rate"].update(median=None),
         r"/studies/s/metrics/rate/median: null is not a number"),
        (lambda e: e["metrics"]["rate"].update(mediam=1),
         r"/studies/s/metrics/rate/mediam: unknown key 'mediam' \(did you mean 'median'\?\).*"),
        (lambda e: e["slo"][1].update(margin="0.5"), (r"/studies/s/slo/1/margin: \"0.5\" is not a "
         r"number or null but text; write 0.5 without quotes")),
        (lambda e: e["slo"][0].pop("limit"), r"/studies/s/slo/0: .* lacks 'limit'"),
        (lambda e: e["fingerprint"].update(cpus=16),
         r"/studies/s/fingerprint/cpus: 16 is not a string"),
        (lambda e: e["digests"].update(slo="0123"),
         r'/studies/s/digests/slo: "0123" does not match .*'),
        (lambda e: e["digests"].pop("workload"), r"/studies/s/digests: .* lacks 'workload'"),
        (lambda e: e.update(locked="31.1.2026"),
         r'/studies/s/locked: "31.1.2026" does not match .*'),
        (lambda e: e["metrics"]["rate"].update(median=math.inf),
         r"/studies/s/metrics/rate/median: inf is not a finite number"),
    ],
)  # fmt: skip
def test_a_wrong_entry_says_where(change: Rewrite, message: str) -> None:
    assert re.fullmatch(f"it.json: {message}", problem_of(changed(change)))


def test_many_problems_are_cut_short() -> None:
    lines = problem_of(changed(dict.clear)).splitlines()
    assert len(lines) == 1
    lines = problem_of(changed(lambda e: e.update({f"x{n}": n for n in range(9)}))).splitlines()
    assert len(lines) == 6
    assert lines[-1] == "… and 4 more"
    lines = problem_of(changed(lambda e: e.update({f"x{n}": n for n in range(5)}))).splitlines()
    assert len(lines) == 5
    assert "unknown key 'x4'" in lines[-1]


def test_problems_come_in_the_order_of_their_places() -> None:
    lines = problem_of(changed(lambda e: e.update(spec=1, metrics=2, by=3))).splitlines()
    assert [line.split(": ")[1].split("/")[-1] for line in lines] == ["by", "metrics", "spec"]


def test_a_parameter_may_be_as_deep_as_a_spec_has_it() -> None:
    for depth, fine in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False)):
        deep = entry("s", parameters={"a": json.loads("[" * depth + "1" + "]" * depth)})
        assert isinstance(read_or_problem(text_of(deep)), Mapping) is fine


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["version", "studies", "spec", "metrics", "slo", "x"]), inner
        )
    ),
    max_leaves=10,
)
_PLACES: Final = (
    (), ("version",), ("studies",), ("studies", "s"), *(("studies", "s", f) for f in
    entry().document()), ("studies", "s", "metrics", "latency"), ("studies", "s", "slo", 0),
    ("studies", "s", "slo", 1, "actual"), ("studies", "s", "metrics", "latency", "median"),
)  # fmt: skip


@given(st.binary(max_size=60) | st.text(max_size=60))
@example(b"\xef\xbb\xbf{}")
@example('{"version": 1, "studies": {"\ud800": 1}}')
def test_any_bytes_are_refused(content: bytes | str) -> None:
    assert problem_of(content).startswith("it.json: ")


@settings(deadline=None, max_examples=200)
@given(junk, st.sampled_from(_PLACES))
@example(10**400, ("studies", "s", "metrics", "latency", "median"))
def test_any_value_anywhere_is_an_entry_or_an_error(value: Any, place: tuple[Any, ...]) -> None:
    document: Any = {"root": json.loads(text_of(entry("s")))}
    parent = document
    path = ("root", *place)
    for part in path[:-1]:
        parent = parent[part]
    parent[path[-1]] = value
    text = json.dumps(document["root"])
    read = read_or_problem(text)
    if isinstance(read, str):
        # A name may hold a line break, and then so does a line of the message.
        assert read.startswith("it.json: ")
    else:
        Draft202012Validator(schema()).validate(json.loads(text))
        again = parse_lock(text_of(*read.values()), "it.json")
        assert again.keys() == read.keys()


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_file_cut_or_spoilt_anywhere_is_an_error_or_a_file(data: st.DataObject) -> None:
    whole = text_of(entry("s"), entry("t")).encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(LockError):
        parse_lock(whole[:at], "x")
    spoilt = whole[:at] + data.draw(st.binary(min_size=1, max_size=2)) + whole[at + 1 :]
    read = read_or_problem(spoilt)
    assert isinstance(read, Mapping) or read.startswith("it.json: ")


def test_pinned_parameters_are_read_at_run_time_from_any_folder_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "src" / "package"
    folder.mkdir(parents=True)
    write_lock(tmp_path / LOCK_NAME, {"s": entry("s")})
    monkeypatch.chdir(folder)
    pinned = PinnedConfiguration(
        parameters={"b": [1, {"x": None}], "a": 1, "rate": 0.123456789},
        metrics={"latency": 0.25, "rate": 100.0}, metric="latency", objective="minimize:latency",
    )  # fmt: skip
    for path in ((), (LOCK_NAME,), (tmp_path / LOCK_NAME,), (f"../../{LOCK_NAME}",)):
        assert read_lock(*path) == {"s": pinned}
    # The nearest one counts.
    write_lock(folder / LOCK_NAME, {})
    assert read_lock() == {}
    with pytest.raises(LockError, match=f"other.json: no such file in {folder}; "):
        read_lock("other.json")
    (folder / LOCK_NAME).write_text('{"version": 1}')
    with pytest.raises(LockError, match="lacks 'studies'"):
        read_lock()


def test_reading_pinned_parameters_loads_neither_pytest_nor_a_search(tmp_path: Path) -> None:
    write_lock(tmp_path / LOCK_NAME, {"s": entry("s")})
    code = (
        "import sys\n"
        "from pytest_autotune.gate.lock.pinned import read_lock\n"
        "heavy = {'optuna', 'numpy', 'pytest', '_pytest', 'ruamel.yaml', 'yaml', 'sqlalchemy'}\n"
        "assert not {*heavy, 'jsonschema'} & set(sys.modules)\n"
        "assert read_lock()['s'].parameters['a'] == 1\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


# --- whether it fits -------------------------------------------------------------------------


def fits(
    held: LockEntry,
    space: Space,
    *,
    name: str = "study",
    objective: str = "minimize:latency",
    key: Mapping[str, Any] = KEY,
) -> tuple[str, ...]:
    plan = SimpleNamespace(
        spec=SimpleNamespace(name=name, space=space),
        objective=SimpleNamespace(name=objective),
        aim=objective,
        key=lambda: key,
    )
    return check_fits(held, cast("Plan", plan))


def misfit(parameters: Point, space: Space, **changes: Any) -> str:
    with pytest.raises(LockError) as caught:
        fits(entry("s", parameters=parameters), space, **changes)
    return str(caught.value)


def test_an_entry_of_a_plan_fits_it() -> None:
    plan = make_plan(make_spec(MIXED, slo=[{"metric": "x", "max": 1}]))
    point = sampling.example(plan.spec.space)
    held = entry(parameters=point, digests=digests_of(plan.key()), objective=plan.objective.name)
    assert check_fits(held, plan) == ()


def test_digests_tell_parts_apart_and_ignore_order_and_machine() -> None:
    digests = digests_of(KEY)
    assert list(digests) == ["space", "objective", "slo", "workload", "server"]
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests.values())
    assert len(set(digests.values())) == 4  # no SLO and no server: both are empty
    # The digest is that of the canonical JSON, for other tools to compute.
    assert digests["slo"] == "44136fa355b3"
    assert digests_of({**KEY, "environment": {}}) == digests
    shuffled = {"constraints": [], "parameters": {"a": {"choices": [1, 2]}}}
    assert digests_of({**KEY, "space": shuffled}) == digests
    other = digests_of({**KEY, "workload": {"model": "\udcff", "benchmark": {}}})
    assert {part for part in digests if other[part] != digests[part]} == {"workload"}
    served = digests_of({**KEY, "workload": {"model": "llama", "server": {}, "base_runtime": "x"}})
    assert {part for part in digests if served[part] != digests[part]} == {"server"}
    reordered = {"parameters": {"a": {"choices": [2, 1]}}, "constraints": []}
    assert digests_of({**KEY, "space": reordered})["space"] != digests["space"]


SMALL: Final = make_space({"a": [1, 2]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other"}, "spec: locked for the spec 'study', not 'other'"),
        ({"objective": "y"}, "objective: locked for 'minimize:latency', not 'y'"),
    ],
)
def test_an_entry_for_something_else_does_not_fit(changes: Any, message: str) -> None:
    expected = f"{LOCK_NAME}: /studies/s/{message}; {ADVICE}"
    assert misfit({"a": 1}, SMALL, **changes) == expected
    # Its parameters need not be in this space, and are not talked of.
    assert misfit({"zzz": 1}, SMALL, **changes) == expected


def test_a_change_that_does_no_harm_is_told() -> None:
    held = entry("a/b", parameters={"a": 1})
    changed = {"space": {"x": 1}, "slo": {"y": 1}, "workload": {}, "environment": {}}
    work_note, space_note, slo_note = fits(held, SMALL, key={**KEY, **changed})
    assert work_note.startswith(
        f"{LOCK_NAME}: /studies/a~1b/digests/workload: the spec's model, runtime, server or "
        "benchmark changed since"
    )
    assert space_note.startswith(
        f"{LOCK_NAME}: /studies/a~1b/digests/space: the search space changed since"
    )
    assert slo_note.startswith(f"{LOCK_NAME}: /studies/a~1b/digests/slo: the SLO changed since")
    assert fits(held, SMALL) == ()


CONDITIONAL: Final = make_space(
    {
        "tile-size": [8, 16, 32],
        "mode": ["fast", "exact"],
        "depth": {"type": "integer", "low": 1, "high": 9, "step": 2, "when": "mode == 'fast'"},
        "share": {"type": "continuous", "low": 0.0, "high": 1.0, "step": 0.1},
        "rate": {"type": "continuous", "low": 0.001, "high": 1, "log": True},
    },
    "tile_size * share <= 16",
    "depth < 7 or tile_size == 8",
)
GOOD: Final[Point] = {"tile-size": 16, "mode": "fast", "depth": 5, "share": 0.3, "rate": 0.5}


def test_a_point_of_the_space_fits() -> None:
    assert fits(entry(parameters=GOOD), CONDITIONAL) == ()
    exact = {name: value for name, value in GOOD.items() if name != "depth"} | {"mode": "exact"}
    assert fits(entry(parameters=exact), CONDITIONAL) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile-size": 64}, "/tile-size: 64 is not one of 8, 16, 32"),
        ({"tile-size": "16"}, '/tile-size: "16" is not one of 8, 16, 32'),
        ({"tile-size": 16.0}, "/tile-size: 16.0 is not one of 8, 16, 32"),
        ({"mode": "fastt"}, ('/mode: "fastt" is not one of "fast", "exact" '
         "(did you mean 'fast'?)")),
        ({"mode": ["fast"]}, ('/mode: ["fast"] is not one of "fast", "exact" '
         "(did you mean 'fast'?)")),
        ({"depth": 4}, "/depth: 4 is not a whole number from 1 to 9 in steps of 2"),
        ({"depth": 11}, "/depth: 11 is not a whole number from 1 to 9 in steps of 2"),
        ({"depth": -1}, "/depth: -1 is not a whole number from 1 to 9 in steps of 2"),
        ({"depth": 5.0}, "/depth: 5.0 is not a whole number from 1 to 9 in steps of 2"),
        ({"depth": True}, "/depth: true is not a whole number from 1 to 9 in steps of 2"),
        ({"depth": None}, "/depth: null is not a whole number from 1 to 9 in steps of 2"),
        ({"share": 0.34}, "/share: 0.34 is not a number from 0.0 to 1.0 in steps of 0.1"),
        ({"share": 1.04}, "/share: 1.04 is not a number from 0.0 to 1.0 in steps of 0.1"),
        ({"rate": 2}, "/rate: 2 is not a number from 0.001 to 1.0"),
        ({"rate": 0}, "/rate: 0 is not a number from 0.001 to 1.0"),
        ({"rate": True}, "/rate: true is not a number from 0.001 to 1.0"),
        ({"rate": "0.5"}, '/rate: "0.5" is not a number from 0.001 to 1.0'),
        ({"dept": 5}, ("/dept: the spec has no parameter 'dept' (did you mean 'depth'?); known: "
         "depth, mode, rate, share, tile-size")),
        ({"mode": "exact"}, "/depth: 'depth' is only for mode == 'fast' (here mode=\"exact\")"),
        ({"share": 1.0, "tile-size": 32},
         ": breaks the constraint tile_size * share <= 16 (share=1.0, tile_size=32)"),
        ({"depth": 7},
         ": breaks the constraint depth < 7 or tile_size == 8 (depth=7, tile_size=16)"),
    ],
)  # fmt: skip
def test_a_point_that_is_not_in_the_space(change: Point, message: str) -> None:
    assert misfit({**GOOD, **change}, CONDITIONAL) == (
        f"{LOCK_NAME}: /studies/s/parameters{message}; {ADVICE}"
    )


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("rate", "lacks the spec's parameter 'rate'"),
        ("mode", "lacks the spec's parameter 'mode'"),
        ("depth", "lacks the spec's parameter 'depth', as mode == 'fast' (mode=\"fast\")"),
    ],
)
def test_a_point_that_lacks_something(absent: str, message: str) -> None:
    point = {name: value for name, value in GOOD.items() if name != absent}
    assert misfit(point, CONDITIONAL) == (
        f"{LOCK_NAME}: /studies/s/parameters: {message}; {ADVICE}"
    )


def test_a_renamed_parameter_is_both_unknown_and_lacking() -> None:
    assert misfit({"b": 1}, make_space({"a": [1, 2]})).splitlines() == [
        f"{LOCK_NAME}: /studies/s/parameters/b: the spec has no parameter 'b'; known: a",
        f"{LOCK_NAME}: /studies/s/parameters: lacks the spec's parameter 'a'",
        ADVICE,
    ]


def test_many_misfits_are_cut_short() -> None:
    lines = misfit({f"x{n}": n for n in range(9)}, SMALL).splitlines()
    assert len(lines) == 7
    assert lines[-2:] == ["… and 5 more", ADVICE]
    lines = misfit({f"x{n}": n for n in range(4)}, SMALL).splitlines()
    assert len(lines) == 6
    assert lines[-2].endswith("lacks the spec's parameter 'a'")


def test_a_condition_on_what_is_not_there_is_told() -> None:
    space = make_space(
        {
            "a": [0, 1],
            "b": {"type": "choice", "values": [0, 1], "when": "a == 1"},
            "c": {"type": "choice", "values": [0, 1], "when": "b == 1"},
        }
    )
    assert fits(entry(parameters={"a": 1, "b": 1, "c": 0}), space) == ()
    assert "'c' is only for b == 1 (here no b)" in misfit({"a": 0, "c": 0}, space)


def test_a_condition_that_fails_on_the_point_is_no_crash() -> None:
    # As in a space that is too large to be tried whole when its spec is read.
    space = make_space({"a": [0, 1], "b": [2, "x"]})
    space = replace(space, constraints=(Expression.parse("a < b"),))
    message = misfit({"a": 0, "b": "x"}, space)
    assert message.startswith(f"{LOCK_NAME}: /studies/s/parameters: cannot evaluate 'a < b' for ")
    assert message.endswith(ADVICE)


def test_long_lists_of_choices_are_cut_short() -> None:
    message = misfit({"a": -1}, make_space({"a": list(range(100))}))
    assert "-1 is not one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …; tune" in message
    message = misfit({"a": -1}, make_space({"a": list(range(12))}))
    assert "-1 is not one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11; tune" in message


def test_a_value_between_the_last_step_and_the_end_does_not_fit() -> None:
    space = make_space({"a": {"type": "continuous", "low": 0, "high": 1, "step": 0.35}})
    assert fits(entry(parameters={"a": 0.7}), space) == ()
    for value in (0.8, 0.9, 1.0):
        assert f"{value} is not a number from 0.0 to 1.0 in steps of 0.35" in misfit(
            {"a": value}, space
        )


def test_variables_count_in_constraints() -> None:
    space = make_space({"tp": [1, 2]}, "tp <= cpus")
    space = replace(space, variables={"cpus": 1})
    assert fits(entry(parameters={"tp": 1}), space) == ()
    assert "tp <= cpus (cpus=1, tp=2)" in misfit({"tp": 2}, space)


SPACES: Final = (
    CONDITIONAL,
    make_spec(MIXED).space,
    make_spec(GEMM).space,
    make_space(
        {
            "a": [0, 1, True, 1.0, "x", None, [1, 2], {"k": 1}],
            "b": {"type": "integer", "low": -3, "high": 10**12, "when": "a == 1"},
            "c": {"type": "continuous", "low": 0, "high": 1, "step": 0.35, "when": "b > 2"},
        },
    ),
)
near = st.sampled_from(
    [0, 1, 2, 3, 8, 16, True, False, 0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 1.0, 1.05, 10**12 + 1, None,
     "a", "b", "c", "x", "fast", "exact", [1, 2], {"k": 1}]
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(st.data(), st.sampled_from(SPACES), st.integers(0, 99))
def test_exactly_the_points_of_the_space_fit(data: st.DataObject, space: Space, seed: int) -> None:
    drawn = sampling.draw(space, np.random.default_rng(seed))
    assert drawn is not None
    assert fits(entry(parameters=json.loads(json.dumps(drawn))), space) == ()
    point = dict(drawn)
    for name in data.draw(st.lists(st.sampled_from([*space.names, "zzz"]), max_size=2)):
        if data.draw(st.booleans()):
            point[name] = data.draw(near)
        else:
            point.pop(name, None)
    try:
        fits(entry(parameters=point), space)
        found = True
    except LockError:
        found = False
    assert found == _is_in(space, point)


def _is_in(space: Space, point: Point) -> bool:
    """As the strategies' tests have it, but a whole real number may be written as 1."""
    real = {p.name for p in space.parameters if type(p).__name__ == "Continuous"}
    numeric = {
        name: float(value)
        for name, value in point.items()
        if name in real and isinstance(value, int) and not isinstance(value, bool)
    }
    try:
        return in_space(space, {**point, **numeric})
    except (TypeError, LockError, UserError):
        return False


# --- whether it may be replaced ---------------------------------------------------------------


def test_a_better_or_equal_entry_replaces() -> None:
    assert refusal(entry(), entry(), tolerance=0.0) is None
    assert refusal(locked(0.25), locked(0.2), tolerance=0.0) is None
    assert refusal(locked(0.25), locked(0.2575), tolerance=0.03001) is None
    up = {"maximize": True}
    assert refusal(locked(100.0, **up), locked(120.0, **up), tolerance=0.0) is None
    assert refusal(locked(100.0, **up), locked(97.0, **up), tolerance=0.03) is None


def test_a_worse_entry_does_not() -> None:
    assert refusal(locked(0.25), locked(0.28), tolerance=0.03) == (
        "the locked figure is better: latency was 250 ms and is 280 ms now, 12 % worse "
        "(up to 3 % is tolerated)"
    )
    rate = {"metric": "rate", "maximize": True}
    assert refusal(locked(1000.0, **rate), locked(969.0, **rate), tolerance=0.03) == (
        "the locked figure is better: rate was 1000 and is 969 now, 3.1 % worse "
        "(up to 3 % is tolerated)"
    )


def test_worse_is_by_sign_and_size_not_by_accident() -> None:
    assert refusal(locked(-1.0), locked(-1.5), tolerance=0.0) is None
    assert refusal(locked(-1.0), locked(-0.9), tolerance=0.03) is not None
    assert refusal(locked(0.0), locked(0.0), tolerance=0.0) is None
    assert refusal(locked(0.0), locked(-1.0), tolerance=0.0) is None
    message = refusal(locked(0.0), locked(1.0), tolerance=0.5)
    assert message is not None
    assert "now, worse (up to 50 %" in message


def test_rounding_is_no_difference() -> None:
    exact = locked(0.123456789)
    stored = locked(0.123457)
    assert refusal(stored, exact, tolerance=0.0) is None
    assert refusal(exact, stored, tolerance=0.0) is None
    assert unchanged(stored, exact, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "minimize_latency"},
        {"digests": digests_of({**KEY, "workload": {}})},
        {"metric": "rate"},
        {"maximize": True},
    ],
)
def test_what_cannot_be_compared_replaces(change: Any) -> None:
    assert refusal(locked(0.25), locked(9.0), tolerance=0.03) is not None
    old, new = locked(0.25), locked(9.0, **change)
    assert refusal(old, new, tolerance=0.03) is None
    assert refusal(locked(0.25, **change), locked(9.0), tolerance=0.03) is None
    assert not unchanged(old, locked(0.25, **change), 0.03)


@pytest.mark.parametrize("change", ["space", "slo"])
def test_another_space_or_slo_is_still_compared(change: str) -> None:
    new = locked(9.0, digests=digests_of({**KEY, change: {"x": 1}}))
    assert refusal(locked(0.25), new, tolerance=0.03) is not None
    assert not unchanged(locked(0.25), replace(new, metrics=locked(0.25).metrics), 0.03)


@pytest.mark.parametrize("name", HARDWARE)
def test_an_entry_of_other_hardware_is_kept(name: str) -> None:
    new = locked(0.1, fingerprint={**FINGERPRINT, name: "other", "python": "cpython 3.14"})
    assert refusal(locked(0.25), new, tolerance=0.03) == (
        f"it was locked on other hardware ({name}: {FINGERPRINT[name]} → other)"
    )
    assert not unchanged(locked(0.25), replace(new, metrics=locked(0.25).metrics), 0.03)
    # Also where the two cannot be compared: the other machine's entry is what CI runs.
    elsewhere = replace(new, digests=digests_of({**KEY, "workload": {}}))
    assert refusal(locked(0.25), elsewhere, tolerance=0.03) is not None


def test_hardware_that_one_side_does_not_know_is_other_hardware() -> None:
    less = {k: v for k, v in FINGERPRINT.items() if k not in {"gpu_clocks", "gpus"}}
    message = refusal(entry(), entry(fingerprint={**less, "gpus": "none"}), tolerance=0.03)
    assert message == (
        "it was locked on other hardware "
        "(gpus: 1 × H100 → none; gpu_clocks: clocks 1980 MHz → none)"
    )


@pytest.mark.parametrize("name", ["gpu_driver", "cuda", "python", "libraries"])
def test_other_software_is_not_other_hardware(name: str) -> None:
    new = entry(fingerprint={**FINGERPRINT, name: "other 2"})
    assert refusal(entry(), new, tolerance=0.03) is None
    # What was measured with the old one is no baseline any more.
    assert not unchanged(entry(), new, 0.03)


def test_hardware_is_all_of_a_fingerprint_but_software() -> None:
    software = {"gpu_driver", "cuda", "python", "libraries"}
    assert set(fingerprint()) <= {*HARDWARE, *software}
    assert set(FINGERPRINT) == {*HARDWARE, *software}


def test_an_entry_within_the_tolerance_is_unchanged_either_way() -> None:
    old = locked(1.0)
    for median, same in ((1.0, True), (1.03, True), (0.97, True), (1.031, False), (0.969, False)):
        assert unchanged(old, locked(median), 0.03001) is same
    assert not unchanged(locked(0.0), locked(-1.0), 0.03)
    assert unchanged(locked(0.0), locked(0.0), 0.0)


def test_other_parameters_are_a_change_but_their_order_is_not() -> None:
    assert unchanged(entry(parameters={"a": 1, "b": 2}), entry(parameters={"b": 2, "a": 1}), 0.03)
    for other in ({"a": 1.0}, {"a": True}, {"a": 2}, {}):
        assert not unchanged(entry(parameters={"a": 1}), entry(parameters=other), 0.03)
    assert not unchanged(entry(), entry(spec="other"), 0.03)
    assert unchanged(entry(), entry(commit="x", locked="2027-01-01", by="y", slo=()), 0.03)


# --- environments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ({}, {}, []),
        ({"cpu": "A", "cpus": "1"}, {"cpus": "1", "cpu": "A"}, []),
        ({"cpu": "A", "cpus": "1"}, {"cpu": "B", "cpus": "1"}, ["cpu: A → B"]),
        ({"cpu": "A", "cuda": "12"}, {"gpus": "x"}, ["cpu: A → none", "cuda: 12 → none",
                                                     "gpus: none → x"]),
        (
            {"libraries": "numpy 1.26, torch 2.4, vllm 0.5"},
            {"libraries": "numpy 2.0, torch 2.4, triton 3"},
            ["libraries: numpy 1.26 → numpy 2.0, triton 3 added, vllm 0.5 removed"],
        ),
        ({"libraries": "none"}, {"libraries": "numpy 2.0"}, ["libraries: numpy 2.0 added"]),
        ({"libraries": "numpy 2.0"}, {"libraries": "none"}, ["libraries: numpy 2.0 removed"]),
        ({"libraries": "numpy 2.0"}, {}, ["libraries: numpy 2.0 removed"]),
        ({"libraries": "a 1, b 2"}, {"libraries": "b 2, a 1"},
         ["libraries: a 1, b 2 → b 2, a 1"]),
    ],
)  # fmt: skip
def test_changes_of_the_environment_are_named(
    old: Mapping[str, str], new: Mapping[str, str], changes: list[str]
) -> None:
    assert environment_changes(old, new) == changes


def test_the_environment_is_compared_in_everything() -> None:
    for name in FINGERPRINT:
        assert environment_changes(FINGERPRINT, {**FINGERPRINT, name: "other"})
        assert environment_changes({k: v for k, v in FINGERPRINT.items() if k != name}, FINGERPRINT)
