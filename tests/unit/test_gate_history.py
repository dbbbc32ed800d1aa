"""The log keeps every whole line, whatever else is in it, and tells what changed when."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from pytest_autotune.gate.history.rendering import render
from pytest_autotune.gate.history.results import (
    LOG,
    GateHistory,
    GateResult,
    append,
    read,
    series,
    session_spread,
)

START = datetime(2026, 11, 1, 12, 0, tzinfo=timezone.utc)
MACHINE = {"cpu": "EPYC", "cpus": "16", "gpus": "none", "python": "cpython 3.11"}


def result(number: int = 0, value: float = 0.04, **known: Any) -> GateResult:
    """Return what the gate found on day ``number``."""
    defaults: dict[str, Any] = {
        "time": (START + timedelta(days=number)).timestamp(),
        "study": "decode",
        "verdict": "passed",
        "mode": "revision",
        "commit": f"{number:07x}" + "f" * 33,
        "dirty": False,
        "against": "origin/main",
        "parameters": {"tp_size": 2},
        "fingerprint": MACHINE,
        "values": {"p50_e2e_latency": value},
        "ratios": {"p50_e2e_latency": 1.0031},
        "launches": 5,
    }
    return GateResult(**{**defaults, **known})


def text(results: Sequence[GateResult]) -> str:
    return "\n".join(render(GateHistory(results=tuple(results))))


# The log


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    results = [result(1), result(0, verdict="regressed"), result(2, dirty=True, commit="")]
    for each in results:
        append(tmp_path / "deep" / "state", each)
    assert read(tmp_path / "deep" / "state") == GateHistory(results=tuple(results))


def test_a_result_is_one_line_whatever_it_says(tmp_path: Path) -> None:
    odd = result(study='a\nb\u2028"c"\ud800', parameters={"x": [1, None, {"y": "\r\n"}]})
    append(tmp_path, odd)
    append(tmp_path, odd)
    assert (tmp_path / LOG).read_bytes().count(b"\n") == 2
    assert read(tmp_path).results == (odd, odd)


def test_any_mapping_can_be_stored(tmp_path: Path) -> None:
    append(tmp_path, result(parameters=MappingProxyType({"a": 1})))
    assert read(tmp_path).results[0].parameters == {"a": 1}


def test_numbers_that_are_not_finite_are_not_stored(tmp_path: Path) -> None:
    values = {"a": math.nan, "b": 1.0, "c": math.inf}
    append(tmp_path, result(values=values, ratios=values))
    (stored,) = read(tmp_path).results
    assert stored.values == stored.ratios == {"b": 1.0}


def test_no_log_is_an_empty_history(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == GateHistory()


def test_an_unfinished_line_spoils_no_other(tmp_path: Path) -> None:
    append(tmp_path, result(0))
    whole = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(whole + whole[:50])
    append(tmp_path, result(1))
    append(tmp_path, result(2))
    found = read(tmp_path)
    assert found.results == (result(0), result(1), result(2))
    assert found.problems == (f"{tmp_path / LOG}, line 2 was left out: it is no JSON",)
    assert (tmp_path / LOG).read_bytes().count(b"\n\n") == 0


def test_a_line_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LOG).write_bytes(b"unfinished")
    writes: list[bytes] = []
    write = os.write

    def watched(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", watched)
    append(tmp_path, result())
    assert len(writes) == 1
    assert writes[0].startswith(b"\n{")
    assert writes[0].endswith(b"}\n")


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with pytest.raises(OSError, match=r"only 10 of \d+ bytes"):
        append(tmp_path, result())
    monkeypatch.undo()
    append(tmp_path, result())
    assert read(tmp_path).results == (result(),)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_gate_history import append, result
sys.stdin.read(1)
for number in range(100):
    append(Path(sys.argv[1]), result(number, study=sys.argv[2] + "x" * 5000))
"""


