"""Launch one revision: its tests, with its pinned configuration, in a process of their own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import pytest_autotune
from pytest_autotune.errors import AutotuneError
from pytest_autotune.gate.compare.comparison import OutOfTime
from pytest_autotune.gate.revision.revision import strays

_CHILD: Final = Path(__file__).with_name("child.py")
#: Where this package is imported from: the harness is the running one on both sides.
PACKAGE: Final = Path(pytest_autotune.__file__).resolve().parent
_TAIL: Final = 30
_COVERAGE: Final = ("COVERAGE_PROCESS_", "COV_CORE_")
#: Key of what is a path in an option.
PATH: Final = "$path"
#: The size of a process's environment decides where its stack begins, which can be worth some
#: per cent to a kernel (Mytkowicz et al., *Producing Wrong Data Without Doing Anything Obviously
#: Wrong*, 2009). A different one for each launch makes noise of it that averages out.
_PADDING: Final = 4096
_GRACE_SECONDS: Final = 20.0
#: Why a launch gave no result.
Failure: TypeAlias = Literal[
    "not importable", "test missing", "failed", "crashed", "nothing reported", "wrong code"
]


class LaunchFailed(AutotuneError):
    """A launch gave no result; ``details`` are the end of what it said."""

    def __init__(self, kind: Failure, message: str, details: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """Where a revision lies, and what is pinned there.

    ``folder`` is where its tests are run, ``root`` is pytest's rootdir in it. ``import_path`` is
    put before what its process can import. ``not_from`` is the working tree, where it must not
    import anything from; None if it is that itself. ``copies`` are where installed copies of the
    working tree's packages lie, which it must not import either.
    """

    folder: Path
    root: Path
    params: Mapping[str, Any]
    import_path: Sequence[str] = ()
    top: Path | None = None
    not_from: Path | None = None
    copies: Sequence[Path] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """What a launch found.

    ``outcome`` is that of its trial, ``score`` is canonical (lower is better, penalties
    included), ``slo`` has a mapping for each bound.
    """

    outcome: str
    metrics: Mapping[str, float]
    score: float | None = None
    slo: Sequence[Mapping[str, Any]] = ()

    @property
    def broken(self) -> list[str]:
        """The bounds that it broke."""
        return [row["label"] for row in self.slo if row["severity"] in {"hard", "missing"}]

    @property
    def missed(self) -> list[str]:
        """The bounds that it did not keep to, however they are meant."""
        return [row["label"] for row in self.slo if row["severity"] != "met"]


@dataclass(kw_only=True)
class Launcher:
    """Launches tests again and again.

    ``options`` are pytest's as they were parsed, ``arguments`` those to begin with; ``log`` is
    the file that the output of the latest launch is in. With ``lenient`` no launch ends early for
    a broken SLO, so that all is reported.
    """

    checkout: Checkout
    options: Mapping[str, Any]
    arguments: Sequence[str]
    log: Path
    lenient: bool = True
    _layout: random.Random = field(default_factory=random.Random)

    def launch(self, nodeids: Sequence[str], seed: int, deadline: float | None = None) -> Launched:
        """Run the tests of these node ids.

        Raises :class:`LaunchFailed`, and :class:`.OutOfTime` at the ``deadline`` (monotonic).
        """
        assert nodeids, "nothing would mean everything"
        folder = self.checkout.folder
        if not folder.is_dir():
            raise LaunchFailed("test missing", f"it has no folder {folder.name!r}")
        with tempfile.TemporaryDirectory(prefix="autotune-launch-") as scratch:
            result, job = Path(scratch) / "result.json", Path(scratch) / "job.json"
            root = self.checkout.root
            document = {
                # pytest would clear away the folders of the user's own runs.
                "options": {**self.options, "basetemp": str(Path(scratch) / "tmp")},
                # As text: a parameter's id may look like a path that could be shorter.
                "args": [*self.arguments, *(f"{root}/{nodeid}" for nodeid in nodeids)],
                "lenient": self.lenient,
                "params": self.checkout.params,
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
                cwd=self.checkout.folder,
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
        # Coverage's would trace the working tree's side only.
        foreign = ("PYTEST_XDIST_", "PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS", *_COVERAGE)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        path = list(self.checkout.import_path)
        if path:
            environment["PYTHONPATH"] = os.pathsep.join(path)
        environment["AUTOTUNE_PADDING"] = "x" * self._layout.randrange(_PADDING)
        return environment

    def _read(self, found: Mapping[str, Any] | None, status: int) -> Launched:
        if found is None:
            self._fail_without_result(status)
        assert found is not None
        if found["uncollected"]:
            raise LaunchFailed(
                "not importable", "its tests cannot be collected", "\n".join(found["uncollected"])
            )
        self._check_imports(found["files"])
        record = found["record"]
        if record is None:
            if status == _USAGE:
                self._fail_without_result(status)
            what = "; ".join(found["errors"]) or f"no trial ran (exit status {status})"
            raise LaunchFailed("failed", what, "\n".join(found["failures"]) or self._tail())
        if record["outcome"] not in {"feasible", "infeasible"}:
            raise LaunchFailed(
                "failed", record["reason"] or record["outcome"], "\n".join(found["failures"])
            )
        return Launched(**{key: record[key] for key in ("outcome", "metrics", "score", "slo")})

    def _check_imports(self, files: Sequence[str]) -> None:
        checkout = self.checkout
        if checkout.not_from is None or checkout.top is None:
            return
        wrong = strays(files, checkout.not_from, checkout.top, PACKAGE)
        if wrong:
            several = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise LaunchFailed(
                "wrong code",
                f"it imported {wrong[0]}{several} of the working tree, so the new code would "
                "be compared with itself; make it import from the current folder, as with "
                "'pythonpath' in pytest's configuration",
            )
        copied = [file for file in files for copy in checkout.copies if _within(file, copy)]
        if copied:
            raise LaunchFailed(
                "wrong code",
                f"it imported {copied[0]}, an installed copy of the working tree's package, so the "
                "new code would be compared with itself; install it with 'pip install -e', or not "
                "at all and set 'pythonpath' in pytest's configuration",
            )

    def _fail_without_result(self, status: int) -> None:
        tail = self._tail()
        if status == _USAGE:
            if "ImportError while loading conftest" in tail:
                raise LaunchFailed("not importable", "its conftest file cannot be imported", tail)
            missing = "not found:" in tail or "file or directory not found" in tail
            raise LaunchFailed(
                "test missing" if missing else "failed",
                "it has no such test" if missing else "pytest does not start there",
                tail,
            )
        ended = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise LaunchFailed("crashed", f"its process ended with {ended}", tail)

    def _tail(self) -> str:
        """Return how the output of the latest launch ends."""
        text = self.log.read_text("utf-8", errors="replace")
        return "\n".join(text.splitlines()[-_TAIL:])


_USAGE: Final = 4


def _within(file: str, place: Path) -> bool:
    return file == str(place) or file.startswith(f"{place}{os.sep}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a launch clean up, then make sure that it is gone."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=_GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
