"""A study of one trial whose parameters are given: what the gate runs, and each launch of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from pytest_autotune.scoring.evaluation import Evaluation, Level
from pytest_autotune.scoring.records import Outcome, Owner, TrialRecord, expanded, result_document
from pytest_autotune.space.parameters import Point
from pytest_autotune.study.study import Plan, SlotRequest, Stop

#: Id of the only slot, and so part of its tests' node ids.
PINNED: Final = "pinned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What is pinned for a study.

    ``plan`` is what it is judged by. ``seed`` is for the data that its tests make, None for
    the study's own; ``notes`` are sentences for its summary.
    """

    params: Point
    plan: Plan
    seed: int | None = None
    notes: Sequence[str] = ()


class Pins(Protocol):
    """Knows which configuration is pinned for which study.

    ``brief`` tells that what runs is one of many launches that are compared.
    """

    brief: bool

    def find(self, nodeid: str, plan: Plan) -> Pin | None:
        """Return what is pinned for a study, None where nothing is; raises :class:`UserError`."""

    @property
    def missing(self) -> str:
        """Why tests of a study for which nothing is pinned are skipped."""


@dataclass
class PinnedStudy:
    """Gives its one trial to the first who asks, and keeps what becomes of it in memory.

    Stands in for :class:`~pytest_autotune.study.study.Study`.
    """

    pin: Pin
    session: str
    notices: tuple[str, ...] = ()
    _records: list[TrialRecord] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        """The study before anything ran."""
        return self.pin.plan

    def records(self) -> list[TrialRecord]:
        """Return the trial, once it began."""
        return list(self._records)

    def claim(self, slot: SlotRequest) -> TrialRecord | Stop:
        """Take the trial."""
        if self._records:
            return Stop.DONE_BEFORE
        owner = Owner(process="", session=self.session, slot=slot.id, started=time.time())
        record = TrialRecord(number=0, params=self.pin.params, outcome=Outcome.RUNNING, owner=owner)
        self._records = [record]
        return record

    def finish(  # noqa: PLR0913 - as a study's
        self,
        record: TrialRecord,
        outcome: Outcome,
        *,
        evaluation: Evaluation | None = None,
        levels: Sequence[Level] = (),
        notes: Sequence[str] = (),
        reason: str = "",
        estimate: float | None = None,
    ) -> TrialRecord:
        """Keep how the trial ended and return it finished."""
        document: Mapping[str, Any] = result_document(
            outcome,
            evaluation=evaluation, levels=levels, notes=notes, reason=reason,
            duration=time.time() - record.owner.started, estimate=estimate,
        )  # fmt: skip
        finished = replace(record, outcome=outcome, **expanded(document))
        self._records = [finished]
        return finished

    def give_back(self, record: TrialRecord) -> None:
        """Leave the trial unfinished."""

    def close(self) -> None:
        """Nothing is held."""