def test_processes_append_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    here = str(Path(__file__).parent)
    writers = [subprocess.Popen([*command, str(n), here], stdin=subprocess.PIPE) for n in range(4)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0] * 4
    found = read(tmp_path)
    assert found.problems == ()
    for n in range(4):
        mine = [each for each in found.results if each.study.startswith(str(n))]
        assert mine == [result(k, study=f"{n}{'x' * 5000}") for k in range(100)]


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda document: {key: value for key, value in document.items() if key != name}


def having(**wrong: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: {**document, **wrong}


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        *[(without(name), f"it lacks {name}") for name in result().document()],
        (lambda _: [], "it is no JSON object"),
        (lambda _: None, "it is no JSON object"),
        (lambda _: {}, "it lacks time, study, "),
        (having(time="now"), "a wrong value for time"),
        (having(time=math.nan), "a wrong value for time"),
        (having(time=1e30), "a wrong value for time"),
        (having(time=-1), "a wrong value for time"),
        (having(time=True), "a wrong value for time"),
        (having(study=1, verdict=None), "a wrong value for study, verdict"),
        (having(dirty=0), "a wrong value for dirty"),
        (having(parameters=[]), "a wrong value for parameters"),
        (having(fingerprint={"cpus": 1}), "a wrong value for fingerprint"),
        (having(values={"a": None}), "a wrong value for values"),
        (having(values={"a": math.inf}), "a wrong value for values"),
        (having(values={"a": 10**400}), "a wrong value for values"),
        (having(ratios="1"), "a wrong value for ratios"),
        (having(launches=1.5), "a wrong value for launches"),
        (having(launches=True), "a wrong value for launches"),
        (having(launches=-1), "a wrong value for launches"),
    ],
)
def test_a_line_that_is_no_result_is_a_problem(
    tmp_path: Path, broken: Callable[[dict[str, Any]], Any], problem: str
) -> None:
    lines = [result(0).document(), broken(result(1).document()), result(2).document()]
    (tmp_path / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read(tmp_path)
    assert found.results == (result(0), result(2))
    assert len(found.problems) == 1
    assert f"{LOG}, line 2 was left out: " in found.problems[0]
    assert problem in found.problems[0]


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"{", b"[" * 100_000, b"1" * 5000, b"\x00", b'{"time": 1e999}']
)
def test_no_line_breaks_the_reader(tmp_path: Path, line: bytes) -> None:
    append(tmp_path, result())
    with (tmp_path / LOG).open("ab") as file:
        file.write(line)
    append(tmp_path, result())
    found = read(tmp_path)
    assert len(found.results) == 2
    assert len(found.problems) == 1


