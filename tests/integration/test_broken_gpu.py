"""Errors that break CUDA for a process: only the trial that caused them is stored as failed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import framework
from gated import Gated
from inner import Runs
from project import Project

SPEC: Mapping[str, Any] = {
    "parameters": {"a": [1, 2, 3, 4, 5, 6]},
    "optimization": {"objective": "minimize:cost", "strategy": "grid_search"},
}
ADAPTIVE: Mapping[str, Any] = {
    "parameters": {"a": {"type": "integer", "low": 1, "high": 50}},
    "optimization": {"objective": "minimize:cost", "strategy": "random", "max_iterations": 6},
}
#: The trials of the study that a project has to begin with.
SPEC_TRIALS = 12
ILLEGAL = "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"
#: ``store`` launches work, and of trial 1 work that writes out of bounds.
HEAD = """
import framework

def store(trial, guilty=(1,)):
    with pathlib.Path("ran.log").open("a") as file:
        file.write(f"{trial.number} {os.getpid()}\\n")
    framework.start()
    framework.allocate()
    framework.launch(error=700 if trial.number in guilty else 0)

"""
STORES = (
    HEAD
    + """
def test_store(trial):
    store(trial)
    trial.report({"cost": trial.params["a"]})

def test_again(trial):
    framework.allocate()
"""
)
#: A module like PyTorch, as far as it is asked.
TORCH = """
class cuda:
    broken = begun = False

    @staticmethod
    def is_initialized():
        return cuda.begun

    @staticmethod
    def synchronize():
        if cuda.broken:
            raise RuntimeError(
                "CUDA error: device-side assert triggered\\nCUDA kernel errors might be ..."
            )
"""


@pytest.fixture
def stores(project: Project, fake_cuda: Path) -> Project:
    """A project with a study of six trials, of which trial 1 breaks CUDA."""
    (project.path / "framework.py").write_text(framework(fake_cuda))
    project.write(STORES, SPEC)
    return project


def _ran(runs: Runs) -> list[tuple[int, int]]:
    """Return the trial and the process of each time that one began, in order."""
    lines = (runs.folder / "ran.log").read_text().splitlines()
    return [(int(trial), int(process)) for trial, process in map(str.split, lines)]


def _assert_only_trial_1_failed(
    project: Project, spec: Mapping[str, Any] = SPEC, reason: str = ILLEGAL
) -> None:
    """All trials ran and were stored once, and none in the process of trial 1 after it."""
    ran = _ran(project)
    assert Counter(trial for trial, _ in ran) == dict.fromkeys(range(6), 1)
    guilty = dict(ran)[1]
    assert [trial for trial, process in ran if process == guilty][-1] == 1
    records = project.records(spec)
    assert sorted(record.number for record in records) == list(range(6))
    outcomes = {record.number: record.outcome.value for record in records}
    assert outcomes == {**dict.fromkeys(range(6), "feasible"), 1: "failed"}
    assert {record.reason for record in records if record.number == 1} == {reason}


#: However slow the worker of trial 1 is, trials are left for another one.
IN_TURN = """
import pathlib, time
import pytest

@pytest.fixture(autouse=True)
def in_turn(trial):
    while trial.number > 1 and not pathlib.Path("left").exists():
        time.sleep(0.01)

def pytest_sessionfinish(session):
    if session.shouldstop:
        pathlib.Path("left").touch()
"""


@pytest.mark.parametrize("spec", [SPEC, ADAPTIVE], ids=["grid", "adaptive"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_another_worker_goes_on(stores: Project, workers: str, spec: Mapping[str, Any]) -> None:
    (stores.path / "conftest.py").write_text(IN_TURN)
    stores.write(STORES, spec)
    result = stores.run("-n", workers, "-W", "error", status=pytest.ExitCode.TESTS_FAILED)
    _assert_only_trial_1_failed(stores, spec)
    assert re.search(rf"^autotune: gw\d: .* trial 1 \({ILLEGAL}\); another", result, re.MULTILINE)
    assert "crashed" not in result
    assert "1 failed, 10 passed, 1 skipped" in result
    assert f"failures 1 × {ILLEGAL} (trial 1)" in result
    assert "every valid combination" in result or "the budget of 6 trials is used up" in result


def test_an_error_that_waiting_does_not_show_breaks_it_too(project: Project) -> None:
    """As of a capture after which PyTorch cannot go on."""
    project.write(
        """
