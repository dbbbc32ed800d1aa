"""Recorded results in place of tests that run."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import Project

Study = Callable[..., pytest.RunResult]

#: Whatever runs of it fails the run.
BODY = """
import os

@pytest.fixture(autouse=True)
def around():
    raise RuntimeError("an autouse fixture ran")

@pytest.fixture(scope="module")
def server(trial):
    raise RuntimeError("a fixture ran")

def setup_module():
    raise RuntimeError("setup_module ran")

def setup_function():
    raise RuntimeError("setup_function ran")

@pytest.mark.skipif(True, reason="no GPU here")
def test_right(trial, server):
    raise RuntimeError("a test ran")

@pytest.mark.xfail(strict=True)
@pytest.mark.parametrize("size", [1, 2])
def test_fast(trial, server, size):
    raise RuntimeError("a test ran")
"""
COSTS = "a,cost\n1,4\n2,3\n3,1\n4,2\n"


@pytest.fixture
def replay(pytester: pytest.Pytester, study: Study) -> Study:
    """Replay a recording for the study: ``replay(csv, *args)``."""

    def run(csv: str, *args: str, where: str | None = None, **keys: Any) -> pytest.RunResult:
        (pytester.path / "recorded.csv").write_text(csv)
        block = {"file": "recorded.csv", **({} if where is None else {"where": where})}
        return study(BODY, *args, replay=block, **keys)

    return run


def output(result: pytest.RunResult) -> str:
    return f"{result.stdout.str()}\n{result.stderr.str()}"


def refused(result: pytest.RunResult) -> str:
    """Return the one message that ended a run before it began."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in output(result).splitlines() if line.startswith("ERROR: ")]
    assert "Traceback" not in output(result)
    return line.removeprefix("ERROR: ")


def incumbent(pytester: pytest.Pytester, label: str = "test_study.py, replayed") -> Any:
    text = (pytester.path / ".pytest_cache" / "v" / "autotune" / "incumbent").read_text()
    return json.loads(text)[label]


@pytest.mark.parametrize("strategy", ["auto", "bayesian", "grid_search", "random"])
def test_nothing_of_the_tests_runs_and_every_recorded_point_is_found(
    replay: Study, pytester: pytest.Pytester, strategy: str
) -> None:
    pytester.makeconftest("""
        def pytest_collection_modifyitems(items):
            for item in items:
                item.user_properties.append(("suite", "nightly"))
        """)
    result = replay(COSTS, "--autotune-strategy", strategy, "--junitxml=j.xml")
    result.assert_outcomes(passed=12)
    text = output(result)
    assert "autotune: test_study.py, replayed from recorded.csv: nothing is run or meas" in text
    assert "replayed from recorded.csv: nothing was run or measured here" in text
    assert "trials   4 of 4: 4 feasible" in text
    assert incumbent(pytester)["params"] == {"a": 3}
    for name, value in (("autotune_replayed", "recorded.csv"), ("suite", "nightly")):
        assert f'name="{name}" value="{value}"' in Path("j.xml").read_text()


def test_an_option_replays_for_every_study_and_wins_over_specs(
    replay: Study, pytester: pytest.Pytester
) -> None:
    folder = pytester.mkdir("elsewhere")
    with gzip.open(folder / "other.csv.gz", "wt") as file:
        file.write("a,cost\n1,1\n4,7\n")
    option = ("--autotune-replay", "elsewhere/other.csv.gz")
    result = replay("broken", *option, where="nonsense ==")
    assert "where" in refused(result)
    result = replay("broken", *option)
    result.assert_outcomes(passed=6)
    text = output(result)
    assert "autotune: results are replayed from elsewhere/other.csv.gz, nothing is meas" in text
    assert text.count("--autotune-replay elsewhere/other.csv.gz") == 2
    assert incumbent(pytester)["params"] == {"a": 1}