def test_what_later_versions_add_is_ignored(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(json.dumps({**result().document(), "new": 1}) + "\n\n \n")
    assert read(tmp_path) == GateHistory(results=(result(),))


# Series


def test_series_are_of_comparable_results() -> None:
    both = {"a": 1.0, "b": 2.0}
    results = [
        result(3, values=both),
        result(1, values={"b": 3.0}),
        result(2, values=both, parameters={"tp_size": 4}),
        result(0, values=both, fingerprint={**MACHINE, "cpus": "32"}),
        result(4, values={"a": 4.0}, study="prefill"),
        result(5, values=both, verdict="failed"),
    ]
    found = [
        (study, metric, group[0].parameters["tp_size"], group[0].fingerprint["cpus"],
         *(result.values[metric] for result in group))
        for (study, metric, *_), group in series(results).items()
    ]  # fmt: skip
    assert found == [
        ("decode", "a", 2, "16", 1.0, 1.0),
        ("decode", "b", 2, "16", 3.0, 2.0, 2.0),
        ("decode", "a", 4, "16", 1.0),
        ("decode", "b", 4, "16", 2.0),
        ("decode", "a", 2, "32", 1.0),
        ("decode", "b", 2, "32", 2.0),
        ("prefill", "a", 2, "16", 4.0),
    ]


def test_the_order_of_parameters_does_not_matter_but_their_types_do() -> None:
    points: list[dict[str, Any]] = [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": True, "b": 2}]
    groups = series([result(n, parameters=point) for n, point in enumerate(points)])
    assert [len(group) for group in groups.values()] == [2, 1]


def test_a_failure_without_a_value_is_in_no_series() -> None:
    assert series([result(verdict="failed", values={})]) == {}


def test_earlier_sessions_are_those_that_can_be_compared() -> None:
    results = [
        result(4, 90.0, verdict="regressed"),
        result(5, 91.0, verdict="failed"),
        result(6, 92.0, study="prefill"),
        result(7, 93.0, parameters={"tp_size": 4}),
        result(8, 94.0, fingerprint={**MACHINE, "cpus": "32"}),
        result(9, values={"p99_ttft": 95.0}),
        result(3, 3.0),
        result(1, 1.0, verdict="inconclusive"),
        result(2, 2.0, verdict="improved"),
    ]

    def spread(metric: str) -> Sequence[float]:
        return session_spread(
            results, study="decode", metric=metric, parameters={"tp_size": 2}, fingerprint=MACHINE
        )

    assert spread("p50_e2e_latency") == [1.0, 2.0, 3.0]
    assert spread("p99_ttft") == [95.0]
    assert spread("mean_ttft") == []


# What people read


def stepped(count: int, change: int, ratio: float) -> list[GateResult]:
    """Return results that get slower (or faster) on one day, in 1 % of regular noise."""
    level = [0.04 * (ratio if n >= change else 1) for n in range(count)]
    return [result(n, value * (1 + 0.01 * (n * 7 % 5 - 2) / 2)) for n, value in enumerate(level)]


def test_a_series_is_shown_as_a_table() -> None:
    results = [
        result(0, 0.04),
        result(1, 0.041, dirty=True, verdict="inconclusive"),
        result(2, 0.0405, commit="", ratios={}, mode="none"),
    ]
    assert render(GateHistory(results=tuple(results))) == [
        "decode: p50_e2e_latency with tp_size=2",
        "on EPYC (16 CPUs), cpython 3.11",
        "time (UTC)          commit  p50_e2e_latency   ratio  verdict",
        "2026-11-01 12:00   0000000            40 ms  ×1.003  passed",
        "2026-11-02 12:00  0000001*            41 ms  ×1.003  inconclusive",
        "2026-11-03 12:00         -          40.5 ms       -  passed",
        "3 results: at least 10 are needed to tell a change from chance",
    ]


def test_the_latest_twenty_are_shown_and_all_are_searched() -> None:
    shown = text(stepped(60, 10, 1.2))
    assert "the latest 20 of 60 results:" in shown
    assert "2026-12-10" not in shown
    assert shown.count("passed") == 20
    assert "2026-12-11 12:00  0000028 " in shown
    assert "at 2026-11-11 12:00, commit 000000a (p = " in shown


def test_a_change_is_a_sentence() -> None:
    lines = text(stepped(30, 19, 1.052)).splitlines()
    assert lines[-1].startswith(
        "p50_e2e_latency rose by 5.2 %, from 40 ms to 42.08 ms, "
        "at 2026-11-20 12:00, commit 0000013 (p = 0.000"
    )
    assert "p50_e2e_latency fell by 10.0 %" in text(stepped(30, 19, 0.9))
    assert "rose by 200.0 %" in text(stepped(30, 19, 3))


def test_changes_are_told_in_order() -> None:
    results = stepped(20, 10, 1.2) + [
        replace(each, time=each.time + 20 * 86400) for each in stepped(10, 0, 1.5)
    ]
    lines = text(results).splitlines()[-2:]
    assert "rose by 20.0 %" in lines[0]
    assert "2026-11-11" in lines[0]
    assert "rose by 25.0 %" in lines[1]
    assert "2026-11-21" in lines[1]


def test_a_change_without_a_commit_names_its_time_only() -> None:
    results = [replace(each, commit="") for each in stepped(30, 19, 1.2)]
    assert "at 2026-11-20 12:00 (p = " in text(results)


def test_a_change_of_spread_is_none_of_level() -> None:
    values = [0.04 * (1 + (0.2 if n >= 30 else 0.0001) * (-1) ** n) for n in range(60)]
    shown = text([result(n, value) for n, value in enumerate(values)])
    assert "p50_e2e_latency varies more or less than before, around the same median, since" in shown


def test_no_change_is_said() -> None:
    assert text(stepped(30, 99, 1)).splitlines()[-1] == (
        "no change in 30 results (p > 0.01); one is seen when 3 or more results are past it"
    )


def test_values_that_are_not_positive_are_not_searched() -> None:
    results = [result(n, values={"error_rate": float(n > 2)}) for n in range(12)]
    assert text(results).splitlines()[-1] == (
        "no changes were looked for: 3 of 12 values are not positive"
    )


def test_a_long_series_is_searched_from_its_end() -> None:
    shown = text(stepped(260, 30, 1.5))
    assert "no change in 200 results" in shown
    shown = text(stepped(260, 200, 1.5))
    assert "rose by 50.0 %, from 40 ms to 60 ms, at 2027-05-20 12:00, commit 00000c8 (p" in shown


def test_a_change_of_the_environment_is_told() -> None:
    old = {**MACHINE, "libraries": "numpy 2.1, torch 2.5"}
    new = {**old, "libraries": "numpy 2.1, torch 2.6, vllm 0.9", "gpu_driver": "570.1"}
    shown = text([result(0, fingerprint=old), result(1, fingerprint=new)])
    assert (
        "the environment changed between 2026-11-01 12:00 and 2026-11-02 12:00: "
        "libraries: torch 2.5 → torch 2.6, vllm 0.9 added; gpu_driver: none → 570.1" in shown
    )
    assert shown.count("the environment changed") == 1


def test_an_environment_is_compared_with_the_latest_before_it() -> None:
    results = [result(n, fingerprint={**MACHINE, "cpus": str(8 + n)}) for n in range(3)]
    assert "2026-11-02 12:00 and 2026-11-03 12:00: cpus: 9 → 10" in text(results)


def test_times_are_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert "2026-11-01 12:00" in text([result()])
    finally:
        monkeypatch.undo()
        time.tzset()


def test_two_machines_in_turn_are_no_change() -> None:
    other = {**MACHINE, "cpus": "32"}
    shown = text([result(n, fingerprint=(MACHINE, other)[n % 2]) for n in range(4)])
    assert "another environment than the one in use since 2026-11-01 12:00: cpus: 16 → 32" in shown
    assert "changed" not in shown


@pytest.mark.parametrize(
    "known", [{"study": "prefill"}, {"parameters": {"tp_size": 4}}, {"values": {"p99_ttft": 1.0}}]
)
def test_the_environments_of_different_things_are_not_compared(known: dict[str, Any]) -> None:
    shown = text([result(0), result(1, fingerprint={**MACHINE, "cpus": "32"}, **known)])
    assert "environment" not in shown


@pytest.mark.parametrize(
    ("fingerprint", "expected"),
    [
        ({**MACHINE, "gpus": "2 × H100"}, "on 2 × H100, cpython 3.11"),
        ({"cpu": "EPYC"}, "on EPYC"),
        ({"os": "x", "host": "y"}, "on x, y"),
        ({}, "on an unknown machine"),
    ],
)
def test_an_environment_in_short(fingerprint: dict[str, str], expected: str) -> None:
    assert expected in text([result(fingerprint=fingerprint)]).splitlines()


def test_results_without_a_value_are_told_of() -> None:
    failed = [result(n, verdict="failed", values={}) for n in (3, 1)]
    shown = text([result(0), *failed, result(2, verdict="skipped", values={}, commit="")])
    assert shown.endswith(
        "chance\n\n"
        "decode: 2 results without a value (failed), the latest at 2026-11-04 12:00, "
        "commit 0000003\n"
        "decode: 1 result without a value (skipped), the latest at 2026-11-03 12:00"
    )


def test_nothing_is_said_to_be_nothing() -> None:
    assert render(GateHistory()) == ["the gate has no results yet"]


def test_problems_are_shown() -> None:
    assert render(GateHistory(problems=("line 2 is bad",))) == ["line 2 is bad"]
    shown = render(GateHistory(results=(result(),), problems=("line 2 is bad",)))
    assert shown[-2:] == ["", "line 2 is bad"]
