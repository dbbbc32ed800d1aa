"""A recording restricts a space, and answers for each of its points."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import GEMM, STRATEGIES, in_space, make_spec, points_of, search, strategy_for

from pytest_autotune.errors import RecordingError, UserError
from pytest_autotune.plugin.planning import make_plan as plan_of
from pytest_autotune.replay.table import Recording
from pytest_autotune.scoring.judgement import Ending, Outcome, Question, judge
from pytest_autotune.scoring.levels import Level
from pytest_autotune.scoring.objective import Objective
from pytest_autotune.space.categorical import Categorical
from pytest_autotune.space.parameters import Point
from pytest_autotune.space.ranges import Integer, Listed
from pytest_autotune.spec.loading import load_inline
from pytest_autotune.spec.model import Spec
from pytest_autotune.strategies import History
from pytest_autotune.study.code import Code
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.settings import GivenFile, Settings

COST = Objective.parse("minimize:cost")
Write = Callable[..., Recording]


@pytest.fixture
def record(tmp_path: Path) -> Write:
    """Read a recording with the given text: ``record(text, where)``."""

    def record(text: str, where: str | None = None) -> Recording:
        (tmp_path / "recorded.csv").write_text(text, "utf-8", newline="")
        return Recording.read(tmp_path / "recorded.csv", where)

    return record


def spec_of(parameters: Any, *constraints: str, **keys: Any) -> Spec:
    document = {"parameters": parameters, "constraints": list(constraints), **keys}
    return load_inline("study", document, "inline")


def test_the_space_is_what_was_recorded_in_the_specs_own_values(record: Write) -> None:
    recording = record(
        "flag,a,step,x,name,cost\n"
        "1,1.0,0.3,0.25,one,1\n"
        "false,2,0.6000000001,0.125,two,2\n"
        'True,3,0.0,0.5,"[1, 2.0]",3\n'
        "TRUE,3,0.1,0.5,one,9\n"  # no step of the range
    )  # fmt: skip
    space = spec_of(
        {
            "flag": [True, False],
            "a": {"type": "integer", "low": 1, "high": 9, "n": 2},
            "step": {"type": "continuous", "low": 0, "high": 0.9, "step": 0.3, "n": 2},
            "x": {"type": "continuous", "low": 0.1, "high": 1.0, "log": True},
            "name": ["one", "two", [1, 2]],
        }
    ).space
    restricted = recording.restrict(space)
    found = [
        {"flag": True, "a": 1, "step": 0.3, "x": 0.25, "name": "one"},
        {"flag": True, "a": 3, "step": 0.0, "x": 0.5, "name": [1, 2]},
        {"flag": False, "a": 2, "step": 0.6, "x": 0.125, "name": "two"},
    ]
    assert points_of(restricted) == found
    assert [type(p["a"]) for p in found] == [int, int, int]
    assert all(in_space(restricted, point) for point in found)
    assert not restricted.is_valid({**found[0], "x": 0.5})
    assert [recording.result(point).metrics["cost"] for point in found] == [1.0, 3.0, 2.0]
    assert (len(recording), recording.fitting) == (4, 3)
    assert restricted.parameters[3] == Listed(name="x", values=(0.125, 0.25, 0.5), log=True)
    assert isinstance(restricted.parameters[1], Integer)


@pytest.mark.parametrize(
    ("cell", "choices", "index"),
    [
        ("1.0", [2, 1], 1),
        ("1", [1.0], 0),
        ("1", ["1", 1], 1),
        ('"""1"""', ["1", 1], 0),
        ("1", ["1"], 0),
        ("1e3", [1000], 0),
        ("1e3", ["1e3"], 0),
        ("true", [True], 0),
        ("true", ["true"], 0),
        ("True", [False, True], 1),
        ("0", [True, False], 1),
        ("0", [0, False], 0),
        ("false", [0, False], 1),
        ("null", [None], 0),
        ('""""""', [""], 0),
        ("nan", ["nan"], 0),
        ('"{""b"": [1.0], ""a"": null}"', [{"a": None, "b": [1]}], 0),
        ("[broken", ["[broken"], 0),
        ("Ärger ÷ 2", ["Ärger ÷ 2"], 0),
    ],
)
def test_cells_match_by_number_boolean_json_or_text(
    record: Write, cell: str, choices: list[Any], index: int
) -> None:
    recording = record(f"a,cost\n{cell},1\n")
    restricted = recording.restrict(spec_of({"a": choices}).space)
    assert points_of(restricted) == [{"a": choices[index]}]
    assert type(points_of(restricted)[0]["a"]) is type(choices[index])


@pytest.mark.parametrize("cell", ["2", "true", "x", "-1", "1.5", "nan", "inf", "1_0"])
def test_other_cells_match_nothing(record: Write, cell: str) -> None:
    parameters = {"a": {"type": "integer", "low": 10, "high": 11}}
    with pytest.raises(RecordingError, match=re.escape(f"a is {cell} there, but 10 to 11 in")):
        record(f"a,cost\n{cell},1\n").restrict(spec_of(parameters).space)


def test_inactive_parameters_are_empty_cells(record: Write) -> None:
    space = spec_of(
        {"a": [1, 2], "b": {"type": "choice", "values": [3, 4], "when": "a == 2"}}
    ).space
    recording = record("a,b,cost\n1,,1\n2,4,2\n2,,3\n1,3,4\n")
    restricted = recording.restrict(space)
    assert points_of(restricted) == [{"a": 1}, {"a": 2, "b": 4}]
    assert recording.result({"b": 4, "a": 2}).metrics == {"cost": 2.0}
    with pytest.raises(RecordingError, match=r"none of the 1 rows .* exactly those that exist"):
        record("a,b,cost\n1,3,4\n").restrict(space)


def test_constraints_hold_and_what_is_about_the_machine_does_not_count(record: Write) -> None:
    text = "a,b,cost\n1,1,1\n1,2,2\n2,2,3\n"
    space = spec_of({"a": [1, 2], "b": [1, 2]}, "a < b", "a * b <= gpus").space
    restricted = record(text).restrict(space)
    assert points_of(restricted) == [{"a": 1, "b": 2}]
    assert restricted.document()["variables"] == {}


def test_columns_are_told_apart_by_name(record: Write) -> None:
    recording = record(
        "tp_size,valid,concurrency,metric_valid,level_concurrency,trial_valid,n_samples,latency,"
        "p99_latency,note,notes,metric_x,error\n"
        "1,0,4,7,8,1,3,0.5,0.75,text,1,2,\n"
    )
    restricted = recording.restrict(
        spec_of({"tp-size": [1], "valid": [True, False], "concurrency": [4]}).space
    )
    (point,) = points_of(restricted)
    assert point == {"tp-size": 1, "valid": False, "concurrency": 4}
    recorded = recording.result(point)
    # Whatever a column is called, it is a metric where it holds numbers.
    metrics = {
        "valid": 7.0, "mean_e2e_latency": 0.5, "p99_e2e_latency": 0.75, "notes": 1.0,
        "metric_x": 2.0,
    }  # fmt: skip
    assert recorded.ending is Ending.COMPLETE
    assert recorded.levels == (Level(concurrency=8, metrics=metrics),)
    assert recorded.metrics == {}


def test_levels_failures_and_durations(record: Write) -> None:
    recording = record(
        "a,request_rate,scenario,cost,other,valid,error,duration\n"
        "1,8,,2,,,,1.5\n"
        "1,2.5,,1,nan,1,,2.5\n"
        "1,,,,9,1,,\n"
        '2,,,,,False,"out of\nmemory",\n'
        "3,,,5,,true,ignored,3\n"
    )
    recording.restrict(spec_of({"a": [1, 2, 3]}).space)
    first = recording.result({"a": 1})
    assert [level.label for level in first.levels] == ["2.5/s", "8/s"]
    assert first.levels[1].metrics == {"cost": 2.0}
    assert set(first.levels[0].metrics) == {"cost", "other"}
    assert (first.metrics, first.duration) == ({"other": 9.0}, 2.5)
    second = recording.result({"a": 2})
    assert (second.ending, second.duration) == (Ending.FAILED, None)
    assert second.reason == "recorded as failed: out of\nmemory"
    assert recording.result({"a": 3}).ending is Ending.COMPLETE
    with pytest.raises(RecordingError, match="nothing was recorded for"):
        recording.result({"a": 4})


def test_a_point_is_judged_as_a_study_would(record: Write) -> None:
    recording = record("a,cost,mem,valid\n1,1,20,1\n2,2,5,1\n3,,5,1\n4,,,0\n5,7,,1\n6,,20,1\n")
    spec = spec_of(
        {"a": list(range(1, 7))}, slo=[{"metric": "mem", "max": 10}, {"metric": "ttft", "max": 1}]
    )
    recording.restrict(spec.space)
    slo = make_spec(parameters={"a": [1]}, slo=[{"metric": "mem", "max": 10}]).slo

    def judged(a: int, bounds: Any = slo) -> Any:
        return judge(recording.result({"a": a}), Question(slo=bounds, objective=COST))

    assert judged(1).outcome is Outcome.INFEASIBLE
    assert judged(1).compliance.violation == 1.0
    assert judged(2).outcome is Outcome.FEASIBLE
    assert (judged(2).value, judged(2).score) == (2.0, 2.0)
    assert judged(3).outcome is Outcome.FAILED
    assert "needs cost" in judged(3).reason
    assert judged(4).reason == "recorded as failed: no reason given"
    assert judged(5).outcome is Outcome.INFEASIBLE  # as mem is missing
    assert judged(6).value is None
    assert judged(2, spec.slo).outcome is Outcome.INFEASIBLE  # as ttft is missing


def test_every_strategy_stays_on_the_recorded_points(record: Write) -> None:
    rows = [
        f"{a},{x},{'y' if a > 3 else ''},{(a - 4) ** 2 + x}"
        for a in range(1, 9)
        for x in (0.11, 0.5, 0.93)
        if a != 4
    ]
    recording = record("a,x,b,cost\n" + "\n".join(rows) + "\n")
    restricted = recording.restrict(
        spec_of(
            {
                "a": {"type": "integer", "low": 1, "high": 8, "n": 3},
                "x": {"type": "continuous", "low": 0.1, "high": 1.0},
                "b": {"type": "choice", "values": ["y", "z"], "when": "a > 3"},
            }
        ).space
    )

    def score(point: Point) -> tuple[Outcome, float | None, float]:
        question = Question(slo=spec_of({"a": [1]}).slo, objective=COST)
        found = judge(recording.result(point), question)
        return found.outcome, found.score, 0.0

    for name in STRATEGIES:
        strategy = strategy_for(name, restricted, limit=30, n_initial_random=4)
        found = search(strategy, 30, score)
        assert len({record.key for record in found}) == len(found) == len(rows), name
        assert strategy.propose(History(records=found), [0, 30]) is None
    few = strategy_for("grid_search", restricted, limit=6).plan()
    assert few is not None
    assert len(few) == 6
    assert all(restricted.is_valid(point) for point in few)


def test_a_table_of_a_space_too_large_to_walk_is_read_at_once(record: Write) -> None:
    # 60 parameters of 100 values: neither to be walked nor to be numbered in 64 bits.
    names = [f"p{index}" for index in range(60)]
    rows = [
        [(number * (index + 3) * 7919) % 100 for index in range(60)] for number in range(20_000)
    ]
    text = ",".join([*names, "cost"]) + "\n"
    text += "".join(",".join(map(str, [*row, row[0]])) + "\n" for row in rows[:100])
    recording = record(text)
    space = spec_of({name: list(range(100)) for name in names}, "p0 != 1 or p1 != 1").space
    restricted = recording.restrict(space)
    assert restricted.pool is not None
    assert len(restricted.pool) == 100
    for point in points_of(restricted)[::10]:
        assert restricted.is_valid(point)
        assert recording.result(point).metrics == {"cost": point["p0"]}


def test_a_hundred_thousand_rows_are_no_burden(record: Write) -> None:
    rows = [(i % 50, i // 50 % 50, i // 2500 % 41) for i in range(102_500)]
    text = "a,b,c,cost\n" + "".join(f"{a},{b},{c},{a + b + c}\n" for a, b, c in rows)
    space = spec_of(
        {
            "a": list(range(50)),
            "b": {"type": "integer", "low": 0, "high": 49},
            "c": list(range(41)),
        },
        "a + b >= 0",
    ).space
    began = time.process_time()
    recording = record(text)
    restricted = recording.restrict(space)
    assert restricted.pool is not None
    assert len(restricted.pool) == 102_500
    # It takes about a second; this is against what is quadratic.
    assert time.process_time() - began < 20
    assert recording.result({"a": 7, "b": 8, "c": 9}).metrics == {"cost": 24.0}


def test_gemm_points_are_found_again(record: Write) -> None:
    full = make_spec(GEMM).space
    some = [full.pool.point(row) for row in range(0, len(full.pool or ()), 500)]  # type: ignore[union-attr]
    text = ",".join(full.names) + ",time\n"
    text += "".join(",".join(str(value) for value in p.values()) + ",1\n" for p in some)
    restricted = record(text).restrict(spec_of(**GEMM_KEYS).space)
    assert points_of(restricted) == some


GEMM_KEYS: Any = {"parameters": GEMM["parameters"]}


def test_a_byte_order_mark_blank_lines_and_gzip_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "r.csv.gz"
    path.write_bytes(gzip.compress("\ufeffa,cost\r\n\r\n1,2\r\n".encode()))
    recording = Recording.read(path)
    recording.restrict(spec_of({"a": [1]}).space)
    assert recording.result({"a": 1}).metrics == {"cost": 2.0}
    plain = tmp_path / "r.csv"
    plain.write_bytes("\ufeffa,cost\r\n\r\n1,2\r\n".encode())
    assert Recording.read(plain).digest == recording.digest


COSTS = "a,cost\n1,4\n2,3\n3,1\n4,2\n"
SAME = "line 2 and line 3 are of the same point (a=1)"


@pytest.mark.parametrize(
    ("text", "where", "keys", "message"),
    [
        ("", None, {}, "r.csv: is empty: a header with the names of the columns is expected"),
        ("a,cost\n", None, {}, "r.csv: has no rows"),
        ("a,cost\n1\n", None, {}, "r.csv: line 2 has 1 cells, the header 2"),
        ("a,a\n1,2\n", None, {}, "r.csv: two columns are called 'a'"),
        ("a,\n1,2\n", None, {}, "r.csv: column 2 has no name"),
        ('a,cost\n1,"2\n', None, {}, "r.csv: line 2: not valid CSV: "),
        ("A,cost\n1,2\n", None, {}, "r.csv: no column for the parameter 'a'; known: A, cost"),
        ("a,cost\n7,1\n", None, {}, "the spec's parameters: a is 7 there, but 1, 2, 3, 4 in the"),
        ("a,b\n7,1\n1,7\n", None, {"parameters": {"a": [1], "b": [1]}}, "each has some value that"),
        (COSTS, None, {"constraints": ["a > 3", "a < 3"]}, "satisfies 'a > 3' and 'a < 3'"),
        (COSTS, None, {"constraints": ["a > 7", "a < 3"]}, "fit the spec's parameters satisfies "),
        (COSTS, None, {"constraints": ["a % (a - 1) == 0"]}, "/constraints/0: cannot evaluate"),
        (COSTS, "b == 1", {}, "r.csv: where: no column 'b'; known: a, cost"),
        (COSTS, "a >", {}, "/replay/where: cannot parse"),
        (COSTS, "a > 9", {}, "none of its 4 rows meets where: a > 9 (a is 1, 2, 3, 4)"),
        (COSTS, "a > 'x'", {}, "r.csv: where: cannot evaluate \"a > 'x'\" for a=1"),
        ("a,valid\n1,maybe\n", None, {}, "line 2: valid is 'maybe', neither 1 nor 0"),
        ("a,concurrency\n1,0.5\n", None, {}, "line 2: concurrency is '0.5', not a positive whole"),
        ("a,request_rate\n1,-1\n", None, {}, "line 2: request_rate is '-1', not a positive num"),
        ("a,scenario\n1,x\n", None, {}, "a concurrency or a request_rate, not neither"),
        ("a,cost\n1,2\n1,2\n", None, {}, f"{SAME}, and equal: keep one of them"),
        ("a,concurrency\n1,2\n1,2\n", None, {}, f"{SAME}, and equal: keep one of them"),
        (
            "a,cost,tp,system\n1,3,1,x\n1,4,2,y\n2,5,1,y\n",
            None,
            {},
            f"{SAME} and differ in system, tp, cost: select by the spec's replay.where, such as ",
        ),
        ("a,cost,tp\n1,3,1\n1,4,2\n2,5,1\n", None, {}, "differ in tp, cost: select by the spec"),
    ],
)
def test_what_cannot_be_replayed_says_why(
    tmp_path: Path, text: str, where: str | None, keys: dict[str, Any], message: str
) -> None:
    (tmp_path / "r.csv").write_text(text)
    replay = {"file": "r.csv", **({} if where is None else {"where": where})}
    document = {"parameters": {"a": [1, 2, 3, 4]}, "replay": replay, **keys}
    with pytest.raises(UserError) as caught:
        plan_of("test_it.py", load_inline("s", document, "spec.yaml", tmp_path), Settings())
    assert message in str(caught.value)
    assert str(caught.value).startswith("spec.yaml: /")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("r.csv.gz", b"a,b", "cannot be decompressed: Not a gzipped file"),
        ("r.csv.gz", b"\x1f\x8b\x08", "cannot be decompressed: "),
        ("r.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-20], "cannot be decompressed: "),
        ("r.csv", b"\xff\xfe\x00", "is not a text in UTF-8: "),
        ("r.csv", None, "cannot be read: Is a directory"),
        ("none.csv", b"", "no such file"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    if content is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name.replace("none", "other")).write_bytes(content)
    given = GivenFile(where="--autotune-replay", written=name, path=tmp_path / name)
    with pytest.raises(RecordingError) as caught:
        plan_of("test_it.py", make_spec(parameters={"a": [1]}), Settings(replay=given))
    assert str(caught.value).startswith(f"--autotune-replay: {name}: {problem}")


def test_a_plan_of_recorded_results_has_a_name_and_a_key_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(COSTS)
    (tmp_path / "s.csv").write_text(COSTS + "\n")

    def plan(file: str, where: str | None = None) -> Plan:
        replay = {"file": file, **({} if where is None else {"where": where})}
        document = {"parameters": {"a": [1, 2, 3, 4]}, "replay": replay}
        spec = load_inline("s", document, "x", tmp_path)
        return plan_of("test_it.py", spec, Settings(), code=Code(root=tmp_path))

    first = plan("r.csv")
    assert (first.label, first.code) == ("test_it.py (s), replayed", None)
    assert "environment" not in first.key()
    assert first.key() == plan("r.csv").key()
    assert first.key() != plan("s.csv").key()
    assert first.key() != plan("r.csv", "a > 0").key()
    assert isinstance(first.spec.space.parameters[0], Categorical)
    assert plan("r.csv", "a > 0").source.description == "r.csv where a > 0"
