"""A run that is killed at a random moment, and gone on with: what was lost, repeated or left.

It is read from the marks that trials left, from the storage, and from the kernel.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from victims import BUDGET, TRIAL_SECONDS, Victim

from pytest_autotune.scoring.records import TrialRecord

#: Seconds that any run may take, and that processes may take to end by themselves.
_PATIENCE: Final = 180.0
_ENDING: Final = 40.0
#: The share of kills before the first trial, where there may be any.
_EARLY: Final = 0.25
#: Runs that go on until the study is done.
_MOST_RUNS: Final = 4


@dataclass(kw_only=True)
class Figures:
    """What became of the kills of one study: nothing but what belongs in the campaign's table."""

    points: int = 0
    #: Kills that came too late, as the study was done.
    missed: int = 0
    #: Runs that went on after a kill.
    resumed: int = 0
    #: Trials that failed, as their server was killed.
    failed: int = 0
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    #: Other trials than those of an uninterrupted run.
    differ: list[str] = field(default_factory=list)
    #: Tracebacks, internal errors, runs without end, exit statuses that say something else.
    wrong: list[str] = field(default_factory=list)

    FAULTS: ClassVar[tuple[str, ...]] = ("lost", "twice", "left", "differ", "wrong")

    def document(self) -> dict[str, Any]:
        """Return the figures for the table, as numbers."""
        found = {name: getattr(self, name) for name in vars(self) if name not in self.FAULTS}
        return found | {name: len(getattr(self, name)) for name in self.FAULTS}

    def faults(self) -> list[str]:
        """Return all that is wrong, in words."""
        return [f"{name}: {text}" for name in self.FAULTS for text in getattr(self, name)]


#: Kills something; returns False where the study was done before.
Strike = Callable[["Attack"], bool]


