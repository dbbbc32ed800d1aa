"""pytest, run as tests need it: with few plugins, in a process of its own that ends with the test.

Loading every installed plugin takes longer than most inner runs: Hypothesis alone takes 0.6 s.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

#: Variables with which pytest loads this plugin and xdist only. What it starts inherits them.
FEW_PLUGINS: Final[Mapping[str, str]] = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_ADDOPTS": "-p autotune -p xdist",
    # On CI pytest repeats whole failures in its short summary: tests that count lines would count
    # others there than at a desk.
    "CI": "",
    "BUILD_NUMBER": "",
}
#: Plugins that change what runs, and are loaded by tests of that only.
CHANGING: Final = ("flaky", "pytest-retry", "randomly", "repeat", "rerunfailures")
#: Variables with which pytest loads what is installed, as it does for users.
INSTALLED_PLUGINS: Final[Mapping[str, Any]] = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "",
    # The first warns under xdist, and warnings are errors in many inner runs.
    "PYTEST_ADDOPTS": " ".join(f"-p no:{name}" for name in ("benchmark", *CHANGING)),
}
#: The exit status that a run must have, or one of several; none for any.
Status: TypeAlias = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Runs:
    """Runs of pytest in the folder ``path``."""

    #: Arguments of every run.
    ALWAYS: ClassVar[tuple[str, ...]] = ()

    path: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list, kw_only=True)

    @property
    def folder(self) -> Path:
        """The folder in which pytest is run."""
        return self.path

    @property
    def log(self) -> Path:
        """The file with the output of the latest run."""
        return self.path / "started.log"

    def environment(self, **more: str) -> dict[str, str]:
        # Options of the outer run must not reach the inner one.
        foreign = ("PYTEST_", "COV_", "TOX_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        return {**inherited, **FEW_PLUGINS, **more}

    def start(
        self, *args: str, folder: Path | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """Start pytest; :meth:`stop` ends it."""
        # A run that has not ended keeps the file that it writes to.
        self.log.unlink(missing_ok=True)
        with self.log.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *self.ALWAYS, *args],
                cwd=folder or self.folder,
                env=self.environment(**environment),
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def run(
        self,
        *args: str,
        status: Status = None,
        folder: Path | None = None,
        **environment: str,
    ) -> str:
        """Run pytest to its end and return what it printed."""
        found = self.start(*args, folder=folder, **environment).wait(timeout=300)
        text = self.output()
        if status is not None:
            assert found in (status if isinstance(status, tuple) else (status,)), text
        assert "INTERNALERROR" not in text, text
        return text

    def output(self) -> str:
        """Return the output of the latest run so far."""
        return self.log.read_text()

    def stop(self) -> None:
        """End what a test left running, because it failed."""
        for process in self.started:
            if process.poll() is None:
                kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a run and all its workers, as a machine's failure would."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=20)
