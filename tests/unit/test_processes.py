"""Who descends from whom, and what they have used."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from pytest_autotune.system.processes import cpu_seconds, family, named, own_seconds

#: Starts a child of its own, tells its number, and waits until its input ends.
_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
child.communicate()
"""
_BUSY = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


def test_a_family_is_a_process_with_all_that_descend_from_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        assert {os.getpid(), parent.pid, grandchild} <= family(os.getpid())
        assert family(parent.pid) == {parent.pid, grandchild}
        assert family(grandchild) == {grandchild}
        parent.communicate()
    assert parent.pid not in family(os.getpid())


def test_a_process_that_is_gone_is_a_family_of_its_number() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert family(process.pid) == {process.pid}


def test_what_children_use_counts_while_they_run_and_after() -> None:
    before = cpu_seconds(os.getpid())
    # It tells when it has used its time, and goes on living.
    code = f"{_BUSY}\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_seconds(os.getpid()) - before >= 0.25
        child.communicate("\n")
    assert cpu_seconds(os.getpid()) - before >= 0.25


def test_processes_are_found_by_name_and_use_time_of_their_own() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            deadline = time.monotonic() + 10
            while sleeper.pid not in set(named({"sleep", "no-such-program"})):
                assert time.monotonic() < deadline, "it has no name of its own"
                time.sleep(0.01)
            assert own_seconds(sleeper.pid) < 0.5
            # What two families share counts once.
            both = cpu_seconds(os.getpid(), sleeper.pid)
            assert both <= cpu_seconds(os.getpid()) + 0.01
        finally:
            sleeper.kill()
    assert own_seconds(sleeper.pid) == 0
    assert 0 < own_seconds(os.getpid()) <= cpu_seconds(os.getpid()) + 0.01
