"""The load generator's process, as its caller sees it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Final

from pytest_autotune.errors import LoadTestError
from pytest_autotune.load.job import Job
from pytest_autotune.load.statistics import LevelRun
from pytest_autotune.load.worker import read
from pytest_autotune.system.processes import OWN_GROUP

_CHECK_SECONDS: Final = 0.2
_CHUNK: Final = 1 << 20
#: Not by ``-m``, which would let a module of the tests' folder stand in for any other.
_PROGRAM: Final = (
    "import sys; "
    f"sys.path = [{str(Path(__file__).parents[2])!r}, *filter(None, sys.path)]; "
    "from pytest_autotune.load.worker import main; main()"
)


class Generator:
    """A process that runs one job after another. Started when first used; ``close`` ends it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def run(self, job: Job, check: Callable[[], None]) -> LevelRun:
        """Run ``job`` and return its result.

        ``check`` is called all the while; an error that it raises ends the job, for example that
        the server died. Raises :class:`LoadTestError` where the job cannot be run.
        """
        process = self._started()
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # The reason is found below.
                process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
                process.stdin.flush()
            answer = json.loads(self._line(process, check))
        except BaseException:
            # No load must go on after an interruption.
            self.close()
            raise
        if "error" in answer:
            raise LoadTestError(answer["error"])
        return read(answer)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.kill()
            process.wait()
            with suppress(OSError):
                process.stdin.close()
            process.stdout.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
            environment = {k: v for k, v in os.environ.items() if not k.startswith("COV_CORE_")}
            self._process = subprocess.Popen(  # noqa: S603 - this package's own module
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
                # Ctrl-C is for pytest, which then ends this.
                **OWN_GROUP,
            )
        return self._process

    def _line(self, process: subprocess.Popen[bytes], check: Callable[[], None]) -> bytes:
        """Read one line of any length."""
        assert process.stdout is not None
        parts: list[bytes] = []
        while not parts or not parts[-1].endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], _CHECK_SECONDS)
            if not ready:
                check()
                continue
            chunk = os.read(process.stdout.fileno(), _CHUNK)
            if not chunk:
                status, said = process.wait(), self._said()
                raise LoadTestError(f"the load generator ended with status {status}: {said}")
            parts.append(chunk)
        return b"".join(parts)

    def _said(self) -> str:
        assert self._errors is not None
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip()
        return said[-2000:] or "said nothing"
