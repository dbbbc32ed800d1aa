"""A study of one trial whose parameters are given: what the gate runs, and each launch of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from pytest_autotune.scoring.records import Owner, TrialRecord
from pytest_autotune.space.parameters import Point
from pytest_autotune.study.plan import Plan
from pytest_autotune.study.protocol import Claim, SlotRequest, Stop, Study

#: Id of the only slot, and so part of its tests' node ids.
PINNED: Final = "pinned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The configuration that is pinned for a study.

    ``plan`` judges it. ``seed`` is for the data that its tests make, None for
    the study's own; ``notes`` are sentences for its summary.
    """

    params: Point
    plan: Plan
    seed: int | None = None
    notes: Sequence[str] = ()


class Pins(Protocol):
    """The pinned configurations of all studies.

    ``brief`` is whether this run is one of many launches that are compared.
    """

    brief: bool

    def find(self, nodeid: str, plan: Plan) -> Pin | None:
        """Return the pin of a study, None where it has none; raise :class:`UserError`."""

    @property
    def missing(self) -> str:
        """The reason why tests of a study without a pin are skipped."""


@dataclass
class PinnedStudy(Study):
    """A study of one trial, kept in memory; the first slot that asks gets it."""

    pin: Pin
    session: str
    notices: Sequence[str] = ()
    _records: list[TrialRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Take plan and seed from the pin."""
        self.plan = self.pin.plan
        self.seed = self.plan.seed if self.pin.seed is None else self.pin.seed

    def records(self) -> Sequence[TrialRecord]:
        """Return the trial, once it began."""
        return list(self._records)

    def claim(self, slot: SlotRequest) -> Claim:
        """Take the trial."""
        if self._records:
            return Stop.DONE_BEFORE
        owner = Owner(process="", session=self.session, slot=slot.id, started=time.time())
        self._records = [TrialRecord(number=0, params=self.pin.params, owner=owner)]
        return self._records[0]

    def finish(self, record: TrialRecord) -> None:
        """Keep the finished trial."""
        self._records = [record]