from pytest_autotune.gpu.cuda import CudaError

def test_captures(trial):
    with pathlib.Path("ran.log").open("a") as file:
        file.write(f"{trial.number} {os.getpid()}\\n")
    if trial.number == 1:
        raise CudaError("graph=True", "PyTorch cannot use the GPU in this process")
    trial.report({"cost": trial.params["a"]})
""",
        SPEC,
    )
    result = project.run("-n", "1", status=pytest.ExitCode.TESTS_FAILED)
    reason = "graph=True: PyTorch cannot use the GPU in this process"
    _assert_only_trial_1_failed(project, reason=reason)
    assert f"no longer works in this process after trial 1 ({reason}); another worker" in result


def test_without_workers_the_run_ends_and_the_next_goes_on(stores: Project) -> None:
    result = stores.run("-v", status=pytest.ExitCode.TESTS_FAILED)
    assert [trial for trial, _ in _ran(stores)] == [0, 1]
    assert f"no longer works in this process after trial 1 ({ILLEGAL}); the same command" in result
    assert "1 failed, 2 passed, 1 skipped" in result
    assert "trials   2 of 6: 1 feasible, 1 failed" in result
    assert "CUDA_LAUNCH_BLOCKING=1" in result
    stores.run(status=pytest.ExitCode.OK)
    _assert_only_trial_1_failed(stores)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_run_whose_last_trial_breaks_cuda_ends_as_ever(stores: Project, workers: str) -> None:
    """Slots may be left, but no trial is."""
    stores.write(STORES.replace("(1,)", "(5,)"), SPEC)
    result = stores.run("-n", workers, status=pytest.ExitCode.TESTS_FAILED)
    assert "6 of 6: 5 feasible, 1 failed" in result
    assert "no longer works" not in result


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("framework.allocate()", f"{ILLEGAL}; RuntimeError: CUDA error 700"),
        ("assert trial.number != 1", f"{ILLEGAL}; AssertionError: assert 1 != 1"),
        ("trial.number == 1 and pytest.skip('no')", ILLEGAL),
        ("trial.number == 1 and trial.prune('slow')", ILLEGAL),
        ("trial.number == 1 and pytest.xfail('known')", ILLEGAL),
        ("trial.report({'mem': 9 * trial.number})", ILLEGAL),
    ],
)
def test_the_error_is_the_reason_however_the_test_ends(
    stores: Project, end: str, reason: str
) -> None:
    spec = {**SPEC, "slo": [{"metric": "mem", "max": 8}]}
    stores.write(
        f"""{HEAD}
def test_store(trial):
    trial.report({{"cost": 1, "mem": 1}})
    store(trial)
    # As most calls do.
    framework.driver.cuCtxSynchronize()
    {end}
""",
        spec,
    )
    result = stores.run(status=pytest.ExitCode.TESTS_FAILED)
    assert "1 failed, 1 passed" in result
    assert f"after trial 1 ({ILLEGAL})" in result
    records = {record.number: record for record in stores.records(spec)}
    assert {number: record.outcome.value for number, record in records.items()} == {
        0: "feasible", 1: "failed",
    }  # fmt: skip
    assert records[1].reason == reason
    # Whatever pytest shows of the failure, the GPU's part in it is there.
    assert ILLEGAL in result.split("short test summary")[0]


@pytest.mark.parametrize("scope", ["function", "module"])
@pytest.mark.parametrize("place", ["set-up", "teardown"])
def test_a_fixture_of_the_trial_breaks_cuda(stores: Project, scope: str, place: str) -> None:
    """Its trial has failed, even where all tests had passed before the teardown."""
    first, last = ("store(trial)", "pass") if place == "set-up" else ("pass", "store(trial)")
    stores.write(
        f"""{HEAD}