@dataclass(kw_only=True)
class Attack:
    """So many ``kills`` of one study, at moments that the seed says, until it is done.

    A kill ``ends_run``, or the run goes on, and is struck again. ``repair`` starts again what was
    killed and is no run of pytest. Trials whose server is killed ``may_fail``. ``startup`` is how
    long a run takes to its first trial (seconds), None where it is not to be killed before.
    """

    victim: Victim
    seed: str
    kills: int = 1
    ends_run: bool = True
    repair: Callable[[], object] = lambda: None
    may_fail: bool = False
    startup: float | None = None
    figures: Figures = field(default_factory=Figures)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        #: After each run: the trials that were stored, and the number of marks by then.
        self._snapshots: list[tuple[Mapping[int, TrialRecord], int]] = []
        self._running: list[int] = []
        self._broken = False
        #: Runs that were killed before pytest was ready to end as it should.
        self._unborn: set[int] = set()

    def run(self, strike: Strike) -> None:
        """Kill the study until it is done, and note whatever is wrong."""
        began = time.monotonic()
        for _ in range(self.kills):
            if not self._await_moment():
                self.figures.missed += 1
                break
            self._unborn |= {place for place in self._running if self._is_unborn(place)}
            self._broken = True
            if not strike(self):
                self.figures.missed += 1
                break
            self.figures.points += 1
            if self.ends_run or self.over:
                self._end_runs()
        self._end_runs()
        self._go_on()
        self._compare()
        self._look_for_leftovers()
        self.figures.seconds = round(time.monotonic() - began, 2)

    @property
    def alive(self) -> list[subprocess.Popen[str]]:
        """The runs that have not ended."""
        return [process for process in self.victim.started if process.poll() is None]

    @property
    def over(self) -> bool:
        """Whether all that was started has ended."""
        return not self.alive

    def wait(self, found: Callable[[], Any]) -> Any:
        """Wait for something while a run lasts; return it, or None."""
        while not (it := found()):
            if self.over:
                return None
            time.sleep(0.005)
        return it

    def _begin(self) -> None:
        self._running = [self.victim.begin() for _ in range(self.victim.layout.sessions)]

    def _await_moment(self) -> bool:
        """Wait for more trials, and a little longer; return False if the study ends before."""
        if self.over:
            self._end_runs()
            if len(self.victim.marks("stored")) >= BUDGET:
                return False
            self._begin()
            self.figures.resumed += self.figures.points > 0
        if self.startup is not None and self.rng.random() < _EARLY:
            time.sleep(self.rng.uniform(0, self.startup))
            return not self.over
        # At least two of them end, so that no trial is killed three times: it would be given up.
        wanted = self.victim.count_marks() + self.rng.randrange(4, 10)
        reached = self.wait(lambda: self.victim.count_marks() >= wanted)
        time.sleep(self.rng.uniform(0, 2 * TRIAL_SECONDS))
        return bool(reached) and not self.over

    def _is_unborn(self, place: int) -> bool:
        return "test session starts" not in self.victim.log_of(place)

    def _end_runs(self) -> None:
        """Wait until all runs have ended, and look at what they left."""
        if not self._running:
            return
        for place in self._running:
            self._end(place)
        self._running = []
        if self._broken:
            self.repair()
            self._broken = False
        self._expect_no_process()
        stored = {n: record for n, record in self.victim.stored().items() if record.finished}
        self._snapshots.append((stored, len(self.victim.marks())))

    def _end(self, place: int) -> None:
        """Wait for the end of a run, and read what it said."""
        process = self.victim.started[place]
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.figures.wrong.append(f"run {place} did not end")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        text = self.victim.log_of(place)
        for word in ("INTERNALERROR", "Traceback (most recent call last)"):
            # Python itself says that while it is still importing pytest.
            if word in text and place not in self._unborn:
                self.figures.wrong.append(f"run {place} said {word}")

    def _go_on(self) -> None:
        """Run the same command until it says that the study is done."""
        for _ in range(_MOST_RUNS):
            place = self.victim.begin()
            self._running = [place]
            self._end_runs()
            self.figures.resumed += 1
            status = self.victim.started[place].returncode
            if status in {0, 1}:
                break
            self.figures.wrong.append(f"run {place} ended with status {status}")

    def _compare(self) -> None:
        """Note what was lost or measured twice."""
        figures, victim = self.figures, self.victim
        after, marks = victim.stored(), victim.marks()
        if sorted(after) != list(range(BUDGET)) or not all(r.finished for r in after.values()):
            figures.lost.append(f"not {BUDGET} finished trials: {_shown(after.values())}")
        for before, marked in self._snapshots:
            figures.lost += [
                f"trial {n}: {_shown([record])} became {_shown(r for r in [after.get(n)] if r)}"
                for n, record in before.items()
                if after.get(n) != record
            ]
            figures.twice += [
                f"trial {mark[1]} began again, and had been stored before"
                for mark in marks[marked:]
                if mark[0] == "began" and mark[1] in before
            ]
        told: dict[int, list[Any]] = {}
        for mark in marks:
            if mark[0] == "began" and mark[1] in told:
                figures.twice.append(f"trial {mark[1]} began again after it was stored")
            if mark[0] == "stored":
                told[mark[1]] = mark[2:4]
        for number, (outcome, value) in told.items():
            record = after.get(number)
            if record is None or [record.outcome.value, record.value] != [outcome, value]:
                figures.lost.append(f"trial {number} was told to be {outcome}, {value}")
        if len({record.key for record in after.values()}) != len(after):
            figures.twice.append("parameters were tried twice")

    def compare_with(self, whole: Sequence[TrialRecord]) -> None:
        """Note where trials differ from those of a run that was not killed, in the same order."""
        ours = list(self.victim.stored().values())
        alone = self.victim.layout.strategy == "auto"
        for one, other in zip(
            _in_order(ours, alone=alone), _in_order(whole, alone=alone), strict=False
        ):
            same = (one.outcome, one.value) == (other.outcome, other.value)
            if one.key != other.key:
                self.figures.differ.append(f"{_shown([one])} is not {_shown([other])}")
            elif not same and self.may_fail and one.outcome.value == "failed":
                self.figures.failed += 1
            elif not same:
                self.figures.lost.append(f"{_shown([one])} is not {_shown([other])}")

    def _expect_no_process(self) -> None:
        deadline = time.monotonic() + _ENDING
        while left := self.victim.processes():
            if time.monotonic() > deadline:
                self.figures.left.append(f"processes: {[_command(pid) for pid in left]}")
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.02)

    def _look_for_leftovers(self) -> None:
        """Note files, locks and ports that outlive the last run."""
        left = self.figures.left
        cache = self.victim.path / ".pytest_cache" / "autotune"
        known = {"trials.journal", "study.lock", "owners"}
        left += [
            str(p) for p in cache.glob("*/*") if p.name not in known and p.parent != cache / "logs"
        ]
        left += [str(path) for path in cache.glob("*/owners/*")]
        # The locks of all owners of containers are kept where all runs of a user find them.
        keeps = self.victim.temporary / f"pytest-autotune-{os.getuid()}"
        left += [
            str(path)
            for path in self.victim.temporary.iterdir()
            # pytest's own folders last for three runs.
            if path != keeps and not path.name.startswith("pytest-of-")
        ]
        left += [str(path) for path in keeps.glob("owners/*")]
        for _, url, _ in self.victim.marks("served"):
            if not _is_free(int(url.rpartition(":")[2])):
                left.append(f"{url} is in use")


def _in_order(records: Sequence[TrialRecord], *, alone: bool) -> list[TrialRecord]:
    """Return trials by number, or in the order in which they were made.

    Of several workers any may take the next trial, and so gives it the number of its slot.
    """
    if alone:
        return sorted(records, key=lambda record: record.number)
    return sorted(records, key=lambda record: record.stored or 0)


def _shown(records: Any) -> str:
    return "; ".join(
        f"{r.number}: {dict(r.params)} {r.outcome.value} {r.value} {r.judgement.reason}"
        for r in records
    )


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return str(pid)


def children(pid: int) -> Iterator[int]:
    """Yield the processes that a process has started."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                yield int(path.parent.name)
