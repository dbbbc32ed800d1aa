"""Launch the tests of a revision, with a pinned configuration, in a process of their own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import pytest_autotune
from pytest_autotune.errors import AutotuneError, OutOfTime
from pytest_autotune.gate.revision.imports import strays
from pytest_autotune.scoring.cases import CaseRule
from pytest_autotune.scoring.judgement import Outcome
from pytest_autotune.scoring.slo import Bound, BoundResult, Severity
from pytest_autotune.system.scratch import scratch_folder

_CHILD: Final = Path(__file__).with_name("child.py")
#: The folder of this package. Launches of both revisions use this one.
PACKAGE: Final = Path(pytest_autotune.__file__).resolve().parent
_TAIL: Final = 30
_COVERAGE: Final = ("COVERAGE_PROCESS_", "COV_CORE_")
#: Key of a path among the options, which JSON cannot carry otherwise.
PATH: Final = "$path"
#: The size of a process's environment decides where its stack begins. That can change the time of
#: a kernel by some per cent (Mytkowicz et al., *Producing Wrong Data Without Doing Anything
#: Obviously Wrong*, 2009). Another size for each launch turns that into noise, which averages out.
_PADDING: Final = 4096
_GRACE_SECONDS: Final = 20.0
#: The reasons for which a launch has no result.
Failure: TypeAlias = Literal[
    "not importable", "test missing", "failed", "crashed", "nothing reported", "wrong code"
]


class LaunchFailed(AutotuneError):
    """A launch has no result, or cannot be prepared; ``details`` are the end of the output."""

    def __init__(self, kind: Failure, message: str, details: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchResult:
    """The result of a launch.

    ``outcome`` is that of its trial, ``score`` is canonical (lower is better, penalties
    included), ``bounds`` are the results of its SLO.
    """

    outcome: Outcome
    metrics: Mapping[str, float]
    score: float | None = None
    bounds: Sequence[BoundResult] = ()

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> LaunchResult:
        """Return the result that a launched process wrote."""
        return cls(
            outcome=Outcome(document["outcome"]),
            metrics=document["metrics"],
            score=document["score"],
            bounds=tuple(map(_bound_result, document["bounds"])),
        )

    @property
    def broken(self) -> list[str]:
        """The labels of bounds that make the trial infeasible."""
        return [result.bound.label for result in self.bounds if result.infeasible]

    @property
    def missed(self) -> list[str]:
        """The labels of bounds that were not met, soft ones included."""
        return [r.bound.label for r in self.bounds if r.severity is not Severity.MET]


def _bound_result(row: Mapping[str, Any]) -> BoundResult:
    bound = Bound(**{**row["bound"], "metrics": tuple(row["bound"]["metrics"])})
    return BoundResult(**{**row, "bound": bound, "severity": Severity(row["severity"])})


@dataclass(kw_only=True)
class Launcher:
    """Launches the tests of a revision again and again, with its pinned parameters.

    They run in ``folder``; ``root`` is pytest's rootdir. ``options`` are pytest's parsed options,
    ``arguments`` the first words of its command line. ``log`` is the file with the output of the
    latest launch. ``import_path`` goes before the rest of the import path. If ``lenient``, a broken
    SLO does not end a launch, so that all metrics are reported. ``rule`` is how cases combine,
    whatever the revision's spec says, empty for what it says.

    An old revision, checked out at ``top``, must import nothing from ``not_from``, the working
    tree, nor from ``copies``, installed copies of its packages. For the working tree itself, the
    first two are None.
    """

    folder: Path
    root: Path
    params: Mapping[str, Any]
    options: Mapping[str, Any]
    arguments: Sequence[str]
    log: Path
    import_path: Sequence[str] = ()
    top: Path | None = None
    not_from: Path | None = None
    copies: Sequence[Path] = ()
    lenient: bool = True
    rule: Mapping[str, CaseRule | None] = field(default_factory=dict)
    _layout: random.Random = field(default_factory=random.Random)

    def launch(
        self, nodeids: Sequence[str], seed: int, deadline: float | None = None
    ) -> LaunchResult:
        """Run the tests of these node ids.

        Raises :class:`LaunchFailed`, and :class:`.OutOfTime` at the ``deadline`` (monotonic).
        """
        assert nodeids, "without node ids, pytest would run everything"
        if not self.folder.is_dir():
            raise LaunchFailed("test missing", f"it has no folder {self.folder.name!r}")
        with scratch_folder("autotune-launch-") as scratch:
            result, job = scratch / "result.json", scratch / "job.json"
            document = {
                # pytest would clear away the folders of the user's own runs.
                "options": {**self.options, "basetemp": str(scratch / "tmp")},
                # Not as a path, which would drop parts of a parameter's id such as "//".
                "args": [*self.arguments, *(f"{self.root}/{nodeid}" for nodeid in nodeids)],
                "lenient": self.lenient,
                "rule": self.rule,
                "params": self.params,
                "seed": seed,
                "result": str(result),
            }
            job.write_text(json.dumps(document), "utf-8")
            status = self._run(job, deadline)
            found = json.loads(result.read_text("utf-8")) if result.exists() else None
        return self._read(found, status)

    def _run(self, job: Path, deadline: float | None) -> int:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, str(_CHILD), str(job)],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                return process.wait(timeout=left)
            except subprocess.TimeoutExpired:
                _end(process)
                raise OutOfTime from None
            except BaseException:
                _end(process)
                raise

    def _environment(self) -> dict[str, str]:
        # Coverage would trace the launches of the working tree only.
        foreign = ("PYTEST_XDIST_", "PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS", *_COVERAGE)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        if self.import_path:
            environment["PYTHONPATH"] = os.pathsep.join(self.import_path)
        environment["AUTOTUNE_PADDING"] = "x" * self._layout.randrange(_PADDING)
        return environment

    def _read(self, found: Mapping[str, Any] | None, status: int) -> LaunchResult:
        if found is None:
            ended = f"signal {-status}" if status < 0 else f"exit status {status}"
            message = f"its process ended with {ended}"
            raise LaunchFailed("crashed", message, tail(self.log.read_bytes()))
        failure = found["failure"]
        # A failure of the wrong code says nothing. Tests that were not collected imported little.
        if failure is None or failure["kind"] != "not importable":
            self._check_imports(found["files"])
        if failure is not None:
            details = failure["details"] or tail(self.log.read_bytes())
            raise LaunchFailed(failure["kind"], failure["message"], details)
        return LaunchResult.from_document(found["record"])

    def _check_imports(self, files: Sequence[str]) -> None:
        if self.not_from is None or self.top is None:
            return
        wrong = strays(files, self.not_from, self.top, PACKAGE)
        if wrong:
            several = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise LaunchFailed(
                "wrong code",
                f"it imported {wrong[0]}{several} of the working tree, so the new code would "
                "be compared with itself; make it import from the current folder, as with "
                "'pythonpath' in pytest's configuration",
            )
        copied = [file for file in files for copy in self.copies if Path(file).is_relative_to(copy)]
        if copied:
            raise LaunchFailed(
                "wrong code",
                f"it imported {copied[0]}, an installed copy of the working tree's package, so the "
                "new code would be compared with itself; install it with 'pip install -e', or not "
                "at all and set 'pythonpath' in pytest's configuration",
            )


def tail(output: bytes) -> str:
    """Return the last lines of an output."""
    return "\n".join(output.decode(errors="replace").splitlines()[-_TAIL:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a launch clean up, then kill it if it still runs."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=_GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