@pytest.fixture(scope="{scope}")
def memory(trial):
    {first}
    yield
    {last}

def test_store(trial, memory):
    trial.report({{"cost": trial.params["a"]}})
""",
        SPEC,
    )
    result = stores.run(status=pytest.ExitCode.TESTS_FAILED)
    assert [trial for trial, _ in _ran(stores)] == [0, 1]
    assert "2 of 6: 1 feasible, 1 failed" in result
    assert f"failures 1 × {ILLEGAL} (trial 1)" in result
    assert ("1 failed, 1 passed" if place == "set-up" else "2 passed, 1 error") in result
    result = stores.run(status=pytest.ExitCode.OK)
    assert "6 of 6: 5 feasible, 1 failed" in result


def test_a_set_up_that_fails_by_it(stores: Project) -> None:
    stores.write(
        f"""{HEAD}
@pytest.fixture
def memory(trial):
    store(trial)
    framework.driver.cuCtxSynchronize()
    framework.allocate()

def test_store(trial, memory):
    trial.report({{"cost": trial.params["a"]}})
""",
        SPEC,
    )
    result = stores.run(status=pytest.ExitCode.TESTS_FAILED)
    assert f"failures 1 × {ILLEGAL}; RuntimeError: CUDA error 700 (trial 1)" in result
    assert "1 passed, 1 error" in result


LATE = """
@pytest.fixture
def late(trial):
    yield
    store(trial)

def test_all(trial, late):
    trial.report({"cost": trial.params["a"]})
"""


@pytest.mark.parametrize("tests", [STORES, HEAD + LATE], ids=["in a test", "in a teardown"])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_fixture_of_all_tests_that_fails_by_it_crashes_nothing(
    stores: Project, tests: str, workers: str
) -> None:
    fixture = """
@pytest.fixture(scope="session", autouse=True)
def everywhere():
    yield
    framework.start()
    framework.allocate()
"""
    stores.write(tests + fixture, SPEC)
    result = stores.run("-n", workers, status=pytest.ExitCode.TESTS_FAILED)
    found = {"0": "2 of 6: 1 feasible, 1 failed", "1": "6 of 6: 5 feasible, 1 failed"}
    assert found[workers] in result
    assert "crashed" not in result


def test_a_study_of_a_class_and_its_subclass(stores: Project) -> None:
    text = f"""
import os, pathlib
import pytest
{HEAD}

@pytest.mark.autotune(**{dict(SPEC)!r})
class TestBase:
    def test_store(self, trial):
        store(trial)
        trial.report({{"cost": trial.params["a"]}})

class TestSub(TestBase):
    def test_more(self, trial):
        framework.allocate()
"""
    (stores.path / "test_study.py").write_text(text)
    result = stores.run("-n", "2", status=pytest.ExitCode.TESTS_FAILED)
    assert result.count("6 of 6: 5 feasible, 1 failed") == 2
    assert Counter(trial for trial, _ in _ran(stores)) == dict.fromkeys(range(6), 2)


def test_a_look_stores_nothing_and_ends_the_run(stores: Project) -> None:
    result = stores.run("-k", "store", "-v", status=pytest.ExitCode.TESTS_FAILED)
    assert f"look at trial 1 [a=2] failed: {ILLEGAL}; not stored" in result
    assert "with -n 1, another process" in result
    assert [trial for trial, _ in _ran(stores)] == [0, 1]
    assert stores.records(SPEC) == []


COUNTED = """
import pathlib
from pytest_autotune.gpu.health import DeviceHealth

look = DeviceHealth.look

