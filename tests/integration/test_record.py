"""Recording a study's trials, so that they can be replayed."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import SPEC, Project
from test_replay import incumbent, output, refused

Study = Callable[..., pytest.RunResult]
#: A study with every kind of parameter and every kind of end.
MIXED: dict[str, Any] = {
    "parameters": {
        "kind": ["1", 1, True, "true", "", "a,b", None, [1, 2.5], {"x": "y"}],
        "ratio": {"type": "continuous", "low": 0.1, "high": 0.9},
        "depth": {"type": "integer", "low": 1, "high": 4, "when": "ratio > 0.5"},
    },
    "optimization": {"objective": "minimize:cost", "strategy": "random", "max_iterations": 20},
    "slo": [{"metric": "mem", "max": 0.8}],
}
MIXED_BODY = """
def test_it(trial):
    p = trial.params
    if trial.number == 3:
        trial.prune("slow")
    assert trial.number != 4, 'no, "this"\\nis\\nwrong'
    trial.report({"cost": p["ratio"] * p.get("depth", 1), "mem": p["ratio"],
                  "odd": float("nan"), "valid": 7, "kind": 3})
"""


def rows(path: str | Path) -> list[dict[str, str]]:
    content = Path(path).read_bytes()
    if str(path).endswith(".gz"):
        content = gzip.decompress(content)
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


@pytest.mark.parametrize("name", ["recorded.csv", "recorded.csv.gz"])
def test_what_was_recorded_is_replayed_with_the_same_result(
    study: Study, pytester: pytest.Pytester, name: str
) -> None:
    result = study(MIXED_BODY, "--autotune-record", name, **MIXED)
    assert f"recorded 19 trials in {name} (1 pruned trial left out)" in output(result)
    found = rows(pytester.path / name)
    assert list(found[0])[:3] == ["kind", "ratio", "depth"]
    assert list(found[0])[3:] == [
        *("cost", "mem", "odd", "metric_valid", "metric_kind"),
        *("valid", "error", "duration", "cut_short"),
    ]
    assert [row["error"] for row in found if row["valid"] == "0"] == [
        'AssertionError: no, "this"'
    ]  # fmt: skip
    measured = incumbent(pytester, "test_study.py")
    again = study(
        "def test_it(trial): raise RuntimeError",
        *("--autotune-replay", name, "--autotune-trials", "30"),
        **MIXED,
    )
    assert "trials   19 of 19" in output(again)
    assert "outside of the spec" not in output(again)
    replayed = incumbent(pytester)
    assert (replayed["params"], replayed["value"]) == (measured["params"], measured["value"])
    counts = [line.partition(": ")[2] for line in output(result).splitlines() if "of 20: " in line]
    assert counts == [f"{_after(output(again), 'of 19: ')}, 1 pruned"]


def _after(text: str, head: str) -> str:
    return text.partition(head)[2].partition("\n")[0]


LEVELS_BODY = """
def test_it(trial):
    a = trial.params["a"]
    trial.report({"load": a, "levels": [
        {"concurrency": c, "scenario": s, "cost": 10 / a + c, "ttft": a * c / 10}
        for c in (1, 4) for s in ("D(1,2)", "[7]")
    ]})
"""


@pytest.mark.parametrize("levels", ["all", "filter", "max"])
def test_load_levels_survive(study: Study, pytester: pytest.Pytester, levels: str) -> None:
    keys = {"slo": {"levels": levels, "metrics": [{"metric": "ttft", "max": 1.0}]}}
    result = study(LEVELS_BODY, "--autotune-record", "r.csv", **keys)
    found = rows(pytester.path / "r.csv")
    assert len(found) == 4 * 5
    assert [row["concurrency"] for row in found[:5]] == ["1", "1", "4", "4", ""]
    assert [row["load"] for row in found[:5]] == ["", "", "", "", "1.0"]
    assert "max_cost" not in found[0]
    again = study("def test_it(trial): raise RuntimeError", "--autotune-replay", "r.csv", **keys)
    assert incumbent(pytester) == incumbent(pytester, "test_study.py")
    for head in ("trials ", "metrics", "dropped"):
        lines = [line for line in output(result).splitlines() if line.startswith(head)]
        assert [line for line in output(again).splitlines() if line.startswith(head)] == lines


CUT_BODY = """
def test_speed(trial):
    a = trial.params["a"]
    trial.report({"cost": 10 - a, "energy": 10 * a})

def test_right(trial):
    assert trial.params["a"] != 3, "wrong answer"
