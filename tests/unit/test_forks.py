"""A fork of a process ends, and the process goes on with all its locks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pytest_autotune.system.locks import FileCoordinator

# As the tests of users do that start a daemon: the fork ends in order, and not by os._exit.
OWNER = """
import os, sys
from pytest_autotune.serving.docker import _owner
name = _owner(os.getpid())
fork = os.fork()
if not fork:
    sys.exit()
os.waitpid(fork, 0)
print(name, flush=True)
sys.stdin.read()
"""


def test_a_fork_that_ends_leaves_the_owner_of_containers_alive(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        (owners,) = tmp_path.glob("*/owners")
        assert FileCoordinator(owners.parent).is_alive(name)
        process.communicate("", timeout=60)
    assert list(owners.iterdir()) == []