def counted(*args):
    with pathlib.Path("looks").open("a") as file:
        file.write("x")
    return look(*args)

DeviceHealth.look = counted
"""


def test_nobody_looks_for_what_is_passed_over(project: Project) -> None:
    (project.path / "conftest.py").write_text(COUNTED)
    project.run()
    looks = project.path / "looks"
    assert looks.stat().st_size >= SPEC_TRIALS
    looks.unlink()
    assert f"{SPEC_TRIALS} of {SPEC_TRIALS}" in project.run()
    # Once, before anything was drawn.
    assert looks.stat().st_size == 1


@pytest.mark.parametrize("limit", [0, 1])
def test_the_limit_of_workers_ends_the_run(stores: Project, limit: int) -> None:
    stores.write(STORES.replace("(1,)", "(1, 3)"), SPEC)
    restart = f"--max-worker-restart={limit}"
    result = stores.run("-n", "1", restart, status=pytest.ExitCode.INTERRUPTED)
    assert f"{restart} allows no other worker, and the same command goes on" in result
    assert result.count("another worker goes on") == limit
    last = 3 if limit else 1
    assert [trial for trial, _ in _ran(stores)] == list(range(last + 1))
    stores.run(status=pytest.ExitCode.OK if limit else pytest.ExitCode.TESTS_FAILED)
    if not limit:
        stores.run(status=pytest.ExitCode.OK)
    assert Counter(trial for trial, _ in _ran(stores)) == dict.fromkeys(range(6), 1)


def test_maxfail_ends_the_run_as_ever(stores: Project) -> None:
    stores.write(STORES.partition("def test_again")[0], SPEC)
    result = stores.run("-n", "1", "-x", status=pytest.ExitCode.INTERRUPTED)
    assert "stopping after 1 failures" in result
    assert "another worker" not in result
    stores.run("-n", "1", "-x", status=pytest.ExitCode.OK)
    _assert_only_trial_1_failed(stores)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_the_same_error_in_the_first_three_trials_stops_the_study(
    stores: Project, workers: str
) -> None:
    """Each of them ran in a process where CUDA worked, so it is a mistake in the tests."""
    stores.write(STORES.replace("(1,)", "range(6)"), SPEC)
    for _ in range(3 if workers == "0" else 1):
        result = stores.run("-n", workers, status=pytest.ExitCode.TESTS_FAILED)
    assert "the first 3 trials failed in the same way" in result
    assert f"cause    {ILLEGAL}" in result
    assert "same command" not in result
    assert len({process for _, process in _ran(stores)}) == 3
    assert Counter(trial for trial, _ in _ran(stores)) == dict.fromkeys(range(3), 1)


def test_a_test_without_a_trial_is_blamed_for_what_it_broke(stores: Project) -> None:
    plain = """
import framework
def test_plain():
    framework.start()
    framework.launch(error=700)
"""
    (stores.path / "test_plain.py").write_text(plain)
    stores.write(STORES.replace("(1,)", "()"), SPEC)
    result = stores.run(status=pytest.ExitCode.TESTS_FAILED)
    assert "1 failed in" in result
    assert f"FAILED test_plain.py::test_plain - Failed: {ILLEGAL[:20]}" in result
    assert f"after test_plain.py::test_plain ({ILLEGAL}); with -n 1, another" in result
    result = stores.run("-n", "1", status=pytest.ExitCode.TESTS_FAILED)
    assert "1 failed, 12 passed" in result
    assert "6 of 6: 6 feasible" in result


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_is_broken_before_any_test_is_nobodys_fault(stores: Project, workers: str) -> None:
    stores.write(STORES + "\nframework.start()\nframework.launch(error=710)\n", SPEC)
    result = stores.run("-n", workers, status=pytest.ExitCode.USAGE_ERROR)
    assert "CUDA_ERROR_ASSERT" in result
    assert "no test did it" in result
    assert stores.records(SPEC) == []


@pytest.mark.parametrize("workers", ["0", "2"])
def test_torch_is_asked_where_no_driver_is_known(project: Project, workers: str) -> None:
    (project.path / "torch.py").write_text(TORCH)
    project.write(
        """