"""


def test_a_trial_that_an_slo_cut_short_wins_under_no_other(
    study: Study, pytester: pytest.Pytester
) -> None:
    keys = {"parameters": {"a": [1, 2, 3]}}
    tight, wide = ({"slo": [{"metric": "energy", "max": most}], **keys} for most in (15, 35))
    study(CUT_BODY, "--autotune-record", "r.csv", **tight)
    cut = {row["a"]: row["cut_short"].split(" ")[0] for row in rows(pytester.path / "r.csv")}
    assert cut == {"1": "", "2": "ended+partial", "3": "ended+partial"}
    again = study(CUT_BODY, "--autotune-replay", "r.csv", **tight)
    assert "trials   3 of 3: 1 feasible, 2 infeasible" in output(again)
    wider = study(CUT_BODY, "--autotune-replay", "r.csv", "-rs", **wide)
    assert incumbent(pytester)["params"] == {"a": 1}
    assert "1 feasible, 2 skipped" in output(wider)
    assert "was cut short by the SLO that it was recorded under" in output(wider)


def test_what_a_search_of_levels_left_out_counts_under_its_own_slo(
    study: Study, pytester: pytest.Pytester
) -> None:
    body = """
    def test_it(trial):
        a = trial.params["a"]
        trial.report({"partial": "by the search", "levels": [
            {"concurrency": c, "cost": c, "ttft": c / a / 10} for c in (1, 2)
        ]})
    """
    one, two = (
        {"slo": {"levels": "max", "metrics": [{"metric": "ttft", "max": most}]}}
        for most in (1.0, 2.0)
    )
    study(body, "--autotune-record", "r.csv", **one)
    again = study(body, "--autotune-replay", "r.csv", **one)
    assert incumbent(pytester) == incumbent(pytester, "test_study.py")
    assert "4 feasible" in output(again)
    assert "4 skipped" in output(study(body, "--autotune-replay", "r.csv", **two))


def test_a_parameter_may_have_the_name_of_a_load_level(
    study: Study, pytester: pytest.Pytester
) -> None:
    keys = {"parameters": {"concurrency": [1, 2], "valid": [True, False]}}
    body = """
    def test_it(trial):
        p = trial.params
        assert p["valid"] or p["concurrency"] > 1
        trial.report({"levels": [{"concurrency": c, "cost": p["concurrency"]} for c in (3, 4)]})
    """
    study(body, "--autotune-record", "r.csv", **keys)
    found = rows(pytester.path / "r.csv")
    assert list(found[0]) == [
        *("concurrency", "valid", "level_concurrency", "cost", "trial_valid", "error", "duration")
    ]
    again = study(body, "--autotune-replay", "r.csv", **keys)
    assert "trials   4 of 4: 3 feasible, 1 failed" in output(again)
    assert incumbent(pytester) == incumbent(pytester, "test_study.py")


@pytest.mark.parametrize("workers", [[], pytest.param(["-n", "2"], marks=pytest.mark.slow)])
def test_trials_of_earlier_sessions_are_recorded_too(project: Project, workers: list[str]) -> None:
    project.run("--autotune-trials", "5")
    result = project.run("--autotune-record", "r.csv", *workers)
    assert "recorded 12 trials in r.csv\n" in result
    assert len(rows(project.path / "r.csv")) == 12
    assert not list(project.path.glob(".r.csv*"))
    # A finished study can be recorded afterwards.
    (project.path / "r.csv").unlink()
    result = project.run("--autotune-record", "r.csv", *workers)
    assert len(rows(project.path / "r.csv")) == 12
    project.write("def test_it(trial): raise RuntimeError\n")
    again = project.run("--autotune-replay", "r.csv", *workers)
    best = [line for line in result.splitlines() if line.startswith(" " * 9 + "cost ")]
    assert best
    assert best[0] in again
    assert project.trials(), SPEC


def test_two_studies_are_refused_with_their_names(pytester: pytest.Pytester) -> None:
    text = (
        "import pytest\n"
        "@pytest.mark.autotune(parameters={'a': [1]}, optimization={'objective': 'minimize:c'})\n"
        "def test_it(trial): trial.report({'c': 1})\n"
    )
    pytester.makepyfile(test_one=text, test_two=text)
    for workers in ([], ["-n", "2"]):
        command = ("--autotune", "--autotune-record", "r.csv", *workers)
        assert refused(pytester.runpytest_subprocess(*command)) == (
            "--autotune-record: r.csv: a recording is of one study, and this run has 2: "
            "test_one.py::test_it, test_two.py::test_it; run one of them, by the path of its tests"
        )
    result = pytester.runpytest_inprocess("--autotune", "--autotune-record", "r.csv", "test_two.py")
    assert "recorded 1 trial in r.csv" in output(result)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("none/r.csv", "--autotune-record: none/r.csv: there is no folder 'none'"),
        (".", "--autotune-record: .: is a folder; name a file, such as recorded.csv"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_trial(
    study: Study, target: str, message: str
) -> None:
    text = refused(study("def test_it(trial): raise SystemExit", "--autotune-record", target))
    assert text == message


def test_nothing_finished_is_no_recording(study: Study, pytester: pytest.Pytester) -> None:
    (pytester.path / "r.csv").write_text("kept")
    result = study("def test_it(trial): trial.prune()", "--autotune-record", "r.csv")
    assert "recorded nothing in r.csv: no trial was finished (4 pruned trials left out)" in output(
        result
    )
    assert (pytester.path / "r.csv").read_text() == "kept"


def test_an_interrupted_run_records_what_it_has(project: Project) -> None:
    project.write("""
def test_it(trial):
    if trial.number == 2:
        raise KeyboardInterrupt
    trial.report({"cost": 1, "mem": 1})
""")
    project.run("--autotune-record", "r.csv", status=pytest.ExitCode.INTERRUPTED)
    assert len(rows(project.path / "r.csv")) == 2
