"""Measurements that something disturbed: said wherever results are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import Serving, process

Run = Callable[..., pytest.RunResult]
BUSY = "other processes used 1.5 of 2 CPUs"
MODULE = """
def test_it(trial):
    a = trial.params["a"]
    disturbed = {"disturbances": ["other processes used %.1f of 2 CPUs" % (a / 2)]} if a > 1 else {}
    trial.report({"cost": a, "mem": a + MORE, **disturbed})
"""
#: The last of four is too much, or all are.
SLO = [{"metric": "mem", "max": 3}]


def test_what_was_disturbed_is_counted_in_lines_summary_and_junit(study: Run) -> None:
    seen = study(MODULE.replace("MORE", "0"), "-v", "--junitxml=out.xml", slo=SLO)
    seen.stdout.fnmatch_lines(
        [
            "*trial 1 *cost 2 (disturbed: other processes used 1.0 of 2 CPUs)*",
            "*trial 3 *infeasible: mem 4, limit ≤ 3 (disturbed: other processes used 2.0 of 2 *",
            "trial 3 is infeasible: mem 4, limit ≤ 3",
            "disturbed: other processes used 2.0 of 2 CPUs",
            "best * trial 0: a=1",
            "caution * 3 of 4 measurements were disturbed: other processes used 2.0 of 2 CPUs",
        ]
    )
    assert Path("out.xml").read_text().count('name="autotune_disturbed"') == 3


@pytest.mark.parametrize("how", ["fail", "xfail"])
def test_a_run_without_a_feasible_trial_says_first_that_it_was_disturbed(
    study: Run, how: str
) -> None:
    seen = study(MODULE.replace("MORE", "9"), "--autotune-infeasible", how, slo=SLO)
    assert seen.ret == pytest.ExitCode.TESTS_FAILED
    seen.stdout.fnmatch_lines(
        [
            "caution * 3 of 4 measurements were disturbed: other processes used 2.0 of 2 CPUs",
            "best * none: no trial was feasible",
        ],
        consecutive=True,
    )


@contextmanager
def hogs() -> Iterator[None]:
    """Keep all processors but one busy with somebody else's work, and the only one."""
    # The shell ends at once, so that what it leaves behind descends from nobody here.
    code = "import os; print(os.getpid(), flush=True); os.close(1)\nwhile True: pass"
    pids = []
    try:
        for _ in range(max(1, (os.cpu_count() or 1) - 1)):
            shell = ["sh", "-c", '"$0" -c "$1" &', sys.executable, code]
            found = subprocess.run(shell, stdout=subprocess.PIPE, text=True, check=True)
            pids.append(int(found.stdout))
        yield
    finally:
        for pid in pids:
            os.kill(pid, 9)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc/stat")
def test_busy_processes_beside_a_load_level_are_noticed(serving: Serving) -> None:
    benchmark = {
        "traffic_scenarios": ["D(8,4)"], "num_concurrency": [2], "max_time_per_iteration": 1.0,
    }  # fmt: skip
    serving.write(process(), parameters={"ttft": [0.01]}, benchmark=benchmark)
    serving.watch()
    with hogs():
        text = serving.run("-v", status=0)
    cpus = os.cpu_count()
    assert "1 of 1 measurement was disturbed: other processes used " in text
    assert f"of {cpus} CPUs" in text
    assert "unreliable, measured twice: other processes used " in text
