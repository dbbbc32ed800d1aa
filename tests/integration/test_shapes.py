"""Tests with other parameters than their trial: reports are kept apart and combined by a rule."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import pytest
from gated import Gated
from project import HEAD, Project

from pytest_autotune.scoring.judgement import Outcome

Run: TypeAlias = Callable[..., pytest.RunResult]

#: The cost in three shapes. In the last one alone a=4 wins, by the ratios a=2.
COSTS: Mapping[int, tuple[float, float, float]] = {
    1: (10.0, 200.0, 4000.0),
    2: (5.0, 100.0, 3900.0),
    3: (11.0, 190.0, 3800.0),
    4: (40.0, 800.0, 3000.0),
}
MODULE = f"""
import warnings

COSTS = {COSTS!r}


@pytest.mark.parametrize("kind", ["fp16", "fp32"])
def test_right(trial, kind):
    pass


@pytest.fixture(scope="module")
def loaded(trial):
    trial.report({{"load_time": 0.5}})


@pytest.mark.parametrize("shape", range(3), ids=["small", "medium", "large"])
def test_fast(trial, shape, loaded):
    with pathlib.Path("completed.log").open("a") as file:
        file.write(f"{{trial.params['a']}} {{shape}}\\n")
    trial.report({{"cost": COSTS[trial.params["a"]][shape], "num_samples": shape}})
"""


def spec(rule: str | None = None, **keys: Any) -> dict[str, Any]:
    cases = {} if rule is None else {"cases": rule}
    return {
        "parameters": {"a": [1, 2, 3, 4]},
        "optimization": {"objective": "minimize:cost", "strategy": "grid_search", **cases},
        "slo": [{"metric": "load_time", "max": 100}],
        **keys,
    }


def shown(output: str) -> list[str]:
    """Return the lines of the summary up to the metrics."""
    lines = output[output.index("best     ") :].splitlines()
    return lines[: next(at for at, line in enumerate(lines) if line.startswith(("metrics", "slo")))]


GEOMEAN = [
    "best     trial 1: a=2",
    "         cost, geomean of 3 cases: 0.6247 × trial 0 (minimize:cost)",
    "cases    case    cost  trial 0  ratio",
    "         small      5       10  0.5",
    "         medium   100      200  0.5",
    "         large   3900     4000  0.975",
]


def test_shapes_combine_by_the_rule_whoever_runs_them(project: Project) -> None:
    chosen = spec("geomean")
    project.write(MODULE, chosen)
    printed = project.run("-v", "--autotune-record", "out.csv", "--junitxml=out.xml", status=0)
    assert shown(printed) == GEOMEAN
    assert "trial 0 [a=1] cost, geomean of 3 cases: 1 × trial 0; best so far\n" in printed
    assert "load_time ≤ 100 s, measured 500 ms" in printed
    junit = (project.path / "out.xml").read_text()
    assert 'name="autotune_cases" value="cost, geomean of 3 cases: 0.6247 × trial 0"' in junit
    assert 'name="autotune_cost_ratio" value="0.62466' in junit
    records = project.records(chosen)
    assert [record.outcome for record in records] == [Outcome.FEASIBLE] * 4
    assert {name: m["cost"] for name, m in by_case(records[3]).items()} == {
        "small": 40.0, "medium": 800.0, "large": 3000.0,
    }  # fmt: skip
    assert records[3].measurement.metrics == {"load_time": 0.5}

    look = project.run("-k", "small or right", status=0)
    assert "4 looks at trials 0-3, not stored: the run left out 2 of 3 cases of test_fast" in look
    assert len(project.completed()) == 16
    assert shown(project.run(status=0)) == GEOMEAN  # nothing was measured again
    assert len(project.completed()) == 16
    assert shown(project.run("--autotune-replay", "out.csv", status=0)) == GEOMEAN
    assert shown(project.run("--autotune-fresh", "-n", "2", status=0)) == GEOMEAN


def by_case(record: Any) -> dict[str, Mapping[str, float]]:
    return {case.name: case.metrics for case in record.measurement.cases}


def test_without_a_rule_nothing_is_overwritten_and_nothing_is_lost(project: Project) -> None:
    module = HEAD.replace("**{spec!r}", '"study"') + MODULE
    (project.path / "test_study.py").write_text(module)
    specs = project.path / "autotune.json"
    specs.write_text(json.dumps({"study": spec()}))
    printed = project.run("--autotune-record", "out.csv", status=1)
    reason = (
        "cost was reported in 3 cases (small, medium, large), and the spec does not say how they "
        "combine: write 'cases: geomean', 'cases: mean' or 'cases: worst' in it"
    )
    assert f"trial 0: {reason}" in printed
    assert "best     none" in printed
    specs.write_text(json.dumps({"study": spec("worst")}))
    assert shown(project.run(status=0))[:2] == [
        "best     trial 3: a=4",
        "         cost, worst of 3 cases: 3000 (large) (minimize:cost)",
    ]
    # Three trials were enough to see that it goes wrong, and are judged anew.
    assert len(project.completed()) == 12
    assert shown(project.run("--autotune-replay", "out.csv", status=0))[:2] == [
        "best     trial 2: a=3",
        "         cost, worst of 3 cases: 3800 (large) (minimize:cost)",
    ]


@pytest.mark.parametrize(
    ("body", "slo", "message"),
    [
        # The last case keeps the bound, which the first one misses.
        (
            'trial.report({"cost": 1, "mem": 9 - shape})',
            [{"metric": "mem", "max": 8, "hard_fail": False}],
            "mem @ s0 *≤ 8 * 9 *-12.5 %  missed, minor",
        ),
        (
            'trial.report({"cost": 1}) if shape != 1 else None',
            [],
            "*trial 0: the objective 'minimize:cost' needs cost, which was not reported in case s1",
        ),
        (
            'trial.report({"cost": 1, **({"mem": 1} if shape else {})})',
            [{"metric": "mem", "max": 8}],
            "mem @ s0 *BROKEN: not reported*",
        ),
        (
            'trial.report_level(4, {"cost": 1, "mem": 7 + shape})',
            [{"metric": "mem", "max": 8}],
            "mem @ s2, 4 *≤ 8 * 9 *BROKEN",
        ),
    ],
)
def test_every_case_counts(study: Run, body: str, slo: Any, message: str) -> None:
    result = study(
        f"""
        @pytest.mark.parametrize("shape", range(3), ids="s{{}}".format)
        def test_it(trial, shape):
            {body}
        """,
        parameters={"a": [1]},
        optimization={"objective": "minimize:cost", "strategy": "grid_search"},
        cases="mean",
        slo=slo,
    )
    result.stdout.fnmatch_lines([f"*{message}"])


def test_a_case_is_what_a_fixture_or_a_repeat_does_not_make_of_it(study: Run) -> None:
    """A fixture may have the parameters; pytest-repeat's is none."""
    result = study(
        """
        def pytest_generate_tests(metafunc):
            name = "__pytest_repeat_step_number"
            metafunc.fixturenames.append(name)
            metafunc.parametrize(name, range(2), indirect=True, ids=["1-2", "2-2"])

        @pytest.fixture(scope="module")
        def __pytest_repeat_step_number(request):
            return request.param

        @pytest.fixture(scope="module", params=[10, 20], ids="n{}".format)
        def size(request):
            return request.param

        @pytest.fixture(scope="module")
        def timing(trial, size):
            trial.report({"cost": size * trial.params["a"]})

        def test_it(trial, timing):
            pass

        def test_again(trial, timing):
            pass
        """,
        "-v",
        parameters={"a": [1, 2]},
        optimization={"objective": "minimize:cost", "strategy": "grid_search", "cases": "mean"},
    )
    result.stdout.fnmatch_lines(["*cost, mean of 2 cases: 15 (minimize:cost)"])
    result.stdout.fnmatch_lines(["*n10 * 10", "*n20 * 20"])


