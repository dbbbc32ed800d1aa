"""The regression gate: what it compares, what it finds, and what it leaves behind."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from gated import MODULE, QUICK, UNSURE, Gated
from inner import kill
from serving import SCRIPTED, eventually

from pytest_autotune.gate.history import results as history
from pytest_autotune.gate.lock.entry import LockedMetric
from pytest_autotune.study.environment import fingerprint

SLOW = pytest.mark.slow
STRICT = ("-W", "error", "--strict-markers", "--strict-config")
#: Reports two metrics, one by each of two tests of a trial.
PAIR = """
import kernel
import pytest

pytestmark = pytest.mark.autotune("pair")


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_cost(trial, dtype):
    cost = kernel.cost(trial.params["a"], trial.seed)
    trial.report({"cost": cost} if dtype == "fp16" else {"rate": 100 / cost})
"""
MARKED = """
import pytest


@pytest.mark.autotune("kernel")
class TestInClass:
    def test_correct(self, trial):
        assert trial.params["a"] == 1

    def test_cost(self, trial):
        import marked

        trial.report({"cost": marked.slower(trial.seed)})


@pytest.mark.autotune("kernel")
def test_alone(trial):
    import marked

    trial.report({"cost": marked.unsure(trial.seed)})


@pytest.mark.autotune("kernel")
def test_not_locked(trial):
    raise AssertionError("it must not run")


@pytest.mark.parametrize("number", range(4))
def test_ordinary(number):
    pass
