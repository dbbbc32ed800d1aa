"""The study as the tests that run it know it, searched or pinned."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from pytest_autotune.scoring.judgement import Question
from pytest_autotune.scoring.records import TrialRecord
from pytest_autotune.space.parameters import Point
from pytest_autotune.study.code import Digests
from pytest_autotune.study.looks import Look
from pytest_autotune.study.names import TrialNames
from pytest_autotune.study.plan import Plan


class Stop(str, enum.Enum):
    """The reason why no further trial is started."""

    BUDGET = "budget"
    SAME_FAILURE = "same failure"
    EXHAUSTED = "exhausted"
    PATIENCE = "patience"
    TIMEOUT = "timeout"
    DONE_BEFORE = "done before"


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now, but a sibling's running trial may yet come free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRequest:
    """The slot that asks for a trial.

    ``ordinal`` is its place among the study's slots, and the number of its trial where that is
    free; None for a spare one. ``point`` is given where the slot stands for one combination of a
    grid. ``left_out`` are the names of its tests that will not run: what it gets is a look. With
    ``exact`` it gets the trial of its own number or point only; with ``rerun`` also if that is
    finished. ``names`` are the study's.
    """

    id: str
    ordinal: int | None = None
    point: Point | None = None
    left_out: Sequence[str] = ()
    exact: bool = False
    rerun: bool = False
    names: TrialNames = field(default_factory=TrialNames)


Claim: TypeAlias = TrialRecord | Look | Wait | Stop


class Study(Protocol):
    """A study whose trials are claimed one at a time, and finished exactly once.

    ``notices`` are sentences for its summary, ``seed`` is for the data that its tests make.
    """

    plan: Plan
    notices: Sequence[str]
    seed: int

    def records(self) -> Sequence[TrialRecord]:
        """Return all trials in the order in which they count, re-runs included."""

    def question(self, record: TrialRecord) -> Question:  # noqa: ARG002 - most need nothing
        """Return the question for a trial that was just measured."""
        return self.plan.question

    def claim(self, slot: SlotRequest) -> Claim:
        """Take the next trial for ``slot``."""

    def is_done(self, slot: SlotRequest) -> bool:  # noqa: ARG002 - most keep nothing
        """Return whether the trial of ``slot`` was finished by an earlier session."""
        return False

    def finish(self, record: TrialRecord) -> None:
        """Keep a claimed trial that is now measured and judged.

        Raises :class:`TrialLostError` where another process took it over meanwhile.
        """

    def again(self, record: TrialRecord) -> TrialRecord:
        """Begin a finished trial anew, as another attempt at one of its tests is made."""
        return record.anew()

    def note_code(self, files: Digests, parts: Digests) -> None:  # noqa: ARG002
        """Record the code that a trial is measured with, where the study goes on later."""
        return

    def give_back(self, record: TrialRecord) -> None:  # noqa: ARG002 - most need nothing
        """Leave an unfinished trial to a later session, where the study has one."""
        return

    def leave(self) -> None:
        """Leave what this process has not finished to a later session."""
        return

    def close(self) -> None:
        """Give up everything this process holds."""
        return
