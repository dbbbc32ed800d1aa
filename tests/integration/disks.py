"""Disks of a test's own: small, full or read-only, in a namespace that nobody else sees."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from inner import Runs


def need_mounts() -> None:
    """Skip where no disk can be mounted; root heeds no permissions, so nothing else will do."""
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.decode().strip()}")


class Disk:
    """A folder of the project that is mounted anew for every script."""

    def __init__(self, runs: Runs, folder: Path) -> None:
        self.folder = folder
        self._runs = runs

    def run(self, *script: str) -> list[tuple[int, str]]:
        """Run a shell script in a namespace of its own; return what each pytest in it said.

        A line that begins with ``PYTEST`` runs pytest.
        """
        command = shlex.join([sys.executable, "-B", "-m", "pytest", "-q"])
        lines = [
            f"{command} {line.removeprefix('PYTEST')} 2>&1; printf '\\n@@@%s@@@' $?"
            if line.startswith("PYTEST --autotune")
            else f"{{ {line}; }} >&2"
            for line in script
        ]
        done = subprocess.run(
            [
                "unshare",
                "-m",
                "bash",
                "-c",
                "\n".join([f"cd {shlex.quote(str(self.folder))}", *lines]),
            ],
            env=self._runs.environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        parts = done.stdout.split("@@@")
        assert len(parts) > 2, done.stderr
        found = [(int(parts[at + 1]), parts[at]) for at in range(0, len(parts) - 1, 2)]
        for _, text in found:
            assert "INTERNALERROR" not in text, text
            assert "Traceback" not in text, text
        return found