"""


def commit_cost(gated: Gated, cost: str) -> None:
    gated.kernel(cost)
    gated.commit(f"cost {cost}")


def decided(gated: Gated, against: str, status: int) -> str:
    """Compare, and again while other tests disturb it too much to be decided."""
    for _ in range(3):
        found = gated.start("--autotune-gate", "--autotune-against", against, "-v").wait(300)
        text = gated.output()
        if "gate     inconclusive" not in text:
            break
    assert found == status, text
    return text


def properties(path: Path) -> dict[str, dict[str, str]]:
    """Return the properties of each comparison in a JUnit file."""
    found = {}
    for case in ET.parse(path).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        if name.endswith("gate"):
            found[name] = {
                entry.attrib["name"]: entry.attrib["value"] for entry in case.iter("property")
            }
    return found


# Against a revision


def says_slower(gated: Gated, first: str) -> str:
    """Compare with the first revision; check what is said of a regression, and return it."""
    text = decided(gated, first, status=1)
    assert re.search(r"regressed: .*: worse by more than 3 %", text)
    assert "gate     REGRESSED" in text
    assert f'against  {first} = {first[:7]} "first", ' in text
    assert "FAILED test_kernel.py::gate" in text
    assert re.search(r"\d pairs of launches in \d", text)
    assert re.search(r"^  test_kernel.py \(kernel\): 1 pair of launches$", text, re.MULTILINE)
    return text


def says_faster(gated: Gated, first: str) -> str:
    """Compare with the first revision; check what is said of an improvement, and return it."""
    text = decided(gated, first, status=0)
    assert "gate     improved" in text
    assert re.search(r": better by more than 3 %", text)
    assert "hint     to pin what is there now: pytest --autotune --autotune-lock" in text
    return text


def test_a_slower_a_faster_and_an_equal_kernel_are_told_apart(gated: Gated) -> None:
    first = gated.git("rev-parse", "HEAD")
    commit_cost(gated, "1.1")
    assert "cost 1 → 1.1, ×1.100 (20 %: 1.100 to 1.100): worse by" in says_slower(gated, first)
    commit_cost(gated, "0.7")
    assert "×0.700 (20 %: 0.700 to 0.700): better by" in says_faster(gated, first)


@pytest.mark.slow
def test_kernels_are_told_apart_by_their_real_times(repository: Gated) -> None:
    gated = repository
    gated.spec(
        {"alpha": 0.05, "max_launches": 20},
        optimization={"objective": "minimize_latency", "strategy": "grid_search"},
        parameters={"a": [1, 4]},
    )
    gated.write(
        "test_kernel.py",
        """
        import kernel
        import pytest

        pytestmark = pytest.mark.autotune("kernel")


        def test_speed(trial, gpu_benchmark):
            trial.report(gpu_benchmark(kernel.work, trial.params["a"]))
        """,
    )

    def write_kernel(loops: int) -> None:
        lines = ("def work(a):", "    total = 0", f"    for number in range(a * {loops}):")
        gated.write("kernel.py", "\n".join([*lines, "        total += number", "    return total"]))

    write_kernel(120_000)
    gated.lock()
    first = gated.commit("first")
    write_kernel(132_000)
    gated.commit("slower by 10 %")
    verdict = r"p50_e2e_latency \S+ .s → \S+ .s, ×1\.\d{3} \(90 %: 1\.\d{3} to 1\.\d{3}\)"
    assert re.search(rf"regressed: {verdict}: worse by", says_slower(gated, first))
    write_kernel(84_000)
    gated.commit("faster by 30 %")
    assert re.search(r"×0\.\d{3} \(90 %: .*\): better by", says_faster(gated, first))
    gated.write("README", "Nothing of consequence.\n")
    gated.commit("no-op")
    assert "gate     improved" in decided(gated, first, status=0)


@pytest.mark.parametrize("workers", [["-n", "2"], pytest.param([], marks=SLOW)])
def test_each_study_is_compared_by_itself_beside_ordinary_tests(
    gated: Gated, workers: list[str]
) -> None:
    gated.spec({**QUICK, "metrics": ["minimize:cost", "maximize:rate"]}, name="pair")
    gated.write("test_kernel.py", PAIR)
    gated.write("test_marked.py", MARKED)
    gated.lock_file.unlink()
    gated.pin("test_kernel.py", spec="pair")
    gated.pin("test_marked.py::TestInClass", "test_marked.py::test_alone")
    body = "def slower(seed):\n    return {}\ndef unsure(seed):\n    return {}\n"
    gated.write("marked.py", body.format("1.0", "1.0"))
    gated.commit("old")
    gated.write("marked.py", body.format("1.1", "1.2 if seed % 2 else 0.9"))
    gated.commit("new")
    text = gated.compare("HEAD~", "-v", "-rs", "--junitxml=junit.xml", *STRICT, *workers, status=1)
    assert "1 failed, 10 passed, 1 skipped, 1 inconclusive" in text
    assert "not pinned in autotune.lock.json: pytest --autotune --autotune-lock pins it" in text
    blocks = re.split(r"=+ autotune gate: ", text)[1:]
    assert [re.findall(r"^gate +(\S+)", block, re.MULTILINE)[0] for block in blocks] == [
        "passed",
        "REGRESSED",
        "inconclusive",
    ]
    assert "because  4 launches of each were not enough" in text
    assert re.search(r"test_marked.py::test_alone-gate INCONCLUSIVE|INCONCLUSIVE test_mark", text)
    found = properties(gated.root / "junit.xml")
    pair, in_class, alone = (
        found[f"{name}gate"]
        for name in ("test_kernel.", "test_marked.TestInClass.", "test_marked.test_alone-")
    )
    assert pair["autotune_verdict"] == "passed"
    assert pair["autotune_cost_verdict"] == pair["autotune_rate_verdict"] == "passed"
    assert float(pair["autotune_rate_before"]) == float(pair["autotune_rate_after"]) == 100
    assert in_class["autotune_verdict"] == "regressed"
    assert in_class["autotune_against"].startswith("HEAD~ = ")
    assert float(in_class["autotune_cost_before"]) == 1
    assert float(in_class["autotune_cost_after"]) == 1.1
    for suffix in ("", "_low", "_high"):
        assert float(in_class[f"autotune_cost_times_worse{suffix}"]) == pytest.approx(1.1)
    assert alone["autotune_verdict"] == "inconclusive"
    assert alone["autotune_reason"] == "4 launches of each were not enough"
    if workers:
        measuring = re.findall(r"\[(gw\d)\].*(?:\[pinned|[:-]gate\b)", text)
        assert len(measuring) == 8
        assert len(set(measuring)) == 1, "comparisons on two workers disturb each other"


def test_what_runs_is_what_is_selected(gated: Gated) -> None:
    gated.write("test_other.py", MODULE)
    gated.pin("test_other.py")
    gated.commit("second")
    listed = gated.compare("HEAD~", "--collect-only", "-q")
    assert listed.split()[:4] == [
        "test_kernel.py::test_cost[pinned]",
        "test_kernel.py::gate",
        "test_other.py::test_cost[pinned]",
        "test_other.py::gate",
    ]
    text = gated.compare("HEAD", "-v", "-k", "other")
    assert "test_other.py::gate PASSED" in text
    assert "test_kernel.py::gate" not in text
    assert "1 deselected" in text


@pytest.mark.parametrize("option", ["--lf", pytest.param("--ff", marks=SLOW)])
def test_a_comparison_of_what_is_not_committed_is_repeated_with_its_tests_if_it_failed(
    gated: Gated, option: str
) -> None:
    gated.write(".pytest_cache/v/cache/lastfailed", '{"test_kernel.py::gate": true}')
    gated.kernel("1.1")
    text = gated.compare("HEAD", "-v", option, status=1)
    assert re.findall(r"^test_kernel.py::(\S+)(?: (PASSED|FAILED))", text, re.MULTILINE) == [
        ("test_cost[pinned]", "PASSED"),
        ("gate", "FAILED"),
    ]
    assert "regressed: cost 1 → 1.1, ×1.100" in text
    assert "against  HEAD = " in text
    assert re.search(r"\w{7}\* +1\.1 +×1\.100 +regressed", gated.run("--autotune-history"))


OLD_TROUBLE = {
    "syntax": ("kernel.py", "def cost(:\n", "not importable", "SyntaxError"),
    "import": ("kernel.py", "import is_not_there\n", "not importable", "ModuleNotFoundError"),
    "conftest": ("conftest.py", "import is_not_there\n", "not importable", "loading conftest"),
    "no test": ("test_kernel.py", "def test_other(): pass\n", "test missing", "not found: "),
    "no spec": ("autotune.json", '{"other": {}}', "failed", "no spec named 'kernel'"),
    "fails": ("kernel.py", "def cost(*_):\n    return 1 // 0\n", "failed", "ZeroDivisionError"),
    "dies": ("kernel.py", "import os\nos._exit(3)\n", "crashed", "exit status 3"),
}


@pytest.mark.parametrize(
    "trouble",
    # The other kinds are told apart by quick tests of a launch.
    [pytest.param(t, marks=[] if t in {"conftest", "dies"} else SLOW) for t in OLD_TROUBLE],
)
def test_an_old_revision_that_does_not_run_says_nothing_of_the_new_one(
    gated: Gated, trouble: str
) -> None:
    name, old, kind, said = OLD_TROUBLE[trouble]
    gated.write("conftest.py", "")
    good = (gated.root / name).read_text()
    gated.write(name, old)
    gated.commit("broken")
    gated.write(name, good)
    gated.commit("mended")
    text = gated.compare()
    assert "gate     inconclusive: the old revision gave nothing to compare with: " in text
    assert f"({kind})" in text
    assert said in text
    assert "1 passed, 1 inconclusive" in text
    if trouble == "conftest":
        strict = gated.compare("HEAD~", "--autotune-strict", status=1)
        assert "inconclusive: the old revision gave nothing to compare with: " in strict
        assert "1 failed, 1 passed" in strict


def test_a_new_revision_that_does_not_run_when_launched_fails(gated: Gated) -> None:
    # Launches have seeds of their own, and this seed is the study's.
    commit_cost(gated, "1 / (seed == 0)")
    text = gated.compare(status=1)
    assert "gate     FAILED: a launch of the working tree failed: " in text
    assert "ZeroDivisionError" in text


@pytest.mark.parametrize(
    "old", ["other parameters", "nothing", pytest.param("damaged", marks=SLOW)]
)
def test_the_old_revision_runs_with_what_it_pinned(gated: Gated, old: str) -> None:
    gated.write("requirements.txt", "numpy==1.26\n")
    if old == "other parameters":
        gated.lock_file.unlink()
        gated.pin(a=2)
    elif old == "nothing":
        gated.lock_file.unlink()
    else:
        gated.lock_file.write_text("{")
    gated.commit("old")
    gated.write("requirements.txt", "numpy==2.1\n")
    gated.lock_file.unlink(missing_ok=True)
    gated.pin()
    gated.commit("new")
    text = gated.compare()
    if old == "other parameters":
        assert "gate     improved" in text
        assert "cost 2 → 1, ×0.500" in text
        assert "in the old revision: a=2" in text
    else:
        assert "gate     passed" in text
        assert "it was run with" in text
        assert ("pins nothing for this study" in text) == (old == "nothing")
        assert ("not valid JSON" in text) == (old == "damaged")
    note = "dependencies differ in requirements.txt: both revisions were run with what is installed"
    assert note in text


@pytest.mark.parametrize(
    "how", [*(pytest.param(how, marks=SLOW) for how in ("ini", "conftest")), "environment"]
)
def test_a_package_of_the_old_revision_is_imported_from_there(gated: Gated, how: str) -> None:
    environment = {}
    if how == "ini":
        gated.write("pytest.ini", "[pytest]\npythonpath = src\n")
    elif how == "environment":
        # As an editable installation does.
        environment = {"PYTHONPATH": str(gated.root / "src")}
    else:
        lines = ("import sys", "from pathlib import Path")
        insert = "sys.path.insert(0, str(Path(__file__).parent / 'src'))"
        gated.write("conftest.py", "\n".join([*lines, insert]))
    (gated.root / "kernel.py").unlink()
    gated.write("src/kernel/__init__.py", "from kernel.real import cost\n")
    gated.write("src/kernel/real.py", "def cost(a, seed):\n    return 1.0\n")
    gated.commit("old")
    gated.write("src/kernel/real.py", "def cost(a, seed):\n    return 1.1\n")
    gated.commit("new")
    text = gated.compare(status=1, **environment)
    assert "cost 1 → 1.1, ×1.100" in text


def test_the_working_trees_code_is_not_taken_for_the_old_revisions(gated: Gated) -> None:
    path = f"import sys\nsys.path.insert(0, {str(gated.root)!r})\n"
    gated.write("test_kernel.py", path + MODULE)
    gated.commit("old")
    commit_cost(gated, "1.1")
    text = gated.compare()
    assert "gate     inconclusive: " in text
    assert f"it imported {gated.root / 'kernel.py'} of the working tree" in text
    assert "(wrong code)" in text


@pytest.mark.parametrize(
    ("inside", "folder", "arguments"),
    [
        pytest.param("services/one", ".", [], marks=SLOW),
        pytest.param("services/one", "tests", [], marks=SLOW),
        pytest.param(".", "tests", ["test_kernel.py", "-c", "../pytest.ini"], marks=SLOW),
        ("services/one", "../..", ["services/one/tests", "--rootdir", "services/one"]),
    ],
)
def test_the_gate_runs_anywhere_in_the_repository(
    tmp_path: Path, inside: str, folder: str, arguments: list[str]
) -> None:
    gated = Gated(tmp_path / "repository", inside)
    gated.init()
    (gated.root / "test_kernel.py").unlink()
    gated.write("pytest.ini", "[pytest]\npythonpath = .\n")
    gated.write("tests/test_kernel.py", MODULE)
    gated.pin("tests/test_kernel.py")
    gated.commit("first")
    commit_cost(gated, "1.1")
    gated.kernel("1.2")
    text = gated.compare("HEAD~", *arguments, status=1, folder=(gated.root / folder).resolve())
    assert "cost 1 → 1.2, ×1.200" in text
    assert gated.leftovers() == []


def test_the_old_revision_is_made_ready_by_a_command(gated: Gated) -> None:
    gated.spec({**QUICK, "prepare": [sys.executable, "build.py"]})
    gated.write("build.py", "open('kernel.py', 'w').write(open('kernel.in').read())\n")
    gated.write("kernel.in", (gated.root / "kernel.py").read_text())
    gated.write(".gitignore", (gated.root / ".gitignore").read_text() + "kernel.py\n")
    gated.git("rm", "--quiet", "--cached", "kernel.py")
    gated.commit("built")
    gated.kernel("1.1")  # as a build of the working tree would
    assert "cost 1 → 1.1, ×1.100" in gated.compare("HEAD", status=1)
    gated.spec({**QUICK, "prepare": ["sh", "-c", "echo there is no compiler; exit 3"]})
    text = gated.compare("HEAD")
    assert "gate     inconclusive: the old revision cannot be made ready: " in text
    assert "(gate.prepare) ended with exit status 3" in text
    assert "said     there is no compiler" in text


def test_a_time_limit_ends_a_comparison_undecided(gated: Gated) -> None:
    gated.spec({**QUICK, "max_launches": 100})
    gated.write("kernel.py", UNSURE)
    text = gated.compare("HEAD", "--autotune-timeout=3s")
    assert "gate     inconclusive" in text
    assert "the time was up" in text


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, ["-n", "2"]),
        (signal.SIGTERM, []),
        pytest.param(signal.SIGINT, [], marks=SLOW),
        pytest.param(signal.SIGTERM, ["-n", "2"], marks=SLOW),
    ],
)
def test_an_ended_run_leaves_nothing_behind(
    gated: Gated, number: signal.Signals, workers: list[str]
) -> None:
    gated.kernel("(__import__('time').sleep(seed and 5) or 1)")
    process = gated.start("--autotune-gate", "--autotune-against=HEAD", *workers)
    eventually(lambda: list(gated.temporary.glob("autotune-launch-*/job.json")), 60)
    assert "worktree" in gated.leftovers()
    process.send_signal(number)
    assert process.wait(timeout=60) == {signal.SIGINT: 2, signal.SIGTERM: 143}[number]
    assert gated.leftovers() == []


def test_what_a_killed_run_leaves_is_cleared_away_by_the_next(gated: Gated) -> None:
    process = gated.start("--autotune-gate", "--autotune-against=HEAD")
    eventually(lambda: list(gated.temporary.glob("autotune-launch-*/job.json")), 60)
    kill(process)
    assert "worktree" in gated.leftovers()
    for path in gated.temporary.glob("*"):
        if not path.name.startswith("autotune-revision-"):
            path.rename(gated.path.parent / path.name)  # what any killed pytest leaves
    gated.compare("HEAD")


# The SLO of what is pinned


@pytest.mark.parametrize("hard", ["hard", pytest.param("soft", marks=SLOW)])
def test_a_pinned_configuration_that_breaks_its_slo_fails(gated: Gated, hard: str) -> None:
    bound = {"metric": "cost", "max": 1.05, "hard_fail": hard == "hard", "fail_ratio": 0.5}
    gated.spec(slo=[bound])
    gated.lock_file.unlink()
    gated.pin()
    commit_cost(gated, "1.1")
    text = gated.compare("HEAD~", "-v", status=1)
    assert "trial 0 is infeasible: cost 1.1, limit ≤ 1.05" in text
    assert "gate     FAILED: SLO broken: cost 1.1, limit ≤ 1.05" in text
    assert "2 failed" in text
    stopped = gated.compare("HEAD~", "-v", "-x", status=1)
    assert "stopping after 1 failures" in stopped
    assert "autotune gate: " not in stopped


def test_a_broken_slo_is_red_although_infeasible_trials_need_not_be(gated: Gated) -> None:
    gated.spec(slo=[{"metric": "cost", "max": 0.5}])
    gated.lock_file.unlink()
    gated.pin()
    text = gated.gate("--autotune-infeasible", "xfail", status=1)
    assert "gate     FAILED: SLO broken: cost 1, limit ≤ 0.5" in text
    assert "2 failed" in text.splitlines()[-1]


def test_a_study_whose_tests_are_skipped_is_not_compared(gated: Gated) -> None:
    skipping = MODULE.replace("(trial):\n", "(trial):\n    pytest.skip('no such GPU')\n")
    gated.write("test_kernel.py", skipping)
    text = gated.compare("HEAD")
    assert "2 skipped" in text
    assert "gate     skipped: its own tests did not pass (" in text
    gated.compare("HEAD", "--autotune-strict", status=1)


# Against the stored baseline


def remember(gated: Gated, *costs: float) -> None:
    """Keep results as earlier runs of the gate on this machine would have."""
    for number, cost in enumerate(costs):
        result = history.GateResult(
            time=time.time() - 60 + number,
            study="test_kernel.py (kernel)",
            verdict="passed",
            mode="baseline",
            commit="",
            dirty=False,
            against="",
            parameters={"a": 1},
            fingerprint=fingerprint(),
            values={"cost": cost},
            ratios={"cost": 1.0},
            launches=5,
        )
        history.append(gated.root / ".pytest_cache" / "autotune", result)


def test_a_regression_from_the_baseline_is_called_once_the_machine_is_known(gated: Gated) -> None:
    assert "the gate has no results yet" in gated.run("--autotune-history")
    remember(gated, 1.0)
    text = gated.gate()
    assert "gate     passed" in text
    assert "against  what was locked on 2020-01-31, 5 launches in " in text
    assert "2 of the 3 sessions were seen" in text
    remember(gated, 1.0)
    commit_cost(gated, "1.1")
    text = gated.gate(status=1)
    assert "gate     REGRESSED" in text
    assert "cost 1 → 1.1, ×1.100 (launches: 1.100 to 1.100): worse by more than 3 %" in text
    assert "10 launches in " in text
    table = gated.run("--autotune-history")
    assert "test_kernel.py (kernel): cost with a=1" in table
    assert re.findall(r"×(\S+) +(\w+)$", table, re.MULTILINE) == [
        *[("1.000", "passed")] * 3,
        ("1.100", "regressed"),
    ]


@pytest.mark.parametrize(
    ("sessions", "reason"),
    [
        ([], "how much sessions on this machine differ is not known yet: 1 of 3 were seen"),
        pytest.param(
            [1.08, 1.0],
            "sessions on this machine differ among themselves by 8.0 %, more than 1 %",
            marks=SLOW,
        ),
    ],
)
def test_where_the_machine_may_be_the_cause_nothing_is_called_a_regression(
    gated: Gated, sessions: list[float], reason: str
) -> None:
    remember(gated, *sessions)
    commit_cost(gated, "1.1")
    text = gated.gate("--junitxml=junit.xml")
    assert "gate     inconclusive" in text
    assert f"because  {reason}" in text
    (found,) = properties(gated.root / "junit.xml").values()
    assert found["autotune_verdict"] == "inconclusive"
    assert found["autotune_reason"].startswith(reason)


def test_what_seems_worse_than_the_baseline_is_measured_again(gated: Gated) -> None:
    remember(gated, 1.0, 1.0)
    # The first five launches are unlucky.
    commit_cost(gated, "(1.1 if 1_000_000 <= seed < 1_000_005 else 1.0)")
    text = gated.gate()
    assert "gate     passed" in text
    assert "note     cost seemed worse by 10.0 % at first, and was not when measured again" in text
    assert "sessions were seen" not in text


def change_machine(entry: dict[str, Any]) -> None:
    entry["fingerprint"]["cpu"] = "Z80"


@pytest.mark.parametrize("what", ["hardware", "workload"])
def test_a_baseline_of_something_else_is_not_compared_with(gated: Gated, what: str) -> None:
    if what == "hardware":
        gated.edit_lock(change_machine)
        cpu = fingerprint()["cpu"]
        message = (
            f"the baseline is from another environment (cpu: Z80 → {cpu}): compare with a "
            "revision (--autotune-against REV), or lock it here"
        )
    else:
        gated.spec(model={"id_or_path": "other"})
        message = "the baseline was measured with another workload"
    text = gated.gate()
    assert f"gate     skipped: {message}" in text
    assert "1 passed, 1 skipped" in text
    strict = gated.gate("--autotune-strict", status=1)
    assert f"skipped: {message}" in strict
    assert "1 failed, 1 passed" in strict


def test_without_a_cache_the_gate_works_and_keeps_nothing(gated: Gated) -> None:
    text = gated.gate("-p", "no:cacheprovider", *STRICT)
    assert "gate     passed" in text
    assert not (gated.root / ".pytest_cache").exists()
    assert "nothing is kept" in gated.run("--autotune-history", "-p", "no:cacheprovider")


# Serving


@pytest.mark.parametrize(
    "gate",
    [QUICK, pytest.param({"alpha": 0.1, "power": 0.8, "max_launches": 6}, marks=SLOW)],
    ids=["quick", "sure"],
)
def test_a_slower_server_is_found(repository: Gated, gate: Mapping[str, Any]) -> None:
    gated = repository
    server: Mapping[str, Any] = {
        "command": [sys.executable, "server.py", "--port", "{port}", "--itl", "{a}"],
        "startup_timeout": 20,
    }
    gated.spec(
        gate,
        server=server,
        parameters={"a": [0.001]},
        optimization={"objective": "minimize_ttft", "strategy": "grid_search"},
        benchmark={
            "traffic_scenarios": ["D(8,2)"],
            "num_concurrency": [1],
            "max_requests_per_iteration": 6,
            "warmup_requests": 1,
        },
    )
    gated.write(
        "server.py",
        f"""
        import runpy
        import sys

        from delay import TTFT

        sys.argv += ["--ttft", str(TTFT)]
        runpy.run_path({str(SCRIPTED)!r}, run_name="__main__")
        """,
    )
    gated.write(
        "test_kernel.py",
        """
        import pytest

        pytestmark = pytest.mark.autotune("kernel")


        def test_holds(trial, inference_server, load_test):
            trial.report(load_test(inference_server))
        """,
    )
    gated.write("delay.py", "TTFT = 0.05\n")
    known = LockedMetric(median=0.05, low=0.05, high=0.05, launches=3)
    gated.pin(a=0.001, objective="minimize_ttft", metric="mean_ttft", metrics={"mean_ttft": known})
    gated.commit("first")
    gated.write("delay.py", "TTFT = 0.065\n")
    text = gated.compare("HEAD", status=1)
    ratio = re.search(r"regressed: \w*ttft \S+ ms → \S+ ms, ×(1\.\d+) .*worse by more", text)
    assert ratio is not None, text
    assert 1.2 < float(ratio[1]) < 1.4
