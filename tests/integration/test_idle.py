"""Runs that would tune nothing, or with the spec of another project, say so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]
SPEC = "k:\n  parameters: {n: [3, 1]}\n  optimization: {objective: 'minimize:cost'}\n"
BODY = """
import pytest
pytestmark = pytest.mark.autotune("k")

def test_it(trial):
    trial.report({"cost": trial.params["n"]})
"""
WITHOUT = "nothing would be tuned, as none of its tests takes the argument 'trial'"
OF_UNITTEST = "nothing would be tuned, as methods of a unittest.TestCase (TestIt) take no fixtures"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def test_it(): pass", f"test_study.py: autotune marker: {WITHOUT}; add it, or *"),
        (
            "class TestIt:\n    def test_it(self): pass\n",
            f"test_study.py: autotune marker: {WITHOUT}; *",
        ),
        (
            """
            @pytest.mark.autotune("k")
            @pytest.mark.parametrize("m", [1, 2])
            def test_it(m): pass

            def test_other(): pass
            """,
            "test_study.py::test_it: autotune marker: nothing would be tuned, as it does not *",
        ),
        (
            "import unittest\nclass TestIt(unittest.TestCase):\n    def test_it(self): pass\n",
            f"test_study.py: autotune marker: {OF_UNITTEST}; make it a plain class, *",
        ),
        (
            """
            import unittest

            @pytest.mark.autotune(parameters={"a": [1]})
            class TestIt(unittest.TestCase):
                @pytest.fixture(autouse=True)
                def take(self, trial): self.trial = trial

                def test_it(self): pass
            """,
            f"test_study.py::TestIt: autotune marker: {OF_UNITTEST}; *",
        ),
    ],
)
def test_a_marker_that_makes_no_study_is_a_usage_error(study: Run, body: str, message: str) -> None:
    result = study(body)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len([line for line in result.errlines if line.startswith("ERROR: ")]) == 1
    result.stderr.fnmatch_lines([f"ERROR: {message}".replace("[", "[[]")])


def test_a_study_of_which_a_run_selects_another_test_only_is_no_mistake(study: Run) -> None:
    body = """
        def test_helper(): pass

        class TestIt:
            def test_it(self, trial):
                trial.report({"cost": trial.params["a"]})
        """
    chosen = study(body, "test_study.py::test_helper")
    assert chosen.ret == pytest.ExitCode.OK
    chosen.stdout.fnmatch_lines(
        ["autotune: nothing was tuned: no test that ran is marked autotune"]
    )
    assert study(body).ret == pytest.ExitCode.OK


def test_a_run_without_a_study_says_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_plain="def test_it(): pass")
    said = "autotune: nothing was tuned: no test that ran is marked autotune"
    for workers in ((), ("-n", "1")):
        result = pytester.runpytest_inprocess("--autotune", *workers)
        assert result.ret == pytest.ExitCode.OK
        assert result.outlines.count(said) == 1
    assert said not in pytester.runpytest_inprocess().outlines


def test_a_study_outside_of_the_rootdir_is_refused(pytester: pytest.Pytester) -> None:
    for name in ("a", "b"):
        folder = pytester.mkdir(name)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "autotune.yaml").write_text(SPEC)
        (folder / f"test_{name}.py").write_text(BODY)
    result = pytester.runpytest_inprocess("--autotune", "a", "b")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: b/test_b.py: is outside of pytest's rootdir */a, whose specs would be used; run *"]
    )
    assert pytester.runpytest_inprocess("--autotune", "b").ret == pytest.ExitCode.OK


def test_a_spec_file_beside_the_tests_is_named_where_the_rootdirs_is_read(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeini("[pytest]\n")
    folder = pytester.mkdir("sub")
    (folder / "autotune.yaml").write_text(SPEC.replace("[3, 1]", "[70]"))
    (folder / "test_study.py").write_text(BODY)
    said = "sub/autotune.yaml is not read: named specs come from pytest's rootdir, *"
    absent = pytester.runpytest_inprocess("--autotune")
    assert "nothing was tuned" not in absent.stdout.str()
    absent.stderr.fnmatch_lines([f"ERROR: *no autotune.yaml, * or inline keys; {said}"])
    (pytester.path / "autotune.yaml").write_text(SPEC)
    found = pytester.runpytest_inprocess("--autotune")
    found.stdout.fnmatch_lines(["best * trial ?: n=1", f"note * {said}"])


@pytest.mark.parametrize("option", ["--autotune-fresh", "--autotune-trials=3", "--autotune-keep"])
def test_an_option_of_a_search_needs_one(pytester: pytest.Pytester, option: str) -> None:
    result = pytester.runpytest_inprocess(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    name = option.partition("=")[0]
    result.stderr.fnmatch_lines([f"ERROR: {name} needs --autotune: without it, studies *"])


def test_an_option_that_every_run_gets_needs_no_search(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p autotune --autotune-trials 1 --autotune-seed 7")
    pytester.makepyfile(test_study=BODY)
    pytester.path.joinpath("autotune.yaml").write_text(SPEC)
    pytester.runpytest_inprocess().assert_outcomes(skipped=1)
    pytester.runpytest_inprocess("--autotune").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("'k', gpu=0", "/gpu: unknown key 'gpu' (did you mean 'gpus'?); known: base_runtime, *"),
        (
            "sepc='k'",
            "/sepc: unknown key 'sepc' (did you mean 'spec'?); known: *, gpus, *, spec, *",
        ),
    ],
)
def test_a_misspelt_key_of_the_marker_is_named(
    pytester: pytest.Pytester, marker: str, message: str
) -> None:
    pytester.makepyfile(test_study=BODY.replace('"k"', marker))
    result = pytester.runpytest_inprocess("--autotune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: test_study.py: autotune marker: {message}"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_parameter_that_no_test_reads_is_noted(study: Run, workers: tuple[str, ...]) -> None:
    result = study(
        """
        @pytest.fixture(scope="module")
        def taken(trial):
            return dict(a=trial.params["a"])

        def test_it(trial, taken):
            assert taken["a"] != 4
            trial.report({"cost": taken["a"]})
        """,
        *workers,
        parameters={"a": [1, 2, 3, 4], "unused": [1, 2]},
    )
    notes = [line for line in result.outlines if line.startswith("note ")]
    assert len(notes) == 1
    assert "the parameter 'unused' reached nothing: no test read it; trials that " in notes[0]


def test_a_space_of_one_point_is_no_search(study: Run) -> None:
    body = """
        def test_it(trial):
            trial.report({"cost": trial.params["a"]})
        """
    said = "note     1 combination of parameters: nothing is searched"
    assert said in study(body, parameters={"a": [1]}).outlines
    assert said not in study(body, parameters={"a": [1, 2]}).outlines
