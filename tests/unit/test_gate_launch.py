"""A launch is a pytest of its own, and says what came of it whatever happens to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

import pytest_autotune
from pytest_autotune.errors import OutOfTime
from pytest_autotune.gate.launch import launcher as launch
from pytest_autotune.gate.launch.launcher import Launcher, LaunchFailed, LaunchResult

HEAD: Final = """
import os, signal, sys
import pytest

pytestmark = pytest.mark.autotune(
    parameters={"a": [1, 2, 3]},
    optimization={"objective": "minimize:cost"},
    slo=[{"metric": "size", "max": 10}, {"metric": "cost", "max": 1, "hard_fail": False}],
)
"""
GOOD: Final = """
def test_it(trial):
    trial.report({"cost": trial.params["a"] * 2.0, "size": 5, "seed": trial.seed})
"""


@dataclass
class Project:
    """A tiny project, and launches of it."""

    path: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("-p", "no:cacheprovider", "-p", "pytest_autotune.plugin")
    params: Mapping[str, Any] = field(default_factory=lambda: {"a": 2})
    checkout: dict[str, Any] = field(default_factory=dict)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            path = self.path / name.replace("__", "/").replace("_py", ".py").replace("_ini", ".ini")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    def test(self, body: str = GOOD) -> None:
        (self.path / "test_it.py").write_text(HEAD + textwrap.dedent(body))

    @property
    def launcher(self) -> Launcher:
        known: dict[str, Any] = {
            "folder": self.path, "root": self.path, "params": self.params,
            "options": self.options, "arguments": self.arguments,
            "log": self.path / "logs" / "launch.log", **self.checkout,
        }  # fmt: skip
        return Launcher(**known)

    @property
    def log(self) -> str:
        return self.launcher.log.read_text()

    def launch(self, *nodeids: str, seed: int = 7, lenient: bool = True) -> LaunchResult:
        launcher = replace(self.launcher, lenient=lenient)
        return launcher.launch(nodeids or ("test_it.py::test_it[pinned]",), seed)

    def failure(self, *nodeids: str) -> LaunchFailed:
        with pytest.raises(LaunchFailed) as caught:
            self.launch(*nodeids)
        return caught.value


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTHONSAFEPATH"):
        monkeypatch.delenv(name, raising=False)
    # Other plugins take longer to load than all the rest.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    found = Project(tmp_path / "project")
    found.write(pytest_ini="[pytest]\n")
    found.test()
    return found


# --- what it finds ---------------------------------------------------------------------------


def test_a_launch_finds_what_its_tests_report(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With all plugins that are installed, of which this is one. The run has read the ini file.
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    project.arguments = ("-p", "no:cacheprovider")
    addopts = "-n 2 --cov=. -x -k nothing --lf --no-such-option"
    project.write(pytest_ini=f"[pytest]\naddopts = {addopts}\n")
    project.test(GOOD.replace("5,", '5, "no number": float("nan"),'))
    found = project.launch(seed=1234)
    assert found.outcome == "feasible"
    assert found.metrics == {"cost": 4.0, "size": 5.0, "seed": 1234.0}
    # Penalties are in it, as the soft bound was missed.
    assert found.score is not None
    assert found.score > 4.0
    assert [result.bound.label for result in found.bounds] == ["size", "cost"]
    assert found.broken == []
    assert "1 passed" in project.log


def test_a_conftest_file_that_refuses_to_run_is_not_a_missing_test(project: Project) -> None:
    project.write(
        conftest_py="""
        import pytest
        def pytest_collection():
            raise pytest.UsageError("set MODEL_DIR")
        """
    )
    failure = project.failure()
    assert (failure.kind, failure.args[0]) == ("failed", "pytest does not start there")
    assert "set MODEL_DIR" in project.log


def test_what_breaks_its_slo_is_infeasible_and_tells_its_bounds(project: Project) -> None:
    project.test(GOOD.replace("5,", "50,"))
    found = project.launch(lenient=False)
    assert (found.outcome, found.broken) == ("infeasible", ["size"])
    assert found.metrics["size"] == 50.0


def test_what_is_compared_ends_for_no_slo(project: Project) -> None:
    # Whatever comes after the report would be missing.
    project.test(GOOD.replace("5,", "50,") + '    trial.report({"after": 1})\n')
    found = project.launch()
    assert (found.outcome, found.broken, found.metrics["after"]) == ("feasible", [], 1.0)
    assert "size" in found.missed


def test_a_launch_ends_when_the_time_is_up(project: Project) -> None:
    project.test("import time\ntime.sleep(60)\n" + GOOD)
    with pytest.raises(OutOfTime):
        project.launcher.launch(("test_it.py::test_it[pinned]",), 1, time.monotonic() + 0.5)


def test_a_folder_that_a_revision_lacks_is_named(project: Project) -> None:
    project.checkout["folder"] = project.path / "new"
    failure = project.failure()
    assert (failure.kind, str(failure)) == ("test missing", "it has no folder 'new'")


def test_an_installed_copy_of_the_project_is_found_out(project: Project, tmp_path: Path) -> None:
    copy = tmp_path / "site" / "kernels"
    copy.mkdir(parents=True)
    (copy / "__init__.py").write_text("")
    project.test("import kernels\n" + GOOD)
    project.checkout |= {
        "import_path": [str(tmp_path / "site")], "top": project.path,
        "not_from": tmp_path / "elsewhere", "copies": [copy],
    }  # fmt: skip
    failure = project.failure()
    assert failure.kind == "wrong code"
    assert "kernels/__init__.py, an installed copy of the working tree's package" in str(failure)


def test_only_the_tests_that_are_named_run(project: Project) -> None:
    project.test(GOOD + "\ndef test_other(trial):\n    assert False\n")
    assert project.launch().outcome == "feasible"
    other = project.failure("test_it.py::test_it[pinned]", "test_it.py::test_other[pinned]")
    assert other.kind == "failed"


# --- what goes wrong -------------------------------------------------------------------------


def test_a_test_that_fails_is_a_failure_with_its_traceback(project: Project) -> None:
    project.test("def test_it(trial):\n    assert trial.params['a'] == 3, 'wrong answer'\n")
    found = project.failure()
    assert found.kind == "failed"
    assert str(found).startswith("AssertionError: wrong answer")
    assert "test_it.py::test_it[pinned] (call)" in found.details
    assert "trial.params['a'] == 3" in found.details


def test_what_cannot_be_imported_is_told_apart(project: Project) -> None:
    (project.path / "test_it.py").write_text("import missing_kernel\n" + HEAD + GOOD)
    found = project.failure()
    assert (found.kind, str(found)) == ("not importable", "its tests cannot be collected")
    assert "No module named 'missing_kernel'" in found.details


@pytest.mark.parametrize("nodeid", ["test_it.py::test_new[pinned]", "test_new.py::test_it[pinned]"])
def test_a_test_that_is_not_there_is_told_apart(project: Project, nodeid: str) -> None:
    found = project.failure(nodeid)
    assert (found.kind, str(found)) == ("test missing", "it has no such test")
    assert "not found" in found.details


def test_a_spec_that_is_wrong_is_shown(project: Project) -> None:
    (project.path / "test_it.py").write_text(HEAD.replace("minimize:cost", "minimise") + GOOD)
    found = project.failure()
    assert (found.kind, str(found)) == ("failed", "pytest does not start there")
    assert "unknown objective 'minimise'" in found.details


def test_a_broken_ini_file_is_shown(project: Project) -> None:
    project.write(pytest_ini="[pytest\n")
    found = project.failure()
    assert (found.kind, str(found)) == ("failed", "pytest does not start there")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os._exit(3)", "its process ended with exit status 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "its process ended with signal 9"),
    ],
)
def test_a_process_that_dies_is_a_crash(project: Project, end: str, said: str) -> None:
    project.test(f"""
        def test_it(trial):
            print(*range(99), "last words", sep="\\n", flush=True)
            {end}
    """)
    # A dead process shows nothing of what was captured.
    found = replace(project, arguments=(*project.arguments, "-s")).failure()
    assert (found.kind, str(found)) == ("crashed", said)
    assert found.details.splitlines() == [*map(str, range(70, 99)), "last words"]


def test_a_trial_that_is_given_up_says_why(project: Project) -> None:
    project.test("def test_it(trial):\n    trial.prune('hopeless')\n")
    found = project.failure()
    assert (found.kind, str(found)) == ("failed", "hopeless")


def test_a_trial_that_reports_nothing_keeps_no_bound(project: Project) -> None:
    project.test("def test_it(trial):\n    pass\n")
    found = project.launch()
    assert (found.outcome, found.broken, found.score) == ("infeasible", ["size", "cost"], None)
    assert found.metrics == {}


def test_a_test_that_leaves_pytest_is_a_failure(project: Project) -> None:
    project.test("def test_it(trial):\n    pytest.exit('enough', returncode=5)\n")
    found = project.failure()
    assert (found.kind, str(found)) == ("failed", "no trial ran (exit status 5)")
    assert "enough" in found.details


def test_a_process_that_dies_after_its_result_is_written_counts(project: Project) -> None:
    project.write(
        conftest_py="""
        import atexit, os
        atexit.register(os._exit, 9)
    """
    )
    assert project.launch().outcome == "feasible"


# --- the code that it runs -------------------------------------------------------------------


def test_code_of_the_working_tree_is_not_taken_for_the_old_one(
    project: Project, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for name in ("kernel", "helper"):
        (top / f"{name}.py").write_text("cost = 4.0\n")
    project.test("import kernel, helper\n" + GOOD)
    project.checkout = {"import_path": [str(top)], "top": project.path, "not_from": top}
    found = project.failure()
    assert found.kind == "wrong code"
    assert str(found).startswith(f"it imported {top / 'helper.py'} and 1 more of the working tree")
    # Where they are the revision's own, all is well.
    for name in ("kernel", "helper"):
        (project.path / f"{name}.py").write_text("")
    assert project.launch().outcome == "feasible"


def test_one_file_of_the_working_tree_is_named_alone(project: Project, tmp_path: Path) -> None:
    project.checkout = {"top": project.path, "not_from": tmp_path / "top"}
    files = [str(tmp_path / "top" / "kernel.py")]
    document = {"failure": None, "files": files, "record": None}
    with pytest.raises(LaunchFailed, match=r"it imported \S+kernel.py of the working tree, so "):
        project.launcher._read(document, 0)


REPORT_ENVIRONMENT: Final = """
def test_it(trial):
    import json, pathlib
    found = {"env": dict(os.environ), "path": sys.path, "modules": list(sys.modules)}
    pathlib.Path("seen.json").write_text(json.dumps(found))
    trial.report({"cost": 1, "size": 1})