import torch

def test_store(trial):
    torch.cuda.begun = True
    with pathlib.Path("ran.log").open("a") as file:
        file.write(f"{trial.number} {os.getpid()}\\n")
    torch.cuda.synchronize()
    torch.cuda.broken = trial.number == 1
    trial.report({"cost": trial.params["a"]})
""",
        SPEC,
    )
    project.run("-n", workers, status=pytest.ExitCode.TESTS_FAILED)
    if workers == "0":
        project.run(status=pytest.ExitCode.OK)
    _assert_only_trial_1_failed(project, reason="CUDA error: device-side assert triggered")


def test_work_that_does_not_end_is_left_to_its_process(stores: Project) -> None:
    """A kernel in an endless loop: what waits for it cannot be interrupted."""
    (stores.path / "conftest.py").write_text(
        "from pytest_autotune.plugin import device_guard; device_guard._PATIENCE = 0.2"
    )
    spec = {
        **SPEC, "optimization": {**SPEC["optimization"], "timeout_per_iteration": 0.5},
    }  # fmt: skip
    stores.write(
        """
import framework

def test_store(trial):
    framework.start()
    if trial.number == 1:
        framework.launch(3_600_000)
        time.sleep(60)
    trial.report({"cost": 1})
""",
        spec,
    )
    result = stores.run("-n", "1", status=pytest.ExitCode.TESTS_FAILED)
    busy = "the GPU is busy: its work did not end within 0.2 s"
    assert f"after trial 1 ({busy}); another worker goes on" in result
    assert f"failures 1 × {busy}; ran longer than 0.5 s (timeout_per_iteration)" in result
    assert "6 of 6: 5 feasible, 1 failed" in result


def test_the_gpu_of_a_broken_process_is_its_own_until_it_ends(
    stores: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is there, and whoever got the GPU now would meet it."""
    monkeypatch.setenv("AUTOTUNE_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    stores.write(STORES.replace("def test_store(trial)", "def test_store(trial, gpu)"), SPEC)
    (stores.path / "conftest.py").write_text("""
import atexit, fcntl, os, pathlib

# As libraries of CUDA do, some of which crash or hang where it is broken.
atexit.register(pathlib.Path("atexit-" + os.environ.get("PYTEST_XDIST_WORKER", "run")).touch)

def pytest_unconfigure():
    held = False
    for path in pathlib.Path(os.environ["AUTOTUNE_GPU_LOCKS"]).glob("*.lock"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held = True
    pathlib.Path("held-" + os.environ.get("PYTEST_XDIST_WORKER", "run")).write_text(str(held))
""")
    stores.run("-n", "1", status=pytest.ExitCode.TESTS_FAILED)
    _assert_only_trial_1_failed(stores)
    held = {path.name: path.read_text() for path in stores.path.glob("held-*")}
    assert held == {"held-gw0": "True", "held-gw1": "False", "held-run": "False"}
    assert "atexit-gw0" not in {path.name for path in stores.path.glob("atexit-*")}
    assert (stores.path / "atexit-run").exists()


@pytest.mark.parametrize(
    "end", ["raise ValueError", pytest.param("time.sleep(3600)", marks=pytest.mark.slow)]
)
def test_a_broken_process_ends_whatever_happens_at_its_end(
    stores: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("AUTOTUNE_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    stores.write(STORES.replace("def test_store(trial)", "def test_store(trial, gpu)"), SPEC)
    (stores.path / "conftest.py").write_text(f"""
import os, time

def pytest_unconfigure():
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0":
        {end}
""")
    stores.run("-n", "1", status=pytest.ExitCode.TESTS_FAILED)
    _assert_only_trial_1_failed(stores)


def test_another_attempt_at_the_guilty_test_is_not_stored(stores: Project) -> None:
    pytest.importorskip("pytest_rerunfailures")
    result = stores.run(
        "-n", "1", "-p", "rerunfailures", "--reruns", "2", status=pytest.ExitCode.TESTS_FAILED
    )
    assert "2 rerun" in result
    _assert_only_trial_1_failed(stores)


@pytest.mark.parametrize("whom", ["the old worker", "the new worker", "the run"])
def test_a_kill_while_a_worker_is_replaced_loses_nothing(stores: Project, whom: str) -> None:
    """The old one at its end, the new one at its beginning, or everything at that moment."""
    stores.path.joinpath("conftest.py").write_text(f"""
import os, pathlib, signal

def once(whom):
    if whom == {whom!r} and not pathlib.Path("killed").exists():
        pathlib.Path("killed").touch()
        if whom == "the run":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

def pytest_sessionstart(session):
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
        once("the new worker")

def pytest_runtest_logreport(report):
    global failed
    failed = globals().get("failed") or report.failed

def pytest_runtest_logfinish():
    if "PYTEST_XDIST_WORKER" in os.environ and globals().get("failed"):
        once("the old worker")
        once("the run")
""")
    stores.run("-n", "1")
    assert (stores.path / "killed").exists()
    if whom == "the run":
        stores.run("-n", "1", status=pytest.ExitCode.OK)
    _assert_only_trial_1_failed(stores)


MODULE = """
import os, pathlib
import framework
import pytest

pytestmark = pytest.mark.autotune("kernel")

def test_cost(trial):
    with pathlib.Path("ran.log").open("a") as file:
        file.write(f"0 {os.getpid()}\\n")
    framework.start()
    framework.allocate()
    trial.report({"cost": 1.0 * trial.params["a"]})
"""


@pytest.fixture
def pinned(repository: Gated, fake_cuda: Path) -> Gated:
    """Two pinned studies, of which the first breaks CUDA."""
    repository.write("framework.py", framework(fake_cuda))
    repository.write("test_a.py", MODULE + "    framework.launch(error=700)\n")
    repository.write("test_b.py", MODULE)
    (repository.root / "test_kernel.py").unlink()
    repository.pin("test_a.py", "test_b.py")
    repository.commit("first")
    return repository


def test_a_pinned_configuration_that_breaks_cuda_ends_the_gate(pinned: Gated) -> None:
    result = pinned.run("--autotune-gate", status=pytest.ExitCode.TESTS_FAILED)
    assert f"FAILED test_a.py::test_cost[pinned] - trial 0: {ILLEGAL[:10]}" in result
    assert "with -n 1, another process runs the rest" in result
    assert "test_b" not in result.split("short test summary")[0].split("FAILURES")[0]


def test_under_xdist_the_gate_goes_on_with_the_other_studies(pinned: Gated) -> None:
    result = pinned.run("--autotune-gate", "-n", "1", status=pytest.ExitCode.TESTS_FAILED)
    assert "1 failed, 2 passed, 1 skipped" in result
    assert "another worker goes on" in result
    # The comparison of the first study still knows why there is nothing to compare.
    assert f"its own tests did not pass ({ILLEGAL})" in result


def test_a_launch_that_breaks_cuda_is_a_failure_of_its_side(gated: Gated, fake_cuda: Path) -> None:
    gated.write("framework.py", framework(fake_cuda))
    text = """
import framework, os, pytest

pytestmark = pytest.mark.autotune("kernel")

def test_cost(trial):
    framework.start()
    # In launches only.
    framework.launch(error=700 * ("AUTOTUNE_PADDING" in os.environ))
    trial.report({"cost": 1.0 * trial.params["a"]})
"""
    gated.write("test_kernel.py", text)
    result = gated.run("--autotune-gate", status=pytest.ExitCode.TESTS_FAILED)
    assert f"a launch of the working tree failed: {ILLEGAL}" in result