def test_a_misspelled_rule_is_refused(study: Run) -> None:
    wrong = {"objective": "minimize:cost", "cases": "geomaen"}
    result = study("def test_it(trial): pass", optimization=wrong)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*/optimization/cases: \"geomaen\" *(did you mean 'geomean'[?])"])


SHAPES = """
import kernel
import pytest

pytestmark = pytest.mark.autotune("kernel")


@pytest.mark.parametrize("size", [1, 10, 100])
def test_cost(trial, size):
    cost = kernel.cost(trial.params["a"], trial.seed, size)
    trial.report({"cost": cost * size, "mem": size})
"""
SIZED = "def cost(a, seed, size):\n    return a * {small} if size == 1 else a\n"


def test_the_gate_compares_all_cases_by_the_rule_of_the_new_revision(repository: Gated) -> None:
    optimization = {"objective": "minimize:cost", "strategy": "grid_search"}
    bound = [{"metric": "mem", "max": 100}]
    repository.spec(optimization=optimization, slo=bound)
    repository.write("test_kernel.py", SHAPES)
    repository.write("kernel.py", SIZED.format(small=1))
    repository.commit("no rule yet")
    optimization["cases"] = "geomean"
    repository.spec(optimization=optimization, slo=bound)
    printed = repository.lock()
    assert "pinned in autotune.lock.json: a=1, cost 10 (geomean of cases)" in printed
    entry = repository.entry()
    assert (entry["objective"], entry["metric"]) == ("minimize:cost, geomean of cases", "cost")
    assert entry["metrics"]["cost"]["median"] == 10.0
    assert [(found["label"], found["actual"]) for found in entry["slo"]] == [("mem", 100.0)]
    repository.commit("pinned")
    # Slower in the first case only, which the last one would hide.
    repository.write("kernel.py", SIZED.format(small=1.3))
    repository.commit("slower")
    printed = repository.compare("HEAD~2", status=1)
    assert "each figure is the geomean of 3 cases: 1, 10, 100" in printed
    assert "10 → 10.91, ×1.091" in printed
    # What is pinned keeps its SLO in every case.
    repository.spec(optimization=optimization, slo=[{"metric": "mem", "max": 50}])
    printed = repository.gate(status=1)
    assert "mem @ 100" in printed
    # Figures of another rule are not those of this one.
    repository.spec(optimization={**optimization, "cases": "mean"}, slo=bound)
    printed = repository.gate(status=4)
    assert (
        "locked for 'minimize:cost, geomean of cases', not 'minimize:cost, mean of cases'"
        in printed
    )


def test_a_loop_over_shapes_is_noted_and_two_tests_that_differ_are_refused(study: Run) -> None:
    loop = """
        def test_it(trial):
            for shape in (100, 1):
                trial.report({"cost": shape * trial.params["a"]})
        """
    noted = study(loop)
    assert noted.ret == pytest.ExitCode.OK
    noted.stdout.fnmatch_lines(
        ["note     cost was reported 2 times in test_it; the last value counts"]
    )
    tests = """
        def test_large(trial): trial.report({"cost": 100 * trial.params["a"]})
        def test_small(trial): trial.report({"cost": trial.params["a"]})
        """
    refused = study(tests, "--autotune-fresh")
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    reason = "cost was reported by test_large and, with another value, by test_small: report *"
    refused.stdout.fnmatch_lines(
        [
            f"trial 0: {reason}",
            "best     none: every trial failed in the same way",
            f"cause    {reason}",
        ]
    )