def test_an_ini_files_recording_is_beside_it(study: Study, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nautotune_replay = data/costs.csv")
    (pytester.mkdir("data") / "costs.csv").write_text(COSTS)
    study(BODY).assert_outcomes(passed=12)


def test_rows_are_selected_by_where(replay: Study, pytester: pytest.Pytester) -> None:
    csv = "a,system,cost\n1,x,4\n1,y,1\n2,x,2\n2,y,3\n"
    result = replay(csv, where="system == 'x'")
    result.assert_outcomes(passed=6)
    assert "replayed from recorded.csv where system == 'x'" in output(result)
    assert incumbent(pytester)["params"] == {"a": 2}


def test_a_recorded_failure_fails_the_first_test_in_a_line(
    replay: Study, pytester: pytest.Pytester
) -> None:
    result = replay("a,cost,valid,error\n1,,0,out of memory\n2,3,1,\n")
    result.assert_outcomes(passed=3, failed=1, skipped=2)
    text = output(result)
    assert "\ntrial 0: recorded as failed: out of memory\n" in text
    assert ".py:" not in text.partition("FAILURES")[2].partition("short test summary")[0]
    assert incumbent(pytester)["params"] == {"a": 2}


@pytest.mark.parametrize("policy", ["fail", "xfail"])
def test_what_breaks_the_slo_fails_or_is_infeasible(
    replay: Study, pytester: pytest.Pytester, policy: str
) -> None:
    slo = [{"metric": "mem", "max": 10}]
    csv = "a,cost,mem\n1,1,20\n2,2,5\n"
    result = replay(csv, "--autotune-infeasible", policy, slo=slo)
    assert result.ret == (1 if policy == "fail" else 0)
    assert incumbent(pytester)["params"] == {"a": 2}
    text = output(result)
    assert "trials   2 of 2: 1 feasible, 1 infeasible" in text
    assert ("trial 0 is infeasible: mem 20, limit ≤ 10" in text) == (policy == "fail")


LEVELS = """a,concurrency,scenario,cost,ttft,valid
1,1,"D(1,2)",1,0.1,1
1,8,"D(1,2)",3,0.9,1
2,1,"D(1,2)",5,0.1,1
2,8,"D(1,2)",6,0.2,1
"""


@pytest.mark.parametrize(
    ("levels", "best", "value"), [("all", 2, 5.5), ("filter", 1, 1.0), ("max", 2, 8.0)]
)
def test_rows_of_a_point_are_load_levels(
    replay: Study, pytester: pytest.Pytester, levels: str, best: int, value: float
) -> None:
    slo = {"levels": levels, "metrics": [{"metric": "ttft", "max": 0.5}]}
    result = replay(LEVELS, slo=slo)
    found = incumbent(pytester)
    assert (found["params"], found["value"]) == ({"a": best}, value)
    text = output(result)
    assert ("infeasible: ttft 900 ms" in text) == (levels == "all")
    if levels == "filter":
        assert "dropped  levels that break the SLO: 8 D(1,2)" in text


def test_the_machine_does_not_limit_what_was_recorded(
    replay: Study, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    result = replay(
        "a,tp,pp,cost\n1,8,1,1\n2,16,1,2\n",
        parallel_config={"tp": [8, 16], "pp": 1},
        constraints=["tp * pp <= gpus", "a * tp <= 16"],
        server={"preset": "vllm", "image": "none/such:1"},
        model={"id_or_path": "none/such"},
    )
    assert result.ret == 0, output(result)
    assert "trials   1 of 1: 1 feasible" in output(result)
    assert "'tp * pp <= gpus' did not count: it is about this machine" in output(result)
    assert incumbent(pytester)["params"] == {"a": 1, "tp": 8, "pp": 1}


def test_rows_outside_of_the_spec_are_left_out_with_a_note(replay: Study) -> None:
    result = replay(COSTS + "7,0\n")
    assert "trials   4 of 4" in output(result)
    assert "note     1 of the 5 recorded rows are outside of the spec, and left out" in output(
        result
    )


def test_a_replay_is_resumed_and_a_changed_recording_is_another_study(
    replay: Study,
) -> None:
    assert "trials   2 of 4" in output(replay(COSTS, "-k", "a:1 or a:2"))
    assert "; 2 of them in earlier runs" in output(replay(COSTS))
    changed = output(replay(COSTS.replace("4,2", "4,0")))
    assert "earlier runs" not in changed
    assert "a new study was started, because this changed: replay (recording)" in changed
    selected = output(replay(COSTS, where="a > 0"))
    assert "a new study was started, because this changed: replay (recording, where)" in selected


def test_what_is_replayed_and_what_is_measured_do_not_meet(
    study: Study, pytester: pytest.Pytester
) -> None:
    (pytester.path / "recorded.csv").write_text(COSTS)
    body = "def test_it(trial): trial.report({'cost': trial.params['a']})"
    study(body)
    result = study(body, "--autotune-replay", "recorded.csv")
    assert "note " not in output(result)
    assert incumbent(pytester)["params"] == {"a": 3}
    assert incumbent(pytester, "test_study.py")["params"] == {"a": 1}
    again = study(body)
    assert "4 of them in earlier runs" in output(again)
    assert "note " not in output(again)


@pytest.mark.parametrize("by", [pytest.param("option", marks=pytest.mark.slow), "spec"])
def test_workers_replay_each_point_once(project: Project, by: str) -> None:
    rows = [f"{a},{b},c{a * b},x" for a in range(1, 7) for b in range(1, 9)]
    (project.path / "recorded.csv").write_text(
        "a,b,cost,mem,c\n" + "\n".join(f"{r.split(',')[0]},{r.split(',')[1]},{i},1,x"
                                       for i, r in enumerate(rows)) + "\n"
    )  # fmt: skip
    spec: dict[str, Any] = {
        "parameters": {
            "a": [1, 2, 3, 4, 5, 6],
            "b": {"type": "integer", "low": 1, "high": 8},
            "c": ["x", "y"],
        },
        "optimization": {"objective": "minimize:cost", "max_iterations": 12},
    }
    if by == "spec":
        spec["replay"] = {"file": "recorded.csv"}
    project.write("def test_it(trial, nothing): raise RuntimeError\n", spec)
    option = ["--autotune-replay", "recorded.csv"] if by == "option" else []
    result = project.run("-n", "2", "-W", "error", *option, status=0)
    assert "12 passed" in result
    assert result.count("autotune: test_study.py, replayed from recorded.csv: noth") == 1
    assert "trials   12 of 12: 12 feasible" in result


def test_what_cannot_be_replayed_ends_the_run_before_it_begins(replay: Study) -> None:
    text = refused(replay("a,system,cost\n1,x,2\n1,y,3\n"))
    assert text == (
        "test_study.py: autotune marker: /replay: recorded.csv: line 2 and line 3 are of the same "
        "point (a=1) and differ in system, cost: select by the spec's replay.where, such as "
        "\"system == 'x'\", make a parameter of it, or keep one row for each point"
    )


def test_a_missing_file_is_named_with_the_place_that_names_it(study: Study) -> None:
    text = refused(study(BODY, replay={"file": "none.csv"}))
    assert text == "test_study.py: autotune marker: /replay: none.csv: no such file"
    text = refused(study(BODY, "--autotune-replay", "none.csv.gz"))
    assert text == "--autotune-replay: none.csv.gz: no such file"


def test_what_is_replayed_is_not_pinned_compared_or_recorded(
    replay: Study, study: Study, pytester: pytest.Pytester
) -> None:
    by_spec = {
        "--autotune-lock": "--autotune-lock: results that are replayed can neither be pinned nor",
        "--autotune-record=x.csv": "--autotune-record: results that are replayed are recorded alr",
    }
    for option, message in by_spec.items():
        text = refused(replay(COSTS, option))
        assert text.startswith(f"test_study.py: autotune marker: /replay: {message}")
        text = refused(study(BODY, option, "--autotune-replay", "recorded.csv"))
        other = option.partition("=")[0]
        assert text.startswith(f"--autotune-replay and {other} exclude each other: ")
    (pytester.path / "autotune.lock.json").write_text('{"version": 1, "studies": {}}')
    result = pytester.runpytest_inprocess("--autotune-gate", "--autotune-replay", "recorded.csv")
    assert refused(result).startswith("--autotune-replay and --autotune-gate exclude each other")
    replay(COSTS)
    result = pytester.runpytest_inprocess("--autotune-gate")
    assert ": /replay: --autotune-gate: results that are replayed" in refused(result)


@pytest.mark.parametrize("option", ["--autotune-replay", "--autotune-record"])
def test_without_a_study_to_run_the_options_are_refused(
    pytester: pytest.Pytester, option: str
) -> None:
    pytester.makepyfile("def test_it(): pass")
    assert refused(pytester.runpytest_inprocess(option, "x.csv")) == f"{option} needs --autotune"


def test_classes_and_functions_are_studies_that_can_be_replayed(
    pytester: pytest.Pytester,
) -> None:
    (pytester.path / "recorded.csv").write_text(COSTS)
    pytester.makepyfile("""
        import pytest
        SPEC = dict(parameters={"a": [1, 2]}, optimization={"objective": "minimize:cost"})

        @pytest.mark.autotune(**SPEC)
        class TestIt:
            def setup_method(self): raise RuntimeError
            def test_right(self, trial): raise RuntimeError
            def test_fast(self, trial): raise RuntimeError

        @pytest.mark.autotune(**SPEC)
        def test_alone(trial, tmp_path): raise RuntimeError

        def test_another(tmp_path): assert tmp_path.exists()

        @pytest.mark.skip
        def test_skipped(): raise RuntimeError
        """)
    result = pytester.runpytest_inprocess("--autotune", "--autotune-replay", "recorded.csv")
    result.assert_outcomes(passed=7, skipped=1)


def test_without_a_replay_nothing_of_it_is_imported(project: Project) -> None:
    project.write()
    (project.path / "conftest.py").write_text(
        "import sys\ndef pytest_unconfigure():\n"
        "    print([name for name in sys.modules if name.startswith('pytest_autotune.replay')])\n"
    )
    assert project.run("-s").rstrip().endswith("[]")
