"""Make a fresh checkout ready to run, by a command of the spec."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from pytest_autotune.errors import AutotuneError
from pytest_autotune.gate.launch.harness import Harness

_TAIL: Final = 30


class PreparationFailed(AutotuneError):
    """The old revision cannot be made ready; ``details`` are the end of the output."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def prepare(command: str | None, tree: Path, harness: Harness, done: dict[str, str]) -> None:
    """Run ``command`` in the old revision's files, once; ``done`` remembers.

    Raises :class:`PreparationFailed`.
    """
    if command is None or command in done:
        return
    found = subprocess.run(  # noqa: S602 - a shell command of the user's own spec
        command,
        shell=True,
        cwd=harness.counterpart(harness.root, tree),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    text = found.stdout.decode(errors="replace")
    if found.returncode:
        raise PreparationFailed(
            f"the old revision cannot be made ready: {command!r} (gate.prepare) ended with exit "
            f"status {found.returncode}",
            "\n".join(text.splitlines()[-_TAIL:]),
        )
    done[command] = text