"""


def seen(project: Project) -> dict[str, Any]:
    project.test(REPORT_ENVIRONMENT)
    assert project.launch().outcome == "feasible"
    found: dict[str, Any] = json.loads((project.path / "seen.json").read_text())
    return found


def test_its_environment_is_that_of_the_run_without_what_is_the_runs_own(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("MINE", "kept")
    monkeypatch.setenv("PYTHONPATH", "/given")
    # Coverage would trace one side only.
    monkeypatch.setenv("COVERAGE_PROCESS_START", "/x")
    monkeypatch.setenv("COV_CORE_SOURCE", "/x")
    found = seen(project)
    assert not [name for name in found["env"] if name.startswith("COV")]
    assert (found["env"]["MINE"], found["env"]["PYTHONPATH"]) == ("kept", "/given")
    assert "PYTEST_ADDOPTS" not in found["env"]
    assert "PYTEST_XDIST_WORKER" not in found["env"]
    assert set(found["env"]["AUTOTUNE_PADDING"]) <= {"x"}
    # They take longer to load than all the rest, and only a search needs them.
    assert not {"numpy", "optuna"} & set(found["modules"])


def test_the_import_path_it_is_given_replaces_that_of_the_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/given")
    project.checkout = {"import_path": ["/one", "/two"]}
    found = seen(project)
    assert found["env"]["PYTHONPATH"] == os.pathsep.join(["/one", "/two"])
    assert found["path"].index("/one") < found["path"].index("/two")
    assert "/given" not in found["path"]
    # The script's own folder is no place to import from.
    assert str(Path(launch.__file__).parent) not in found["path"]


def test_nothing_is_taken_from_a_safe_path(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    project.checkout = {"import_path": ["/one"]}
    assert "/one" in seen(project)["path"]


def test_the_size_of_the_environment_differs_from_launch_to_launch(project: Project) -> None:
    launcher = project.launcher
    sizes = [len(launcher._environment()["AUTOTUNE_PADDING"]) for _ in range(200)]
    assert len(set(sizes)) > 150
    assert max(sizes) - min(sizes) > 3000
    assert max(sizes) < 4096


def test_it_runs_in_its_folder_though_pytests_root_is_another(project: Project) -> None:
    (project.path / "inner").mkdir()
    (project.path / "pytest.ini").unlink()
    project.write(inner__pytest_ini="[pytest]\n")
    body = "def test_it(trial):\n    trial.report({'cost': len(os.getcwd()), 'size': 1})\n"
    (project.path / "inner" / "test_it.py").write_text(HEAD + body)
    project.checkout = {"root": project.path / "inner"}
    assert project.launch().metrics["cost"] == len(str(project.path))


# --- the options that it has -----------------------------------------------------------------


def test_warnings_that_are_errors_leave_a_launch_alone(project: Project) -> None:
    project.write(pytest_ini="[pytest]\nfilterwarnings = error\naddopts = -W error\n")
    strict = replace(project, arguments=(*project.arguments, "-W", "error", "--strict-markers"))
    assert strict.launch().outcome == "feasible"


def test_options_of_a_conftest_are_passed_on(project: Project) -> None:
    project.write(
        conftest_py="""
        def pytest_addoption(parser):
            parser.addoption("--flavour", default="none")
            parser.addoption("--count", type=int, default=0)
    """
    )
    project.test("""
        def test_it(trial, pytestconfig):
            assert pytestconfig.getoption("flavour") == "sweet"
            trial.report({"cost": pytestconfig.getoption("count"), "size": 1})
    """)
    project.options = {"flavour": "sweet", "count": 3}
    assert project.launch().metrics["cost"] == 3.0


def test_the_ini_file_may_ask_for_tuning_or_gating(project: Project) -> None:
    for mode in ("autotune", "autotune_gate"):
        project.write(pytest_ini=f"[pytest]\n{mode} = true\nautotune_trials = 2\n")
        assert project.launch().outcome == "feasible"
    assert not (project.path / "autotune.lock.json").exists()


def test_it_leaves_nothing_behind(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    project.launch()
    assert list(temporary.iterdir()) == []
    assert not (project.path / ".pytest_cache").exists()


def test_a_launch_that_is_interrupted_ends_its_process(project: Project) -> None:
    project.test("""
        def test_it(trial):
            import pathlib, time
            pathlib.Path("pid").write_text(str(os.getpid()))
            time.sleep(60)
    """)
    pid_file = project.path / "pid"

    def interrupt() -> None:
        until = time.monotonic() + 20
        while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < until:
            time.sleep(0.02)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    # A shell that started the tests in the background has them ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            project.launch()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_without_the_plugin_installed_the_script_does_not_start_anything_else() -> None:
    script = Path(pytest_autotune.__file__).parent / "gate" / "launch" / "child.py"
    done = subprocess.run(
        [sys.executable, str(script), "/missing/job.json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "job.json" in done.stderr


def test_a_launch_loads_no_package_that_it_does_not_run_with() -> None:
    code = (
        "import sys, pytest_autotune.plugin.gate.launch_hooks; heavy = {'docker', 'jsonschema', "
        "'numpy', 'optuna', 'ruamel.yaml', 'sqlalchemy', 'xdist', 'yaml'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
